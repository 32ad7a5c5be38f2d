//! How the program ends. The numbers are documented for users.

use std::process::ExitCode;

use gleaner_queue::QueueError;

/// The end of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Told to stop, and nothing is left in its hands.
    Done,
    /// Something that should not happen.
    Internal(String),
    /// Wrong usage, or a broker that refuses for good; what is wrong, and what to do about it.
    Usage(String, String),
    /// Broker or store cannot be reached, or take nothing, for too long.
    Unreachable(String),
    /// Stopped, and tasks that were begun are left to others.
    WorkLeft,
}

impl Exit {
    fn code(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Internal(_) => 1,
            Self::Usage(..) => 2,
            Self::Unreachable(_) => 4,
            Self::WorkLeft => 75,
        }
    }

    /// What to tell the user.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Done => None,
            Self::WorkLeft => Some("stopped; what was in hand is left to other workers".to_owned()),
            Self::Internal(message) | Self::Unreachable(message) => {
                Some(format!("error: {message}"))
            }
            Self::Usage(message, help) => Some(format!("error: {message}\n  help: {help}")),
        }
    }
}

impl From<QueueError> for Exit {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Refused { message, help } => Self::Usage(message, help),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
