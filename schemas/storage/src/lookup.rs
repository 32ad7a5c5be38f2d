//! Documents by their place: some rows of a file, with all columns that are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use gleaner_schemas::{Failure, FileFormat, Place, SourceFile};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;

use crate::blocking::{BlockingIo, RangeReader};
use crate::documents::BatchLimits;
use crate::jsonl::{Line, Lines, decode_lines};
use crate::parquet_documents::{contents, mask};
use crate::read_error::ReadError;

/// Reads rows of corpus files.
#[derive(Debug, Clone)]
pub struct CorpusLookup {
    io: BlockingIo,
    limits: BatchLimits,
}

type Each<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<(), Failure>;

impl CorpusLookup {
    /// A lookup whose batches keep within `limits`.
    #[must_use]
    pub fn new(io: BlockingIo, limits: BatchLimits) -> Self {
        Self { io, limits }
    }

    /// Calls `each` with batches that hold the given rows of `file` (ascending, without
    /// repetition), in order, with the columns of `schema`; columns that the file does not have
    /// are null, and so are values of lines that do not have their column's type.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `each` returns.
    pub fn for_each(
        &self,
        file: &SourceFile,
        rows: &[u64],
        schema: &SchemaRef,
        each: Each<'_>,
    ) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        match file.format {
            FileFormat::Parquet => self.parquet(file, rows, schema, each),
            FileFormat::Jsonl | FileFormat::JsonlGzip | FileFormat::JsonlZstd => {
                self.jsonl(file, rows, schema, each)
            }
        }
    }

    fn parquet(
        &self,
        source: &SourceFile,
        rows: &[u64],
        schema: &SchemaRef,
        each: Each<'_>,
    ) -> Result<(), Failure> {
        let place = || Place::file(&source.name);
        let file =
            RangeReader::open(&self.io, source).map_err(|error| error.into_failure(place()))?;
        let broken =
            |message: String| contents(&file, &source.name, &message).into_failure(place());
        // The offset index lets pages without a wanted row be skipped.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata =
            ArrowReaderMetadata::load(&file, options).map_err(|error| broken(error.to_string()))?;
        let names: Vec<&str> = schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect();
        for (row_group, (selection, n_selected)) in selections(&metadata, rows) {
            let facts = metadata.metadata().row_group(row_group);
            let bytes = u64::try_from(facts.total_byte_size()).unwrap_or(0);
            let n_rows = u64::try_from(facts.num_rows()).unwrap_or(0);
            let reader =
                ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
                    .with_row_groups(vec![row_group])
                    .with_projection(mask(metadata.parquet_schema(), &names))
                    .with_row_selection(selection)
                    .with_batch_size(self.limits.rows(bytes, n_rows).min(n_selected))
                    .build()
                    .map_err(|error| broken(error.to_string()))?;
            for batch in reader {
                let batch = batch
                    .and_then(|batch| conform(&batch, schema))
                    .map_err(|error| broken(error.to_string()))?;
                each(batch)?;
            }
        }
        file.check_unchanged()
            .map_err(|error| error.into_failure(place()))
    }

    fn jsonl(
        &self,
        source: &SourceFile,
        rows: &[u64],
        schema: &SchemaRef,
        each: Each<'_>,
    ) -> Result<(), Failure> {
        let place = || Place::file(&source.name);
        let line_bytes_max = self.limits.document_bytes_max.saturating_mul(2);
        let mut lines = Lines::open(&self.io, source, line_bytes_max)
            .map_err(|error| error.into_failure(place()))?;
        let mut wanted = rows.iter().copied().peekable();
        let (mut found, mut bytes) = (Vec::new(), 0);
        while wanted.peek().is_some() {
            let next = lines.next().map_err(|error| error.into_failure(place()))?;
            let Some((row, line)) = next else {
                let error = ReadError::Changed {
                    name: source.name.clone(),
                };
                return Err(error.into_failure(place()));
            };
            if wanted.next_if_eq(&row).is_some()
                && let Line::Bytes(line) = line
            {
                bytes += line.len() as u64;
                found.push(line);
            }
            let is_last = wanted.peek().is_none();
            if !found.is_empty() && (is_last || bytes >= self.limits.batch_bytes) {
                let batch = decode_lines(schema, &found).map_err(|message| {
                    let error = ReadError::Contents {
                        name: source.name.clone(),
                        format: "jsonl",
                        message,
                    };
                    error.into_failure(place())
                })?;
                each(batch)?;
                found.clear();
                bytes = 0;
            }
        }
        Ok(())
    }
}

/// Which rows of which row groups, and how many.
fn selections(
    metadata: &ArrowReaderMetadata,
    rows: &[u64],
) -> BTreeMap<usize, (RowSelection, usize)> {
    let mut selections = BTreeMap::new();
    let mut rest = rows;
    let mut first_row = 0_u64;
    for (idx, row_group) in metadata.metadata().row_groups().iter().enumerate() {
        let end_row = first_row + u64::try_from(row_group.num_rows()).unwrap_or(0);
        let n_within = rest.partition_point(|&row| row < end_row);
        let (within, after) = rest.split_at(n_within);
        if !within.is_empty() {
            let mut selectors = Vec::new();
            let mut next_row = first_row;
            for &row in within {
                if row > next_row {
                    selectors.push(RowSelector::skip((row - next_row) as usize));
                }
                selectors.push(RowSelector::select(1));
                next_row = row + 1;
            }
            if end_row > next_row {
                selectors.push(RowSelector::skip((end_row - next_row) as usize));
            }
            selections.insert(idx, (RowSelection::from(selectors), n_within));
        }
        rest = after;
        first_row = end_row;
    }
    selections
}

/// The batch with the columns of `schema`.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns: Result<Vec<ArrayRef>, ArrowError> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns?)
}
