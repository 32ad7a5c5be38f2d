//! How the worker can end, and its exit codes.

use std::time::Duration;

use gleaner_queue::QueueError;
use gleaner_schemas::units::HumanDuration;
use gleaner_schemas::{Failure, FailureKind};
use gleaner_telemetry::TelemetryError;

/// Stopped, and work is left: `EX_TEMPFAIL` of `sysexits.h`. A supervisor starts it again.
const WORK_IS_LEFT: u8 = 75;

/// Why the worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotGoOn {
    /// The broker refuses, and will refuse again.
    #[error("{message}")]
    Refused { message: String, help: String },
    /// The broker could not be reached for too long.
    #[error("{error}; gave up after {}", HumanDuration::new(*.patience))]
    Unreachable {
        error: QueueError,
        patience: Duration,
    },
    /// The store takes no outcomes.
    #[error("cannot record what tasks come to: {0}")]
    CannotRecord(Failure),
    /// The health server.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// Something that should not happen.
    #[error("{0}")]
    Internal(String),
}

impl CannotGoOn {
    /// An error of the queue that lasted for `patience`, or that will last for ever.
    pub(crate) fn of_queue(error: QueueError, patience: Duration) -> Self {
        match error {
            QueueError::Refused { message, help } => Self::Refused { message, help },
            error => Self::Unreachable { error, patience },
        }
    }

    /// What to do about it.
    pub(crate) fn help(&self) -> Option<&str> {
        match self {
            Self::Refused { help, .. } => Some(help),
            Self::CannotRecord(_) => Some(
                "is there space, and is this worker allowed to write there? the tasks are left \
                 to others",
            ),
            Self::Telemetry(TelemetryError::Listen { .. }) => {
                Some("give another address to --health")
            }
            _ => None,
        }
    }

    /// The exit code of the program, as documented for users.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            Self::Refused { .. } | Self::Telemetry(_) => 2,
            Self::CannotRecord(failure) if failure.kind != FailureKind::Transient => 2,
            Self::CannotRecord(_) | Self::Unreachable { .. } => 4,
        }
    }
}

/// What a worker leaves behind that stopped as it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing, as far as it knows.
    Nothing,
    /// Work for others, or for itself when it is started again.
    Work,
}

impl Left {
    /// The exit code of the program, as documented for users.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Work => WORK_IS_LEFT,
        }
    }
}
