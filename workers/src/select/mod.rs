//! Stage `select`: which rows of an earlier stage are chosen, exactly and reproducibly.
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `count-<t>-<n>` | map, inner | the scores | [`histogram`]: rows by digit of their sort keys |
//! | `totals` | reduce | `count-0-0` | candidates by group, from which budgets follow |
//! | `narrow-<t>-<n>` | reduce | `count-<t>-<n>` | the one digit that holds the threshold |
//! | `list-<t>`, `cut-<t>` | map and reduce | the scores | the last key that is taken |
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
mod groups;
mod histogram;
mod measure;
mod params;
mod scores;
mod sort_key;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use gleaner_schemas::Failure;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, N_BYTES, N_TOKENS};
use gleaner_schemas::job::{Job, JobError, nearest};
use gleaner_schemas::units::Ratio;
use schemars::{Schema, schema_for};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use choose::corpus_column;
pub use params::{Method, QuotaRule, Quotas, SelectParams};

use self::budget::{Divided, divide};
use self::choose::{ChooseParams, ChooseStage, Rule};
use self::groups::ByGroup;
use self::histogram::{
    HistogramStage, LISTED_ROWS_MAX, ListStage, OpenGroup, Progress, RangeParams, Total, decide,
    narrow, totals,
};
use self::measure::{MeasureParams, MeasureStage};
use self::params::{Budget, Unit};
use self::scores::{Ordering, TargetColumn};
use self::sort_key::{Cut, Hex};
use crate::batch_columns::permanent;
use crate::importance_weights::{self, CHUNK_END, CHUNK_START, MODEL, ModelFacts, TargetMode};
use crate::stage::{
    Completed, CompletedStage, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, SideTable, Stage, StageKind, Step,
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
        1
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
        Ok(match context.phase {
            CHOOSE => Box::new(ChooseStage::new(read(params)?, context)),
            MEASURE => Box::new(MeasureStage::new(read(params)?, context)?),
            phase if phase.starts_with("list-") => Box::new(ListStage::new(read(params)?)),
            _ => Box::new(HistogramStage::new(read(params)?)),
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

/// What the stage of the scores is found to have.
struct Source<'a> {
    stage: &'a CompletedStage,
    model: Option<ModelFacts>,
    ordering: Ordering,
    columns: Vec<String>,
    /// Share of each target.
    shares: Vec<u64>,
}

/// A value, or what has to be done first.
enum Known<T> {
    Yes(T),
    After(Step),
}

/// Cuts by target, and how the budget was divided.
type DecidedCuts = (Vec<ByGroup<Cut>>, Divided);

/// Unwraps a value or returns the step that has to come first.
macro_rules! known {
    ($value:expr) => {
        match $value {
            Known::Yes(value) => value,
            Known::After(step) => return Ok(Known::After(step)),
        }
    };
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
        let rule = match self.params.budget() {
            None => Rule::AtLeast(self.params.threshold.unwrap_or(f64::INFINITY)),
            Some(budget) => match self.cuts(completed, &source, budget)? {
                Known::After(step) => return Ok(step),
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
                    Rule::Cuts(cuts)
                }
            },
        };
        if !completed.maps.contains_key(CHOOSE) {
            return self.choose(completed, &source, rule);
        }
        match self.measured(completed, &source)? {
            Known::After(step) => return Ok(step),
            Known::Yes(None) => {}
            Known::Yes(Some(measured)) => {
                facts.insert(MEASURE.to_owned(), measured);
            }
        }
        Ok(Step::Done(Outcome {
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
            facts,
            tables: BTreeMap::new(),
        })
    }
}

fn count_phase(target_idx: usize, level: usize) -> String {
    format!("count-{target_idx}-{level}")
}

impl Select {
    fn source<'a>(&self, completed: &'a Completed<'_>) -> Result<Source<'a>, Failure> {
        let (stage_name, column) = self.params.by_parts();
        let stage = completed
            .stages
            .get(stage_name)
            .ok_or_else(|| permanent(format!("stage {stage_name} is not complete")))?;
        let is_weights = stage.kind == importance_weights::KIND;
        let model = match stage.facts.get(MODEL) {
            Some(facts) if is_weights => Some(ModelFacts::read(Some(facts), stage_name)?),
            _ => None,
        };
        let has = |name: &str| stage.schema.field_with_name(name).is_ok();
        let single = || {
            vec![TargetColumn {
                name: String::new(),
                column: column.to_owned(),
            }]
        };
        let targets = match &model {
            _ if has(column) => single(),
            Some(model) if model.mode == TargetMode::Separate => model
                .targets
                .iter()
                .map(|target| TargetColumn {
                    column: format!("{column}_{}", target.name),
                    name: target.name.clone(),
                })
                .collect(),
            _ => single(),
        };
        for name in targets.iter().map(|target| target.column.as_str()) {
            check_column(stage, stage_name, name)?;
        }
        let ordering = Ordering {
            method: self.params.method,
            seed: self.params.seed,
            temperature: self.params.temperature,
            targets,
            group_by: self.params.group_by.clone(),
        };
        self.check_columns(stage, stage_name, &has)?;
        Ok(Source {
            columns: ordering.columns(&stage.schema),
            shares: self.shares(stage, model.as_ref(), &ordering)?,
            stage,
            model,
            ordering,
        })
    }

    fn check_columns(
        &self,
        stage: &CompletedStage,
        stage_name: &str,
        has: &dyn Fn(&str) -> bool,
    ) -> Result<(), Failure> {
        let needs = |name: &str, why: &str| {
            if has(name) {
                return Ok(());
            }
            let known = stage
                .schema
                .fields()
                .iter()
                .map(|field| field.name().as_str());
            let hint = nearest(name, known)
                .map(|hint| format!("; {hint}"))
                .unwrap_or_default();
            Err(permanent(format!(
                "stage {} needs the column `{name}` of stage {stage_name} {why}{hint}",
                self.name
            )))
        };
        needs(DOC_ID, "to tell documents apart")?;
        if let Some(group_by) = &self.params.group_by {
            needs(group_by, "for `group_by`")?;
        }
        match self.params.budget().map(Budget::unit) {
            Some(Unit::Tokens) => needs(N_TOKENS, "for a budget in tokens")?,
            Some(Unit::Bytes) => needs(N_BYTES, "for a budget in bytes")?,
            Some(Unit::Documents) | None => {}
        }
        if self.params.materialize {
            for name in [INPUT_FILE, INPUT_ROW] {
                needs(name, "for `materialize`")?;
            }
        }
        Ok(())
    }

    /// Share of each target: of this stage, of the stage of the scores, or by n-grams.
    fn shares(
        &self,
        stage: &CompletedStage,
        model: Option<&ModelFacts>,
        ordering: &Ordering,
    ) -> Result<Vec<u64>, Failure> {
        if ordering.targets.len() == 1 {
            if !self.params.proportions.is_empty() {
                return Err(permanent(format!(
                    "stage {}: `proportions` divide a selection among several targets, but {} is \
                     one column",
                    self.name, self.params.by
                )));
            }
            return Ok(vec![1]);
        }
        let mut proportions = self.params.proportions.clone();
        if let Some(of_stage) = stage
            .params
            .get("proportions")
            .filter(|_| proportions.is_empty())
        {
            proportions = read(of_stage)?;
        }
        if proportions.is_empty() {
            let targets = model
                .map(|model| model.targets.as_slice())
                .unwrap_or_default();
            return Ok(targets
                .iter()
                .map(|target| target.counted.n_ngrams)
                .collect());
        }
        let shares: Option<Vec<Ratio>> = ordering
            .targets
            .iter()
            .map(|target| proportions.get(&target.name).copied())
            .collect();
        let known: Vec<&str> = ordering.targets.iter().map(|it| it.name.as_str()).collect();
        shares
            .filter(|shares| shares.len() == proportions.len())
            .and_then(|shares| over_common_denominator(&shares))
            .ok_or_else(|| {
                permanent(format!(
                    "stage {}: `proportions` must give each target a share: {}",
                    self.name,
                    known.join(", ")
                ))
            })
    }

    /// Budgets and cuts by target.
    fn cuts(
        &self,
        completed: &Completed<'_>,
        source: &Source<'_>,
        budget: Budget,
    ) -> Result<Known<DecidedCuts>, Failure> {
        let count = |target_idx: usize, level: usize, earlier: &[ByGroup<Cut>], prefixes| {
            let phase = count_phase(target_idx, level);
            self.scores_map(
                completed,
                source,
                &phase,
                &RangeParams {
                    ordering: source.ordering.clone(),
                    unit: budget.unit(),
                    target_idx,
                    earlier: earlier.to_vec(),
                    prefixes,
                },
            )
        };
        known!(count(0, 0, &[], None));
        let reduce_totals = || reduce_step(TOTALS, json!(null), count_phase(0, 0));
        let totals: ByGroup<Total> = known!(reduced(completed, TOTALS, reduce_totals)?);
        let divided = divide(&self.params, budget, &source.shares, &totals);
        let mut cuts: Vec<ByGroup<Cut>> = Vec::new();
        for (target_idx, budgets) in divided.by_target.iter().enumerate() {
            let mut decided: ByGroup<Cut> = ByGroup::default();
            let mut open: ByGroup<OpenGroup> = budgets
                .iter()
                .map(|(group, budget)| {
                    let open = OpenGroup {
                        budget: *budget,
                        prefix: Hex::default(),
                        through: None,
                        n_rows: u64::MAX,
                    };
                    (group.clone(), open)
                })
                .collect();
            for level in 0.. {
                let rows = open
                    .0
                    .iter()
                    .fold(0, |sum: u64, (_, it)| sum.saturating_add(it.n_rows));
                if open.0.is_empty() || rows <= LISTED_ROWS_MAX {
                    break;
                }
                let prefixes = (level > 0).then(|| prefixes(&open));
                known!(count(target_idx, level, &cuts, prefixes));
                let params = NarrowParams {
                    phase: count_phase(target_idx, level),
                    open,
                };
                let name = format!("narrow-{target_idx}-{level}");
                let step = || reduce_step(&name, json!(params), params.phase.clone());
                let narrowed: ByGroup<Progress> = known!(reduced(completed, &name, step)?);
                open = ByGroup::default();
                for (group, progress) in narrowed.0 {
                    match progress {
                        Progress::Decided(cut) => decided.0.push((group, cut)),
                        Progress::Open(still) => open.0.push((group, still)),
                    }
                }
            }
            if !open.0.is_empty() {
                let phase = format!("list-{target_idx}");
                known!(self.scores_map(
                    completed,
                    source,
                    &phase,
                    &RangeParams {
                        ordering: source.ordering.clone(),
                        unit: budget.unit(),
                        target_idx,
                        earlier: cuts.clone(),
                        prefixes: Some(prefixes(&open)),
                    }
                ));
                let params = NarrowParams {
                    phase: phase.clone(),
                    open,
                };
                let name = format!("cut-{target_idx}");
                let step = || reduce_step(&name, json!(params), phase.clone());
                let listed: ByGroup<Cut> = known!(reduced(completed, &name, step)?);
                decided.0.extend(listed.0);
            }
            decided.0.sort_by(|a, b| a.0.cmp(&b.0));
            cuts.push(decided);
        }
        Ok(Known::Yes((cuts, divided)))
    }

    fn scores_map(
        &self,
        completed: &Completed<'_>,
        source: &Source<'_>,
        phase: &str,
        params: &RangeParams,
    ) -> Known<()> {
        if completed.maps.contains_key(phase) {
            return Known::Yes(());
        }
        Known::After(Step::Map(MapPhase {
            name: phase.to_owned(),
            params: json!(params),
            input: self.scores_input(source, false),
            side_inputs: Vec::new(),
            is_table: false,
        }))
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
        rule: Rule,
    ) -> Result<Step, Failure> {
        let corpus = self
            .params
            .materialize
            .then(|| completed.corpus_schema.as_ref().clone());
        let params = ChooseParams {
            ordering: source.ordering.clone(),
            rule,
            columns: source.columns.clone(),
            corpus,
            text: self.text.clone(),
        };
        Ok(Step::Map(MapPhase {
            name: CHOOSE.to_owned(),
            params: json!(params),
            input: self.scores_input(source, self.params.materialize),
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
            return Ok(Known::After(Step::Map(MapPhase {
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
                side_inputs: Vec::new(),
                is_table: false,
            })));
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

fn prefixes(open: &ByGroup<OpenGroup>) -> ByGroup<Hex> {
    let entries = open.0.iter();
    entries
        .map(|(group, open)| (group.clone(), open.prefix.clone()))
        .collect()
}

fn reduce_step(name: &str, params: Value, input: String) -> Step {
    Step::Reduce(ReducePhase {
        name: name.to_owned(),
        params,
        inputs: vec![input],
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
        None => Ok(Known::After(step())),
    }
}

/// Integers in the proportions of the shares, if they fit.
fn over_common_denominator(shares: &[Ratio]) -> Option<Vec<u64>> {
    let mut denominator = 1_u64;
    for share in shares {
        let product = Ratio::new(denominator, share.denominator())?;
        denominator = product.numerator().checked_mul(share.denominator())?;
    }
    shares
        .iter()
        .map(|share| {
            share
                .numerator()
                .checked_mul(denominator / share.denominator())
        })
        .collect()
}

/// Whether a stage has a column of numbers of that name.
fn check_column(stage: &CompletedStage, stage_name: &str, column: &str) -> Result<(), Failure> {
    let is_number = |data_type: &DataType| {
        data_type.is_numeric() || matches!(data_type, DataType::Boolean | DataType::Null)
    };
    let fields = stage.schema.fields();
    match fields.iter().find(|field| field.name() == column) {
        Some(field) if is_number(field.data_type()) => Ok(()),
        Some(field) => Err(permanent(format!(
            "the column `{column}` of stage {stage_name} holds {}, no numbers",
            field.data_type()
        ))),
        None => {
            let numbers = fields.iter().filter(|field| is_number(field.data_type()));
            let names: Vec<&str> = numbers.map(|field| field.name().as_str()).collect();
            Err(permanent(format!(
                "stage {stage_name} has no column `{column}`; its columns of numbers are {}",
                names.join(", ")
            )))
        }
    }
}
