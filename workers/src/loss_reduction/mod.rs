//! Stage `loss_reduction`: how much better a model that was trained further on a target predicts a
//! document than the model that it was trained from (CoLoR-Filter, arXiv 2406.10670).
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `score` | map, the table | the input | [`score`]: a row per document, or per packed sequence |
//!
//! Models that the stage asks to be trained (`train(5m)`, `continue(prior, biomed)`) are stages of
//! their own, [`crate::train_language_model`], which are put before it. Where a server computes a
//! model (`{endpoint: NAME}`), the map is [`score_served`].

mod agreement;
mod before;
pub(crate) mod estimate;
pub(crate) mod model_param;
mod params;
mod rows;
mod score;
mod score_served;
mod scorer;
mod sequences;
pub(crate) mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, Resource};
use schemars::{Schema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

pub use model_param::{LogProbabilities, ModelParam, ServerParam};
pub use params::{LossParams, Unit};

use self::before::different_tokenizers;
use self::model_param::ModelName;
use self::params::ScoreParams;
use self::score::ScoreStage;
use self::score_served::ScoreServedStage;
use crate::batch_columns::permanent;
use crate::expected_requests::{RequestSample, StageRequests};
use crate::forecast::{BeforeRun, Forecast, ImpliedStage};
use crate::language_model::ModelFacts;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Stage, StageKind, Step,
};
use crate::train_language_model::{self, MODEL};

/// Name of the kind.
pub(crate) const KIND: &str = "loss_reduction";
const SCORE: &str = "score";
/// Documents of so many bytes in one task, where servers compute: at tens of documents of a few
/// kilobytes in a second, minutes.
const SERVED_TASK_BYTES: u64 = 1 << 20;

/// The kind `loss_reduction`.
#[derive(Debug)]
pub struct LossReductionKind;

impl StageKind for LossReductionKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn code_version(&self) -> u32 {
        2
    }

    fn params_schema(&self) -> Schema {
        schema_for!(LossParams)
    }

    fn implied(&self, job: &Job, name: &str) -> Result<Vec<ImpliedStage>, JobError> {
        // What is wrong with the parameters themselves is told by `check`.
        match job.stage_params::<LossParams>(name) {
            Ok(params) => params.implied(job, name),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params = LossParams::of(job, name)?;
        let mut models = Vec::new();
        for (model, _) in params.named() {
            models.push((model.clone(), params.resolve(job, name, &model)?));
        }
        Ok(Arc::new(LossReduction {
            name: name.to_owned(),
            params,
            models,
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        let params = ScoreParams::deserialize(context.params)
            .map_err(|error| permanent(format!("the parameters of a task: {error}")))?;
        if params.servers.is_empty() {
            Ok(Box::new(ScoreStage::new(params, context)?))
        } else {
            Ok(Box::new(ScoreServedStage::new(params, context)?))
        }
    }
}

#[derive(Debug)]
struct LossReduction {
    name: String,
    params: LossParams,
    models: Vec<(String, ModelName)>,
}

impl Stage for LossReduction {
    fn params(&self) -> Value {
        json!(self.params)
    }

    fn resource(&self) -> Resource {
        match self.params.device.resource() {
            // Such a task waits for servers more than it computes.
            Resource::Cpu if self.has_servers() => Resource::Network,
            resource => resource,
        }
    }

    fn task_bytes_max(&self, _phase: &str) -> Option<u64> {
        self.has_servers().then_some(SERVED_TASK_BYTES)
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = vec![match self.params.source() {
            DocumentSource::Stage(stage) => Need::Stage(stage),
            _ => Need::Corpus,
        }];
        needs.extend(self.models.iter().filter_map(|(_, model)| match model {
            ModelName::Directory(text) => Some(Need::Model(text.clone())),
            ModelName::Stage(stage) => Some(Need::Stage(stage.clone())),
            // Those that are trained here are stages by now.
            ModelName::Train(text) | ModelName::Continue(text, _) => {
                Some(Need::Stage(text.clone()))
            }
            ModelName::Server(_) => None,
        }));
        needs
    }

    fn forecast(&self, before: &BeforeRun<'_>) -> Result<Forecast, JobError> {
        self.before(before)
    }

    fn requests_for(&self, sample: &RequestSample<'_>) -> Result<StageRequests, Failure> {
        Ok(self.requests(sample))
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        if completed.maps.contains_key(SCORE) {
            return Ok(Step::Done(Outcome::default()));
        }
        let models = self.facts(completed)?;
        let params = self.score_params(&models)?;
        Ok(Step::Map(MapPhase {
            name: SCORE.to_owned(),
            params: json!(params),
            input: self.input(),
            decision: None,
            side_inputs: models
                .iter()
                .flat_map(|(name, facts)| facts.side_inputs(name))
                .collect(),
            is_table: true,
        }))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        vec![ExpectedPhase {
            name: SCORE.to_owned(),
            input: self.input(),
            is_table: true,
        }]
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        _inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        Err(permanent(format!("{KIND} has no reduce {}", phase.name)))
    }
}

impl LossReduction {
    fn has_servers(&self) -> bool {
        self.models
            .iter()
            .any(|(_, model)| model.server().is_some())
    }

    fn input(&self) -> PhaseInput {
        PhaseInput::Documents {
            from: self.params.source(),
            sample: None,
        }
    }

    /// What is known of each model that no server computes.
    fn facts(&self, completed: &Completed<'_>) -> Result<Vec<(String, ModelFacts)>, Failure> {
        let mut models = Vec::new();
        for (name, model) in &self.models {
            let facts = match model {
                ModelName::Directory(text) => completed.models.get(text).cloned(),
                ModelName::Stage(stage) => {
                    let stage = completed
                        .stages
                        .get(stage)
                        .filter(|stage| stage.kind == train_language_model::KIND);
                    stage
                        .and_then(|stage| stage.facts.get(MODEL))
                        .and_then(|facts| ModelFacts::deserialize(facts).ok())
                }
                ModelName::Train(_) | ModelName::Continue(..) => None,
                ModelName::Server(_) => continue,
            };
            let facts = facts.ok_or_else(|| {
                permanent(format!(
                    "stage {}: the model {name} is not there",
                    self.name
                ))
            })?;
            models.push((name.clone(), facts));
        }
        Ok(models)
    }

    fn score_params(&self, models: &[(String, ModelFacts)]) -> Result<ScoreParams, Failure> {
        // What can be known before a run was checked then; models that were trained since, or stay
        // frozen, may be others than was thought.
        if let Some(((first_name, first), others)) = models.split_first()
            && let Some((name, _)) = others
                .iter()
                .find(|(_, it)| it.tokenizer != first.tokenizer)
        {
            let different = different_tokenizers(first_name, name);
            return Err(permanent(format!(
                "stage {}: {different}; train one from the other",
                self.name
            )));
        }
        let longest = models.iter().map(|(_, facts)| facts.context).min();
        let asked = self.params.context;
        let context = match longest.map(|it| u32::try_from(it).unwrap_or(u32::MAX)) {
            Some(longest) => asked.unwrap_or(longest).min(longest),
            None => asked.unwrap_or(0),
        };
        let servers = self.models.iter().filter_map(|(name, model)| {
            let server = model.server()?;
            Some((name.clone(), server.clone()))
        });
        Ok(ScoreParams {
            unit: self.params.unit,
            context,
            max_tokens: self.params.max_tokens,
            dtype: self.params.dtype,
            device: self.params.device,
            eos: self.params.eos.clone(),
            token_losses: self.params.token_losses,
            models: self.models.iter().map(|(name, _)| name.clone()).collect(),
            servers: servers.collect(),
        })
    }
}
