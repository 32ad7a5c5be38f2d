//! Parameters of the task that trains, and what follows from them.

use gleaner_models::Architecture;
use gleaner_models::train::{Length, Size, TrainingConfig};
use serde::{Deserialize, Serialize};

use super::params::TrainParams;
use super::{BYTES_PER_TOKEN, DATASET_BYTES_MAX};

/// Parameters of the task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrainTaskParams {
    pub(super) size: Option<String>,
    pub(super) tokens: Option<u64>,
    pub(super) epochs: Option<u64>,
    pub(super) vocabulary: Option<u64>,
    pub(super) learning_rate: Option<f64>,
    pub(super) frozen_layers: Option<u32>,
    pub(super) seed: u64,
    pub(super) held_out: f64,
    pub(super) early_stop: Option<u32>,
    pub(super) eos: Option<String>,
    /// Bytes of text that are kept.
    pub(super) text_bytes_max: u64,
}

impl TrainTaskParams {
    /// Of a stage whose slots have so much memory. An eighth of it is for text, at most, so that
    /// text and tokens leave half of it for the training itself.
    pub(super) fn of(params: &TrainParams, memory_bytes: u64) -> Self {
        let mut task = Self {
            text_bytes_max: memory_bytes / 8,
            size: params.size.clone(),
            tokens: params.tokens,
            epochs: params.epochs,
            vocabulary: params.vocabulary,
            learning_rate: params.learning_rate,
            frozen_layers: params.frozen_layers,
            seed: params.seed,
            held_out: params.held_out_share(),
            early_stop: params.early_stop,
            eos: params.eos.clone(),
        };
        // Where all that is wanted fits, the memory is no part of what the task is.
        task.text_bytes_max = task.text_bytes_max.min(task.bytes_wanted());
        task
    }

    pub(super) fn size(&self) -> Option<Size> {
        self.size.as_ref().and_then(|size| size.parse().ok())
    }

    /// Tokens that are to be trained on, if it is not for the text to say.
    pub(super) fn tokens_wanted(&self) -> Option<u64> {
        if self.epochs.is_some() {
            return None;
        }
        let by_size = || match TrainingConfig::scratch(self.size()?).length {
            Length::Tokens(tokens) => Some(tokens),
            _ => None,
        };
        self.tokens.or_else(by_size)
    }

    /// Bytes of text that are wanted.
    pub(super) fn bytes_wanted(&self) -> u64 {
        self.tokens_wanted().map_or(DATASET_BYTES_MAX, |tokens| {
            tokens
                .saturating_mul(BYTES_PER_TOKEN)
                .min(DATASET_BYTES_MAX)
        })
    }

    /// Settings of the training of a model.
    pub(super) fn config(&self, architecture: &Architecture) -> TrainingConfig {
        let mut config = match self.size() {
            Some(size) => TrainingConfig::scratch(size),
            None => TrainingConfig::continued(architecture),
        };
        if let Some(epochs) = self.epochs {
            config.length = Length::Epochs(epochs);
        } else if let Some(tokens) = self.tokens {
            config.length = Length::Tokens(tokens);
        }
        if let Some(learning_rate) = self.learning_rate {
            config.learning_rate = learning_rate;
        }
        if let Some(n_layers) = self.frozen_layers {
            config.frozen_layers = n_layers as usize;
        }
        match self.early_stop {
            Some(0) => config.patience = None,
            Some(patience) => config.patience = Some(patience),
            None => {}
        }
        config.seed = self.seed;
        config
    }
}
