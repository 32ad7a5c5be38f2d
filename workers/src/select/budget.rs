//! What each target and each group may choose.

use std::collections::BTreeMap;

use gleaner_algorithms::resample::{largest_remainder, proportional_counts};
use gleaner_schemas::units::Limit;

use super::groups::{ByGroup, Group};
use super::narrowing::Total;
use super::params::{Budget, QuotaRule, Quotas, SelectParams, Unit};

/// Groups that notes name.
const GROUPS_NAMED: usize = 5;

/// A budget, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Divided {
    /// By target: the budget of each group.
    pub(crate) by_target: Vec<BTreeMap<Group, u64>>,
    /// The whole budget.
    pub(crate) asked: u64,
    /// All candidates, in the budget's unit.
    pub(crate) available: u64,
    /// Candidates.
    pub(crate) n_candidates: u64,
    /// Sentences for the summary.
    pub(crate) notes: Vec<String>,
}

/// Divides a budget among targets by `shares`, then among groups by the quotas.
pub(crate) fn divide(
    params: &SelectParams,
    budget: Budget,
    shares: &[u64],
    totals: &ByGroup<Total>,
) -> Divided {
    let n_candidates: u64 = totals.0.iter().map(|(_, total)| total.n_rows).sum();
    let available: u64 = totals.0.iter().map(|(_, total)| total.cost).sum();
    let asked = match budget {
        Budget::Count(_, count) => count,
        Budget::Fraction(fraction) => fraction.floor_of(n_candidates),
    };
    let by_target: Vec<BTreeMap<Group, u64>> = proportional_counts(asked, shares)
        .into_iter()
        .enumerate()
        .map(|(target_idx, budget)| groups(params, budget, shares, target_idx, totals))
        .collect();
    let mut notes = Vec::new();
    let unit = match budget.unit() {
        Unit::Documents => "documents",
        Unit::Tokens => "tokens",
        Unit::Bytes => "bytes",
    };
    if asked > available {
        notes.push(format!(
            "the budget of {asked} {unit} is larger than all that is eligible, {available} \
             {unit}: everything is taken"
        ));
    } else if params.group_by.is_some() {
        notes.extend(short_groups(&by_target, totals, unit));
    }
    Divided {
        by_target,
        asked,
        available,
        n_candidates,
        notes,
    }
}

fn groups(
    params: &SelectParams,
    budget: u64,
    shares: &[u64],
    target_idx: usize,
    totals: &ByGroup<Total>,
) -> BTreeMap<Group, u64> {
    if params.group_by.is_none() {
        return BTreeMap::from([(None, budget)]);
    }
    let names = || totals.0.iter().map(|(group, _)| group.clone());
    let rule = match &params.quotas {
        Some(Quotas::Named(named)) => {
            return named
                .iter()
                .map(|(group, quota)| {
                    let quota = match quota {
                        Limit::Share(share) => share.floor_of(budget),
                        Limit::Count(count) => proportional_counts(*count, shares)[target_idx],
                    };
                    (Some(group.clone()), quota)
                })
                .collect();
        }
        Some(Quotas::Rule(rule)) => *rule,
        None => QuotaRule::Proportional,
    };
    let weights: Vec<u64> = match rule {
        QuotaRule::Proportional => totals.0.iter().map(|(_, total)| total.cost).collect(),
        QuotaRule::Equal => vec![1; totals.0.len()],
    };
    names().zip(largest_remainder(budget, &weights)).collect()
}

fn short_groups(
    by_target: &[BTreeMap<Group, u64>],
    totals: &ByGroup<Total>,
    unit: &str,
) -> Vec<String> {
    let mut quotas: BTreeMap<&Group, u64> = BTreeMap::new();
    for (group, quota) in by_target.iter().flatten() {
        *quotas.entry(group).or_default() += quota;
    }
    let available: BTreeMap<&Group, u64> = totals
        .0
        .iter()
        .map(|(group, total)| (group, total.cost))
        .collect();
    let short: Vec<String> = quotas
        .into_iter()
        .filter_map(|(group, quota)| {
            let has = available.get(group).copied().unwrap_or_default();
            let name = group.as_deref().unwrap_or("(none)");
            (has < quota).then(|| format!("{name} has {has} of {quota}"))
        })
        .collect();
    if short.is_empty() {
        return Vec::new();
    }
    let more = match short.len().saturating_sub(GROUPS_NAMED) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    let named = short
        .into_iter()
        .take(GROUPS_NAMED)
        .collect::<Vec<_>>()
        .join(", ");
    vec![format!(
        "some groups have fewer eligible {unit} than their quota and give all of them: {named}{more}"
    )]
}
