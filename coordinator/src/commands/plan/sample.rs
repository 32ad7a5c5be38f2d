//! Some rows of what a stage reads, by which is told what it will ask of endpoints.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use gleaner_predicate::DataFusionPredicates;
use gleaner_schemas::columns::{REASON, SOURCE, STATUS, TEXT};
use gleaner_schemas::{Failure, FileFormat, Reader, Shard, Slice};
use gleaner_storage::documents::{BatchLimits, DocumentReader};
use gleaner_storage::table::{BlockingIo, TableReader};

use crate::run_error::RunError;

/// Rows that are looked at.
const ROWS_READ: u64 = 4096;
/// Bytes of their texts.
const BYTES_READ: u64 = 16 << 20;
/// Files that they are taken from.
const FILES_READ: usize = 8;
/// Memory for reading them.
const MEMORY_BYTES: u64 = 64 << 20;
/// Column of a stage's queries.
const QUERY: &str = "query";
/// Rows with this status are items of later stages.
const OK: &str = "ok";
/// Bytes of a line of JSON besides its text.
const AROUND_TEXT_BYTES: u64 = 64;
/// Bytes of text for each byte of a compressed file.
const COMPRESSION: u64 = 3;

/// Rows of some files.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Texts of those with one.
    pub(super) texts: Vec<String>,
    /// Texts with the text that goes with them.
    pub(super) pairs: Vec<(String, String)>,
    /// Rows that were looked at, without those that `where` leaves out.
    pub(super) n_rows: u64,
    n_excluded: u64,
    text_bytes: u64,
    /// Whether there are no other rows.
    is_whole: bool,
}

impl Sample {
    /// A text that stands for all, where none is there yet.
    pub(super) fn of_text(text: &str) -> Self {
        Self {
            texts: vec![text.to_owned()],
            n_rows: 1,
            ..Self::default()
        }
    }

    /// Items among `n_rows` rows of the files, or `None` without any row to go by.
    pub(super) fn items_of_rows(&self, n_rows: f64) -> Option<f64> {
        let looked_at = self.n_rows + self.n_excluded;
        (looked_at > 0).then(|| n_rows * self.texts.len() as f64 / looked_at as f64)
    }

    /// Items among `n_rows` rows that `where` has let through.
    pub(super) fn items_of_chosen(&self, n_rows: f64) -> Option<f64> {
        (self.n_rows > 0).then(|| n_rows * self.texts.len() as f64 / self.n_rows as f64)
    }

    /// Rows of files that do not tell how many they have.
    fn rows_of_files(&self, shards: &[Shard]) -> Option<f64> {
        let looked_at = self.n_rows + self.n_excluded;
        if self.is_whole {
            return Some(looked_at as f64);
        }
        let row_bytes = self.text_bytes.checked_div(self.n_rows)? + AROUND_TEXT_BYTES;
        let slices = shards.iter().flat_map(|shard| &shard.slices);
        let bytes = slices.map(|slice| match slice.file.format {
            FileFormat::JsonlGzip | FileFormat::JsonlZstd => slice.bytes * COMPRESSION,
            FileFormat::Parquet | FileFormat::Jsonl => slice.bytes,
        });
        Some(bytes.sum::<u64>() as f64 / row_bytes as f64)
    }

    /// Items of all files.
    pub(super) fn items_of_files(&self, shards: &[Shard]) -> Option<f64> {
        let n_rows: Option<u64> = shards.iter().map(Shard::n_rows).sum();
        let n_rows = n_rows.map(|n_rows| n_rows as f64);
        self.items_of_rows(n_rows.or_else(|| self.rows_of_files(shards))?)
    }

    fn is_enough(&self) -> bool {
        self.n_rows + self.n_excluded >= ROWS_READ || self.text_bytes >= BYTES_READ
    }

    fn add_text(&mut self, text: &str) {
        self.text_bytes += text.len() as u64;
        self.texts.push(text.to_owned());
    }

    fn add_documents(&mut self, batch: &RecordBatch) {
        self.n_rows += batch.num_rows() as u64;
        let text = batch
            .column_by_name(TEXT)
            .and_then(|it| it.as_string_view_opt());
        let column = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
        let (Some(text), Some(reasons)) = (text, column(REASON)) else {
            return;
        };
        let sources = column(SOURCE);
        for row in (0..text.len()).filter(|&row| text.is_valid(row) && reasons.is_null(row)) {
            self.add_text(text.value(row));
            if let Some(sources) = sources.filter(|sources| sources.is_valid(row)) {
                let pair = (text.value(row).to_owned(), sources.value(row).to_owned());
                self.pairs.push(pair);
            }
        }
    }

    fn add_queries(&mut self, batch: &RecordBatch) {
        self.n_rows += batch.num_rows() as u64;
        let column = |name| batch.column_by_name(name)?.as_string_opt::<i32>();
        let (Some(queries), Some(statuses)) = (column(QUERY), column(STATUS)) else {
            return;
        };
        for row in 0..batch.num_rows() {
            if queries.is_valid(row) && statuses.value(row) == OK {
                self.add_text(queries.value(row));
            }
        }
    }
}

/// Reads the first rows of some files of `shards`, as tasks would.
///
/// # Errors
///
/// If reading panics. A file that cannot be read is told of elsewhere.
pub(super) async fn read(
    io: &BlockingIo,
    reader: Reader,
    shards: &[Shard],
) -> Result<Sample, RunError> {
    let slices: Vec<&Slice> = shards.iter().flat_map(|shard| &shard.slices).collect();
    let step = slices.len().div_ceil(FILES_READ).max(1);
    let chosen: Vec<Slice> = slices.iter().step_by(step).copied().cloned().collect();
    let is_whole = chosen.len() == slices.len();
    let io = io.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut sample = Sample {
            is_whole,
            ..Sample::default()
        };
        for slice in &chosen {
            let was_read = match &reader {
                Reader::Documents { columns, predicate } => {
                    let predicate = predicate.as_deref();
                    let predicate = predicate.map(|sql| (sql, &DataFusionPredicates as _));
                    let limits = BatchLimits::for_memory(MEMORY_BYTES);
                    DocumentReader::open(&io, slice, columns, predicate, limits)
                        .and_then(|reader| documents(reader, &mut sample))
                }
                Reader::Table { columns } => TableReader::open(&io, &slice.file.uri, Some(columns))
                    .and_then(|reader| queries(reader, &mut sample)),
            };
            sample.is_whole &= was_read.unwrap_or(false);
        }
        sample
    });
    reading
        .await
        .map_err(|error| RunError::Internal(format!("reading a sample panicked: {error}")))
}

/// Whether the file was read to its end.
fn documents(mut reader: DocumentReader, sample: &mut Sample) -> Result<bool, Failure> {
    let before = sample.n_excluded;
    while !sample.is_enough() {
        let Some(batch) = reader.next_batch()? else {
            sample.n_excluded = before + reader.rows_excluded();
            return Ok(true);
        };
        sample.add_documents(&batch);
        sample.n_excluded = before + reader.rows_excluded();
    }
    Ok(false)
}

fn queries(mut reader: TableReader, sample: &mut Sample) -> Result<bool, Failure> {
    while !sample.is_enough() {
        let Some(batch) = reader.next_batch()? else {
            return Ok(true);
        };
        sample.add_queries(&batch);
    }
    Ok(false)
}
