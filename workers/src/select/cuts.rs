//! The steps from a budget to the cuts: count, narrow, list, cut, for one target after the other.

use gleaner_schemas::Failure;
use serde_json::json;

use super::budget::{Divided, divide};
use super::effect::{EffectParams, Effects, Level};
use super::groups::ByGroup;
use super::histogram::RangeParams;
use super::narrowing::{LISTED_ROWS_MAX, OpenGroup, Progress, Total};
use super::params::Budget;
use super::sort_key::{Cut, Hex};
use super::source::Source;
use super::{Known, NarrowParams, Select, TOTALS, count_phase, reduce_step, reduced};
use crate::stage::{Completed, Decision};

/// Cuts by target, with what those so far come to in each shard.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    by_target: Vec<ByGroup<Cut>>,
    effects: Option<Effects>,
}

impl Cuts {
    /// What the tasks of a map over the scores are told of them.
    pub(super) fn decision(&self) -> Decision {
        Decision {
            value: json!(self.by_target),
            effects: self.effects.as_ref().map(|effects| effects.0.clone()),
        }
    }

    /// What later targets are told; nothing at the first one.
    fn earlier(&self) -> Option<Decision> {
        (!self.by_target.is_empty()).then(|| self.decision())
    }
}

/// Cuts by target, and how the budget was divided.
type DecidedCuts = (Cuts, Divided);

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
        let count = |target_idx: usize, level: usize, cuts: &Cuts, prefixes| {
            let phase = count_phase(target_idx, level);
            self.scores_map(
                completed,
                source,
                &phase,
                &RangeParams {
                    ordering: source.ordering.clone(),
                    unit: budget.unit(),
                    target_idx,
                    prefixes,
                },
                cuts.earlier(),
            )
        };
        let mut cuts = Cuts::default();
        known!(count(0, 0, &cuts, None));
        let reduce_totals = || reduce_step(TOTALS, json!(null), vec![count_phase(0, 0)]);
        let totals: ByGroup<Total> = known!(reduced(completed, TOTALS, reduce_totals)?);
        let divided = divide(&self.params, budget, &source.shares, &totals);
        for (target_idx, budgets) in divided.by_target.iter().enumerate() {
            let mut levels: Vec<Level> = Vec::new();
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
                known!(count(target_idx, level, &cuts, prefixes.clone()));
                levels.push(Level {
                    phase: count_phase(target_idx, level),
                    prefixes,
                    is_list: false,
                });
                let params = NarrowParams {
                    phase: count_phase(target_idx, level),
                    open,
                };
                let name = format!("narrow-{target_idx}-{level}");
                let step = || reduce_step(&name, json!(params), vec![params.phase.clone()]);
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
                let prefixes = Some(prefixes(&open));
                known!(self.scores_map(
                    completed,
                    source,
                    &phase,
                    &RangeParams {
                        ordering: source.ordering.clone(),
                        unit: budget.unit(),
                        target_idx,
                        prefixes: prefixes.clone(),
                    },
                    cuts.earlier(),
                ));
                levels.push(Level {
                    phase: phase.clone(),
                    prefixes,
                    is_list: true,
                });
                let params = NarrowParams {
                    phase: phase.clone(),
                    open,
                };
                let name = format!("cut-{target_idx}");
                let step = || reduce_step(&name, json!(params), vec![phase.clone()]);
                let listed: ByGroup<Cut> = known!(reduced(completed, &name, step)?);
                decided.0.extend(listed.0);
            }
            decided.0.sort_by(|a, b| a.0.cmp(&b.0));
            let before = cuts.effects.take();
            cuts.effects = match target_idx == 0 || before.is_some() {
                true => known!(effects(completed, target_idx, before, &decided, levels)?),
                false => None,
            };
            cuts.by_target.push(decided);
        }
        Ok(Known::Yes((cuts, divided)))
    }
}

/// What the cuts of a target come to in each shard. Nothing where a shard was given up: then the
/// others cannot be told by their numbers.
fn effects(
    completed: &Completed<'_>,
    target_idx: usize,
    before: Option<Effects>,
    cuts: &ByGroup<Cut>,
    levels: Vec<Level>,
) -> Result<Known<Option<Effects>>, Failure> {
    let phases: Vec<String> = levels.iter().map(|level| level.phase.clone()).collect();
    let manifests = phases.iter().map(|phase| completed.maps.get(phase));
    if !manifests.flatten().all(|it| it.quarantined.is_empty()) {
        return Ok(Known::Yes(None));
    }
    let params = EffectParams {
        before,
        cuts: cuts.clone(),
        levels,
    };
    let name = format!("effect-{target_idx}");
    let step = || reduce_step(&name, json!(params), phases);
    Ok(match reduced(completed, &name, step)? {
        Known::Yes(effects) => Known::Yes(Some(effects)),
        Known::After(step) => Known::After(step),
    })
}

fn prefixes(open: &ByGroup<OpenGroup>) -> ByGroup<Hex> {
    let entries = open.0.iter();
    entries
        .map(|(group, open)| (group.clone(), open.prefix.clone()))
        .collect()
}
