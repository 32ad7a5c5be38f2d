//! Stage `importance_weights`: how much more likely a document is under a target than under the
//! corpus (DSIR, arXiv 2302.03169).
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `count-<target>` | map, inner | the documents of a target | [`count`]: n-grams per bucket |
//! | `count-raw` | map, inner | a sample of the input | the same |
//! | `fit` | reduce | the counts | [`fit`]: the table `model` |
//! | `adopt` | reduce | another output's model | a copy of it, instead of the three above |
//! | `score` | map, the table | the input | [`score`]: a row per document or chunk |
//!
//! Models are fitted on whole documents, also where chunks are scored, so that `chunk_words`
//! changes no count. A model that a published version of the output holds stays as it is: new
//! documents get weights that can be compared with old ones, and old tasks are reused. It is
//! fitted anew on `refit: true`, or when a parameter that it depends on was changed.

mod count;
mod fit;
mod model;
mod params;
mod score;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, TableFile, Version};
use schemars::{Schema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use count::{Counted, Counter};
pub use model::{
    Features, HashName, ModelFacts, SideFacts, TargetFacts, TargetMode, TokenizerName,
};
pub(crate) use params::check_proportions;
pub use params::{FitSample, ImportanceParams, Names};
pub(crate) use score::{CHUNK_END, CHUNK_START};

use self::count::CountStage;
use self::fit::{FitParams, adopt_model, fit_model};
pub(crate) use self::model::MODEL;
use self::score::{ScoreParams, ScoreStage};
use crate::batch_columns::permanent;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    OutcomeTable, PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Sample, SideTable, Stage,
    StageKind, Step,
};

/// Key of what a model was fitted with, if it misses a part.
const QUARANTINED_TASKS: &str = "quarantined_tasks";

/// Name of the kind.
pub(crate) const KIND: &str = "importance_weights";
const COUNT_RAW: &str = "count-raw";
const FIT: &str = "fit";
const ADOPT: &str = "adopt";
const SCORE: &str = "score";

/// Seed of the sample of row groups: another one would give another model.
const SAMPLE_SEED: u64 = 0;

/// The kind `importance_weights`.
#[derive(Debug)]
pub struct ImportanceWeightsKind;

impl StageKind for ImportanceWeightsKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn code_version(&self) -> u32 {
        1
    }

    fn params_schema(&self) -> Schema {
        schema_for!(ImportanceParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params = ImportanceParams::of(job, name)?;
        let targets = params.target.as_deref().unwrap_or_default();
        let datasets: BTreeMap<&str, Value> = targets
            .iter()
            .filter_map(|name| Some((name.as_str(), json!(job.file.datasets.get(name)?))))
            .collect();
        let fitted_with = json!({
            "features": params.features(),
            "targets": targets,
            "datasets": datasets,
            "mode": params.mode(),
            "pseudo_count": params.pseudo_count(),
            "fit_sample": params.fit_sample.unwrap_or_default(),
            "input": params.input,
            "text": job.file.corpus.columns.text,
        });
        Ok(Arc::new(ImportanceWeights {
            name: name.to_owned(),
            count_phases: count_phases(targets),
            params,
            fitted_with,
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        let malformed = |error| permanent(format!("the parameters of a task: {error}"));
        if context.phase == SCORE {
            let params = ScoreParams::deserialize(context.params).map_err(malformed)?;
            Ok(Box::new(ScoreStage::new(params, context)?))
        } else {
            let features = Features::deserialize(context.params).map_err(malformed)?;
            Ok(Box::new(CountStage::new(&features)?))
        }
    }
}

/// The schema of a stage's table, where the job file tells it: a `model` brings its own targets.
pub(crate) fn table_schema(params: &ImportanceParams) -> Option<SchemaRef> {
    let targets = params
        .target
        .as_deref()
        .filter(|_| params.model.is_none())?;
    let score = ScoreParams {
        features: params.features(),
        suffixes: model::suffixes(params.mode(), targets.iter().map(String::as_str)),
        min_tokens: params.min_tokens,
        chunk_words: params.chunk_words,
        quality: params.quality,
    };
    Some(score.schema())
}

/// A phase for each target. Names of phases have few characters, names of datasets have any.
fn count_phases(targets: &[String]) -> Vec<(String, String)> {
    let mut phases: Vec<(String, String)> = Vec::new();
    for (idx, target) in targets.iter().enumerate() {
        let plain: String = target
            .to_lowercase()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        let phase = format!("count-target-{plain}");
        let is_taken = plain != *target || phases.iter().any(|(_, other)| *other == phase);
        let phase = if is_taken {
            format!("{phase}-{idx}")
        } else {
            phase
        };
        phases.push((target.clone(), phase));
    }
    phases
}

#[derive(Debug)]
struct ImportanceWeights {
    name: String,
    params: ImportanceParams,
    /// Name and phase of each target.
    count_phases: Vec<(String, String)>,
    fitted_with: Value,
}

/// Where the model of this run comes from.
enum Model {
    Ready(Box<ReadyModel>),
    Missing(Box<Step>),
}

struct ReadyModel {
    table: SideTable,
    outcome: OutcomeTable,
    facts: ModelFacts,
    notes: Vec<String>,
}

impl Stage for ImportanceWeights {
    fn params(&self) -> Value {
        json!(self.params.expanded())
    }

    fn needs(&self) -> Vec<Need> {
        let input = match self.params.source() {
            DocumentSource::Stage(stage) => Need::Stage(stage),
            _ => Need::Corpus,
        };
        let mut needs = vec![input];
        match &self.params.model {
            Some(model) => needs.push(Need::Published(model.clone())),
            None => {
                let targets = self.count_phases.iter();
                needs.extend(targets.map(|(target, _)| Need::Dataset(target.clone())));
            }
        }
        needs
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let model = match &self.params.model {
            Some(need) => self.adopted(completed, need)?,
            None => match self.frozen(completed)? {
                Ok(model) => model,
                Err(notes) => self.fitted(completed, notes)?,
            },
        };
        let ReadyModel {
            table,
            outcome,
            facts,
            notes,
        } = match model {
            Model::Missing(step) => return Ok(*step),
            Model::Ready(ready) => *ready,
        };
        if !completed.maps.contains_key(SCORE) {
            let params = ScoreParams {
                features: facts.features,
                suffixes: facts.suffixes(),
                min_tokens: self.params.min_tokens,
                chunk_words: self.params.chunk_words,
                quality: self.params.quality,
            };
            return Ok(Step::Map(MapPhase {
                name: SCORE.to_owned(),
                params: json!(params),
                input: self.score_input(),
                side_inputs: vec![(MODEL.to_owned(), table)],
                is_table: true,
            }));
        }
        Ok(Step::Done(Outcome {
            tables: BTreeMap::from([(format!("{}_model", self.name), outcome)]),
            facts: BTreeMap::from([("model".to_owned(), json!(facts))]),
            notes,
        }))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        let expected = |name: &str, input, is_table| ExpectedPhase {
            name: name.to_owned(),
            input,
            is_table,
        };
        let mut phases = Vec::new();
        if self.params.model.is_none() {
            let targets = self.count_phases.iter();
            phases.extend(
                targets.map(|(target, phase)| expected(phase, target_input(target), false)),
            );
            phases.push(expected(COUNT_RAW, self.raw_input(), false));
        }
        phases.push(expected(SCORE, self.score_input(), true));
        phases
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        if phase.name == ADOPT {
            return adopt_model(&phase.params, inputs);
        }
        let params = FitParams::deserialize(&phase.params)
            .map_err(|error| permanent(format!("the parameters of a reduce: {error}")))?;
        fit_model(&params, inputs)
    }
}

fn target_input(target: &str) -> PhaseInput {
    PhaseInput::Documents {
        from: DocumentSource::Dataset(target.to_owned()),
        sample: None,
    }
}

impl ImportanceWeights {
    fn raw_input(&self) -> PhaseInput {
        let fit_sample = self.params.fit_sample.unwrap_or_default();
        let text_bytes = fit_sample.text_bytes(&self.params.features());
        PhaseInput::Documents {
            from: self.params.source(),
            sample: text_bytes.map(|bytes| Sample {
                seed: SAMPLE_SEED,
                bytes,
            }),
        }
    }

    /// A model that misses a part of what it should count is not to be frozen.
    fn fitted_with_all_but(&self, completed: &Completed<'_>) -> Value {
        let counted = self.count_phases.iter().map(|(_, phase)| phase.as_str());
        let manifests = counted
            .chain([COUNT_RAW])
            .filter_map(|phase| completed.maps.get(phase));
        let n_quarantined: usize = manifests.map(|manifest| manifest.quarantined.len()).sum();
        let mut fitted_with = self.fitted_with.clone();
        if let (Value::Object(fitted_with), 1..) = (&mut fitted_with, n_quarantined) {
            fitted_with.insert(QUARANTINED_TASKS.to_owned(), json!(n_quarantined));
        }
        fitted_with
    }

    fn score_input(&self) -> PhaseInput {
        PhaseInput::Documents {
            from: self.params.source(),
            sample: None,
        }
    }

    /// The model of the published version; else why there is none, as sentences.
    fn frozen(&self, completed: &Completed<'_>) -> Result<Result<Model, Vec<String>>, Failure> {
        let Some(published) = completed.published else {
            return Ok(Err(Vec::new()));
        };
        let table_name = format!("{}_model", self.name);
        let stage = published
            .stages
            .get(&self.name)
            .filter(|stage| stage.kind == KIND);
        let table = published.tables.get(&table_name);
        let (Some(stage), Some(table)) = (stage, table) else {
            return Ok(Err(Vec::new()));
        };
        let since = table.since_version;
        if self.params.refit {
            return Ok(Err(vec![format!(
                "the model is fitted anew, as `refit` asks; version {since} had another fit"
            )]));
        }
        let facts = ModelFacts::read(stage.facts.get("model"), &self.name)?;
        if let Some(n_tasks) = facts.fitted_with.get(QUARANTINED_TASKS) {
            return Ok(Err(vec![format!(
                "the model is fitted anew: that of version {since} misses what {n_tasks} \
                 quarantined tasks could not count"
            )]));
        }
        if facts.fitted_with != self.fitted_with {
            let changed = changed_keys(&facts.fitted_with, &self.fitted_with).join(", ");
            return Ok(Err(vec![format!(
                "the model is fitted anew: since version {since} this was changed: {changed}"
            )]));
        }
        let [file] = table.files.as_slice() else {
            return Err(permanent(format!("the table {table_name} is not one file")));
        };
        Ok(Ok(Model::Ready(Box::new(ReadyModel {
            table: SideTable::Own(file.clone()),
            outcome: OutcomeTable::Published,
            facts,
            notes: vec![format!(
                "the model fitted by version {since} on {} stays frozen (`refit: true` fits anew)",
                table.since.get(..10).unwrap_or(&table.since)
            )],
        }))))
    }

    /// A copy of the model of another output.
    fn adopted(&self, completed: &Completed<'_>, need: &str) -> Result<Model, Failure> {
        if let Some(result) = completed.reduces.get(ADOPT) {
            return Ok(Model::Ready(Box::new(ReadyModel {
                table: reduce_table(ADOPT),
                outcome: outcome_table(ADOPT),
                facts: ModelFacts::read(Some(&result.facts), need)?,
                notes: vec![format!("the model is that of {need}; nothing was fitted")],
            })));
        }
        let version = completed
            .others
            .get(need)
            .ok_or_else(|| permanent(format!("{need} has no published version")))?;
        let (facts, file) = named_model(version, need)?;
        let differences = self.params.differences(&facts);
        if !differences.is_empty() {
            return Err(permanent(format!(
                "the model {need} does not fit: {}; leave these keys out to take the model's",
                differences.join(", ")
            )));
        }
        Ok(Model::Missing(Box::new(Step::Reduce(ReducePhase {
            name: ADOPT.to_owned(),
            params: json!(facts),
            inputs: Vec::new(),
            side_inputs: vec![(
                MODEL.to_owned(),
                SideTable::Other {
                    need: need.to_owned(),
                    file,
                },
            )],
        }))))
    }

    /// A model of this run.
    fn fitted(&self, completed: &Completed<'_>, notes: Vec<String>) -> Result<Model, Failure> {
        if let Some(result) = completed.reduces.get(FIT) {
            return Ok(Model::Ready(Box::new(ReadyModel {
                table: reduce_table(FIT),
                outcome: outcome_table(FIT),
                facts: ModelFacts::read(Some(&result.facts), &self.name)?,
                notes,
            })));
        }
        let features = self.params.features();
        let count = |name: &str, input| {
            Model::Missing(Box::new(Step::Map(MapPhase {
                name: name.to_owned(),
                params: json!(features),
                input,
                side_inputs: Vec::new(),
                is_table: false,
            })))
        };
        for (target, phase) in &self.count_phases {
            if !completed.maps.contains_key(phase) {
                return Ok(count(phase, target_input(target)));
            }
        }
        if !completed.maps.contains_key(COUNT_RAW) {
            return Ok(count(COUNT_RAW, self.raw_input()));
        }
        let params = FitParams {
            features,
            mode: self.params.mode(),
            pseudo_count: self.params.pseudo_count(),
            targets: self.count_phases.clone(),
            raw_phase: COUNT_RAW.to_owned(),
            fitted_with: self.fitted_with_all_but(completed),
        };
        let targets = self.count_phases.iter().map(|(_, phase)| phase.clone());
        Ok(Model::Missing(Box::new(Step::Reduce(ReducePhase {
            name: FIT.to_owned(),
            params: json!(params),
            inputs: targets.chain([COUNT_RAW.to_owned()]).collect(),
            side_inputs: Vec::new(),
        }))))
    }
}

fn reduce_table(phase: &str) -> SideTable {
    SideTable::Reduce {
        phase: phase.to_owned(),
        table: MODEL.to_owned(),
    }
}

fn outcome_table(phase: &str) -> OutcomeTable {
    OutcomeTable::Reduce {
        phase: phase.to_owned(),
        table: MODEL.to_owned(),
    }
}

/// Facts and file of the model that `<output>/<stage>` names.
fn named_model(version: &Version, need: &str) -> Result<(ModelFacts, TableFile), Failure> {
    let stage_name = need.rsplit('/').next().unwrap_or(need);
    let stage = version
        .stages
        .get(stage_name)
        .filter(|stage| stage.kind == KIND);
    let stage = stage.ok_or_else(|| {
        let known: Vec<&str> = version
            .stages
            .iter()
            .filter(|(_, stage)| stage.kind == KIND)
            .map(|(name, _)| name.as_str())
            .collect();
        permanent(format!(
            "{need} is no stage of importance weights; that output has: {}",
            known.join(", ")
        ))
    })?;
    let facts = ModelFacts::read(stage.facts.get("model"), need)?;
    match version
        .tables
        .get(&format!("{stage_name}_model"))
        .map(|table| table.files.as_slice())
    {
        Some([file]) => Ok((facts, file.clone())),
        _ => Err(permanent(format!("{need} has no table of its model"))),
    }
}

/// Keys of the job file whose values differ; `features` is a group of them.
fn changed_keys(before: &Value, now: &Value) -> Vec<String> {
    let (Some(before), Some(now)) = (before.as_object(), now.as_object()) else {
        return Vec::new();
    };
    let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter()
        .filter(|key| before.get(*key) != now.get(*key))
        .flat_map(|key| match (before.get(key), now.get(key)) {
            (Some(before), Some(now)) if key == "features" => changed_keys(before, now),
            _ => vec![key.clone()],
        })
        .collect()
}
