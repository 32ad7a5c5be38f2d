//! Work that ended with nothing in the store: the delivery goes back to the queue.

use gleaner_schemas::Failure;
use gleaner_storage::OutputError;

/// Work on a delivery that ended with nothing in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsettled {
    /// Why.
    pub failure: Failure,
    /// What it says about the task.
    pub blame: Blame,
}

/// What is to blame for work that ended with nothing in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The message: it names what is not there, or what this build cannot read. It would fail
    /// with other workers too.
    Message,
    /// What is around the worker: its store, its disk, its end. Nothing is known against the task.
    Surroundings,
}

impl From<OutputError> for Unsettled {
    fn from(error: OutputError) -> Self {
        let blame = match error {
            OutputError::Malformed { .. } => Blame::Message,
            _ => Blame::Surroundings,
        };
        Self {
            failure: error.into(),
            blame,
        }
    }
}

impl From<Failure> for Unsettled {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            blame: Blame::Surroundings,
        }
    }
}
