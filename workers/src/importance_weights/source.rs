//! Where the model of a run comes from: an earlier version of the output, another output, or a fit.

use gleaner_schemas::{Failure, TableFile, Version};
use serde_json::{Value, json};

use super::drift::{self, DriftFacts};
use super::fit::FitParams;
use super::model::{MODEL, ModelFacts};
use super::{ADOPT, COUNT_RAW, FIT, ImportanceWeights, KIND, QUARANTINED_TASKS, target_input};
use crate::batch_columns::permanent;
use crate::stage::{Completed, MapPhase, OutcomeTable, ReducePhase, SideTable, Step};

/// Where the model of this run comes from.
pub(super) enum Model {
    Ready(Box<ReadyModel>),
    Missing(Box<Step>),
}

pub(super) struct ReadyModel {
    pub(super) table: SideTable,
    pub(super) outcome: OutcomeTable,
    pub(super) facts: ModelFacts,
    /// How the input was when the model was fitted, or first used here.
    pub(super) at_fit: Option<DriftFacts>,
    pub(super) notes: Vec<String>,
}

impl ImportanceWeights {
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

    /// The model of the published version; else why there is none, as sentences.
    pub(super) fn frozen(
        &self,
        completed: &Completed<'_>,
    ) -> Result<Result<Model, Vec<String>>, Failure> {
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
            at_fit: drift::published_facts(completed, &self.name, &json!(self.params.expanded())),
            notes: vec![format!(
                "the model fitted by version {since} on {} stays frozen (`refit: true` fits anew)",
                table.since.get(..10).unwrap_or(&table.since)
            )],
        }))))
    }

    /// A copy of the model of another output.
    pub(super) fn adopted(&self, completed: &Completed<'_>, need: &str) -> Result<Model, Failure> {
        if let Some(result) = completed.reduces.get(ADOPT) {
            return Ok(Model::Ready(Box::new(ReadyModel {
                table: reduce_table(ADOPT),
                outcome: outcome_table(ADOPT),
                facts: ModelFacts::read(Some(&result.facts), need)?,
                at_fit: adopted_at_fit(completed, need),
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
    pub(super) fn fitted(
        &self,
        completed: &Completed<'_>,
        notes: Vec<String>,
    ) -> Result<Model, Failure> {
        if let Some(result) = completed.reduces.get(FIT) {
            return Ok(Model::Ready(Box::new(ReadyModel {
                table: reduce_table(FIT),
                outcome: outcome_table(FIT),
                facts: ModelFacts::read(Some(&result.facts), &self.name)?,
                at_fit: None,
                notes,
            })));
        }
        let features = self.params.features();
        let count = |name: &str, input| {
            Model::Missing(Box::new(Step::Map(MapPhase {
                name: name.to_owned(),
                params: json!(features),
                input,
                decision: None,
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

/// How the input of the output was whose model is used here, when it was fitted.
fn adopted_at_fit(completed: &Completed<'_>, need: &str) -> Option<DriftFacts> {
    let stage_name = need.rsplit('/').next().unwrap_or(need);
    DriftFacts::read(&completed.others.get(need)?.stages.get(stage_name)?.facts)
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
pub(crate) fn changed_keys(before: &Value, now: &Value) -> Vec<String> {
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
