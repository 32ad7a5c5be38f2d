//! Training of language models on the processor: new small ones, or given ones of every family
//! continued.
//!
//! 1. [`TrainedTokenizer`] learns tokens from texts, where there is no model yet.
//! 2. [`Start`] is what training starts from: a [`Size`] and a seed, or a model's directory.
//! 3. [`Documents`] collects token ids and splits off what is held out: [`TrainingData`].
//! 4. [`Trainer`] makes steps; [`Trainer::checkpoint`] and [`Trainer::resume`] survive a kill.
//! 5. [`TrainedModel`] is the files of a directory that transformers reads.
//!
//! Everything runs in f32 on the current rayon pool, without dropout. The same inputs give the same
//! bytes for any number of threads, on processors with the same vector instructions. It never reads
//! a clock, and never draws a random number that is not a function of a seed.

mod checkpoint;
mod config;
mod data;
mod error;
mod forward;
mod kernels;
mod network;
mod optimizer;
mod parameters;
mod random;
mod result;
mod size;
mod start;
mod tokenizer;
mod trainer;

#[cfg(test)]
mod gradient_tests;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod trainer_tests;

pub use config::{Length, TrainingConfig};
pub use data::{
    Documents, HELD_OUT_DOCUMENT_TOKENS, HELD_OUT_SHARE, HELD_OUT_TOKENS_MAX, TrainingData,
};
pub use error::TrainError;
pub use optimizer::AdamW;
pub use result::TrainedModel;
pub use size::{Shape, Size};
pub use start::Start;
pub use tokenizer::{
    END_OF_TEXT, SAMPLE_BYTES_MAX, TrainedTokenizer, VOCAB_SIZE_MAX, VOCAB_SIZE_MIN,
};
pub use trainer::{StepReport, Trainer};
