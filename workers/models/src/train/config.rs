//! Settings of a training, and those that work for each size.

use serde::{Deserialize, Serialize};

use super::network::Network;
use super::optimizer::{AdamW, Schedule};
use super::{Size, TrainError};
use crate::Architecture;

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// So many times every sequence of the text.
    Epochs(u64),
    /// So many tokens, going through the text again where it is shorter; rounded up to a step.
    Tokens(u64),
    /// So many steps.
    Steps(u64),
}

/// Settings of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// Tokens of a sequence.
    pub context: usize,
    /// Sequences whose gradients are added up for one step.
    pub sequences_per_step: usize,
    /// How long to train.
    pub length: Length,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// The last learning rate as a share of the highest.
    pub last_learning_rate_share: f64,
    /// Share of the steps in which the learning rate rises.
    pub warmup_share: f64,
    /// The optimizer's settings.
    pub optimizer: AdamW,
    /// Gradients of a larger norm are scaled down to it.
    pub gradient_norm_max: f64,
    /// Steps from one measurement of the held-out loss to the next; it is measured before the first
    /// step and after the last one too.
    pub evaluate_every: u64,
    /// Measurements in a row without a new lowest held-out loss after which training ends; `None`:
    /// never before its length. The weights of the lowest held-out loss are kept either way.
    pub patience: Option<u32>,
    /// Parts that the sequences of a step are cut into, each with its own sum of gradients: as many
    /// threads can be busy. The results depend on this number, and not on the number of threads.
    pub lanes: usize,
    /// Seed of the order of sequences (that of new weights is given where they are made).
    pub seed: u64,
    /// The first layers that stay as they are, and the embedding with them; a head that is the embedding
    /// becomes one of its own. 0: everything is trained. Two models that begin alike are
    /// [scored](crate::losses_together) in less time.
    #[serde(default)]
    pub frozen_layers: usize,
}

/// Tokens of a lane that are computed at once: more are computed in pieces, to bound memory.
pub(crate) const ROWS_MAX: usize = 1024;

impl TrainingConfig {
    /// Settings for a new model of a size: minutes on two cores for `1m` and `5m`, not for the
    /// others. Those of `5m` were measured in `examples/evidence.rs`; those of the other sizes are
    /// scaled from there and from runs of `1m` with other lengths.
    #[must_use]
    pub fn scratch(size: Size) -> Self {
        let (sequences_per_step, n_tokens, learning_rate, lanes) = match size {
            Size::M1 => (16, 600_000, 5e-3, 8),
            Size::M5 => (8, 500_000, 3e-3, 8),
            Size::M20 => (8, 2_000_000, 1.5e-3, 8),
            Size::M125 => (32, 500_000_000, 6e-4, 8),
        };
        Self {
            context: size.shape().context,
            sequences_per_step,
            length: Length::Tokens(n_tokens),
            learning_rate,
            last_learning_rate_share: 0.1,
            warmup_share: 0.05,
            optimizer: AdamW::default(),
            gradient_norm_max: 1.0,
            evaluate_every: 50,
            patience: Some(5),
            lanes,
            seed: 0,
            frozen_layers: 0,
        }
    }

    /// Settings to continue a model on a target: one epoch (arXiv 2406.10670, section 3) at a lower
    /// learning rate, which falls with the width of the model.
    #[must_use]
    pub fn continued(architecture: &Architecture) -> Self {
        Self {
            context: architecture.max_positions.min(512),
            sequences_per_step: 8,
            length: Length::Epochs(1),
            learning_rate: (0.3 / architecture.hidden_size.max(1) as f64).min(2e-3),
            frozen_layers: architecture.n_layers() / 3,
            ..Self::scratch(Size::M5)
        }
    }

    /// What is trained where training starts from a model of this architecture.
    #[must_use]
    pub fn trained(&self, start: &Architecture) -> Architecture {
        match self.frozen_layers {
            0 => start.clone(),
            _ => start.untied(),
        }
    }

    /// Tokens of one step.
    #[must_use]
    pub fn tokens_per_step(&self) -> u64 {
        (self.context * self.sequences_per_step) as u64
    }

    /// Bytes that training a model of this architecture needs at most, on so many threads: weights,
    /// the best weights, moments, the gradients of every lane, and the values of the sequences in
    /// work. The tokens themselves (4 bytes each) and the files of the result come on top.
    ///
    /// # Errors
    ///
    /// If the settings cannot be, or do not fit the architecture.
    pub fn bytes_to_train(
        &self,
        architecture: &Architecture,
        n_threads: usize,
    ) -> Result<u64, TrainError> {
        self.check()?;
        let network = Network::new(
            &self.trained(architecture),
            self.context,
            self.frozen_layers,
        )?;
        let vectors = 4 + self.n_lanes() as u64;
        let n_rows = self.sequences_per_piece() as u64 * self.context as u64;
        let scratch = 4 * (128 * architecture.vocab_size + 128 * self.context) as u64;
        let in_work = n_rows * network.bytes_per_token() + scratch;
        let n_busy = n_threads.clamp(1, self.n_lanes()) as u64;
        Ok(vectors * 4 * network.places.len() as u64 + n_busy * in_work)
    }

    /// Lanes that have a sequence.
    pub(crate) fn n_lanes(&self) -> usize {
        self.lanes.min(self.sequences_per_step)
    }

    /// Sequences of a lane that are computed at once.
    pub(crate) fn sequences_per_piece(&self) -> usize {
        let per_lane = self.sequences_per_step.div_ceil(self.n_lanes());
        per_lane.min((ROWS_MAX / self.context).max(1))
    }

    /// Steps for so many sequences of text.
    pub(crate) fn n_steps(&self, n_sequences: usize) -> u64 {
        let per_step = self.sequences_per_step as u64;
        match self.length {
            Length::Steps(n) => n,
            Length::Epochs(n) => n.saturating_mul(n_sequences as u64).div_ceil(per_step),
            Length::Tokens(n) => n.div_ceil(self.tokens_per_step()),
        }
    }

    /// Sequences from the first step to the last; an epoch ends where its last sequence ends.
    pub(crate) fn n_sequences_in_all(&self, n_sequences: usize) -> u64 {
        match self.length {
            Length::Epochs(n) => n.saturating_mul(n_sequences as u64),
            _ => self
                .n_steps(n_sequences)
                .saturating_mul(self.sequences_per_step as u64),
        }
    }

    pub(crate) fn schedule(&self, n_steps: u64) -> Schedule {
        Schedule {
            peak: self.learning_rate,
            last: self.learning_rate * self.last_learning_rate_share,
            n_warmup_steps: (n_steps as f64 * self.warmup_share).ceil() as u64,
            n_steps,
        }
    }

    /// Refuses what cannot be.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let is_share = |x: f64| (0.0..=1.0).contains(&x);
        let is_beta = |x: f64| (0.0..1.0).contains(&x);
        let is_positive = |x: f64| x > 0.0 && x.is_finite();
        let count = |name, n: usize, max: usize| {
            setting(
                name,
                n,
                (1..=max).contains(&n),
                "at least 1 and no absurd number",
            )
        };
        count("context", self.context, 1 << 20)?;
        count("sequences per step", self.sequences_per_step, 1 << 16)?;
        count("lanes", self.lanes, 1 << 10)?;
        let every = self.evaluate_every;
        setting("steps between measurements", every, every > 0, "at least 1")?;
        let (Length::Epochs(n) | Length::Tokens(n) | Length::Steps(n)) = self.length;
        setting("length", n, n > 0, "at least 1")?;
        let positive = "a positive number";
        let rate = self.learning_rate;
        setting("learning rate", rate, is_positive(rate), positive)?;
        let norm = self.gradient_norm_max;
        setting(
            "largest norm of gradients",
            norm,
            is_positive(norm),
            positive,
        )?;
        let epsilon = self.optimizer.epsilon;
        setting("epsilon", epsilon, is_positive(epsilon), positive)?;
        let share = "between 0 and 1";
        let last = self.last_learning_rate_share;
        setting(
            "share of the last learning rate",
            last,
            is_share(last),
            share,
        )?;
        setting(
            "share of warm-up",
            self.warmup_share,
            is_share(self.warmup_share),
            share,
        )?;
        let decay = self.optimizer.weight_decay;
        setting("weight decay", decay, is_share(decay), share)?;
        let below = "at least 0 and below 1";
        setting(
            "beta1",
            self.optimizer.beta1,
            is_beta(self.optimizer.beta1),
            below,
        )?;
        setting(
            "beta2",
            self.optimizer.beta2,
            is_beta(self.optimizer.beta2),
            below,
        )
    }
}

fn setting(
    name: &'static str,
    found: impl ToString,
    fits: bool,
    expected: &'static str,
) -> Result<(), TrainError> {
    if fits {
        return Ok(());
    }
    let found = found.to_string();
    Err(TrainError::Setting {
        name,
        found,
        expected,
    })
}
