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
    /// This worker: it is of another version than whoever planned, so that it would compute other
    /// rows or none. Another worker may do it.
    Worker,
    /// This worker: it may not read what the task needs. Another worker may.
    Access,
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
