//! What goes wrong in training.

use crate::{ModelError, ModelErrorKind};

/// An error of training; says what was tried and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model that is continued, or the tokenizer, could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// No size has this name.
    #[error("no size {name:?}: the sizes are {}", super::Size::names())]
    UnknownSize {
        /// What was asked for.
        name: String,
    },
    /// The texts give no tokens to train on.
    #[error("no text to {what}: every document is empty")]
    NoText {
        /// What the texts were for.
        what: &'static str,
    },
    /// Too little text for a single step.
    #[error(
        "{n_tokens} tokens are left for training and one step takes {needed_tokens}: give more text, fewer sequences per step or a shorter context"
    )]
    TooFewTokens {
        /// Tokens that are there, without those held out.
        n_tokens: u64,
        /// Tokens of one step.
        needed_tokens: u64,
    },
    /// A held-out part was asked for and the text does not give one.
    #[error(
        "no text is left to measure the held-out loss on: {n_documents} different documents, and a share of {share} of them; give more documents, or a share of 0 to train without"
    )]
    NoHeldOut {
        /// Different documents with text.
        n_documents: usize,
        /// The share that was asked for.
        share: f64,
    },
    /// A setting that cannot be.
    #[error("{name} is {found}: it must be {expected}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The loss or the gradient grew beyond all numbers.
    #[error(
        "step {step}: {what} is {value}: training has diverged; lower the learning rate (now {learning_rate:.3e}) or lengthen the warm-up"
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// The loss or the norm of the gradient.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The learning rate of the step.
        learning_rate: f64,
    },
    /// A token id beyond the vocabulary.
    #[error(
        "token id {id} where the model knows {vocab_size} tokens: text and model do not share a tokenizer"
    )]
    Token {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// A checkpoint that cannot be continued from.
    #[error("checkpoint: {problem}; start again without it")]
    Checkpoint {
        /// What was expected and what was found.
        problem: String,
    },
    /// Files of the model could not be written or encoded.
    #[error("cannot write {what}: {problem}")]
    Write {
        /// The file.
        what: String,
        /// Why.
        problem: String,
    },
}

impl TrainError {
    /// What the caller must do about it.
    #[must_use]
    pub fn kind(&self) -> ModelErrorKind {
        match self {
            Self::Model(error) => error.kind(),
            Self::Write { .. } => ModelErrorKind::Transient,
            _ => ModelErrorKind::Permanent,
        }
    }
}
