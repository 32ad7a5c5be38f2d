//! The models of a task that compute in this process, and the losses of documents under them.

use std::sync::Arc;

use gleaner_models::windows::document_windows;
use gleaner_schemas::{Failure, FailureKind};
use tokio_util::sync::CancellationToken;

use super::params::ScoreParams;
use super::rows::Scored;
use crate::batch_columns::permanent;
use crate::forecast::size;
use crate::language_model::{LoadedModel, load, load_options};
use crate::stage::MapContext;

/// Tokens that a model is given at a time: enough to keep all threads busy, little enough that
/// their losses of two models take no memory to speak of.
pub(super) const TOKENS_AT_A_TIME: usize = 64 << 10;

/// What models must leave of a slot's memory, for documents and results.
pub(super) fn left_of(memory_bytes: u64) -> u64 {
    memory_bytes / 4
}

/// The models with what all of them share.
pub(super) struct Scorer {
    pub(super) params: ScoreParams,
    /// Names of the models, all of them or those that no server computes.
    names: Vec<String>,
    pub(super) models: Vec<Arc<LoadedModel>>,
    pub(super) eos: u32,
    cancel: CancellationToken,
}

impl Scorer {
    /// Loads the models `names`; tells what they leave of the slot's memory, in bytes.
    pub(super) fn load(
        params: &ScoreParams,
        names: Vec<String>,
        context: &MapContext<'_>,
    ) -> Result<(Self, u64), Failure> {
        let mut models: Vec<Arc<LoadedModel>> = Vec::new();
        let to_leave = left_of(context.memory_bytes);
        let mut left_bytes = context.memory_bytes;
        for name in &names {
            let allowed = left_bytes.saturating_sub(to_leave);
            let options = load_options(params.dtype, params.context, Some(allowed));
            let model = load(context.side_inputs, name, params.device, &options)?;
            if model.memory_bytes() > allowed {
                return Err(permanent(format!(
                    "the model {name} takes {} of memory, and {} of the slot's {} are left for it; \
                     raise `memory` in the job file",
                    size(model.memory_bytes()),
                    size(allowed),
                    size(context.memory_bytes)
                )));
            }
            left_bytes -= model.memory_bytes();
            models.push(model);
        }
        let Some(first) = models.first() else {
            return Err(permanent("the parameters of a task name no model"));
        };
        let eos = first.eos_id(params.eos.as_deref())?;
        let scorer = Self {
            params: params.clone(),
            names,
            models,
            eos,
            cancel: context.cancel.clone(),
        };
        Ok((scorer, left_bytes))
    }

    /// The losses of each model over sequences of tokens: by model, then by sequence.
    pub(super) fn losses(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
        // One batch of documents may take minutes.
        if self.cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Transient, "cancelled"));
        }
        LoadedModel::losses_together(&self.models, sequences)
    }

    /// The losses of documents: by document, then by model; none for those without ids.
    pub(super) fn document_losses(
        &self,
        documents: &[Option<&[u32]>],
    ) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
        let context = self.params.context as usize;
        let mut windows: Vec<(usize, Vec<u32>)> = Vec::new();
        let mut scored: Vec<Vec<Vec<f32>>> =
            vec![vec![Vec::new(); self.models.len()]; documents.len()];
        let mut n_tokens = 0;
        for (idx, ids) in documents.iter().enumerate() {
            // Windows of a long document are not held all at once.
            for window in document_windows(self.eos, ids.unwrap_or_default(), context) {
                n_tokens += window.len();
                windows.push((idx, window));
                if n_tokens >= TOKENS_AT_A_TIME {
                    self.score_windows(&windows, &mut scored)?;
                    windows.clear();
                    n_tokens = 0;
                }
            }
        }
        self.score_windows(&windows, &mut scored)?;
        Ok(scored)
    }

    fn score_windows(
        &self,
        windows: &[(usize, Vec<u32>)],
        scored: &mut [Vec<Vec<f32>>],
    ) -> Result<(), Failure> {
        let sequences: Vec<&[u32]> = windows.iter().map(|(_, ids)| ids.as_slice()).collect();
        for (model_idx, losses) in self.losses(&sequences)?.into_iter().enumerate() {
            for ((document_idx, _), losses) in windows.iter().zip(losses) {
                scored[*document_idx][model_idx].extend(losses);
            }
        }
        Ok(())
    }

    /// What losses come to.
    pub(super) fn outcome(&self, is_document: bool, losses: Vec<Vec<f32>>) -> Scored {
        outcome(&self.names, is_document, losses)
    }
}

/// What losses of these models come to.
pub(super) fn outcome(names: &[String], is_document: bool, losses: Vec<Vec<f32>>) -> Scored {
    if is_document && losses.iter().all(Vec::is_empty) {
        return Scored::Ineligible("no token".to_owned());
    }
    for (name, losses) in names.iter().zip(&losses) {
        if let Some(idx) = losses.iter().position(|loss| !loss.is_finite()) {
            return Scored::Rejected(format!(
                "the loss of token {idx} under the model {name} is {}",
                losses[idx]
            ));
        }
    }
    Scored::Losses(losses)
}
