//! Stage `train_language_model`: a small causal language model, from scratch on a sample of the
//! corpus, or trained further from another one on a dataset (the auxiliary models of CoLoR-Filter,
//! arXiv 2406.10670).
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `sample` | map, inner | the input, or some of its row groups | [`sample`]: texts in a random order |
//! | `train` | map of one task, inner | the sample | [`train`]: the model's files and its log |
//! | `publish` | reduce | that | the files as a directory, the log as the stage's table |
//!
//! A model that a published version of the output holds stays as it is, so that losses of new
//! documents can be compared with those of old ones and no loss is computed twice. It is trained
//! anew on `refit: true`, or when a parameter was changed.

mod before;
mod kept;
mod notes;
mod params;
mod publish;
mod sample;
mod state;
mod task;
#[cfg(test)]
mod tests;
mod train;

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::Failure;
use gleaner_schemas::job::{Job, JobError};
use schemars::{Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use params::TrainParams;

use self::params::Start;
use self::sample::SampleStage;
use self::task::TrainTaskParams;
use self::train::TrainStage;
use crate::batch_columns::permanent;
use crate::forecast::{BeforeRun, Forecast};
use crate::importance_weights::changed_keys;
use crate::language_model::ModelFacts;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    OutcomeTable, PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Sample, Stage, StageKind,
    Step,
};

/// Name of the kind.
pub const KIND: &str = "train_language_model";
/// Key of what is known of the trained model among the stage's facts.
pub(crate) const MODEL: &str = "model";
/// Prefix of the side inputs that are the model to start from.
pub(crate) const START: &str = "start";
/// Key of what a model was trained with.
const TRAINED_WITH: &str = "trained_with";
const SAMPLE: &str = "sample";
const TRAIN: &str = "train";
const PUBLISH: &str = "publish";

/// Bytes of text that are read for each token that is trained on: more than a token has, so that
/// the sample suffices.
const BYTES_PER_TOKEN: u64 = 8;
/// What is read of a dataset, at most, where one epoch is wanted.
const DATASET_BYTES_MAX: u64 = 1 << 30;

/// The kind `train_language_model`.
#[derive(Debug)]
pub struct TrainLanguageModelKind;

/// Parameters of the map `sample`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleParams {
    seed: u64,
}

impl StageKind for TrainLanguageModelKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn code_version(&self) -> u32 {
        3
    }

    fn params_schema(&self) -> Schema {
        schema_for!(TrainParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params = TrainParams::of(job, name)?;
        let dataset = params.dataset.as_ref();
        let trained_with = json!({
            "params": TrainParams { refit: false, ..params.clone() },
            "dataset": dataset.and_then(|name| job.file.datasets.get(name)),
            "text": job.file.corpus.columns.text,
        });
        Ok(Arc::new(TrainLanguageModel {
            name: name.to_owned(),
            start: params.start(job, name)?,
            task: TrainTaskParams::of(&params, job.file.memory.bytes()),
            params,
            trained_with,
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        let malformed = |error| permanent(format!("the parameters of a task: {error}"));
        if context.phase == SAMPLE {
            let params = SampleParams::deserialize(context.params).map_err(malformed)?;
            Ok(Box::new(SampleStage::new(params.seed)))
        } else {
            let params = TrainTaskParams::deserialize(context.params).map_err(malformed)?;
            Ok(Box::new(TrainStage::new(params, context)?))
        }
    }
}

/// A model that misses a part of its text is not to stay as it is.
fn all_but(mut trained_with: Value, n_quarantined: usize) -> Value {
    if n_quarantined > 0 {
        trained_with["quarantined_tasks"] = json!(n_quarantined);
    }
    trained_with
}

#[derive(Debug)]
struct TrainLanguageModel {
    name: String,
    params: TrainParams,
    start: Start,
    task: TrainTaskParams,
    trained_with: Value,
}

impl Stage for TrainLanguageModel {
    fn params(&self) -> Value {
        json!(self.params)
    }

    fn needs(&self) -> Vec<Need> {
        let input = match self.params.source() {
            DocumentSource::Corpus => Need::Corpus,
            DocumentSource::Dataset(name) => Need::Dataset(name),
            DocumentSource::Stage(stage) => Need::Stage(stage),
        };
        let start = match &self.start {
            Start::Size(_) => None,
            Start::Stage(stage) => Some(Need::Stage(stage.clone())),
            Start::Directory(text) => Some(Need::Model(text.clone())),
        };
        [Some(input), start].into_iter().flatten().collect()
    }

    fn forecast(&self, before: &BeforeRun<'_>) -> Result<Forecast, JobError> {
        self.before(before)
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let start = self.start_facts(completed)?;
        let mut notes = match self.frozen(completed, start.as_ref()) {
            Ok(outcome) => return Ok(Step::Done(outcome)),
            Err(reasons) => reasons,
        };
        let Some(sampled) = completed.maps.get(SAMPLE) else {
            return Ok(Step::Map(MapPhase {
                name: SAMPLE.to_owned(),
                params: json!(SampleParams {
                    seed: self.params.seed
                }),
                input: self.sample_input(),
                decision: None,
                side_inputs: Vec::new(),
                is_table: false,
            }));
        };
        if !completed.maps.contains_key(TRAIN) {
            return Ok(Step::Map(MapPhase {
                name: TRAIN.to_owned(),
                params: json!(self.task),
                input: self.train_input(),
                decision: None,
                side_inputs: start.map_or_else(Vec::new, |facts| facts.side_inputs(START)),
                is_table: false,
            }));
        }
        let Some(result) = completed.reduces.get(PUBLISH) else {
            return Ok(Step::Reduce(ReducePhase {
                name: PUBLISH.to_owned(),
                params: json!({}),
                inputs: vec![TRAIN.to_owned()],
                side_inputs: Vec::new(),
            }));
        };
        let model = ModelFacts::deserialize(&result.facts["model"])
            .map_err(|error| permanent(format!("the facts of a model: {error}")))?
            .of_stored(&result.files);
        let training = &result.facts["training"];
        let is_continued = !matches!(self.start, Start::Size(_));
        notes.extend(notes::of(&self.task, is_continued, training));
        let table = OutcomeTable::Reduce {
            phase: PUBLISH.to_owned(),
            table: String::new(),
        };
        Ok(Step::Done(Outcome {
            table: Some((table, sampled.lanes)),
            tables: BTreeMap::new(),
            facts: BTreeMap::from([
                (MODEL.to_owned(), json!(model)),
                ("training".to_owned(), training.clone()),
                (
                    TRAINED_WITH.to_owned(),
                    all_but(self.trained_with(start.as_ref()), sampled.quarantined.len()),
                ),
            ]),
            notes,
        }))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        [(SAMPLE, self.sample_input()), (TRAIN, self.train_input())]
            .into_iter()
            .map(|(name, input)| ExpectedPhase {
                name: name.to_owned(),
                input,
                is_table: false,
            })
            .collect()
    }

    fn reduce(
        &self,
        _phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        publish::publish(TRAIN, inputs)
    }
}

impl TrainLanguageModel {
    /// What is known of the model to start from.
    fn start_facts(&self, completed: &Completed<'_>) -> Result<Option<ModelFacts>, Failure> {
        let facts = match &self.start {
            Start::Size(_) => return Ok(None),
            Start::Directory(text) => completed.models.get(text).cloned(),
            Start::Stage(stage) => {
                let stage = completed.stages.get(stage);
                stage
                    .and_then(|stage| stage.facts.get(MODEL))
                    .and_then(|facts| ModelFacts::deserialize(facts).ok())
            }
        };
        let missing = || permanent(format!("stage {}: its first model is not there", self.name));
        Ok(Some(facts.ok_or_else(missing)?))
    }

    fn sample_input(&self) -> PhaseInput {
        let bytes = self.task.bytes_wanted();
        PhaseInput::Documents {
            from: self.params.source(),
            sample: Some(Sample {
                seed: self.params.seed,
                bytes,
            }),
        }
    }

    fn train_input(&self) -> PhaseInput {
        PhaseInput::Inner {
            phase: SAMPLE.to_owned(),
            columns: vec![
                sample::KEY.to_owned(),
                gleaner_schemas::columns::TEXT.to_owned(),
            ],
            in_one_task: true,
        }
    }

    /// Everything that the model depends on, apart from the documents.
    fn trained_with(&self, start: Option<&ModelFacts>) -> Value {
        let mut trained_with = self.trained_with.clone();
        let start = start.map(|facts| {
            let files = facts.files.iter();
            files
                .map(|file| (file.name.clone(), file.content.to_string()))
                .collect::<BTreeMap<_, _>>()
        });
        trained_with["start"] = json!(start);
        trained_with
    }

    /// The model of the published version; else why there is none, as sentences.
    fn frozen(
        &self,
        completed: &Completed<'_>,
        start: Option<&ModelFacts>,
    ) -> Result<Outcome, Vec<String>> {
        let published = completed.published.ok_or_else(Vec::new)?;
        let stage = published.stages.get(&self.name);
        let stage = stage
            .filter(|stage| stage.kind == KIND)
            .ok_or_else(Vec::new)?;
        let table = published.tables.get(&self.name).ok_or_else(Vec::new)?;
        let since = table.since_version;
        if self.params.refit {
            return Err(vec![format!(
                "the model is trained anew, as `refit` asks; version {since} had another one"
            )]);
        }
        let (now, then) = (self.trained_with(start), stage.facts.get(TRAINED_WITH));
        let then = then.cloned().unwrap_or_default();
        if now != then {
            let changed = changed_keys(&then, &now).join(", ");
            return Err(vec![format!(
                "the model is trained anew: since version {since} this was changed: {changed}"
            )]);
        }
        Ok(Outcome {
            table: Some((OutcomeTable::Published, stage.lanes)),
            tables: BTreeMap::new(),
            facts: stage.facts.clone(),
            notes: vec![format!(
                "the model trained by version {since} on {} stays frozen (`refit: true` trains \
                 anew)",
                table.since.get(..10).unwrap_or(&table.since)
            )],
        })
    }
}
