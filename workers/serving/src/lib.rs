//! A causal language model of a directory behind an OpenAI-compatible server of this process, for
//! runs that are too small for a server of their own.
//!
//! 1. [`ServedModel::load`] reads the directory: the same files and architectures that losses are
//!    computed with, besides the chat template and the tokens that end a turn.
//! 2. [`ModelServer::start`] answers `/v1/models`, `/v1/chat/completions` and `/v1/completions` on
//!    the loopback interface.
//!
//! Answers to a schema ([`Form`]) are written with it, member by member: they always parse.

mod chat_template;
mod decoding;
mod error;
mod form;
mod guided;
mod model;
mod protocol;
mod sampling;
mod server;

pub use chat_template::{ChatTemplate, Message};
pub use error::ServingError;
pub use form::Form;
pub use model::{Completion, FinishReason, ServedModel};
pub use sampling::Sampling;
pub use server::ModelServer;
