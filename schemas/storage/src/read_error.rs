//! Why an input could not be read, and what to do about it.

use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{Failure, FailureKind, Place};

use crate::redact::redact;
use crate::store_error::{StoreError, StoreProblem};

/// An input could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A path or URI that cannot be used.
    #[error("{text:?} is not a path or URI that can be read: {message}")]
    Uri {
        /// The text.
        text: String,
        /// What is wrong with it.
        message: String,
    },
    /// A URI with credentials in it. Whatever shows it would show them.
    #[error(
        "{text} names a user, a password or a signature; credentials are taken from the \
         environment, never from a URI"
    )]
    Secret {
        /// The URI without them.
        text: String,
    },
    /// A pattern that matches nothing.
    #[error("no file matches {pattern} (looked in {folder})")]
    NoMatch {
        /// The pattern as the job has it.
        pattern: String,
        /// The folder that was listed.
        folder: String,
    },
    /// A pattern or a folder on a web server, which tells nobody what files it has.
    #[error(
        "{text} {what}, and over HTTP nothing can be listed: name each file by its whole URL, one \
         entry of `paths` each"
    )]
    NotListable {
        /// The pattern.
        text: String,
        /// Why it would have to be listed.
        what: &'static str,
    },
    /// A file whose format cannot be told.
    #[error("{name} has no known ending: expected .parquet, .jsonl, .jsonl.gz or .jsonl.zst")]
    Format {
        /// The file.
        name: String,
    },
    /// The store did not do what it was asked to.
    #[error("cannot read {name}")]
    Store {
        /// The file or folder.
        name: String,
        /// Why not.
        source: StoreError,
    },
    /// The file is not the one that the task was planned for.
    #[error("{name} has changed since the job looked at it; run the job again")]
    Changed {
        /// The file.
        name: String,
    },
    /// The file's bytes are not what its name says.
    #[error("{name} is not a valid {format} file: {message}")]
    Contents {
        /// The file.
        name: String,
        /// What it should be.
        format: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// A column is missing or has the wrong type.
    #[error("{name}: {message}")]
    Column {
        /// The file.
        name: String,
        /// Which column, and what the file has instead.
        message: String,
    },
}

impl ReadError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Store { source, .. } => source.kind(),
            _ => FailureKind::Permanent,
        }
    }

    /// Whether the bytes of the file are at fault: nothing around it is wrong.
    #[must_use]
    pub fn is_about_contents(&self) -> bool {
        matches!(self, Self::Contents { .. })
    }

    /// The error of a text that should name a file or a store.
    pub(crate) fn uri(text: &str, message: String) -> Self {
        Self::Uri {
            text: redact(text),
            message: redact(&message),
        }
    }

    /// The error of a store, for the file `name`.
    #[must_use]
    pub fn store(name: &str, source: object_store::Error) -> Self {
        let source = StoreError::from(source);
        match source.problem() {
            StoreProblem::Changed => Self::Changed {
                name: name.to_owned(),
            },
            _ => Self::Store {
                name: name.to_owned(),
                source,
            },
        }
    }

    /// The failure of a task that reads at `place`.
    #[must_use]
    pub fn into_failure(self, place: Place) -> Failure {
        Failure::new(self.kind(), error_chain(&self)).at(place)
    }
}
