//! Where the document of each query stands among all of the corpus by BM25, exactly and without an
//! index of the corpus: two maps over it, each with all queries.
//!
//! 1. reduce `queries`: the relevant queries that were written, with what `write` noted of their
//!    documents;
//! 2. map `count_terms`: how many documents have each of the queries' terms;
//! 3. reduce `statistics`: the sums;
//! 4. map `rank`: how many documents of a shard score above each query's own;
//! 5. reduce `ranks`: the sums, as ranks.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, ListArray, ListBuilder, RecordBatch, StringArray,
    UInt32Array, UInt32Builder, UInt64Array, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use gleaner_algorithms::bm25::{
    Bm25, Bm25Error, CorpusStatistics, Query, Rank, Ranker, RankerLimits, Source,
    StatisticsCounter, TermCounter, Vocabulary, query_terms,
};
use gleaner_schemas::columns::{DOC_ID, REASON, STATUS, TEXT, with_field_ids};
use gleaner_schemas::{Failure, Lanes};
use serde::{Deserialize, Serialize};

use crate::batch_columns::{arrow_failure, numbers, permanent, text_at, text_views, texts};
use crate::generation::filter::{BM25_RANK, ID};
use crate::generation::rows::Status;
use crate::generation::write_stage::{GRADE, QUERY, QUERY_ID, SOURCE_FREQUENCIES, SOURCE_LENGTH};
use crate::stage::{Derived, Emit, MapContext, MapStage, ReduceInputs, SideInputs};

/// Side input: the queries.
pub(super) const QUERIES: &str = "queries";
/// Side input: the statistics.
pub(super) const STATISTICS: &str = "statistics";
/// Ranks are exact up to here at least, and as far as the filter needs; beyond, a document counts as
/// not found. Counting ends there, which is most of the work of queries that find other documents.
const RANKS_MIN: u64 = 1000;

const QUERY_IDX: &str = "query_idx";
const N_ABOVE: &str = "n_above";
const DOCUMENTS: &str = "documents";
const TOKENS: &str = "tokens";
const FREQUENCIES: &str = "document_frequencies";

fn bm25(error: Bm25Error) -> Failure {
    permanent(format!("BM25: {error}"))
}

/// Parameters of the map `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RankTask {
    pub(super) k1: f64,
    pub(super) b: f64,
    /// Where counting ends.
    pub(super) rank_max: u64,
}

/// Where counting ends for a filter of the first `top_k`.
pub(super) fn rank_max(top_k: u32) -> u64 {
    u64::from(top_k).max(RANKS_MIN)
}

/// The table of queries: of grade 1 and more, since only those should find their document.
pub(super) fn queries(inputs: &mut dyn ReduceInputs, phase: &str) -> Result<RecordBatch, Failure> {
    let (mut ids, mut documents, mut queries) = (Vec::new(), Vec::new(), Vec::new());
    let mut lengths = UInt32Builder::new();
    let items = Field::new_list_field(DataType::UInt32, false);
    let mut frequencies = ListBuilder::new(UInt32Builder::new()).with_field(items);
    inputs.for_each(phase, &mut |rows| {
        let (id, query) = (texts(&rows, QUERY_ID)?, texts(&rows, QUERY)?);
        let (document, status) = (texts(&rows, DOC_ID)?, texts(&rows, STATUS)?);
        let missing = || permanent("rows do not tell the terms of documents");
        let of_source = rows
            .column_by_name(SOURCE_FREQUENCIES)
            .ok_or_else(missing)?;
        let of_source: &ListArray = of_source.as_list_opt().ok_or_else(missing)?;
        let length = rows.column_by_name(SOURCE_LENGTH).ok_or_else(missing)?;
        let length = length
            .as_primitive_opt::<UInt32Type>()
            .ok_or_else(missing)?;
        let grade = numbers_or_none(&rows, GRADE)?;
        for row in 0..rows.num_rows() {
            let is_relevant = grade[row].is_some_and(|grade| grade > 0);
            let is_ok = Status::of(status.value(row)) == Some(Status::Ok);
            let (Some(id), Some(query)) = (text_at(&id, row), text_at(&query, row)) else {
                continue;
            };
            if !is_relevant || !is_ok || of_source.is_null(row) {
                continue;
            }
            ids.push(id.to_owned());
            documents.push(document.value(row).to_owned());
            queries.push(query.to_owned());
            lengths.append_value(length.value(row));
            let values = of_source.value(row);
            frequencies
                .values()
                .append_slice(values.as_primitive::<UInt32Type>().values());
            frequencies.append(true);
        }
        Ok(())
    })?;
    let text = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let schema = with_field_ids(&Schema::new(vec![
        Field::new(QUERY_ID, DataType::Utf8, false),
        Field::new(DOC_ID, DataType::Utf8, false),
        Field::new(QUERY, DataType::Utf8, false),
        Field::new(SOURCE_LENGTH, DataType::UInt32, false),
        Field::new_list(
            SOURCE_FREQUENCIES,
            Field::new_list_field(DataType::UInt32, false),
            false,
        ),
    ]));
    let columns = vec![
        text(ids),
        text(documents),
        text(queries),
        Arc::new(lengths.finish()),
        Arc::new(frequencies.finish()),
    ];
    RecordBatch::try_new(schema, columns).map_err(arrow_failure)
}

fn numbers_or_none(rows: &RecordBatch, name: &str) -> Result<Vec<Option<i8>>, Failure> {
    let column = rows
        .column_by_name(name)
        .and_then(|column| column.as_primitive_opt::<arrow::datatypes::Int8Type>())
        .ok_or_else(|| permanent(format!("rows have no column {name}")))?;
    Ok(column.iter().collect())
}

/// All queries, as every task is given them.
struct QuerySet {
    vocabulary: Arc<Vocabulary>,
    queries: Vec<Query>,
}

fn load_queries(side_inputs: &dyn SideInputs) -> Result<Arc<QuerySet>, Failure> {
    let derived = side_inputs.derived(QUERIES, "terms", &mut |batches| {
        let mut terms = Vec::new();
        for rows in batches {
            let query = texts(rows, QUERY)?;
            terms.extend((0..rows.num_rows()).flat_map(|row| query_terms(query.value(row))));
        }
        terms.sort_unstable();
        terms.dedup();
        let vocabulary = Arc::new(Vocabulary::new(terms).map_err(bm25)?);
        let mut counter = TermCounter::new(Arc::clone(&vocabulary));
        let mut queries = Vec::new();
        for rows in batches {
            let (ids, query) = (texts(rows, QUERY_ID)?, texts(rows, QUERY)?);
            let documents = texts(rows, DOC_ID)?;
            let missing = || permanent("the queries do not tell the terms of documents");
            let of_source = rows
                .column_by_name(SOURCE_FREQUENCIES)
                .ok_or_else(missing)?;
            let of_source: &ListArray = of_source.as_list_opt().ok_or_else(missing)?;
            let length = rows.column_by_name(SOURCE_LENGTH).ok_or_else(missing)?;
            let length = length
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(missing)?;
            for row in 0..rows.num_rows() {
                let frequencies = of_source.value(row);
                queries.push(Query {
                    id: ids.value(row).to_owned(),
                    terms: counter.count(query.value(row)).frequencies,
                    source: Source {
                        document_id: documents.value(row).to_owned(),
                        length: length.value(row),
                        frequencies: frequencies.as_primitive::<UInt32Type>().values().to_vec(),
                    },
                });
            }
        }
        let set = QuerySet {
            vocabulary,
            queries,
        };
        Ok(Derived::of_batches(Arc::new(set), batches))
    })?;
    derived
        .value
        .downcast::<QuerySet>()
        .map_err(|_| permanent("the queries are of another type"))
}

fn statistics_schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new(DOCUMENTS, DataType::UInt64, false),
        Field::new(TOKENS, DataType::UInt64, false),
        Field::new_list(
            FREQUENCIES,
            Field::new_list_field(DataType::UInt64, false),
            false,
        ),
    ]))
}

fn statistics_row(statistics: &CorpusStatistics) -> Result<RecordBatch, Failure> {
    let items = Field::new_list_field(DataType::UInt64, false);
    let mut frequencies = ListBuilder::new(UInt64Builder::new()).with_field(items);
    frequencies
        .values()
        .append_slice(&statistics.document_frequency);
    frequencies.append(true);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![statistics.documents])),
        Arc::new(UInt64Array::from(vec![statistics.tokens])),
        Arc::new(frequencies.finish()),
    ];
    RecordBatch::try_new(statistics_schema(), columns).map_err(arrow_failure)
}

fn add_statistics(sum: &mut Option<CorpusStatistics>, rows: &RecordBatch) -> Result<(), Failure> {
    let (documents, tokens) = (numbers(rows, DOCUMENTS)?, numbers(rows, TOKENS)?);
    let frequencies = rows
        .column_by_name(FREQUENCIES)
        .and_then(|column| column.as_list_opt::<i32>())
        .ok_or_else(|| permanent("statistics have no frequencies"))?;
    for row in 0..rows.num_rows() {
        let values = frequencies.value(row);
        let statistics = CorpusStatistics {
            documents: documents.value(row),
            tokens: tokens.value(row),
            document_frequency: values.as_primitive::<UInt64Type>().values().to_vec(),
        };
        match sum {
            Some(sum) => sum.merge(&statistics).map_err(bm25)?,
            None => *sum = Some(statistics),
        }
    }
    Ok(())
}

/// Calls `each` with id and text of the documents that have one.
fn for_each_document(
    rows: &RecordBatch,
    lanes: &mut Lanes,
    mut each: impl FnMut(&str, &str),
) -> Result<(), Failure> {
    let (ids, text) = (texts(rows, DOC_ID)?, text_views(rows, TEXT)?);
    let reasons = texts(rows, REASON)?;
    for row in 0..rows.num_rows() {
        lanes.rows_in += 1;
        if text.is_valid(row) && reasons.is_null(row) {
            lanes.ok += 1;
            each(ids.value(row), text.value(row));
        } else {
            lanes.rejected += 1;
        }
    }
    Ok(())
}

/// The map `count_terms`: one row.
pub(super) struct CountTerms {
    counter: Option<StatisticsCounter>,
    lanes: Lanes,
}

impl CountTerms {
    pub(super) fn new(context: &MapContext<'_>) -> Result<Self, Failure> {
        let queries = load_queries(context.side_inputs)?;
        let vocabulary = Arc::clone(&queries.vocabulary);
        Ok(Self {
            counter: Some(StatisticsCounter::new(vocabulary)),
            lanes: Lanes::default(),
        })
    }
}

impl MapStage for CountTerms {
    fn output(&self) -> SchemaRef {
        statistics_schema()
    }

    fn process(&mut self, rows: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let Some(counter) = &mut self.counter else {
            return Ok(());
        };
        for_each_document(rows, &mut self.lanes, |_, text| counter.add(text))
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        match self.counter.take() {
            Some(counter) => emit(statistics_row(&counter.finish())?),
            None => Ok(()),
        }
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The reduce `statistics`.
pub(super) fn statistics(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<RecordBatch, Failure> {
    let mut sum = None;
    inputs.for_each(phase, &mut |rows| add_statistics(&mut sum, &rows))?;
    statistics_row(&sum.ok_or_else(|| permanent("no document was counted"))?)
}

/// The map `rank`: a row for each query that some document stands above.
pub(super) struct RankDocuments {
    ranker: Option<Ranker>,
    lanes: Lanes,
}

impl RankDocuments {
    pub(super) fn new(task: RankTask, context: &MapContext<'_>) -> Result<Self, Failure> {
        let queries = load_queries(context.side_inputs)?;
        let derived = context
            .side_inputs
            .derived(STATISTICS, "sum", &mut |batches| {
                let mut sum = None;
                for rows in batches {
                    add_statistics(&mut sum, rows)?;
                }
                let sum = sum.ok_or_else(|| permanent("there are no statistics"))?;
                Ok(Derived::of_batches(Arc::new(sum), batches))
            })?;
        let statistics = derived
            .value
            .downcast::<CorpusStatistics>()
            .map_err(|_| permanent("the statistics are of another type"))?;
        let limits = RankerLimits {
            block_bytes_max: usize::try_from(context.memory_bytes / 8).unwrap_or(usize::MAX),
            count_max: task.rank_max,
            ..RankerLimits::default()
        };
        let parameters = Bm25 {
            k1: task.k1,
            b: task.b,
        };
        let vocabulary = Arc::clone(&queries.vocabulary);
        let ranker = Ranker::new(
            vocabulary,
            parameters,
            &statistics,
            &queries.queries,
            limits,
        );
        Ok(Self {
            ranker: Some(ranker.map_err(bm25)?),
            lanes: Lanes::default(),
        })
    }
}

fn counts_schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new(QUERY_IDX, DataType::UInt32, false),
        Field::new(N_ABOVE, DataType::UInt64, false),
    ]))
}

impl MapStage for RankDocuments {
    fn output(&self) -> SchemaRef {
        counts_schema()
    }

    fn process(&mut self, rows: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let Some(ranker) = &mut self.ranker else {
            return Ok(());
        };
        for_each_document(rows, &mut self.lanes, |id, text| ranker.add(id, text))
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        let Some(ranker) = self.ranker.take() else {
            return Ok(());
        };
        let counts = ranker.finish();
        let above = (0_u32..).zip(counts).filter(|(_, count)| *count > 0);
        let (queries, counts): (Vec<u32>, Vec<u64>) = above.unzip();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(queries)),
            Arc::new(UInt64Array::from(counts)),
        ];
        emit(RecordBatch::try_new(counts_schema(), columns).map_err(arrow_failure)?)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The reduce `ranks`: a rank for each query, none beyond `rank_max`.
pub(super) fn ranks(
    inputs: &mut dyn ReduceInputs,
    phase: &str,
    rank_max: u64,
) -> Result<RecordBatch, Failure> {
    let mut ids: Vec<String> = Vec::new();
    for rows in inputs.side_input(QUERIES)? {
        let id = texts(&rows, QUERY_ID)?;
        ids.extend((0..rows.num_rows()).map(|row| id.value(row).to_owned()));
    }
    let mut counts = vec![0_u64; ids.len()];
    inputs.for_each(phase, &mut |rows| {
        let (queries, above) = (numbers(&rows, QUERY_IDX)?, numbers(&rows, N_ABOVE)?);
        for row in 0..rows.num_rows() {
            let query = usize::try_from(queries.value(row)).unwrap_or(usize::MAX);
            let count = counts
                .get_mut(query)
                .ok_or_else(|| permanent("a count is of a query that does not exist"))?;
            *count = count.saturating_add(above.value(row));
        }
        Ok(())
    })?;
    let rank = |count: &u64| match Rank::from_count(*count, rank_max) {
        Rank::Exact(rank) => u32::try_from(rank).ok(),
        Rank::After(_) => None,
    };
    let ranks: UInt32Array = counts.iter().map(rank).collect();
    let schema = with_field_ids(&Schema::new(vec![
        Field::new(ID, DataType::Utf8, false),
        Field::new(BM25_RANK, DataType::UInt32, true),
    ]));
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(ids)), Arc::new(ranks)];
    RecordBatch::try_new(schema, columns).map_err(arrow_failure)
}
