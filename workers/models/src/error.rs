//! What goes wrong with models: each error says what was tried, on what, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::architecture::Family;

/// What the caller must do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelErrorKind {
    /// The files or the request are wrong: trying again cannot help.
    Permanent,
    /// The model and its working set do not fit into the memory that was allowed.
    Memory,
    /// Reading failed in a way that may pass.
    Transient,
}

/// An error of opening, loading or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that every model directory has is not there.
    #[error("no {what} in {}: a model directory holds config.json, tokenizer.json and model.safetensors (or model.safetensors.index.json and its parts)", directory.display())]
    Missing {
        /// The model directory.
        directory: PathBuf,
        /// Name of the file.
        what: String,
    },
    /// A file is not what its name says: cut, or of another format.
    #[error("{} is damaged or of another format: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// A model of a kind, or with a feature, that this crate does not compute.
    #[error("{what} is not supported ({}); supported are {}", path.display(), supported())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// The architecture or the feature, with the key that names it.
        what: String,
    },
    /// A weight that is missing, of another shape or type, or not finite.
    #[error("tensor {tensor} of {}: {problem}", path.display())]
    Tensor {
        /// The file, or the directory if no file has the tensor.
        path: PathBuf,
        /// Name as stored.
        tensor: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A tokenizer that does not load, or does not belong to the model.
    #[error("{}: {problem}", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// No end-of-sequence token is named anywhere.
    #[error("no end-of-sequence token in config.json, generation_config.json or tokenizer_config.json of {}: name one", directory.display())]
    NoEos {
        /// The model directory.
        directory: PathBuf,
    },
    /// Token ids, texts or settings that the model cannot take.
    #[error("{problem}")]
    Input {
        /// What was asked for and what is possible.
        problem: String,
    },
    /// More memory than allowed.
    #[error(
        "{what} needs {needed_bytes} bytes and {available_bytes} are allowed: give it a larger memory budget, fewer threads, a shorter context or a smaller model"
    )]
    Memory {
        /// What needs it.
        what: String,
        /// Bytes needed.
        needed_bytes: u64,
        /// Bytes allowed.
        available_bytes: u64,
    },
    /// A device that is not there, or failed.
    #[error("device: {problem}")]
    Device {
        /// What was tried and what came back.
        problem: String,
    },
}

fn supported() -> String {
    let names: Vec<&str> = Family::ALL.iter().map(|family| family.name()).collect();
    names.join(", ")
}

impl ModelError {
    /// What the caller must do about it.
    #[must_use]
    pub fn kind(&self) -> ModelErrorKind {
        match self {
            Self::Read { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                ModelErrorKind::Transient
            }
            Self::Memory { .. } => ModelErrorKind::Memory,
            _ => ModelErrorKind::Permanent,
        }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::Tensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn input(problem: impl Into<String>) -> Self {
        Self::Input {
            problem: problem.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_transient() {
        let read =
            |kind: io::ErrorKind| ModelError::read(Path::new("x"), io::Error::from(kind)).kind();
        assert_eq!(read(io::ErrorKind::NotFound), ModelErrorKind::Permanent);
        assert_eq!(read(io::ErrorKind::TimedOut), ModelErrorKind::Transient);
        let input = ModelError::input("x");
        assert_eq!(input.kind(), ModelErrorKind::Permanent);
    }
}
