//! Counts of rows by the next digit of their sort keys, and lists of rows: what the threshold is
//! found by ([`super::narrowing`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, RecordBatch, StringArray, StringBuilder,
    UInt32Array, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_schemas::columns::with_field_ids;
use gleaner_schemas::{Failure, Lanes};
use serde::{Deserialize, Serialize};

use super::groups::{ByGroup, GroupMap};
use super::params::Unit;
use super::scores::{Ordering, Scores, Standing};
use super::sort_key::{Cut, Hex, SortKey, digit};
use crate::batch_columns::{arrow_failure, numbers, permanent, text_at, texts};
use crate::stage::{Emit, MapStage, ReduceInputs};

/// More groups than this are no quotas but a mistake (a column of ids), and would not fit.
const GROUPS_MAX: usize = 10_000;

/// Parameters of a map over scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeParams {
    pub(crate) ordering: Ordering,
    pub(crate) unit: Unit,
    /// The target that chooses.
    pub(crate) target_idx: usize,
    /// What is in question: keys that begin with this, by group. Absent: everything.
    pub(crate) prefixes: Option<ByGroup<Hex>>,
}

/// Takes group, prefix length, sort key and cost of a row.
type EachInQuestion<'a> = &'a mut dyn FnMut(Option<&str>, usize, &[u8], u64) -> Result<(), Failure>;

/// Finds the rows that are in question.
#[derive(Debug)]
struct Range {
    ordering: Ordering,
    unit: Unit,
    target_idx: usize,
    earlier: Vec<GroupMap<Cut>>,
    prefixes: Option<GroupMap<Hex>>,
    sort_key: SortKey,
    lanes: Lanes,
}

impl Range {
    fn new(params: RangeParams, earlier: Vec<ByGroup<Cut>>) -> Self {
        Self {
            ordering: params.ordering,
            unit: params.unit,
            target_idx: params.target_idx,
            earlier: earlier.into_iter().map(GroupMap::from).collect(),
            prefixes: params.prefixes.map(GroupMap::from),
            sort_key: SortKey::default(),
            lanes: Lanes::default(),
        }
    }

    /// Calls `each` with group, prefix length, sort key and cost of the rows in question.
    fn for_each(&mut self, batch: &RecordBatch, each: EachInQuestion<'_>) -> Result<(), Failure> {
        let scores = Scores::of(batch, &self.ordering)?;
        for row in 0..scores.n_rows() {
            self.lanes.rows_in += 1;
            match scores.standing(row) {
                Standing::Candidate => self.lanes.ok += 1,
                Standing::Ineligible => {
                    self.lanes.ineligible += 1;
                    continue;
                }
                Standing::Rejected => {
                    self.lanes.rejected += 1;
                    continue;
                }
            }
            let group = scores.group(row);
            let prefix = match &self.prefixes {
                None => &[],
                Some(prefixes) => match prefixes.get(group) {
                    Some(prefix) => prefix.0.as_slice(),
                    None => continue,
                },
            };
            let is_taken = chosen_by(
                &scores,
                &self.ordering,
                &self.earlier,
                row,
                &mut self.sort_key,
            );
            if is_taken.is_some() {
                continue;
            }
            let key = scores.sort_key(&self.ordering, self.target_idx, row, &mut self.sort_key);
            if key.is_some() && self.sort_key.bytes().starts_with(prefix) {
                let cost = scores.cost(self.unit, row)?;
                each(group, prefix.len(), self.sort_key.bytes(), cost)?;
            }
        }
        Ok(())
    }
}

/// The first target that takes a row, and its key.
pub(crate) fn chosen_by(
    scores: &Scores,
    ordering: &Ordering,
    cuts: &[GroupMap<Cut>],
    row: usize,
    sort_key: &mut SortKey,
) -> Option<(usize, f64)> {
    cuts.iter().enumerate().find_map(|(idx, cuts)| {
        let cut = cuts
            .get(scores.group(row))
            .filter(|cut| **cut != Cut::Nothing)?;
        let key = scores.sort_key(ordering, idx, row, sort_key)?;
        cut.takes(sort_key.bytes()).then_some((idx, key))
    })
}

/// Rows of one digit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) n_rows: u64,
    pub(super) cost: u64,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

impl Bucket {
    pub(super) fn one(key: &[u8], cost: u64) -> Self {
        Self {
            n_rows: 1,
            cost,
            first: key.to_vec(),
            last: key.to_vec(),
        }
    }

    pub(super) fn add(&mut self, n_rows: u64, cost: u64, first: &[u8], last: &[u8]) {
        self.n_rows += n_rows;
        self.cost += cost;
        if first < self.first.as_slice() {
            self.first = first.to_vec();
        }
        if last > self.last.as_slice() {
            self.last = last.to_vec();
        }
    }
}

pub(super) type Histogram = GroupMap<BTreeMap<u32, Bucket>>;

fn add(
    histogram: &mut Histogram,
    group: Option<&str>,
    digit: u32,
    bucket: &Bucket,
) -> Result<(), Failure> {
    let buckets = histogram.get_or_insert_with(group, BTreeMap::new);
    match buckets.get_mut(&digit) {
        Some(known) => known.add(bucket.n_rows, bucket.cost, &bucket.first, &bucket.last),
        None => {
            buckets.insert(digit, bucket.clone());
        }
    }
    check_number_of_groups(histogram.len())
}

fn check_number_of_groups(n_groups: usize) -> Result<(), Failure> {
    if n_groups > GROUPS_MAX {
        return Err(permanent(format!(
            "`group_by` gives more than {GROUPS_MAX} groups; name a column with fewer values"
        )));
    }
    Ok(())
}

/// The map that counts rows by digit.
#[derive(Debug)]
pub(crate) struct HistogramStage {
    range: Range,
    histogram: Histogram,
}

impl HistogramStage {
    /// A map for a target that chooses from what `earlier` ones leave.
    pub(crate) fn new(params: RangeParams, earlier: Vec<ByGroup<Cut>>) -> Self {
        Self {
            range: Range::new(params, earlier),
            histogram: Histogram::default(),
        }
    }
}

fn histogram_schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new("group", DataType::Utf8, true),
        Field::new("digit", DataType::UInt32, false),
        Field::new("n_rows", DataType::UInt64, false),
        Field::new("cost", DataType::UInt64, false),
        Field::new("first_key", DataType::Binary, false),
        Field::new("last_key", DataType::Binary, false),
    ]))
}

impl MapStage for HistogramStage {
    fn output(&self) -> SchemaRef {
        histogram_schema()
    }

    fn process(&mut self, batch: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let histogram = &mut self.histogram;
        self.range
            .for_each(batch, &mut |group, n_before, key, cost| {
                let buckets = histogram.get_or_insert_with(group, BTreeMap::new);
                match buckets.get_mut(&digit(key, n_before)) {
                    Some(bucket) => bucket.add(1, cost, key, key),
                    None => {
                        buckets.insert(digit(key, n_before), Bucket::one(key, cost));
                    }
                }
                check_number_of_groups(histogram.len())
            })
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        emit(histogram_batch(std::mem::take(&mut self.histogram))?)
    }

    fn lanes(&self) -> Lanes {
        self.range.lanes
    }
}

pub(super) fn histogram_batch(histogram: Histogram) -> Result<RecordBatch, Failure> {
    let mut group_column = StringBuilder::new();
    let (mut digits, mut n_rows, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut first, mut last) = (BinaryBuilder::new(), BinaryBuilder::new());
    for (group, buckets) in histogram.into_sorted() {
        for (digit, bucket) in buckets {
            group_column.append_option(group.as_deref());
            digits.push(digit);
            n_rows.push(bucket.n_rows);
            costs.push(bucket.cost);
            first.append_value(&bucket.first);
            last.append_value(&bucket.last);
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(group_column.finish()),
        Arc::new(UInt32Array::from(digits)),
        Arc::new(UInt64Array::from(n_rows)),
        Arc::new(UInt64Array::from(costs)),
        Arc::new(first.finish()),
        Arc::new(last.finish()),
    ];
    RecordBatch::try_new(histogram_schema(), columns).map_err(arrow_failure)
}

/// The map that lists the rows in question.
#[derive(Debug)]
pub(crate) struct ListStage {
    range: Range,
}

impl ListStage {
    /// A map for a target that chooses from what `earlier` ones leave.
    pub(crate) fn new(params: RangeParams, earlier: Vec<ByGroup<Cut>>) -> Self {
        Self {
            range: Range::new(params, earlier),
        }
    }
}

fn list_schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new("group", DataType::Utf8, true),
        Field::new("key", DataType::Binary, false),
        Field::new("cost", DataType::UInt64, false),
    ]))
}

impl MapStage for ListStage {
    fn output(&self) -> SchemaRef {
        list_schema()
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let (mut groups, mut keys) = (StringBuilder::new(), BinaryBuilder::new());
        let mut costs = Vec::new();
        self.range.for_each(batch, &mut |group, _, key, cost| {
            groups.append_option(group);
            keys.append_value(key);
            costs.push(cost);
            Ok(())
        })?;
        if costs.is_empty() {
            return Ok(());
        }
        emit(list_batch(groups, keys, costs)?)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn lanes(&self) -> Lanes {
        self.range.lanes
    }
}

pub(super) fn list_batch(
    mut groups: StringBuilder,
    mut keys: BinaryBuilder,
    costs: Vec<u64>,
) -> Result<RecordBatch, Failure> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(groups.finish()),
        Arc::new(keys.finish()),
        Arc::new(UInt64Array::from(costs)),
    ];
    RecordBatch::try_new(list_schema(), columns).map_err(arrow_failure)
}

pub(super) fn read_histogram(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<Histogram, Failure> {
    let mut histogram = Histogram::default();
    inputs.for_each(phase, &mut |batch| {
        let groups: StringArray = texts(&batch, "group")?;
        let digits = numbers(&batch, "digit")?;
        let n_rows = numbers(&batch, "n_rows")?;
        let costs = numbers(&batch, "cost")?;
        let first = binaries(&batch, "first_key")?;
        let last = binaries(&batch, "last_key")?;
        for row in 0..batch.num_rows() {
            let bucket = Bucket {
                n_rows: n_rows.value(row),
                cost: costs.value(row),
                first: first.value(row).to_vec(),
                last: last.value(row).to_vec(),
            };
            let digit = u32::try_from(digits.value(row)).unwrap_or(u32::MAX);
            add(&mut histogram, text_at(&groups, row), digit, &bucket)?;
        }
        Ok(())
    })?;
    Ok(histogram)
}

pub(super) fn binaries(batch: &RecordBatch, name: &str) -> Result<BinaryArray, Failure> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| permanent(format!("a batch has no column {name}")))?;
    let column = cast(column, &DataType::Binary).map_err(arrow_failure)?;
    column
        .as_any()
        .downcast_ref::<BinaryArray>()
        .cloned()
        .ok_or_else(|| permanent(format!("column {name} is not binary")))
}

#[cfg(test)]
mod tests;
