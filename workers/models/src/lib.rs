//! Causal language models for scoring and training, and encoders of texts, in the directory layout of
//! Hugging Face.
//!
//! Plain functions over token ids and slices: no async, nothing of the pipeline. A directory is
//! opened (`config.json`, `tokenizer.json`, safetensors), checked, and yields the loss of every
//! predicted token in nats.
//!
//! 1. [`ModelDirectory::open`] checks all that can be checked without reading weights.
//! 2. [`ModelDirectory::memory`] says what a model will take, [`ModelDirectory::load`] reads it.
//! 3. [`windows`] cuts token ids into the sequences of a unit and sums up their losses.
//! 4. [`LanguageModel::losses`] gives the losses of a batch of sequences.
//! 5. [`encoder`] gives vectors of texts.
//! 6. [`train`] makes new models, and continues given ones.

pub mod architecture;
mod device;
mod directory;
pub mod encoder;
mod error;
mod forward;
mod half;
mod layout;
mod long_text;
mod matrix;
mod parts;
mod product;
mod safetensors_file;
mod scalar;
mod tokenizer;
pub mod train;
pub mod windows;

use std::fmt::Debug;

pub use architecture::{Architecture, Family};
pub use device::{DeviceModel, check_device};
pub use directory::ModelDirectory;
pub use error::{ModelError, ModelErrorKind};
pub use forward::{CausalModel, Continuation, LoadOptions, MemoryNeed, losses_together};
pub use layout::StoredTensor;
pub use parts::{Part, Slot};
pub use product::WeightType;
pub use tokenizer::{Encoded, Tokenizer};

/// A model that tells how badly it predicts.
pub trait LanguageModel: Send + Sync + Debug {
    /// What it computes.
    fn architecture(&self) -> &Architecture;

    /// The longest sequence it takes, in tokens.
    fn context(&self) -> usize;

    /// For each sequence of `n` token ids the `n - 1` losses `-ln p(id | ids before it)` in nats,
    /// from the second id on; none for a sequence of one id or none. What the model cannot say
    /// (not a number, infinite) stands where it arose, and disturbs no other sequence.
    ///
    /// # Errors
    ///
    /// If a sequence is longer than the context or has an id that the model does not know.
    fn losses(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError>;
}
