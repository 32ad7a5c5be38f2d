//! Map `write`: items in, rows out in the same order, with as many requests under way as the
//! endpoint takes.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, Float32Builder, Int8Builder, ListBuilder, RecordBatch, StringBuilder,
    UInt32Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_generation::ids::sound_query_id;
use gleaner_models::encoder::TextEncoder;
use gleaner_schemas::columns::{
    DOC_ID, INPUT_FILE, INPUT_ROW, REASON, SOURCE, STATUS, TEXT, with_field_ids,
};
use gleaner_schemas::{Failure, Lanes};
use tokio::runtime::Handle;

use super::asking::Untold;
use super::in_order::{Bounds, InOrder};
use super::rows::{self, CommonRow, CommonRows, Lane, Status};
use super::similarity::{self, SIMILARITY};
use super::write_params::Purpose;
use super::writing::{Item, Row, Writer, Written};
use crate::batch_columns::{arrow_failure, numbers, text_at, text_views, texts};
use crate::stage::{Emit, MapContext, MapStage};

/// Names of columns.
pub(crate) const QUERY_ID: &str = "query_id";
pub(crate) const QUERY: &str = "query";
pub(crate) const LABEL: &str = "label";
pub(crate) const GRADE: &str = "grade";
pub(crate) const SOURCE_DOC_ID: &str = "source_doc_id";
/// Terms of the document, and how often it has those of the query; not in the stage's table.
pub(crate) const SOURCE_LENGTH: &str = "source_length";
pub(crate) const SOURCE_FREQUENCIES: &str = "source_frequencies";

/// Items under way for each request that may be in flight: a slow one must not hold up the rest.
const ITEMS_PER_REQUEST: usize = 8;
/// Items under way at least and at most.
const ITEMS: std::ops::RangeInclusive<usize> = 64..=4096;
/// Memory of an item besides its text: prompts, schema and replies.
const ITEM_BYTES: usize = 16 << 10;
/// Copies of an item's text: its own, in the prompt, in the request's body and record.
const TEXT_COPIES: usize = 6;
/// Rows of a batch that is handed on.
const ROWS_PER_BATCH: usize = 1024;

/// Columns that rows have where they are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct With {
    /// How often the document has the terms of its query.
    pub(crate) source_terms: bool,
    /// The cosine of a text and what it was written for.
    pub(crate) similarity: bool,
}

/// The columns of rows as `write` gives them.
pub(crate) fn schema(purpose: Purpose, with: With) -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let grade = Field::new(GRADE, DataType::Int8, true);
    let mut fields = if purpose.is_queries() {
        vec![
            text(QUERY_ID, true),
            text(DOC_ID, false),
            text(SOURCE, true),
            text(QUERY, true),
            text(LABEL, true),
            grade,
        ]
    } else {
        vec![
            text(QUERY_ID, false),
            text(DOC_ID, true),
            text(QUERY, false),
            text(SOURCE_DOC_ID, true),
            text(LABEL, true),
            grade,
            text(TEXT, true),
        ]
    };
    fields.extend(rows::fields());
    if with.similarity {
        fields.push(Field::new(SIMILARITY, DataType::Float32, true));
    }
    if with.source_terms {
        fields.push(Field::new(SOURCE_LENGTH, DataType::UInt32, true));
        fields.push(Field::new_list(
            SOURCE_FREQUENCIES,
            Field::new_list_field(DataType::UInt32, false),
            true,
        ));
    }
    with_field_ids(&Schema::new(fields))
}

/// What items are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemSource {
    /// Documents, or queries in the place of documents.
    Documents,
    /// Rows of a stage's queries.
    Queries,
}

/// The map.
pub(crate) struct WriteStage {
    writer: Arc<Writer>,
    handle: Handle,
    source: ItemSource,
    schema: SchemaRef,
    with: With,
    encoder: Option<Arc<TextEncoder>>,
    under_way: InOrder<Written>,
    batch: Batch,
    lanes: Lanes,
    /// Where rows of a table come from, which batches of it do not tell.
    input_file: String,
    n_rows_read: u64,
}

impl WriteStage {
    pub(crate) fn new(
        writer: Writer,
        source: ItemSource,
        with: With,
        encoder: Option<Arc<TextEncoder>>,
        context: &MapContext<'_>,
    ) -> Self {
        let handle = context.endpoints.handle.clone();
        let n_items = writer.concurrency().saturating_mul(ITEMS_PER_REQUEST);
        let bounds = Bounds {
            n_items: n_items.clamp(*ITEMS.start(), *ITEMS.end()),
            bytes: usize::try_from(context.memory_bytes / 4).unwrap_or(usize::MAX),
        };
        let slices = context.task.shard.slices.first();
        Self {
            schema: schema(writer.purpose(), with),
            under_way: InOrder::new(handle.clone(), context.cancel.clone(), bounds),
            writer: Arc::new(writer),
            handle,
            source,
            with,
            encoder,
            batch: Batch::new(),
            lanes: Lanes::default(),
            input_file: slices.map_or_else(String::new, |slice| slice.file.name.clone()),
            n_rows_read: 0,
        }
    }

    fn items(&mut self, batch: &RecordBatch) -> Result<Vec<Item>, Failure> {
        match self.source {
            ItemSource::Documents => documents(batch, self.writer.purpose()),
            ItemSource::Queries => {
                let first = self.n_rows_read;
                self.n_rows_read += batch.num_rows() as u64;
                queries(batch, &self.input_file, first)
            }
        }
    }

    fn take(&mut self, written: &Written, emit: Emit<'_>) -> Result<(), Failure> {
        let lane = written.rows.iter().map(|row| row.lane).min();
        lane.unwrap_or(Lane::Failed).count(&mut self.lanes);
        let similarities = match &self.encoder {
            Some(encoder) => similarity::of_rows(encoder, written)?,
            None => vec![None; written.rows.len()],
        };
        for (row, similarity) in written.rows.iter().zip(similarities) {
            self.batch.similarity.append_option(similarity);
            self.batch.push(self.writer.purpose(), &written.item, row);
        }
        if self.batch.n_rows >= ROWS_PER_BATCH {
            self.flush(emit)?;
        }
        Ok(())
    }

    fn flush(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        if self.batch.n_rows == 0 {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        let columns = batch.finish(self.writer.purpose(), self.with);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        emit(rows.map_err(arrow_failure)?)
    }
}

impl MapStage for WriteStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        for item in self.items(batch)? {
            while let Some(written) = self.under_way.next_ready()? {
                self.take(&written, emit)?;
            }
            let bytes = item.text.len() * TEXT_COPIES + ITEM_BYTES;
            self.under_way
                .start(bytes, Arc::clone(&self.writer).write(item));
        }
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        while let Some(written) = self.under_way.next()? {
            self.take(&written, emit)?;
        }
        self.flush(emit)?;
        self.handle.block_on(self.writer.settle())
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// A task that failed settles too: others may need what it holds.
impl Drop for WriteStage {
    fn drop(&mut self) {
        self.writer.settle_later(&self.handle);
    }
}

fn documents(batch: &RecordBatch, purpose: Purpose) -> Result<Vec<Item>, Failure> {
    let (ids, text) = (texts(batch, DOC_ID)?, text_views(batch, TEXT)?);
    let (sources, reasons) = (texts(batch, SOURCE)?, texts(batch, REASON)?);
    let (files, rows) = (texts(batch, INPUT_FILE)?, numbers(batch, INPUT_ROW)?);
    let item = |row: usize| {
        let is_text = text.is_valid(row) && reasons.is_null(row);
        Item {
            id: if purpose.is_queries() {
                ids.value(row).to_owned()
            } else {
                sound_query_id(ids.value(row))
            },
            text: if is_text {
                text.value(row).to_owned()
            } else {
                String::new()
            },
            // Queries that the user brought have no document.
            source: text_at(&sources, row)
                .filter(|_| purpose.is_queries())
                .map(str::to_owned),
            input_file: files.value(row).to_owned(),
            input_row: rows.value(row),
            left_out: text_at(&reasons, row).map(|reason| Untold {
                status: Status::Rejected,
                lane: Lane::Rejected,
                reason: reason.to_owned(),
            }),
        }
    };
    Ok((0..batch.num_rows()).map(item).collect())
}

/// Rows of a stage of queries. Those that are not ok have no documents written for them.
fn queries(batch: &RecordBatch, input_file: &str, first_row: u64) -> Result<Vec<Item>, Failure> {
    let (ids, queries) = (texts(batch, QUERY_ID)?, texts(batch, QUERY)?);
    let (statuses, documents) = (texts(batch, STATUS)?, texts(batch, DOC_ID)?);
    let item = |row: usize| {
        let status = statuses.value(row);
        let query = text_at(&queries, row);
        let is_ok = Status::of(status) == Some(Status::Ok) && query.is_some();
        Item {
            id: text_at(&ids, row).unwrap_or_default().to_owned(),
            text: query.unwrap_or_default().to_owned(),
            source: text_at(&documents, row).map(str::to_owned),
            input_file: input_file.to_owned(),
            input_row: first_row + row as u64,
            left_out: (!is_ok).then(|| Untold {
                status: Status::Rejected,
                lane: Lane::Ineligible,
                reason: format!("the query is {status}"),
            }),
        }
    };
    Ok((0..batch.num_rows()).map(item).collect())
}

/// Rows in the making.
struct Batch {
    n_rows: usize,
    id: StringBuilder,
    item_id: StringBuilder,
    item_text: StringBuilder,
    source: StringBuilder,
    label: StringBuilder,
    grade: Int8Builder,
    text: StringBuilder,
    common: CommonRows,
    similarity: Float32Builder,
    source_length: UInt32Builder,
    source_frequencies: ListBuilder<UInt32Builder>,
}

impl Batch {
    fn new() -> Self {
        let items = Field::new_list_field(DataType::UInt32, false);
        Self {
            n_rows: 0,
            id: StringBuilder::new(),
            item_id: StringBuilder::new(),
            item_text: StringBuilder::new(),
            source: StringBuilder::new(),
            label: StringBuilder::new(),
            grade: Int8Builder::new(),
            text: StringBuilder::new(),
            common: CommonRows::new(),
            similarity: Float32Builder::new(),
            source_length: UInt32Builder::new(),
            source_frequencies: ListBuilder::new(UInt32Builder::new()).with_field(items),
        }
    }

    fn push(&mut self, purpose: Purpose, item: &Item, row: &Row) {
        self.n_rows += 1;
        self.id.append_option(row.id.as_deref());
        self.item_id.append_value(&item.id);
        if !purpose.is_queries() {
            self.item_text.append_value(&item.text);
        }
        self.source.append_option(item.source.as_deref());
        self.label.append_option(row.label.as_deref());
        self.grade.append_option(row.grade);
        self.text.append_option(row.text.as_deref());
        self.common.push(&CommonRow {
            judged_grade: row.judged_grade,
            status: row.status,
            reason: row.reason.as_deref(),
            flags: row.flags,
            lane: row.lane,
            made: &row.made,
            judged: row.judged,
            is_first_of_completion: row.is_first_of_completion,
            input_file: &item.input_file,
            input_row: item.input_row,
        });
        match &row.source_terms {
            Some(terms) => {
                self.source_length.append_value(terms.length);
                self.source_frequencies
                    .values()
                    .append_slice(&terms.frequencies);
                self.source_frequencies.append(true);
            }
            None => {
                self.source_length.append_null();
                self.source_frequencies.append(false);
            }
        }
    }

    fn finish(mut self, purpose: Purpose, with: With) -> Vec<ArrayRef> {
        let id: ArrayRef = Arc::new(self.id.finish());
        let item_id: ArrayRef = Arc::new(self.item_id.finish());
        let source: ArrayRef = Arc::new(self.source.finish());
        let label: ArrayRef = Arc::new(self.label.finish());
        let grade: ArrayRef = Arc::new(self.grade.finish());
        let text: ArrayRef = Arc::new(self.text.finish());
        let mut columns = if purpose.is_queries() {
            vec![id, item_id, source, text, label, grade]
        } else {
            let item_text: ArrayRef = Arc::new(self.item_text.finish());
            vec![item_id, id, item_text, source, label, grade, text]
        };
        columns.extend(self.common.finish());
        if with.similarity {
            columns.push(Arc::new(self.similarity.finish()));
        }
        if with.source_terms {
            columns.push(Arc::new(self.source_length.finish()));
            columns.push(Arc::new(self.source_frequencies.finish()));
        }
        columns
    }
}
