//! Stage `select`: which rows of an earlier stage are chosen, exactly and reproducibly.
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `count-<t>-<n>` | map, inner | the scores | [`histogram`]: rows by digit of their sort keys |
//! | `totals` | reduce | `count-0-0` | candidates by group, from which budgets follow |
//! | `narrow-<t>-<n>` | reduce | `count-<t>-<n>` | the one digit that holds the threshold |
//! | `list-<t>`, `cut-<t>` | map and reduce | the scores | the last key that is taken |
//! | `effect-<t>` | reduce | `count-<t>-<n>`, `list-<t>` | [`effect`]: what the cut comes to in each shard |
//! | `choose` | map, the table | the scores, the corpus | [`choose`]: the chosen rows |
//! | `measure` | map and reduce | the selection | [`measure`]: KL reduction |
//!
//! `<t>` counts targets, which are served in order, and `<n>` how often the threshold was
//! narrowed. The noise of a document is a function of (seed, target, document id), the order of
//! rows is total, and cuts are keys of that order: so the selection depends on nothing but job,
//! seed, corpus and model. The reference's noise is unseeded and depends on the layout of files.

mod budget;
mod choose;
mod chosen_documents;
mod cuts;
mod effect;
mod groups;
mod histogram;
mod measure;
mod narrowing;
mod params;
mod scores;
mod sort_key;
mod source;

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::Failure;
use gleaner_schemas::columns::{INPUT_FILE, INPUT_ROW};
use gleaner_schemas::job::{Job, JobError};
use schemars::{Schema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use choose::corpus_column;
pub use params::{Method, QuotaRule, Quotas, SelectParams};

use self::choose::{ChooseParams, ChooseStage};
use self::groups::ByGroup;
use self::histogram::{HistogramStage, ListStage, RangeParams};
use self::measure::{MeasureParams, MeasureStage};
use self::narrowing::{OpenGroup, decide, narrow, totals};
use self::sort_key::Cut;
use self::source::Source;
use crate::batch_columns::permanent;
use crate::importance_weights::{CHUNK_END, CHUNK_START, MODEL};
use crate::stage::{
    Completed, Decision, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome, PhaseInput,
    ReduceInputs, ReduceOutput, ReducePhase, SideTable, Stage, StageKind, Step,
};

const TOTALS: &str = "totals";
const CHOOSE: &str = "choose";
const MEASURE: &str = "measure";

/// The kind `select`.
#[derive(Debug)]
pub struct SelectKind;

impl StageKind for SelectKind {
    fn name(&self) -> &'static str {
        "select"
    }

    fn code_version(&self) -> u32 {
        2
    }

    fn params_schema(&self) -> Schema {
        schema_for!(SelectParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        Ok(Arc::new(Select {
            name: name.to_owned(),
            params: SelectParams::of(job, name)?,
            text: job.file.corpus.columns.text.clone(),
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        let params = context.params;
        let cuts = || match context.decision {
            Value::Null => Ok(Vec::new()),
            cuts => read::<Vec<ByGroup<Cut>>>(cuts),
        };
        Ok(match context.phase {
            CHOOSE => Box::new(ChooseStage::new(read(params)?, cuts()?, context)),
            MEASURE => Box::new(MeasureStage::new(read(params)?, context)?),
            phase if phase.starts_with("list-") => Box::new(ListStage::new(read(params)?, cuts()?)),
            _ => Box::new(HistogramStage::new(read(params)?, cuts()?)),
        })
    }
}

fn read<T: DeserializeOwned>(params: &Value) -> Result<T, Failure> {
    T::deserialize(params).map_err(|error| permanent(format!("parameters of a phase: {error}")))
}

#[derive(Debug)]
struct Select {
    name: String,
    params: SelectParams,
    /// The corpus's column of the text.
    text: String,
}

/// A value, or what has to be done first.
enum Known<T> {
    Yes(T),
    After(Box<Step>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NarrowParams {
    phase: String,
    open: ByGroup<OpenGroup>,
}

impl Stage for Select {
    fn params(&self) -> Value {
        json!(self.params)
    }

    fn needs(&self) -> Vec<Need> {
        let (stage, _) = self.params.by_parts();
        vec![Need::Corpus, Need::Stage(stage.to_owned())]
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let source = self.source(completed)?;
        let mut facts = BTreeMap::new();
        let mut notes = Vec::new();
        let decision = match self.params.budget() {
            None => None,
            Some(budget) => match self.cuts(completed, &source, budget)? {
                Known::After(step) => return Ok(*step),
                Known::Yes((cuts, divided)) => {
                    facts.insert(
                        "budget".to_owned(),
                        json!({
                            "unit": budget.unit(),
                            "asked": divided.asked,
                            "available": divided.available,
                            "n_candidates": divided.n_candidates,
                        }),
                    );
                    notes = divided.notes;
                    Some(cuts.decision())
                }
            },
        };
        if !completed.maps.contains_key(CHOOSE) {
            return self.choose(completed, &source, decision);
        }
        match self.measured(completed, &source)? {
            Known::After(step) => return Ok(*step),
            Known::Yes(None) => {}
            Known::Yes(Some(measured)) => {
                facts.insert(MEASURE.to_owned(), measured);
            }
        }
        Ok(Step::Done(Outcome {
            table: None,
            tables: BTreeMap::new(),
            facts,
            notes,
        }))
    }

    /// How often the range of the threshold is narrowed before that, the scores will tell.
    fn outlook(&self) -> Vec<ExpectedPhase> {
        vec![ExpectedPhase {
            name: CHOOSE.to_owned(),
            input: PhaseInput::Table {
                stage: self.params.by_parts().0.to_owned(),
                columns: Vec::new(),
                with_documents: false,
            },
            is_table: true,
        }]
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        let facts = match phase.name.as_str() {
            TOTALS => json!(totals(inputs, &count_phase(0, 0))?),
            MEASURE => measure::measure(&read(&phase.params)?, inputs, MEASURE)?,
            name if name.starts_with("effect-") => {
                json!(effect::effects(read(&phase.params)?, inputs)?)
            }
            name => {
                let params: NarrowParams = read(&phase.params)?;
                if name.starts_with("cut-") {
                    json!(decide(params.open, inputs, &params.phase)?)
                } else {
                    json!(narrow(params.open, inputs, &params.phase)?)
                }
            }
        };
        Ok(ReduceOutput {
            files: BTreeMap::new(),
            facts,
            tables: BTreeMap::new(),
        })
    }
}

fn count_phase(target_idx: usize, level: usize) -> String {
    format!("count-{target_idx}-{level}")
}

impl Select {
    fn scores_map(
        &self,
        completed: &Completed<'_>,
        source: &Source<'_>,
        phase: &str,
        params: &RangeParams,
        earlier: Option<Decision>,
    ) -> Known<()> {
        if completed.maps.contains_key(phase) {
            return Known::Yes(());
        }
        Known::After(Box::new(Step::Map(MapPhase {
            name: phase.to_owned(),
            params: json!(params),
            input: self.scores_input(source, false),
            decision: earlier,
            side_inputs: Vec::new(),
            is_table: false,
        })))
    }

    fn scores_input(&self, source: &Source<'_>, with_documents: bool) -> PhaseInput {
        PhaseInput::Table {
            stage: self.params.by_parts().0.to_owned(),
            columns: source.columns.clone(),
            with_documents,
        }
    }

    fn choose(
        &self,
        completed: &Completed<'_>,
        source: &Source<'_>,
        decision: Option<Decision>,
    ) -> Result<Step, Failure> {
        let corpus = self
            .params
            .materialize
            .then(|| completed.corpus_schema.as_ref().clone());
        let params = ChooseParams {
            ordering: source.ordering.clone(),
            at_least: match &decision {
                None => Some(self.params.threshold.unwrap_or(f64::INFINITY)),
                Some(_) => None,
            },
            columns: source.columns.clone(),
            corpus,
            text: self.text.clone(),
        };
        Ok(Step::Map(MapPhase {
            name: CHOOSE.to_owned(),
            params: json!(params),
            input: self.scores_input(source, self.params.materialize),
            decision,
            side_inputs: Vec::new(),
            is_table: true,
        }))
    }

    /// The KL reduction, where there is a model to measure it by.
    fn measured(
        &self,
        completed: &Completed<'_>,
        source: &Source<'_>,
    ) -> Result<Known<Option<Value>>, Failure> {
        let (stage_name, _) = self.params.by_parts();
        let table = source.stage.tables.get(&format!("{stage_name}_model"));
        let (Some(model), Some([file])) = (&source.model, table.map(Vec::as_slice)) else {
            return Ok(Known::Yes(None));
        };
        if !self.params.measure {
            return Ok(Known::Yes(None));
        }
        let n_chosen = completed
            .maps
            .get(CHOOSE)
            .map_or(0, |manifest| manifest.lanes.ok);
        if n_chosen == 0 {
            return Ok(Known::Yes(None));
        }
        if !completed.maps.contains_key(MEASURE) {
            let is_materialized = self.params.materialize;
            let has = |name: &&str| source.columns.iter().any(|column| column == name);
            let text = if is_materialized {
                corpus_column(&self.text)
            } else {
                self.text.clone()
            };
            let columns = if is_materialized {
                vec![text.clone()]
            } else {
                let places = [CHUNK_START, CHUNK_END, INPUT_FILE, INPUT_ROW];
                places.into_iter().filter(has).map(str::to_owned).collect()
            };
            return Ok(Known::After(Box::new(Step::Map(MapPhase {
                name: MEASURE.to_owned(),
                params: json!(MeasureParams {
                    features: model.features,
                    text,
                    is_materialized,
                }),
                input: PhaseInput::Table {
                    stage: self.name.clone(),
                    columns,
                    with_documents: !is_materialized,
                },
                decision: None,
                side_inputs: Vec::new(),
                is_table: false,
            }))));
        }
        let step = || {
            Step::Reduce(ReducePhase {
                name: MEASURE.to_owned(),
                params: json!(model),
                inputs: vec![MEASURE.to_owned()],
                side_inputs: vec![(MODEL.to_owned(), SideTable::Own(file.clone()))],
            })
        };
        Ok(match reduced(completed, MEASURE, step)? {
            Known::Yes(facts) => Known::Yes(Some(facts)),
            Known::After(step) => Known::After(step),
        })
    }
}

fn reduce_step(name: &str, params: Value, inputs: Vec<String>) -> Step {
    Step::Reduce(ReducePhase {
        name: name.to_owned(),
        params,
        inputs,
        side_inputs: Vec::new(),
    })
}

fn reduced<T: DeserializeOwned>(
    completed: &Completed<'_>,
    name: &str,
    step: impl FnOnce() -> Step,
) -> Result<Known<T>, Failure> {
    match completed.reduces.get(name) {
        Some(result) => Ok(Known::Yes(read(&result.facts)?)),
        None => Ok(Known::After(Box::new(step()))),
    }
}
