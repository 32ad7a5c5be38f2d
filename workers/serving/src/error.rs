//! What can go wrong, and whose fault it is.

use std::io;
use std::path::PathBuf;

use gleaner_models::ModelError;

/// Why a model is not served, or a request not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    /// Of the model's directory.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A small file of the directory.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The chat template refuses the messages.
    #[error("the model's chat template does not take these messages: {0}")]
    Template(String),
    /// A schema with parts that answers cannot be written by.
    #[error("response_format: {0}")]
    Schema(String),
    /// A prompt that leaves no room for an answer.
    #[error(
        "This model's maximum context length is {context} tokens, the prompt has {n_prompt}: \
         context_length_exceeded"
    )]
    ContextLength {
        /// What the model takes.
        context: usize,
        /// What the prompt has.
        n_prompt: usize,
    },
    /// No connection can be taken.
    #[error("cannot listen on the loopback interface: {0}")]
    Listen(#[source] io::Error),
    /// Nobody waits for the answer any more.
    #[error("cancelled")]
    Cancelled,
}
