//! Where the threshold lies, without sorting.
//!
//! Each task counts its rows by the next digit of their sort keys, within what is still in
//! question: the rows that share a prefix. The reduce walks the digits from the best until the
//! budget is used up; the one digit that holds the threshold is what is in question next. When
//! few rows are, tasks list them and the reduce sorts them. The prefix grows by what first and
//! last key of the digit have in common, so that long common starts of document ids cost nothing.

use std::collections::BTreeMap;

use gleaner_schemas::Failure;
use serde::{Deserialize, Serialize};

use super::groups::{ByGroup, Group};
use super::histogram::{Bucket, binaries, read_histogram};
use super::sort_key::{Cut, Hex, common_prefix};
use crate::batch_columns::{numbers, text_at, texts};
use crate::stage::ReduceInputs;

/// Rows that are listed and sorted rather than counted again.
pub(crate) const LISTED_ROWS_MAX: u64 = 500_000;

/// Candidates of a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Total {
    pub(crate) n_rows: u64,
    pub(crate) cost: u64,
}

/// A group whose threshold is in question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenGroup {
    /// What is left of its budget.
    pub(crate) budget: u64,
    /// What the keys in question have in common.
    pub(crate) prefix: Hex,
    /// The last key that is taken for sure.
    pub(crate) through: Option<Hex>,
    /// Rows in question.
    pub(crate) n_rows: u64,
}

/// What is known of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Progress {
    Decided(Cut),
    Open(OpenGroup),
}

/// Sums of the histogram of everything.
pub(crate) fn totals(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<ByGroup<Total>, Failure> {
    let histogram = read_histogram(inputs, phase)?;
    let total = |buckets: BTreeMap<u32, Bucket>| Total {
        n_rows: buckets.values().map(|bucket| bucket.n_rows).sum(),
        cost: buckets.values().map(|bucket| bucket.cost).sum(),
    };
    Ok(histogram
        .into_sorted()
        .into_iter()
        .map(|(group, buckets)| (group, total(buckets)))
        .collect())
}

/// Takes whole digits while they fit, and puts the next one in question.
pub(crate) fn narrow(
    open: ByGroup<OpenGroup>,
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<ByGroup<Progress>, Failure> {
    let mut histogram: BTreeMap<Group, _> = read_histogram(inputs, phase)?
        .into_sorted()
        .into_iter()
        .collect();
    Ok(open
        .0
        .into_iter()
        .map(|(group, open)| {
            let buckets = histogram.remove(&group).unwrap_or_default();
            (group, narrow_group(open, buckets))
        })
        .collect())
}

fn narrow_group(open: OpenGroup, buckets: BTreeMap<u32, Bucket>) -> Progress {
    let is_everything = open.prefix.0.is_empty();
    let OpenGroup {
        mut budget,
        mut through,
        ..
    } = open;
    for bucket in buckets.into_values() {
        if bucket.cost <= budget {
            budget -= bucket.cost;
            through = Some(Hex(bucket.last));
        } else if bucket.first == bucket.last {
            return Progress::Decided(cut(through));
        } else {
            let n_common = common_prefix(&bucket.first, &bucket.last);
            return Progress::Open(OpenGroup {
                budget,
                prefix: Hex(bucket.first[..n_common].to_vec()),
                through,
                n_rows: bucket.n_rows,
            });
        }
    }
    Progress::Decided(if is_everything {
        Cut::All
    } else {
        cut(through)
    })
}

fn cut(through: Option<Hex>) -> Cut {
    through.map_or(Cut::Nothing, Cut::Through)
}

/// Sorts the listed rows and takes them while they fit.
pub(crate) fn decide(
    open: ByGroup<OpenGroup>,
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<ByGroup<Cut>, Failure> {
    let mut listed: BTreeMap<Group, Vec<(Vec<u8>, u64)>> = BTreeMap::new();
    inputs.for_each(phase, &mut |batch| {
        let groups = texts(&batch, "group")?;
        let keys = binaries(&batch, "key")?;
        let costs = numbers(&batch, "cost")?;
        for row in 0..batch.num_rows() {
            let group = text_at(&groups, row).map(str::to_owned);
            let entry = (keys.value(row).to_vec(), costs.value(row));
            listed.entry(group).or_default().push(entry);
        }
        Ok(())
    })?;
    Ok(open
        .0
        .into_iter()
        .map(|(group, open)| {
            let rows = listed.remove(&group).unwrap_or_default();
            (group, decide_group(open, rows))
        })
        .collect())
}

fn decide_group(open: OpenGroup, mut rows: Vec<(Vec<u8>, u64)>) -> Cut {
    rows.sort_unstable();
    let OpenGroup {
        mut budget,
        mut through,
        ..
    } = open;
    // Rows that nothing tells apart are taken together or not at all.
    for same in rows.chunk_by(|a, b| a.0 == b.0) {
        let cost: u64 = same.iter().map(|(_, cost)| cost).sum();
        if cost > budget {
            break;
        }
        budget -= cost;
        through = same.first().map(|(key, _)| Hex(key.clone()));
    }
    cut(through)
}

#[cfg(test)]
mod tests;
