//! Rows of Gleaner's own Parquet objects.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use gleaner_schemas::{ContentHash, Failure, FailureKind, Place};
use object_store::GetOptions;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};

pub use crate::blocking::BlockingIo;
use crate::blocking::RangeReader;
use crate::fetch::fetch;
use crate::parquet_documents::{contents, mask};
use crate::read_error::ReadError;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// Reads an object of a table, page by page.
pub struct TableReader {
    uri: String,
    file: RangeReader,
    reader: ParquetRecordBatchReader,
    order: Option<Vec<usize>>,
}

impl std::fmt::Debug for TableReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableReader")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

impl TableReader {
    /// Opens an object. Batches have the named columns in their order, or all.
    ///
    /// # Errors
    ///
    /// If the object cannot be read or lacks a column.
    pub fn open(io: &BlockingIo, uri: &str, columns: Option<&[String]>) -> Result<Self, Failure> {
        let fail = |error: ReadError| error.into_failure(Place::file(uri));
        let file = RangeReader::open_object(io, uri).map_err(fail)?;
        let broken = |error: &dyn std::fmt::Display| fail(contents(&file, uri, &error.to_string()));
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|error| broken(&error))?;
        let mut builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
                .with_batch_size(BATCH_ROWS);
        let mut order = None;
        if let Some(columns) = columns {
            let names: Vec<&str> = columns.iter().map(String::as_str).collect();
            builder = builder.with_projection(mask(metadata.parquet_schema(), &names));
            order = Some(
                projected_order(metadata.schema(), columns).map_err(|column| {
                    fail(ReadError::Column {
                        name: uri.to_owned(),
                        message: format!("column \"{column}\" is missing"),
                    })
                })?,
            );
        }
        let reader = builder.build().map_err(|error| broken(&error))?;
        Ok(Self {
            uri: uri.to_owned(),
            file,
            reader,
            order,
        })
    }

    /// The next batch, or `None` at the end.
    ///
    /// # Errors
    ///
    /// If the object cannot be read further.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        let Some(next) = self.reader.next() else {
            return Ok(None);
        };
        let ordered = next.and_then(|batch| match &self.order {
            Some(order) => batch.project(order),
            None => Ok(batch),
        });
        ordered.map(Some).map_err(|error| {
            contents(&self.file, &self.uri, &error.to_string()).into_failure(Place::file(&self.uri))
        })
    }
}

/// Where each wanted column stands among the projected ones, which keep the order of the file.
fn projected_order(schema: &SchemaRef, columns: &[String]) -> Result<Vec<usize>, String> {
    let projected: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| columns.iter().any(|column| column == name))
        .collect();
    columns
        .iter()
        .map(|column| {
            let place = projected.iter().position(|name| name == column);
            place.ok_or_else(|| column.clone())
        })
        .collect()
}

/// Small objects that are fetched whole, and how many of them at a time: from a store, the time of a
/// request outweighs that of its bytes.
const SMALL_OBJECT_BYTES_MAX: u64 = 1 << 20;
const SMALL_OBJECTS_AT_A_TIME: usize = 32;

/// Calls `each` with every batch of some objects of ours, given by URI and size, and the object's
/// number. Small ones are fetched side by side.
///
/// # Errors
///
/// If an object cannot be read, or what `each` returns.
pub fn for_each_of_object(
    io: &BlockingIo,
    objects: &[(String, u64)],
    each: &mut dyn FnMut(usize, RecordBatch) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut number = 0;
    let is_small = |bytes: u64| bytes <= SMALL_OBJECT_BYTES_MAX;
    for same in objects.chunk_by(|a, b| is_small(a.1) && is_small(b.1)) {
        for some in same.chunks(SMALL_OBJECTS_AT_A_TIME) {
            let fetched = match some {
                [(_, bytes)] if !is_small(*bytes) => Vec::new(),
                small => fetch_small(io, small)?,
            };
            let mut fetched = fetched.into_iter();
            for (uri, _) in some {
                let mut each = |batch: RecordBatch| each(number, batch);
                match fetched.next() {
                    Some(bytes) => batches_of(uri, bytes, &mut each)?,
                    None => {
                        let mut reader = TableReader::open(io, uri, None)?;
                        while let Some(batch) = reader.next_batch()? {
                            each(batch)?;
                        }
                    }
                }
                number += 1;
            }
        }
    }
    Ok(())
}

fn fetch_small(io: &BlockingIo, objects: &[(String, u64)]) -> Result<Vec<Bytes>, Failure> {
    let mut resolved = Vec::with_capacity(objects.len());
    for (uri, _) in objects {
        let fail = |error: ReadError| error.into_failure(Place::file(uri));
        resolved.push((uri, io.stores.resolve(uri).map_err(fail)?));
    }
    let fetches = resolved.iter().map(|(uri, (store, path))| async move {
        let fetched = fetch(store.as_ref(), path, GetOptions::default()).await;
        let fetched = fetched.map_err(|error| ReadError::store(uri, error));
        Ok::<_, object_store::Error>(
            fetched.map_err(|error| error.into_failure(Place::file(uri.as_str()))),
        )
    });
    let fetched = io.wait(futures::future::try_join_all(fetches));
    let cancelled = |error| ReadError::store("objects of a reduce", error);
    let fetched = fetched
        .map_err(|error| Failure::new(FailureKind::Transient, cancelled(error).to_string()))?;
    fetched.into_iter().collect()
}

fn batches_of(
    uri: &str,
    bytes: Bytes,
    each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let broken = |message: String| {
        let error = ReadError::Contents {
            name: uri.to_owned(),
            format: "Parquet",
            message,
        };
        error.into_failure(Place::file(uri))
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(|error| broken(error.to_string()))?;
    for batch in reader {
        each(batch.map_err(|error| broken(error.to_string()))?)?;
    }
    Ok(())
}

/// All rows of an object that was fetched, and what its footer tells under `key`.
///
/// # Errors
///
/// If the bytes are not Parquet.
pub fn decode(
    name: &str,
    bytes: Bytes,
    key: &str,
) -> Result<(Option<String>, Vec<RecordBatch>), Failure> {
    let broken = |message: String| {
        let error = ReadError::Contents {
            name: name.to_owned(),
            format: "Parquet",
            message,
        };
        error.into_failure(Place::file(name))
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .map_err(|error| broken(error.to_string()))?;
    let entries = builder.metadata().file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == key));
    let told = entry.and_then(|entry| entry.value.clone());
    let reader = builder.with_batch_size(BATCH_ROWS).build();
    let batches = reader
        .map_err(|error| broken(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| broken(error.to_string()))?;
    Ok((told, batches))
}

/// All rows of a small object, after checking the hash of its bytes.
///
/// # Errors
///
/// If the object cannot be read or is not the one that is expected.
pub fn read_whole(
    io: &BlockingIo,
    uri: &str,
    content: &ContentHash,
) -> Result<Vec<RecordBatch>, Failure> {
    let fail = |error: ReadError| error.into_failure(Place::file(uri));
    let (store, path) = io.stores.resolve(uri).map_err(fail)?;
    let bytes = io
        .wait(fetch(store.as_ref(), &path, GetOptions::default()))
        .map_err(|error| fail(ReadError::store(uri, error)))?;
    if ContentHash::of(&bytes) != *content {
        return Err(Failure::new(
            FailureKind::Permanent,
            format!("{uri} has other bytes than when it was written (expected hash {content})"),
        ));
    }
    let broken = |message: String| {
        fail(ReadError::Contents {
            name: uri.to_owned(),
            format: "Parquet",
            message,
        })
    };
    ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| broken(error.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|error| broken(error.to_string()))
}
