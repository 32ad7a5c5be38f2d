//! Encoders of BERT's family: a text becomes a vector, and texts that mean the same get vectors that
//! lie close together.
//!
//! 1. [`TextEncoder::open`] reads a directory as sentence-transformers leave it (`config.json`,
//!    `tokenizer.json` or `vocab.txt`, safetensors, `1_Pooling/config.json`) and checks every weight.
//! 2. [`TextEncoder::embed`] gives the vector of a text, of length 1: a product of two is their
//!    cosine. A text that is too long is cut.
//!
//! No vector depends on another text, so batches and threads change nothing.

mod config;
mod forward;
mod vocabulary;
mod weights;

use std::path::Path;

use rayon::prelude::*;

pub use self::config::{EncoderConfig, Pooling};
use self::weights::EncoderWeights;
use crate::{ModelError, Tokenizer};

/// Tokens that stand around a text, as BERT's and RoBERTa's tokenizers name them.
const AROUND: [[&str; 2]; 2] = [["[CLS]", "[SEP]"], ["<s>", "</s>"]];

/// A model that gives vectors of texts; the same for all threads.
#[derive(Debug)]
pub struct TextEncoder {
    config: EncoderConfig,
    tokenizer: Tokenizer,
    weights: EncoderWeights,
    around: [u32; 2],
}

impl TextEncoder {
    /// Reads a directory.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, if the model is of another kind, if a weight is missing or of
    /// another shape, or if the tokenizer does not fit.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let config = EncoderConfig::of(path)?;
        let (file, tokenizer) = vocabulary::tokenizer(path)?;
        let wrong = |problem: String| ModelError::Tokenizer {
            path: file.clone(),
            problem,
        };
        if tokenizer.n_ids() > config.vocab_size {
            return Err(wrong(format!(
                "has ids up to {}, the model knows {} tokens: it does not belong to the model",
                tokenizer.n_ids() - 1,
                config.vocab_size,
            )));
        }
        let around = AROUND
            .iter()
            .find_map(|[first, last]| Some([tokenizer.id_of(first)?, tokenizer.id_of(last)?]));
        let around = around.ok_or_else(|| {
            wrong("has neither [CLS] and [SEP] nor <s> and </s> to put around a text".to_owned())
        })?;
        Ok(Self {
            weights: EncoderWeights::load(path, &config)?,
            config,
            tokenizer,
            around,
        })
    }

    /// What the model is.
    #[must_use]
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Bytes that it keeps in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let EncoderConfig {
            n_dimensions: n,
            n_inner,
            ..
        } = self.config;
        let of_layer = 4 * n * n + 2 * n * n_inner + 9 * n + n_inner;
        let of_tokens = (self.config.vocab_size + self.config.n_positions) * n;
        4 * (of_layer * self.config.n_layers + of_tokens) as u64
    }

    /// The vector of a text, of length 1.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot encode it.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        let n_ids_max = self.config.n_tokens_max - self.around.len();
        let encoded = self.tokenizer.encode_up_to(text, n_ids_max)?;
        let [first, last] = self.around;
        let mut ids = vec![first];
        ids.extend(encoded.ids);
        ids.push(last);
        Ok(forward::embed(&self.config, &self.weights, &ids))
    }

    /// The vectors of several texts, in parallel on the current rayon pool; the order is kept.
    ///
    /// # Errors
    ///
    /// As [`TextEncoder::embed`], of the first text that fails.
    pub fn embed_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let vectors = texts.par_iter().map(|text| self.embed(text.as_ref()));
        vectors.collect()
    }
}

/// The cosine of two vectors of length 1.
#[must_use]
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
