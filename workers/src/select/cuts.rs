//! The steps from a budget to the cuts: count, narrow, list, cut, for one target after the other.

use gleaner_schemas::Failure;
use serde_json::json;

use super::budget::{Divided, divide};
use super::groups::ByGroup;
use super::histogram::RangeParams;
use super::narrowing::{LISTED_ROWS_MAX, OpenGroup, Progress, Total};
use super::params::Budget;
use super::sort_key::{Cut, Hex};
use super::source::Source;
use super::{Known, NarrowParams, Select, TOTALS, count_phase, reduce_step, reduced};
use crate::stage::Completed;

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

impl Select {
    /// Budgets and cuts by target.
    pub(super) fn cuts(
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
}

fn prefixes(open: &ByGroup<OpenGroup>) -> ByGroup<Hex> {
    let entries = open.0.iter();
    entries
        .map(|(group, open)| (group.clone(), open.prefix.clone()))
        .collect()
}
