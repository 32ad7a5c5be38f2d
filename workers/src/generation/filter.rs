//! Map `filter`, the table of both stages: rows as they were written, with what only the whole
//! stage tells (duplicates, ranks), and the end of each by the rules of the job.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt32Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use gleaner_generation::checks::{Keep, round_trip_miss};
use gleaner_generation::{Flag, Flags};
use gleaner_schemas::columns::{
    DOC_ID, INPUT_FILE, INPUT_ROW, LANE, REASON, STATUS, with_field_ids,
};
use gleaner_schemas::{Failure, Lanes};
use serde::{Deserialize, Serialize};

use super::rows::{FLAGS, JUDGED_GRADE, Lane, Status};
use super::write_params::Purpose;
use super::write_stage::{GRADE, QUERY_ID, SOURCE_FREQUENCIES, SOURCE_LENGTH, With, schema};
use crate::batch_columns::{arrow_failure, numbers, permanent, text_at, texts};
use crate::stage::{Derived, Emit, MapContext, MapStage, SideInputs};

/// Rank of a query's document.
pub(crate) const BM25_RANK: &str = "bm25_rank";
/// Side input: ids of texts that repeat others.
pub(crate) const DUPLICATES: &str = "duplicates";
/// Side input: ranks of queries.
pub(crate) const RANKS: &str = "ranks";
/// Column of the flag of a duplicate.
pub(crate) const FLAG: &str = "flag";
/// Column of an id.
pub(crate) const ID: &str = "id";

/// What decides the end of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilterTask {
    pub(crate) purpose: Purpose,
    /// Flags for which texts are rejected.
    pub(crate) reject: Vec<Flag>,
    /// Which texts stay, if a judge graded them.
    pub(crate) keep: Option<Keep>,
    /// Queries must find their document among so many.
    pub(crate) bm25_top_k: Option<u32>,
    /// Whether rows tell the cosine of their text and what it was written for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) with_similarity: bool,
}

impl FilterTask {
    fn schema(&self) -> SchemaRef {
        let with = With {
            source_terms: false,
            similarity: self.with_similarity,
        };
        let written = schema(self.purpose, with);
        let mut fields: Vec<Field> = written
            .fields()
            .iter()
            .map(|field| field.as_ref().clone())
            .collect();
        if self.bm25_top_k.is_some() {
            let place = fields.iter().position(|field| field.name() == STATUS);
            let rank = Field::new(BM25_RANK, DataType::UInt32, true);
            fields.insert(place.unwrap_or(fields.len()), rank);
        }
        with_field_ids(&Schema::new(fields))
    }
}

/// The map.
pub(crate) struct FilterStage {
    task: FilterTask,
    schema: SchemaRef,
    duplicates: Arc<HashMap<String, Flag>>,
    ranks: Option<Arc<HashMap<String, u32>>>,
    batches: Vec<RecordBatch>,
    lanes: Lanes,
}

impl FilterStage {
    pub(crate) fn new(task: FilterTask, context: &MapContext<'_>) -> Result<Self, Failure> {
        let duplicates = load(context.side_inputs, DUPLICATES, |batch, into| {
            let (ids, flags) = (texts(batch, ID)?, texts(batch, FLAG)?);
            for row in 0..batch.num_rows() {
                let flag = Flag::from_name(flags.value(row));
                let flag = flag.ok_or_else(|| permanent("a duplicate has no flag"))?;
                into.insert(ids.value(row).to_owned(), flag);
            }
            Ok(())
        })?;
        let ranks = match task.bm25_top_k {
            Some(_) => Some(load(context.side_inputs, RANKS, |batch, into| {
                let (ids, ranks) = (texts(batch, ID)?, numbers(batch, BM25_RANK)?);
                for row in (0..batch.num_rows()).filter(|&row| ranks.is_valid(row)) {
                    let rank = u32::try_from(ranks.value(row)).unwrap_or(u32::MAX);
                    into.insert(ids.value(row).to_owned(), rank);
                }
                Ok(())
            })?),
            None => None,
        };
        Ok(Self {
            schema: task.schema(),
            task,
            duplicates,
            ranks,
            batches: Vec::new(),
            lanes: Lanes::default(),
        })
    }

    /// Status, reason and flags of each row, and its rank.
    fn decide(&self, rows: &RecordBatch) -> Result<Vec<Decided>, Failure> {
        let id_column = if self.task.purpose.is_queries() {
            QUERY_ID
        } else {
            DOC_ID
        };
        let (ids, statuses) = (texts(rows, id_column)?, texts(rows, STATUS)?);
        let (reasons, lanes) = (texts(rows, REASON)?, texts(rows, LANE)?);
        let flags = rows
            .column_by_name(FLAGS)
            .and_then(|column| column.as_list_opt::<i32>())
            .ok_or_else(|| permanent("rows have no flags"))?;
        let grade = |name: &str, row: usize| {
            let column = rows.column_by_name(name)?.as_primitive_opt::<Int8Type>()?;
            column.is_valid(row).then(|| column.value(row))
        };
        let mut decided = Vec::new();
        for row in 0..rows.num_rows() {
            let of_row = flags.value(row);
            let of_row: &StringArray = of_row.as_string();
            let mut flags = Flags::NONE;
            for flag in of_row.iter().flatten().filter_map(Flag::from_name) {
                flags.insert(flag);
            }
            let id = text_at(&ids, row).unwrap_or_default();
            let rank = self.ranks.as_ref().and_then(|ranks| ranks.get(id).copied());
            let status = Status::of(statuses.value(row)).unwrap_or(Status::Failed);
            let lane = Lane::of(lanes.value(row)).unwrap_or(Lane::Failed);
            let mut end = Decided {
                status,
                lane,
                reason: text_at(&reasons, row).map(str::to_owned),
                flags,
                rank,
            };
            if status == Status::Ok {
                let asked = grade(GRADE, row);
                self.decide_text(&mut end, id, asked, grade(JUDGED_GRADE, row));
            }
            decided.push(end);
        }
        Ok(decided)
    }

    fn decide_text(&self, end: &mut Decided, id: &str, asked: Option<i8>, judged: Option<i8>) {
        if let Some(flag) = self.duplicates.get(id) {
            end.flags.insert(*flag);
        }
        let misses = self
            .task
            .bm25_top_k
            .is_some_and(|top_k| round_trip_miss(end.rank, top_k));
        // A query that should not find its document is none that misses it.
        let is_relevant = asked.is_some_and(|grade| grade > 0);
        end.flags
            .insert_if(misses && is_relevant, Flag::RoundTripMiss);
        let mut reason = None;
        if self
            .task
            .keep
            .is_some_and(|keep| !asked.is_some_and(|asked| keep.keeps(asked, judged)))
        {
            reason = Some(if end.flags.contains(Flag::JudgeFailed) {
                Flag::JudgeFailed
            } else {
                Flag::JudgeDisagrees
            });
        }
        if end.flags.contains(Flag::RoundTripMiss) {
            reason = Some(Flag::RoundTripMiss);
        }
        let rejected = end
            .flags
            .iter()
            .find(|flag| self.task.reject.contains(flag));
        match rejected.or(reason) {
            // The reason, of the kind `judge_failed: class: words`, is there already. No rule of the
            // method left the text out, so it counts as a row that could not be worked on.
            Some(Flag::JudgeFailed) => {
                end.status = Status::Rejected;
                end.lane = Lane::Rejected;
            }
            Some(flag) => {
                end.status = Status::Rejected;
                end.lane = Lane::Ineligible;
                end.reason = Some(flag.as_str().to_owned());
            }
            None => {}
        }
    }

    /// Each row's lane is that of its input row: the best of all of its rows.
    fn group_lanes(&mut self, rows: &RecordBatch, decided: &mut [Decided]) -> Result<(), Failure> {
        let (files, numbers) = (texts(rows, INPUT_FILE)?, numbers(rows, INPUT_ROW)?);
        let mut start = 0;
        while start < decided.len() {
            let is_same = |row: usize| {
                numbers.value(row) == numbers.value(start) && files.value(row) == files.value(start)
            };
            let end = (start..decided.len())
                .find(|&row| !is_same(row))
                .unwrap_or(decided.len());
            let lane = decided[start..end]
                .iter()
                .map(|row| row.lane)
                .min()
                .unwrap_or(Lane::Failed);
            lane.count(&mut self.lanes);
            for row in &mut decided[start..end] {
                row.lane = lane;
            }
            start = end;
        }
        Ok(())
    }
}

/// How a row ends.
struct Decided {
    status: Status,
    lane: Lane,
    reason: Option<String>,
    flags: Flags,
    rank: Option<u32>,
}

impl MapStage for FilterStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows of a task of `write` are few, and those of an input row may lie in two batches.
    fn process(&mut self, batch: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        self.batches.push(batch.clone());
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        let Some(first) = self.batches.first() else {
            return Ok(());
        };
        let rows = concat_batches(&first.schema(), &self.batches).map_err(arrow_failure)?;
        self.batches.clear();
        let mut decided = self.decide(&rows)?;
        self.group_lanes(&rows, &mut decided)?;
        let mut flags = ListBuilder::new(StringBuilder::new())
            .with_field(Field::new_list_field(DataType::Utf8, false));
        for row in &decided {
            for flag in row.flags.iter() {
                flags.values().append_value(flag.as_str());
            }
            flags.append(true);
        }
        let text = |of: fn(&Decided) -> Option<&str>| -> ArrayRef {
            Arc::new(decided.iter().map(of).collect::<StringArray>())
        };
        let mut replaced: BTreeMap<&str, ArrayRef> = BTreeMap::from([
            (STATUS, text(|row| Some(row.status.as_str()))),
            (LANE, text(|row| Some(row.lane.as_str()))),
            (REASON, text(|row| row.reason.as_deref())),
            (FLAGS, Arc::new(flags.finish()) as ArrayRef),
        ]);
        let ranks: UInt32Array = decided.iter().map(|row| row.rank).collect();
        replaced.insert(BM25_RANK, Arc::new(ranks));
        let columns = self.schema.fields().iter().map(|field| {
            let name = field.name().as_str();
            let column = replaced.get(name).or_else(|| rows.column_by_name(name));
            column
                .cloned()
                .ok_or_else(|| permanent(format!("rows have no column {name}")))
        });
        let columns = columns.collect::<Result<Vec<_>, Failure>>()?;
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        emit(rows.map_err(arrow_failure)?)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The columns that `filter` reads of what `write` wrote.
pub(crate) fn columns(purpose: Purpose, with_similarity: bool) -> Vec<String> {
    let with = With {
        source_terms: false,
        similarity: with_similarity,
    };
    let written = schema(purpose, with);
    written
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .filter(|name| name != SOURCE_LENGTH && name != SOURCE_FREQUENCIES)
        .collect()
}

fn load<V: Send + Sync + 'static>(
    side_inputs: &dyn SideInputs,
    name: &str,
    read: fn(&RecordBatch, &mut HashMap<String, V>) -> Result<(), Failure>,
) -> Result<Arc<HashMap<String, V>>, Failure> {
    let derived = side_inputs.derived(name, "by id", &mut |batches| {
        let mut map = HashMap::new();
        for batch in batches {
            read(batch, &mut map)?;
        }
        Ok(Derived::of_batches(Arc::new(map), batches))
    })?;
    derived
        .value
        .downcast::<HashMap<String, V>>()
        .map_err(|_| permanent(format!("side input {name} is of another type")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(keep: Keep, reject: &[Flag], flags: &[Flag], judged: Option<i8>) -> Decided {
        let task = FilterTask {
            purpose: Purpose::QueriesJoint,
            reject: reject.to_vec(),
            keep: Some(keep),
            bm25_top_k: None,
            with_similarity: false,
        };
        let stage = FilterStage {
            schema: task.schema(),
            task,
            duplicates: Arc::default(),
            ranks: None,
            batches: Vec::new(),
            lanes: Lanes::default(),
        };
        let has_failed = flags.contains(&Flag::JudgeFailed);
        let mut end = Decided {
            status: Status::Ok,
            lane: Lane::Ok,
            reason: has_failed.then(|| FAILED.to_owned()),
            flags: flags.iter().copied().collect(),
            rank: None,
        };
        stage.decide_text(&mut end, "q", Some(3), judged);
        end
    }

    const FAILED: &str = "judge_failed: context_overflow: too long";

    #[test]
    fn a_judge_that_fails_is_told_apart_from_one_that_disagrees() {
        let check = |found: Decided, status: Status, lane: Lane, reason: Option<&str>| {
            assert_eq!((found.status, found.lane), (status, lane), "{reason:?}");
            assert_eq!(found.reason.as_deref(), reason);
        };
        let failed = [Flag::JudgeFailed];
        for keep in [Keep::Agree, Keep::Within(1)] {
            let found = decide(keep, &[], &failed, None);
            check(found, Status::Rejected, Lane::Rejected, Some(FAILED));
            let found = decide(keep, &[], &[Flag::JudgeDisagrees], Some(0));
            let reason = Some("judge_disagrees");
            check(found, Status::Rejected, Lane::Ineligible, reason);
            check(decide(keep, &[], &[], Some(3)), Status::Ok, Lane::Ok, None);
        }
        let found = decide(Keep::All, &[], &failed, None);
        check(found, Status::Ok, Lane::Ok, Some(FAILED));
        let found = decide(Keep::All, &failed, &failed, None);
        check(found, Status::Rejected, Lane::Rejected, Some(FAILED));
        // What is wrong with the text itself is told first.
        let both = [Flag::Repetition, Flag::JudgeFailed];
        let found = decide(Keep::Agree, &[Flag::Repetition], &both, None);
        check(
            found,
            Status::Rejected,
            Lane::Ineligible,
            Some("repetition"),
        );
    }
}
