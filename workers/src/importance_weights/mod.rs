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
//! | `drift` | reduce | what scoring tasks told, the model | [`drift`](mod@drift): the table `ngrams`, and how far today's input is from the fit |
//!
//! Models are fitted on whole documents, also where chunks are scored, so that `chunk_words`
//! changes no count. A model that a published version of the output holds stays as it is: new
//! documents get weights that can be compared with old ones, and old tasks are reused. It is
//! fitted anew on `refit: true`, or when a parameter that it depends on was changed.

mod checks;
mod count;
mod drift;
mod fit;
mod model;
mod ngram_counts;
mod params;
mod score;
mod source;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use gleaner_schemas::Failure;
use gleaner_schemas::job::{Job, JobError};
use schemars::{Schema, schema_for};
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use checks::{check_input, check_proportions};
pub(crate) use count::{Counted, Counter};
pub use drift::{DriftFacts, ScoreDrift};
pub use model::{
    Features, HashName, ModelFacts, SideFacts, TargetFacts, TargetMode, TokenizerName,
};
pub(crate) use params::CORPUS;
pub use params::ImportanceParams;
pub(crate) use score::{CHUNK_END, CHUNK_START};
pub(crate) use source::changed_keys;
pub use values::{FitSample, Names};

use self::count::CountStage;
use self::drift::{DriftParams, NGRAMS_TABLE};
use self::fit::{FitParams, adopt_model, fit_model};
pub(crate) use self::model::MODEL;
use self::score::{ScoreParams, ScoreStage};
use self::source::{Model, ReadyModel};
use crate::batch_columns::permanent;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    OutcomeTable, PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Sample, Stage, StageKind,
    Step,
};

/// Key of what a model was fitted with, if it misses a part.
const QUARANTINED_TASKS: &str = "quarantined_tasks";

/// Name of the kind.
pub(crate) const KIND: &str = "importance_weights";
const COUNT_RAW: &str = "count-raw";
const FIT: &str = "fit";
const ADOPT: &str = "adopt";
const SCORE: &str = "score";
const DRIFT: &str = "drift";

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
        2
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
            at_fit,
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
                decision: None,
                side_inputs: vec![(MODEL.to_owned(), table)],
                is_table: true,
            }));
        }
        let drift = DriftParams {
            stage: self.name.clone(),
            features: facts.features,
            suffixes: facts.suffixes(),
        };
        let Some(found) = completed.reduces.get(DRIFT) else {
            return Ok(Step::Reduce(ReducePhase {
                name: DRIFT.to_owned(),
                params: json!(drift),
                inputs: vec![SCORE.to_owned()],
                side_inputs: vec![(MODEL.to_owned(), table)],
            }));
        };
        let drift = drift::facts(&found.facts, &drift, at_fit.as_ref())?;
        let ngrams = OutcomeTable::Reduce {
            phase: DRIFT.to_owned(),
            table: NGRAMS_TABLE.to_owned(),
        };
        Ok(Step::Done(Outcome {
            table: None,
            tables: BTreeMap::from([
                (format!("{}_model", self.name), outcome),
                (format!("{}_{NGRAMS_TABLE}", self.name), ngrams),
            ]),
            facts: BTreeMap::from([
                ("model".to_owned(), json!(facts)),
                ("drift".to_owned(), json!(drift)),
            ]),
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
        if phase.name == DRIFT {
            let params = DriftParams::deserialize(&phase.params)
                .map_err(|error| permanent(format!("the parameters of a reduce: {error}")))?;
            return drift::drift(&params, inputs);
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

    fn score_input(&self) -> PhaseInput {
        PhaseInput::Documents {
            from: self.params.source(),
            sample: None,
        }
    }
}
