//! Rows to the bytes of a Parquet object.

use std::io;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use gleaner_schemas::{Failure, FailureKind, Lanes};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::{ArrowWriter, parquet_to_arrow_schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::figures::FigureCounter;
use crate::metadata;

/// Key-value metadata: [`Lanes`] as JSON.
pub const LANES: &str = "gleaner.lanes";
/// Key-value metadata: what made the object, as JSON.
pub const PROVENANCE: &str = "gleaner.provenance";

/// Key-value metadata: [`Figures`](gleaner_schemas::Figures) as JSON.
pub const FIGURES: &str = "gleaner.figures";
/// Key-value metadata: the n-grams of what was scored, as the stage counted them.
pub const NGRAMS: &str = "gleaner.ngrams";
/// What differs from object to object of a table.
const OF_OBJECTS: [&str; 4] = [LANES, PROVENANCE, FIGURES, NGRAMS];

/// Schema metadata: version of the layout of tables.
pub const FORMAT: &str = "gleaner.format";
/// The version that this build writes.
const FORMAT_VERSION: &str = "1";

/// Rows per row group; small enough that readers can work in parallel, large enough that column
/// chunks compress well.
const ROW_GROUP_ROWS_MAX: usize = 1024 * 1024;
/// Bytes per row group, as encoded.
const ROW_GROUP_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Rows of a page, the smallest part of a column that a reader can skip. A page of numbers still has
/// tens of kilobytes, which compress as well as larger ones; its entry in the index has tens of bytes.
const PAGE_ROWS_MAX: usize = 4096;
/// Columns of ids, which come in no order: a Bloom filter tells where one is not, which ranges do
/// not. It takes about ten bits for each id.
const ID_COLUMNS: [&str; 3] = ["doc_id", "query_id", "sequence_id"];
/// Columns of numbers that ascend by one within a file.
const ROW_COLUMNS: [&str; 1] = ["input_row"];
/// Share of the row groups without an id that are read for it all the same.
const BLOOM_FALSE_POSITIVES: f64 = 0.01;
/// Of zstd's levels, the one behind which time grows faster than size falls.
const ZSTD_LEVEL: i32 = 3;

/// Encodes batches into one Parquet object in memory: zstd, page index, Bloom filters of ids, stable bytes (no clock,
/// no random numbers, no version of ours inside).
pub struct TableEncoder {
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
    bytes_max: u64,
    figures: Option<FigureCounter>,
}

impl std::fmt::Debug for TableEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableEncoder")
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl TableEncoder {
    /// An encoder that may hold `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// If Parquet cannot express the schema.
    pub fn new(schema: SchemaRef, bytes_max: u64) -> Result<Self, Failure> {
        // A constant that is within zstd's range; the default level stands in otherwise.
        let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
        let mut properties = WriterProperties::builder()
            .set_data_page_row_count_limit(PAGE_ROWS_MAX)
            .set_compression(Compression::ZSTD(level))
            .set_created_by("gleaner".to_owned())
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX));
        for field in schema.fields() {
            let column = || ColumnPath::from(field.name().as_str());
            let is_id =
                ID_COLUMNS.contains(&field.name().as_str()) && field.data_type().is_string();
            let is_row =
                ROW_COLUMNS.contains(&field.name().as_str()) && field.data_type().is_integer();
            if is_id {
                properties =
                    properties.set_column_bloom_filter_fpp(column(), BLOOM_FALSE_POSITIVES);
            }
            if is_row {
                properties =
                    properties.set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED);
            }
            // Hardly a value comes twice, so that a dictionary takes time and room and saves none.
            if is_id || is_row || field.data_type().is_floating() {
                properties = properties.set_column_dictionary_enabled(column(), false);
            }
        }
        let properties = properties.build();
        let mut schema = schema.as_ref().clone();
        schema
            .metadata
            .insert(FORMAT.to_owned(), FORMAT_VERSION.to_owned());
        let writer = ArrowWriter::try_new(Vec::new(), Arc::new(schema), Some(properties))
            .map_err(write_failure)?;
        Ok(Self {
            writer,
            rows: 0,
            bytes_max,
            figures: None,
        })
    }

    /// The same, for an object of a stage's table: what its rows come to stands in its footer.
    #[must_use]
    pub fn with_figures(mut self, schema: &Schema) -> Self {
        self.figures = Some(FigureCounter::new(schema));
        self
    }

    /// Puts a text into the footer.
    pub fn tell(&mut self, key: &str, value: String) {
        self.writer
            .append_key_value_metadata(KeyValue::new(key.to_owned(), value));
    }

    /// Adds rows.
    ///
    /// # Errors
    ///
    /// Of kind memory when the object outgrows its limit; permanent if the batch does not have
    /// the schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        self.writer.write(batch).map_err(write_failure)?;
        self.rows += batch.num_rows() as u64;
        if let Some(figures) = &mut self.figures {
            figures.add(batch);
        }
        let bytes = (self.writer.bytes_written() + self.writer.memory_size()) as u64;
        if bytes > self.bytes_max {
            return Err(Failure::new(
                FailureKind::Memory,
                format!(
                    "the output of one task exceeds its memory budget ({bytes} of {} bytes); \
                     lower `task_bytes` or raise `memory` in the job file",
                    self.bytes_max
                ),
            ));
        }
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The finished object.
    ///
    /// # Errors
    ///
    /// If encoding the last rows fails.
    pub fn finish(
        mut self,
        lanes: &Lanes,
        provenance: &serde_json::Value,
    ) -> Result<Bytes, Failure> {
        if let Some(figures) = self.figures.take() {
            self.tell(FIGURES, serde_json::json!(figures.finish()).to_string());
        }
        self.tell(LANES, serde_json::json!(lanes).to_string());
        self.tell(PROVENANCE, provenance.to_string());
        Ok(self.writer.into_inner().map_err(write_failure)?.into())
    }
}

fn write_failure(error: ParquetError) -> Failure {
    Failure::new(
        FailureKind::Permanent,
        format!("cannot encode rows as Parquet: {error}"),
    )
}

/// The Arrow schema of one of our objects: the same for all objects of a table.
///
/// # Errors
///
/// If its footer does not hold one.
pub fn table_schema(metadata: &ParquetMetaData) -> Result<Schema, ParquetError> {
    let file = metadata.file_metadata();
    let mut schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())?;
    // These come from the file's own metadata and differ from object to object.
    for key in OF_OBJECTS {
        schema.metadata.remove(key);
    }
    Ok(schema)
}

/// What the footer of one of our objects tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Rows in the object.
    pub rows: u64,
    /// Where the input rows of its task ended up.
    pub lanes: Lanes,
}

/// Reads the footer of one of our objects.
///
/// # Errors
///
/// Of the store, or [`io::ErrorKind::InvalidData`] if it is not one of our objects.
pub async fn read_facts(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: u64,
) -> Result<ObjectFacts, io::Error> {
    let metadata = metadata::fetch(store, path, bytes).await.map_err(|error| {
        let kind = match &error {
            ParquetError::External(_) => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    })?;
    facts_of(&metadata).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{path} has no valid {LANES} metadata"),
        )
    })
}

/// A text of the footer of one of our objects, if it has one under that key.
///
/// # Errors
///
/// As [`metadata::fetch`].
pub async fn read_told(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: u64,
    key: &str,
) -> Result<Option<String>, ParquetError> {
    let metadata = metadata::fetch(store, path, bytes).await?;
    let entries = metadata.file_metadata().key_value_metadata();
    let entry = entries.and_then(|entries| entries.iter().find(|entry| entry.key == key));
    Ok(entry.and_then(|entry| entry.value.clone()))
}

fn facts_of(metadata: &ParquetMetaData) -> Option<ObjectFacts> {
    let file = metadata.file_metadata();
    let lanes = file
        .key_value_metadata()?
        .iter()
        .find(|entry| entry.key == LANES)?;
    Some(ObjectFacts {
        rows: u64::try_from(file.num_rows()).ok()?,
        lanes: serde_json::from_str(lanes.value.as_deref()?).ok()?,
    })
}
