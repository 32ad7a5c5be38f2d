//! Why an operation on an output failed, and what to do about it.

use gleaner_schemas::{Failure, FailureKind};

use crate::store_error::{StoreError, StoreProblem};

/// The operation that puts an object.
pub(crate) const WRITE: &str = "write";
/// The operation that puts an object unless there is one.
pub(crate) const CREATE: &str = "create";

/// An operation on an output failed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The store did not do what it was asked to.
    #[error("cannot {operation} {uri}")]
    Store {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        uri: String,
        /// Why it did not work.
        source: StoreError,
    },
    /// The URI of the output cannot be used.
    #[error("cannot use {uri} as an output: {message}")]
    Uri {
        /// The URI.
        uri: String,
        /// What is wrong with it.
        message: String,
    },
    /// A stored object is not what it should be.
    #[error("{uri} is not a valid {expected}: {message}")]
    Malformed {
        /// The object.
        uri: String,
        /// What it should be.
        expected: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A stored object is of another version of the program.
    #[error(
        "{uri} is a {expected} of format {found}, this program reads format {known}; use the \
         program version that wrote it ({writer})"
    )]
    Format {
        /// The object.
        uri: String,
        /// What it is.
        expected: &'static str,
        /// Its format.
        found: u32,
        /// The format that this build reads.
        known: u32,
        /// The version of the program that wrote it.
        writer: String,
    },
}

impl OutputError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Store { source, .. } => source.kind(),
            Self::Uri { .. } | Self::Malformed { .. } | Self::Format { .. } => {
                FailureKind::Permanent
            }
        }
    }

    /// Whether the store did not take an object.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Store { operation, .. } if [WRITE, CREATE].contains(operation))
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        Self::new(error.kind(), gleaner_schemas::failure::error_chain(&error))
    }
}

/// Whether the store has said that it will not take objects, whichever are there.
pub(crate) fn is_refused(error: &object_store::Error) -> bool {
    let error = StoreError::of(error);
    let is_refusal = matches!(error.kind(), FailureKind::Permanent | FailureKind::Access);
    is_refusal && *error.problem() != StoreProblem::Missing
}
