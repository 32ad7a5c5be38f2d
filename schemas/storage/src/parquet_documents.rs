//! Documents of Parquet files, decoded page by page.
//!
//! The synchronous reader of the parquet crate is given ranges of the object as it asks for
//! them, so memory depends on the size of a page and of a batch, never of a row group.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use gleaner_schemas::{DocumentColumns, Failure, FailureKind, Place, Slice};
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::arrow::{ProjectionMask, RowNumber};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaDataBuilder, RowGroupMetaData};
use parquet::schema::types::SchemaDescriptor;

use crate::blocking::{BlockingIo, RangeReader};
use crate::documents::{BatchLimits, PredicateCompiler, RawDocuments};
use crate::read_error::ReadError;

/// Name of the column that counts rows; no file's column is called like that.
const ROW_NUMBER: &str = "gleaner.row";

pub(crate) struct ParquetDocuments {
    slice: Slice,
    file: RangeReader,
    metadata: ArrowReaderMetadata,
    options: ArrowReaderOptions,
    columns: DocumentColumns,
    predicate: Option<Arc<dyn crate::documents::RowPredicate>>,
    limits: BatchLimits,
    row_groups: Range<u32>,
    /// Rows of the file before the current row group, then those before the next.
    rows_before: (u64, u64),
    current: Option<(u32, ParquetRecordBatchReader)>,
    rows_excluded: Arc<AtomicU64>,
}

impl ParquetDocuments {
    pub(crate) fn open(
        io: &BlockingIo,
        slice: &Slice,
        columns: &DocumentColumns,
        predicate: Option<(&str, &dyn PredicateCompiler)>,
        limits: BatchLimits,
    ) -> Result<Self, Failure> {
        let place = || Place::file(&slice.file.name);
        let file =
            RangeReader::open(io, &slice.file).map_err(|error| error.into_failure(place()))?;
        let fail = |error: ParquetError| {
            contents(&file, &slice.file.name, &error.to_string()).into_failure(place())
        };
        let plain = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(fail)?;
        let footer = crate::footer::Footer {
            schema: plain.schema().as_ref().clone(),
            row_groups: Vec::new(),
            is_as_listed: true,
        };
        footer
            .check_columns(&slice.file.name, columns)
            .map_err(|error| error.into_failure(place()))?;
        let row_number =
            Field::new(ROW_NUMBER, DataType::Int64, false).with_extension_type(RowNumber);
        let options = ArrowReaderOptions::new()
            .with_schema(text_as_view(plain.schema(), &columns.text))
            .with_virtual_columns(vec![Arc::new(row_number)])
            .map_err(fail)?;
        let predicate = predicate
            .map(|(sql, compiler)| compiler.compile(sql, plain.schema()))
            .transpose()
            .map_err(|message| {
                Failure::new(FailureKind::Permanent, format!("`where`: {message}")).at(place())
            })?;
        let n_row_groups = plain.metadata().num_row_groups() as u32;
        let (first, end) = slice.row_groups.unwrap_or((0, n_row_groups));
        if end > n_row_groups {
            let error = ReadError::Changed {
                name: slice.file.name.clone(),
            };
            return Err(error.into_failure(place()));
        }
        let rows_before = plain
            .metadata()
            .row_groups()
            .iter()
            .take(first as usize)
            .map(n_rows)
            .fold(0, u64::saturating_add);
        Ok(Self {
            slice: slice.clone(),
            file,
            metadata: plain,
            options,
            columns: columns.clone(),
            predicate,
            limits,
            row_groups: first..end,
            rows_before: (rows_before, rows_before),
            current: None,
            rows_excluded: Arc::default(),
        })
    }

    pub(crate) fn row_group(&self) -> Option<u32> {
        self.current.as_ref().map(|(row_group, _)| *row_group)
    }

    pub(crate) fn rows_excluded(&self) -> u64 {
        self.rows_excluded.load(Ordering::Relaxed)
    }

    pub(crate) fn next_documents(&mut self) -> Result<Option<RawDocuments>, Failure> {
        loop {
            if let Some((row_group, reader)) = &mut self.current {
                let row_group = *row_group;
                match reader.next() {
                    Some(Ok(batch)) if batch.num_rows() == 0 => continue,
                    Some(Ok(batch)) => return self.documents(&batch, row_group).map(Some),
                    Some(Err(error)) => return Err(self.fail(row_group, &error)),
                    None => self.current = None,
                }
            }
            let Some(row_group) = self.row_groups.next() else {
                self.file
                    .check_unchanged()
                    .map_err(|error| error.into_failure(Place::file(&self.slice.file.name)))?;
                return Ok(None);
            };
            self.current = Some((row_group, self.open_row_group(row_group)?));
            let facts = self.metadata.metadata().row_group(row_group as usize);
            let (_, first) = self.rows_before;
            self.rows_before = (first, first.saturating_add(n_rows(facts)));
        }
    }

    /// A reader of one row group, which numbers its rows from 0.
    ///
    /// It is shown a file with that row group alone: whoever numbers rows looks at all row groups
    /// first, which would take a time that is quadratic in their number.
    fn open_row_group(&self, row_group: u32) -> Result<ParquetRecordBatchReader, Failure> {
        let fail = |error: ParquetError| self.fail(row_group, &ArrowError::from(error));
        let facts = self.metadata.metadata().row_group(row_group as usize);
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let needed = self.needed();
        let bytes: i64 = (0..facts.num_columns())
            .filter(|&leaf| needed.contains(&schema.get_column_root(leaf).name()))
            .map(|leaf| facts.column(leaf).uncompressed_size())
            .sum();
        let batch_rows = self
            .limits
            .rows(u64::try_from(bytes).unwrap_or(0), n_rows(facts));
        self.file.expect(self.ranges_from(row_group));
        let alone = ParquetMetaDataBuilder::new(self.metadata.metadata().file_metadata().clone())
            .add_row_group(facts.clone())
            .build();
        let alone =
            ArrowReaderMetadata::try_new(Arc::new(alone), self.options.clone()).map_err(fail)?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), alone)
                .with_projection(mask(schema, &needed))
                .with_batch_size(batch_rows);
        if let Some(predicate) = &self.predicate {
            let columns: Vec<&str> = predicate.columns().iter().map(String::as_str).collect();
            let (predicate, excluded) = (Arc::clone(predicate), Arc::clone(&self.rows_excluded));
            let filter = ArrowPredicateFn::new(mask(schema, &columns), move |batch| {
                let keep = predicate
                    .evaluate(&batch)
                    .map_err(ArrowError::ComputeError)?;
                let n_excluded = keep.len() - keep.true_count();
                excluded.fetch_add(n_excluded as u64, Ordering::Relaxed);
                Ok(keep)
            });
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(filter)]));
        }
        builder.build().map_err(fail)
    }

    /// Where the columns lie that are read of a row group and of the one after it.
    fn ranges_from(&self, row_group: u32) -> Vec<Range<u64>> {
        let metadata = self.metadata.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let filtered = self.predicate.iter().flat_map(|it| it.columns());
        let needed: Vec<&str> = self
            .needed()
            .into_iter()
            .chain(filtered.map(String::as_str))
            .collect();
        let row_groups = metadata.row_groups().iter().skip(row_group as usize);
        row_groups
            .take((self.row_groups.len() + 1).min(2))
            .flat_map(|facts| facts.columns().iter().enumerate())
            .filter(|(leaf, _)| needed.contains(&schema.get_column_root(*leaf).name()))
            .filter_map(|(_, column)| {
                let start = column
                    .dictionary_page_offset()
                    .unwrap_or(column.data_page_offset());
                let start = u64::try_from(start).ok()?;
                let length = u64::try_from(column.compressed_size()).ok()?;
                Some(start..start.saturating_add(length))
            })
            .collect()
    }

    fn needed(&self) -> Vec<&str> {
        let columns = &self.columns;
        [
            columns.id.as_deref(),
            Some(columns.text.as_str()),
            columns.source.as_deref(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn documents(&self, batch: &RecordBatch, row_group: u32) -> Result<RawDocuments, Failure> {
        let as_type = |name: &str, data_type: &DataType| -> Result<ArrayRef, Failure> {
            let column = batch.column_by_name(name).ok_or_else(|| {
                self.fail(
                    row_group,
                    &ArrowError::SchemaError(format!("no column {name}")),
                )
            })?;
            cast(column, data_type).map_err(|error| self.fail(row_group, &error))
        };
        let as_text = |name: &Option<String>| {
            name.as_deref()
                .map(|name| as_type(name, &DataType::Utf8))
                .transpose()
        };
        let rows = as_type(ROW_NUMBER, &DataType::Int64)?;
        let (rows_before, _) = self.rows_before;
        Ok(RawDocuments {
            ids: as_text(&self.columns.id)?,
            texts: as_type(&self.columns.text, &DataType::Utf8View)?
                .as_string_view()
                .clone(),
            sources: as_text(&self.columns.source)?,
            rows: rows
                .as_primitive::<Int64Type>()
                .unary(|row| rows_before.saturating_add(row as u64)),
            reasons: None,
        })
    }

    fn fail(&self, row_group: u32, error: &ArrowError) -> Failure {
        let place = Place {
            row_group: Some(row_group),
            ..Place::file(&self.slice.file.name)
        };
        contents(&self.file, &self.slice.file.name, &error.to_string()).into_failure(place)
    }
}

fn n_rows(row_group: &RowGroupMetaData) -> u64 {
    u64::try_from(row_group.num_rows()).unwrap_or(0)
}

/// What went wrong: a failed read or a change of the file if there was one, else its contents.
pub(crate) fn contents(file: &RangeReader, name: &str, message: &str) -> ReadError {
    file.take_cause().unwrap_or_else(|| ReadError::Contents {
        name: name.to_owned(),
        format: "Parquet",
        message: message.to_owned(),
    })
}

/// Top-level columns by name.
pub(crate) fn mask(schema: &SchemaDescriptor, names: &[&str]) -> ProjectionMask {
    let roots = schema
        .root_schema()
        .get_fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| names.contains(&field.name()))
        .map(|(idx, _)| idx);
    ProjectionMask::roots(schema, roots)
}

/// The schema with the text as views into the pages, which copies nothing.
fn text_as_view(schema: &SchemaRef, text: &str) -> SchemaRef {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| {
            // A column of nulls stays one; nothing else is read as that.
            if field.name() == text && field.data_type() != &DataType::Null {
                Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View))
            } else {
                Arc::clone(field)
            }
        })
        .collect();
    Arc::new(Schema::new(fields))
}
