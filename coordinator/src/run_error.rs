//! How a run can end without success. One variant per thing that the caller does about it.

use gleaner_queue::QueueError;
use gleaner_schemas::job::JobError;
use gleaner_schemas::{Check, Failure, FailureKind};
use gleaner_storage::OutputError;

/// A run that did not end well. Work that was committed is kept in every case.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The job file is wrong; each error has its place in it.
    #[error("{}", .0.first().map_or("the job file is not valid", |error| error.message.as_str()))]
    Job(Vec<JobError>),
    /// The job, its inputs or its output cannot be used as they are.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// Tasks or rows were given up beyond what the job allows.
    #[error("{message}")]
    Quarantined {
        /// How many, where, and the first causes.
        message: String,
    },
    /// Something outside cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// What would be published differs too much from what is.
    #[error("{message}")]
    Guardrail {
        /// The figures that are beyond their bounds, as a table.
        message: String,
        /// All figures.
        checks: Vec<Check>,
    },
    /// What the job may spend is spent.
    #[error("{0}")]
    BudgetSpent(String),
    /// Somebody asked to stop.
    #[error("interrupted; what is committed is kept, run the job again to go on")]
    Interrupted,
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

impl RunError {
    /// A usage error with advice.
    #[must_use]
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            help: Some(help.into()),
        }
    }

    /// The output's store refuses what nobody can go on without.
    #[must_use]
    pub(crate) fn cannot_write(failure: &Failure) -> Self {
        Self::usage(
            format!("cannot write to the output: {failure}"),
            "is there space, and are you allowed to write there? what is committed is kept, run \
             the job again to go on",
        )
    }

    /// The exit code of the program, as documented for users.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Job(_) | Self::Usage { .. } => 2,
            Self::Quarantined { .. } => 3,
            Self::Unreachable(_) => 4,
            Self::Guardrail { .. } => 5,
            Self::BudgetSpent(_) => 6,
            Self::Interrupted => 130,
        }
    }
}

impl From<JobError> for RunError {
    fn from(error: JobError) -> Self {
        Self::Job(vec![error])
    }
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Transient | FailureKind::Timeout | FailureKind::Endpoint => {
                Self::Unreachable(failure.to_string())
            }
            FailureKind::Budget => Self::BudgetSpent(failure.to_string()),
            FailureKind::Permanent | FailureKind::Access | FailureKind::Memory => Self::Usage {
                message: failure.to_string(),
                help: None,
            },
        }
    }
}

impl From<QueueError> for RunError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Refused { message, help } => Self::usage(message, help),
            other => Failure::from(other).into(),
        }
    }
}

impl From<OutputError> for RunError {
    fn from(error: OutputError) -> Self {
        let is_write = error.is_write();
        let failure = Failure::from(error);
        if is_write && failure.kind != FailureKind::Transient {
            return Self::cannot_write(&failure);
        }
        failure.into()
    }
}
