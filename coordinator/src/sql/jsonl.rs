//! Lines of JSON as a table: decompressed and decoded as a stream on a blocking thread, one file
//! after the other. A line that is not a JSON object is a row of nulls, and a value that does not
//! have its column's type is null, so that rows keep their numbers; blank lines are no rows.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use gleaner_schemas::FileFormat;
use gleaner_storage::decode_lines;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;

use crate::sql::table::place_fields;

/// Rows of one batch.
const BATCH_ROWS: usize = 1024;
/// Batches that wait for the query.
const BATCHES_MAX: usize = 2;

/// A file of the table.
#[derive(Debug, Clone)]
pub(crate) struct JsonlFile {
    pub(crate) name: String,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
    pub(crate) format: FileFormat,
}

/// The table.
#[derive(Debug)]
pub(crate) struct JsonlTable {
    lines: Lines,
    schema: SchemaRef,
}

#[derive(Debug, Clone)]
struct Lines {
    /// Columns of the files; any line may lack any.
    nullable: SchemaRef,
    schema: SchemaRef,
    files: Arc<[JsonlFile]>,
}

impl JsonlTable {
    /// A table of these files, with the place of each row if `has_places`.
    pub(crate) fn new(file_schema: SchemaRef, files: Vec<JsonlFile>, has_places: bool) -> Self {
        let mut fields: Vec<_> = file_schema.fields().iter().cloned().collect();
        if has_places {
            fields.extend(place_fields().map(Arc::new));
        }
        let schema = Arc::new(Schema::new(fields));
        let nullable = file_schema.fields().iter();
        let nullable: Vec<_> = nullable
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        Self {
            lines: Lines {
                nullable: Arc::new(Schema::new(nullable)),
                schema: Arc::clone(&schema),
                files: files.into(),
            },
            schema,
        }
    }
}

#[async_trait]
impl TableProvider for JsonlTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let n_parts = state
            .config()
            .target_partitions()
            .clamp(1, self.lines.files.len().max(1));
        let per_part = self.lines.files.len().div_ceil(n_parts).max(1);
        let parts = self
            .lines
            .files
            .chunks(per_part)
            .map(|files| {
                let part = Lines {
                    files: files.into(),
                    ..self.lines.clone()
                };
                Arc::new(part) as Arc<dyn PartitionStream>
            })
            .collect();
        Ok(Arc::new(StreamingTableExec::try_new(
            self.schema(),
            parts,
            projection,
            None,
            false,
            limit,
        )?))
    }
}

impl PartitionStream for Lines {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut builder = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), BATCHES_MAX);
        let sender = builder.tx();
        let lines = self.clone();
        let handle = Handle::current();
        builder.spawn_blocking(move || {
            for file in lines.files.iter() {
                let read = lines.read(file, &handle, &mut |batch| {
                    sender.blocking_send(Ok(batch)).is_ok()
                });
                match read {
                    Ok(true) => {}
                    // The query needs no more.
                    Ok(false) => return Ok(()),
                    Err(error) => {
                        return Err(error.context(format!("cannot read {}", file.name)));
                    }
                }
            }
            Ok(())
        });
        builder.build()
    }
}

impl Lines {
    /// Calls `each` with the rows of a file until it returns false.
    fn read(
        &self,
        file: &JsonlFile,
        handle: &Handle,
        each: &mut dyn FnMut(RecordBatch) -> bool,
    ) -> Result<bool> {
        let found = handle.block_on(file.store.get(&file.path))?;
        let chunks = Chunks {
            handle: handle.clone(),
            stream: found.into_stream(),
            chunk: Bytes::new(),
        };
        let mut reader: Box<dyn BufRead> = match file.format {
            FileFormat::JsonlGzip => {
                Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(chunks)))
            }
            FileFormat::JsonlZstd => Box::new(BufReader::new(zstd::Decoder::new(chunks)?)),
            FileFormat::Jsonl | FileFormat::Parquet => Box::new(BufReader::new(chunks)),
        };
        let mut lines = Vec::new();
        let mut first_row = 0;
        loop {
            let mut line = Vec::new();
            let is_end = reader.read_until(b'\n', &mut line)? == 0;
            if !line.trim_ascii().is_empty() {
                lines.push(line);
            }
            if lines.len() == BATCH_ROWS || (is_end && !lines.is_empty()) {
                let batch = decode_lines(&self.nullable, &lines)
                    .map_err(|message| DataFusionError::External(message.into()))?;
                let batch = self.with_places(&batch, &file.name, first_row)?;
                if !each(batch) {
                    return Ok(false);
                }
                first_row += lines.len() as i64;
                lines.clear();
            }
            if is_end {
                return Ok(true);
            }
        }
    }

    fn with_places(&self, batch: &RecordBatch, name: &str, first_row: i64) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        if columns.len() < self.schema.fields().len() {
            let n_rows = batch.num_rows();
            columns.push(Arc::new(StringArray::from_iter_values(
                std::iter::repeat_n(name, n_rows),
            )));
            columns.push(Arc::new(Int64Array::from_iter_values(
                first_row..first_row + n_rows as i64,
            )));
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// An object as a reader, for blocking threads only.
struct Chunks {
    handle: Handle,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.handle.block_on(self.stream.next()) {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n_bytes = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..n_bytes]);
        Ok(n_bytes)
    }
}
