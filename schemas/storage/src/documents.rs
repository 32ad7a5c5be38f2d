//! Documents of a slice, as batches of [`gleaner_schemas::columns::document_schema`].

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StringArray, StringBuilder,
    StringViewArray, UInt64Array,
};
use arrow::datatypes::SchemaRef;
use gleaner_schemas::columns::document_schema;
use gleaner_schemas::{DocumentColumns, Failure, FailureKind, FileFormat, Slice};

use crate::blocking::BlockingIo;
use crate::jsonl::JsonlDocuments;
use crate::parquet_documents::ParquetDocuments;

/// Bounds of batches.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Bytes of text that a batch aims at.
    pub batch_bytes: u64,
    /// A document with more bytes of text is rejected.
    pub document_bytes_max: u64,
}

/// Rows of a batch at most.
pub(crate) const BATCH_ROWS_MAX: usize = 4096;

impl BatchLimits {
    /// Limits for a slot that may use `memory_bytes`.
    #[must_use]
    pub fn for_memory(memory_bytes: u64) -> Self {
        const BATCH_BYTES_MAX: u64 = 4 << 20;
        Self {
            batch_bytes: (memory_bytes / 32).min(BATCH_BYTES_MAX),
            document_bytes_max: memory_bytes / 8,
        }
    }

    /// Rows that have about [`BatchLimits::batch_bytes`], given what some rows have.
    pub(crate) fn rows(&self, bytes: u64, n_rows: u64) -> usize {
        let rows = self.batch_bytes.saturating_mul(n_rows) / bytes.max(1);
        usize::try_from(rows)
            .unwrap_or(BATCH_ROWS_MAX)
            .clamp(1, BATCH_ROWS_MAX)
    }
}

/// A predicate over the columns of a file.
pub trait RowPredicate: fmt::Debug + Send + Sync {
    /// Names of the columns that it reads.
    fn columns(&self) -> &[String];

    /// Which rows of a batch of these columns belong to the input; null counts as no.
    ///
    /// # Errors
    ///
    /// Why it cannot be evaluated.
    fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray, String>;
}

/// Compiles the `where` of a job file. SQL is not this crate's business.
pub trait PredicateCompiler: fmt::Debug + Send + Sync {
    /// The predicate, for files with this schema.
    ///
    /// # Errors
    ///
    /// What is wrong with the SQL, or which column is missing.
    fn compile(&self, sql: &str, schema: &SchemaRef) -> Result<Arc<dyn RowPredicate>, String>;
}

/// Reads the documents of a slice in the order of the file.
pub struct DocumentReader {
    inner: Inner,
    file_name: String,
    limits: BatchLimits,
}

enum Inner {
    Parquet(Box<ParquetDocuments>),
    Jsonl(Box<JsonlDocuments>),
}

impl fmt::Debug for DocumentReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentReader")
            .field("file", &self.file_name)
            .finish_non_exhaustive()
    }
}

/// Columns as a file gives them, before ids are derived and rows rejected.
pub(crate) struct RawDocuments {
    pub(crate) ids: Option<ArrayRef>,
    pub(crate) texts: StringViewArray,
    pub(crate) sources: Option<ArrayRef>,
    pub(crate) rows: UInt64Array,
    /// Why a row is rejected, where the format knows.
    pub(crate) reasons: Option<StringArray>,
}

impl DocumentReader {
    /// Opens a slice. `predicate` is SQL and who compiles it.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, has changed, or lacks a column.
    pub fn open(
        io: &BlockingIo,
        slice: &Slice,
        columns: &DocumentColumns,
        predicate: Option<(&str, &dyn PredicateCompiler)>,
        limits: BatchLimits,
    ) -> Result<Self, Failure> {
        let inner = match slice.file.format {
            FileFormat::Parquet => Inner::Parquet(Box::new(ParquetDocuments::open(
                io, slice, columns, predicate, limits,
            )?)),
            FileFormat::Jsonl | FileFormat::JsonlGzip | FileFormat::JsonlZstd => Inner::Jsonl(
                Box::new(JsonlDocuments::open(io, slice, columns, predicate, limits)?),
            ),
        };
        Ok(Self {
            inner,
            file_name: slice.file.name.clone(),
            limits,
        })
    }

    /// The next batch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// If the file cannot be read further; the failure names file and row group.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let documents = match &mut self.inner {
            Inner::Parquet(reader) => reader.next_documents()?,
            Inner::Jsonl(reader) => reader.next_documents()?,
        };
        documents.map(|documents| self.batch(documents)).transpose()
    }

    /// The row group that the last batch is of; `None` for formats without them. No batch is of two.
    #[must_use]
    pub fn row_group(&self) -> Option<u32> {
        match &self.inner {
            Inner::Parquet(reader) => reader.row_group(),
            Inner::Jsonl(_) => None,
        }
    }

    /// The line that the `idx`-th row of the last batch is, counted from 1; `None` for formats that
    /// have no lines. Rows do not tell it: blank lines are none.
    #[must_use]
    pub fn line_number(&self, idx: usize) -> Option<u64> {
        match &self.inner {
            Inner::Parquet(_) => None,
            Inner::Jsonl(reader) => reader.line_number(idx),
        }
    }

    /// Rows that the predicate has excluded so far.
    #[must_use]
    pub fn rows_excluded(&self) -> u64 {
        match &self.inner {
            Inner::Parquet(reader) => reader.rows_excluded(),
            Inner::Jsonl(reader) => reader.rows_excluded(),
        }
    }

    fn batch(&self, documents: RawDocuments) -> Result<RecordBatch, Failure> {
        let n_rows = documents.texts.len();
        let ids = self.ids(documents.ids.as_ref(), &documents.rows);
        let sources = match documents.sources {
            Some(sources) => sources,
            None => Arc::new(StringArray::new_null(n_rows)),
        };
        let mut files = StringBuilder::with_capacity(n_rows, n_rows * self.file_name.len());
        for _ in 0..n_rows {
            files.append_value(&self.file_name);
        }
        let reasons = self.reasons(&documents.texts, documents.reasons.as_ref());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(ids),
            Arc::new(documents.texts),
            sources,
            Arc::new(files.finish()),
            Arc::new(documents.rows),
            Arc::new(reasons),
        ];
        RecordBatch::try_new(document_schema(), columns).map_err(|error| {
            Failure::new(
                FailureKind::Permanent,
                format!("{}: columns do not fit together: {error}", self.file_name),
            )
        })
    }

    fn ids(&self, ids: Option<&ArrayRef>, rows: &UInt64Array) -> StringArray {
        let ids = ids.map(|ids| ids.as_string::<i32>());
        if let Some(ids) = ids
            && ids.null_count() == 0
        {
            return ids.clone();
        }
        let mut builder = StringBuilder::with_capacity(rows.len(), rows.len() * 32);
        for (i, row) in rows.values().iter().enumerate() {
            match ids {
                Some(ids) if ids.is_valid(i) => builder.append_value(ids.value(i)),
                _ => builder.append_value(format!("{}#{row}", self.file_name)),
            }
        }
        builder.finish()
    }

    fn reasons(&self, texts: &StringViewArray, known: Option<&StringArray>) -> StringArray {
        let document_bytes_max = self.limits.document_bytes_max;
        // The lower half of a view is the length of its text.
        let too_long = |i: usize| {
            let length = texts.views()[i] as u32;
            (u64::from(length) > document_bytes_max).then_some(length)
        };
        let is_clean = known.is_none()
            && texts.null_count() == 0
            && (0..texts.len()).all(|i| too_long(i).is_none());
        if is_clean {
            return StringArray::new_null(texts.len());
        }
        let reason = |i: usize| {
            if let Some(known) = known.filter(|known| known.is_valid(i)) {
                return Some(known.value(i).to_owned());
            }
            if texts.is_null(i) {
                return Some("the text is null".to_owned());
            }
            too_long(i).map(|length| {
                format!(
                    "the text has {length} bytes, a slot's memory allows {document_bytes_max}; \
                     raise `memory` in the job file"
                )
            })
        };
        (0..texts.len()).map(reason).collect()
    }
}
