//! The loop of training, one step a call: the caller reports, cancels and keeps checkpoints.
//!
//! 1. Every step takes the next sequences of the seeded order and cuts them into lanes.
//! 2. Each lane adds up the gradients of its sequences, on whatever thread of the current rayon pool.
//! 3. The lanes' gradients are added in their order, clipped, and AdamW moves the weights.
//! 4. Every so many steps the held-out loss is measured; the best weights are kept.
//!
//! Weights are a function of (start, data, config): neither the number of threads nor an interruption
//! changes a bit of them on machines with the same vector instructions.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use rayon::prelude::*;

use super::checkpoint::{self, Progress, State};
use super::config::TrainingConfig;
use super::data::{Order, TrainingData};
use super::forward::{Batch, Workspace};
use super::network::Network;
use super::optimizer::{self, Moments, Schedule};
use super::random::hash_bytes;
use super::result::{TrainedModel, safetensors};
use super::{Start, TrainError};
use crate::Architecture;

/// What one step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// Steps in all, if training is not ended early.
    pub n_steps: u64,
    /// Mean loss of the step's tokens in nats, before the step.
    pub loss: f64,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// Norm of the mean gradient before it was clipped.
    pub gradient_norm: f64,
    /// Tokens trained on so far, this step's among them.
    pub n_tokens: u64,
    /// Mean loss of the held-out tokens in nats after the step, where it was measured.
    pub held_out_loss: Option<f64>,
    /// The held-out loss has not fallen for so long that training ends here.
    pub stopped_early: bool,
}

/// A training at some step.
#[derive(Debug)]
pub struct Trainer {
    config: TrainingConfig,
    data: TrainingData,
    architecture: Architecture,
    files: Vec<(String, Bytes)>,
    network: Network,
    decayed: Vec<Range<usize>>,
    schedule: Schedule,
    n_sequences: usize,
    order: Order,
    weights: Vec<f32>,
    moments: Moments,
    best_weights: Option<Vec<f32>>,
    progress: Progress,
    /// The sum of gradients of each lane.
    gradients: Vec<Vec<f32>>,
    workspaces: Mutex<Vec<Workspace>>,
}

impl Trainer {
    /// Checks everything, and measures the held-out loss of the start.
    ///
    /// # Errors
    ///
    /// If settings, data and model do not fit together, or there is too little text for a step.
    pub fn new(
        config: TrainingConfig,
        data: TrainingData,
        start: Start,
    ) -> Result<Self, TrainError> {
        let mut trainer = Self::unmeasured(config, data, start)?;
        trainer.measure()?;
        Ok(trainer)
    }

    /// Goes on from a checkpoint of a training with the same settings, data and start.
    ///
    /// # Errors
    ///
    /// If the checkpoint is damaged or of another training.
    pub fn resume(
        config: TrainingConfig,
        data: TrainingData,
        start: Start,
        checkpoint: &[u8],
    ) -> Result<Self, TrainError> {
        let mut trainer = Self::unmeasured(config, data, start)?;
        let (found, mut values) = checkpoint::decode(checkpoint)?;
        let expected = trainer.state();
        let is_other = |what: &str| TrainError::Checkpoint {
            problem: format!("it is of a training with {what}"),
        };
        if found.config != expected.config {
            return Err(is_other("other settings"));
        }
        if found.data != expected.data {
            return Err(is_other("other text"));
        }
        if found.model != expected.model || found.n_parameters != expected.n_parameters {
            return Err(is_other("another model or tokenizer"));
        }
        let n = trainer.weights.len();
        let n_vectors = if found.progress.best.is_some() { 4 } else { 3 };
        if values.len() != n_vectors * n {
            return Err(is_other("another number of weights"));
        }
        checkpoint::take(&mut values, &mut trainer.weights);
        checkpoint::take(&mut values, &mut trainer.moments.first);
        checkpoint::take(&mut values, &mut trainer.moments.second);
        if n_vectors == 4 {
            let mut best = vec![0.0; n];
            checkpoint::take(&mut values, &mut best);
            trainer.best_weights = Some(best);
        }
        trainer.progress = found.progress;
        Ok(trainer)
    }

    fn unmeasured(
        config: TrainingConfig,
        data: TrainingData,
        start: Start,
    ) -> Result<Self, TrainError> {
        config.check()?;
        data.check(start.architecture.vocab_size)?;
        let (n_frozen, n_layers) = (config.frozen_layers, start.architecture.n_layers());
        if n_frozen > 0 && n_frozen >= n_layers {
            return Err(TrainError::Setting {
                name: "frozen layers",
                found: n_frozen.to_string(),
                expected: "fewer than the model has",
            });
        }
        let start = match n_frozen {
            0 => start,
            _ => start.untied()?,
        };
        let network = Network::new(&start.architecture, config.context, n_frozen)?;
        let n_sequences = (data.train.len() - 1) / config.context;
        if n_sequences < config.sequences_per_step {
            return Err(TrainError::TooFewTokens {
                n_tokens: data.n_tokens(),
                needed_tokens: config.tokens_per_step() + 1,
            });
        }
        let n_steps = config.n_steps(n_sequences);
        let n_parameters = network.places.len();
        Ok(Self {
            decayed: network.places.decayed(n_frozen),
            schedule: config.schedule(n_steps),
            order: Order::new(config.seed, n_sequences),
            n_sequences,
            weights: start.weights,
            moments: Moments::new(n_parameters),
            best_weights: None,
            progress: Progress::default(),
            gradients: vec![vec![0.0; n_parameters]; config.n_lanes()],
            workspaces: Mutex::default(),
            architecture: start.architecture,
            files: start.files,
            network,
            config,
            data,
        })
    }

    /// The step that was made last; 0 before the first.
    #[must_use]
    pub fn n_steps_done(&self) -> u64 {
        self.progress.step
    }

    /// Steps in all, if training is not ended early.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.schedule.n_steps
    }

    /// The lowest held-out loss so far, in nats per token.
    #[must_use]
    pub fn best_held_out_loss(&self) -> Option<f64> {
        self.progress.best.map(|(loss, _)| loss)
    }

    /// Makes one step; `None` once training has ended.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite: this training cannot go on.
    pub fn step(&mut self) -> Result<Option<StepReport>, TrainError> {
        if self.progress.stopped || self.progress.step >= self.schedule.n_steps {
            return Ok(None);
        }
        let step = self.progress.step + 1;
        let learning_rate = self.schedule.at(step);
        let sequences = self.sequences(step);
        let n_tokens = (sequences.len() * self.config.context) as u64;
        let loss = self.add_gradients(&sequences) / n_tokens as f64;
        let finite = |what: &'static str, value: f64| {
            if value.is_finite() {
                return Ok(value);
            }
            Err(TrainError::NotFinite {
                step,
                what,
                value,
                learning_rate,
            })
        };
        let loss = finite("the loss", loss)?;
        let norm = optimizer::sum_gradients(&mut self.gradients);
        let gradient_norm = finite("the norm of the gradient", norm)?;
        let scale = (self.config.gradient_norm_max / gradient_norm).min(1.0);
        let update = optimizer::Update {
            settings: self.config.optimizer,
            step,
            learning_rate,
            gradient_scale: scale,
        };
        update.apply(
            &mut self.weights,
            &mut self.moments,
            &self.gradients[0],
            &self.decayed,
        );
        self.progress.step = step;
        self.progress.n_tokens += n_tokens;
        let is_last = step == self.schedule.n_steps;
        let held_out_loss = if is_last || step.is_multiple_of(self.config.evaluate_every) {
            self.measure()?
        } else {
            None
        };
        Ok(Some(StepReport {
            step,
            n_steps: self.schedule.n_steps,
            loss,
            learning_rate,
            gradient_norm,
            n_tokens: self.progress.n_tokens,
            held_out_loss,
            stopped_early: self.progress.stopped && !is_last,
        }))
    }

    /// The state after the last step, to go on from with [`Trainer::resume`]; about 16 bytes per
    /// parameter. There is room behind it for so many further bytes.
    ///
    /// # Errors
    ///
    /// If the state cannot be written down.
    pub fn checkpoint(&self, room: usize) -> Result<Vec<u8>, TrainError> {
        let mut vectors = vec![
            self.weights.as_slice(),
            &self.moments.first,
            &self.moments.second,
        ];
        vectors.extend(self.best_weights.as_deref());
        checkpoint::encode(&self.state(), &vectors, room)
    }

    /// The model with the weights of the lowest held-out loss, or with the last ones where nothing
    /// is held out.
    ///
    /// # Errors
    ///
    /// If the weights cannot be written down.
    pub fn finish(self) -> Result<TrainedModel, TrainError> {
        let weights = self.best_weights.as_deref().unwrap_or(&self.weights);
        let bytes = safetensors(&self.architecture, &self.network.places, weights)?;
        let mut files = self.files;
        files.push(("model.safetensors".to_owned(), bytes));
        let best = self.progress.best;
        Ok(TrainedModel {
            files,
            n_steps: self.progress.step,
            best_step: best.map_or(self.progress.step, |(_, step)| step),
            held_out_loss: best.map(|(loss, _)| loss),
        })
    }

    fn state(&self) -> State {
        let files = self.files.iter().flat_map(|(_, bytes)| bytes.iter());
        let bytes: Vec<u8> = files.copied().collect();
        State {
            config: self.config.clone(),
            data: self.data.fingerprint(),
            model: format!("{:016x}", hash_bytes(&bytes)),
            n_parameters: self.weights.len(),
            progress: self.progress.clone(),
        }
    }

    /// The sequences of a step.
    fn sequences(&mut self, step: u64) -> Vec<usize> {
        let per_step = self.config.sequences_per_step as u64;
        let first = (step - 1) * per_step;
        let end = self.config.n_sequences_in_all(self.n_sequences);
        (first..end.min(first + per_step))
            .map(|place| self.order.at(place))
            .collect()
    }

    /// The sum of losses; the gradients of their mean stand in the lanes.
    fn add_gradients(&mut self, sequences: &[usize]) -> f64 {
        let context = self.config.context;
        let n_lanes = self.gradients.len();
        let per_piece = self.config.sequences_per_piece();
        let scale = 1.0 / (sequences.len() * context) as f32;
        let (network, weights, tokens) = (&self.network, &self.weights, &self.data.train);
        let workspaces = &self.workspaces;
        let losses: Vec<f64> = self
            .gradients
            .par_iter_mut()
            .enumerate()
            .map(|(lane, gradient)| {
                gradient.fill(0.0);
                let start = lane * sequences.len() / n_lanes;
                let end = (lane + 1) * sequences.len() / n_lanes;
                let mut workspace = take(workspaces);
                let mut sum = 0.0;
                for piece in sequences[start..end].chunks(per_piece) {
                    let mut inputs = Vec::with_capacity(piece.len() * context);
                    let mut targets = Vec::with_capacity(piece.len() * context);
                    for sequence in piece {
                        let start = sequence * context;
                        inputs.extend_from_slice(&tokens[start..start + context]);
                        targets.extend_from_slice(&tokens[start + 1..=start + context]);
                    }
                    let batch = Batch {
                        length: context,
                        inputs: &inputs,
                        targets: &targets,
                    };
                    let losses =
                        workspace.losses_and_gradient(network, weights, batch, scale, gradient);
                    sum += losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
                }
                give_back(workspaces, workspace);
                sum
            })
            .collect();
        losses.iter().sum()
    }

    /// Measures the held-out loss, if anything is held out, and keeps the weights if it is the
    /// lowest.
    fn measure(&mut self) -> Result<Option<f64>, TrainError> {
        if self.data.n_held_out_tokens() == 0 {
            return Ok(None);
        }
        let (network, weights) = (&self.network, &self.weights);
        let tokens = &self.data.held_out;
        let workspaces = &self.workspaces;
        let starts: Vec<usize> = (0..tokens.len() - 1).step_by(self.config.context).collect();
        let losses: Vec<f64> = starts
            .par_iter()
            .map(|&start| {
                let end = (tokens.len() - 1).min(start + self.config.context);
                let batch = Batch {
                    length: end - start,
                    inputs: &tokens[start..end],
                    targets: &tokens[start + 1..=end],
                };
                let mut workspace = take(workspaces);
                let losses = workspace.losses(network, weights, batch);
                let sum = losses.iter().map(|&loss| f64::from(loss)).sum();
                give_back(workspaces, workspace);
                sum
            })
            .collect();
        let loss = losses.iter().sum::<f64>() / (tokens.len() - 1) as f64;
        if !loss.is_finite() {
            let step = self.progress.step;
            return Err(TrainError::NotFinite {
                step,
                what: "the held-out loss",
                value: loss,
                learning_rate: if step == 0 {
                    0.0
                } else {
                    self.schedule.at(step)
                },
            });
        }
        if self.progress.measured(loss, self.config.patience) {
            match &mut self.best_weights {
                Some(best) => best.copy_from_slice(&self.weights),
                None => self.best_weights = Some(self.weights.clone()),
            }
        }
        Ok(Some(loss))
    }
}

fn take(workspaces: &Mutex<Vec<Workspace>>) -> Workspace {
    let mut free = workspaces.lock().unwrap_or_else(PoisonError::into_inner);
    free.pop().unwrap_or_default()
}

fn give_back(workspaces: &Mutex<Vec<Workspace>>, workspace: Workspace) {
    let mut free = workspaces.lock().unwrap_or_else(PoisonError::into_inner);
    free.push(workspace);
}
