//! What is known of an input file before its rows are read: schema and sizes.

use std::io::{BufRead as _, BufReader, Cursor, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use gleaner_schemas::{DocumentColumns, FileFormat, SourceFile};
use object_store::{GetOptions, GetRange};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use crate::fetch::fetch_with_meta;
use crate::infer::infer_columns;
use crate::metadata;
use crate::read_error::ReadError;
use crate::stores::Stores;

/// Lines of a jsonl file from which its columns are inferred.
const LINES_INFERRED: usize = 1000;
/// Compressed bytes of a jsonl file that are looked at for that.
const BYTES_INFERRED: u64 = 4 << 20;

/// What a file tells about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Footer {
    /// Its columns.
    pub schema: Schema,
    /// Its row groups; empty for formats without them.
    pub row_groups: Vec<RowGroup>,
    /// Whether it is known to be of that version of the file which has the etag that was asked for: a
    /// file may be replaced after it was listed.
    pub is_as_listed: bool,
}

/// What a footer tells of a row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroup {
    /// Rows.
    pub n_rows: u64,
    /// Uncompressed bytes of each top-level column.
    column_bytes: Box<[u64]>,
}

impl RowGroup {
    /// Uncompressed bytes of some columns.
    #[must_use]
    pub fn bytes_of(&self, schema: &Schema, columns: &[&str]) -> u64 {
        columns
            .iter()
            .filter_map(|name| schema.index_of(name).ok())
            .filter_map(|idx| self.column_bytes.get(idx))
            .sum()
    }
}

/// Reads the footer of a Parquet file, or infers the columns of a jsonl file from its beginning.
///
/// # Errors
///
/// Of the store, or if the file is not what its name says.
pub async fn read_footer(stores: &Stores, file: &SourceFile) -> Result<Footer, ReadError> {
    match file.format {
        FileFormat::Parquet => parquet_footer(stores, file).await,
        FileFormat::Jsonl | FileFormat::JsonlGzip | FileFormat::JsonlZstd => {
            jsonl_footer(stores, file).await
        }
    }
}

async fn parquet_footer(stores: &Stores, file: &SourceFile) -> Result<Footer, ReadError> {
    let contents = |message: String| ReadError::Contents {
        name: file.name.clone(),
        format: "Parquet",
        message,
    };
    if file.bytes < 12 {
        return Err(contents(format!("it has {} bytes", file.bytes)));
    }
    let (store, path) = stores.resolve(&file.uri)?;
    let fetched = metadata::fetch_checked(&store, &path, file.bytes, file.etag.as_deref()).await;
    let (metadata, is_as_listed) = fetched.map_err(|error| match error {
        ParquetError::External(source) => match source.downcast::<object_store::Error>() {
            Ok(source) => ReadError::store(&file.name, *source),
            Err(source) => contents(source.to_string()),
        },
        // The reader counts row groups in 16 bits.
        error if error.to_string().contains("exceeds i16 max") => contents(format!(
            "it has more than {} row groups, which cannot be read; write it with larger ones, or as \
             several files",
            i16::MAX
        )),
        error => contents(format!("{error}; is it cut short?")),
    })?;
    let description = metadata.file_metadata().schema_descr();
    let key_values = metadata.file_metadata().key_value_metadata();
    let schema = parquet_to_arrow_schema(description, key_values)
        .map_err(|error| contents(error.to_string()))?;
    Ok(Footer {
        row_groups: row_groups(&metadata, schema.fields().len()),
        schema,
        is_as_listed,
    })
}

fn row_groups(metadata: &ParquetMetaData, n_columns: usize) -> Vec<RowGroup> {
    let description = metadata.file_metadata().schema_descr();
    metadata
        .row_groups()
        .iter()
        .map(|row_group| {
            let mut column_bytes = vec![0_u64; n_columns];
            for (leaf_idx, column) in row_group.columns().iter().enumerate() {
                let root_idx = description.get_column_root_idx(leaf_idx);
                if let Some(bytes) = column_bytes.get_mut(root_idx) {
                    *bytes += u64::try_from(column.uncompressed_size()).unwrap_or(0);
                }
            }
            RowGroup {
                n_rows: u64::try_from(row_group.num_rows()).unwrap_or(0),
                column_bytes: column_bytes.into(),
            }
        })
        .collect()
}

async fn jsonl_footer(stores: &Stores, file: &SourceFile) -> Result<Footer, ReadError> {
    let (store, path) = stores.resolve(&file.uri)?;
    let (head, is_as_listed) = if file.bytes == 0 {
        (bytes::Bytes::new(), false)
    } else {
        let options = GetOptions {
            range: Some(GetRange::Bounded(0..file.bytes.min(BYTES_INFERRED))),
            ..GetOptions::default()
        };
        let fetched = fetch_with_meta(store.as_ref(), &path, options).await;
        let (head, meta) = fetched.map_err(|error| ReadError::store(&file.name, error))?;
        (head, file.etag.is_some() && meta.e_tag == file.etag)
    };
    let is_whole = head.len() as u64 == file.bytes;
    Ok(Footer {
        schema: infer_schema(&file.name, file.format, &head, is_whole)?,
        row_groups: Vec::new(),
        is_as_listed,
    })
}

/// The columns of the first lines. Lines that are not JSON, and lines whose types most others do
/// not have, are left out; they are rejected when something needs what does not fit.
pub(crate) fn infer_schema(
    name: &str,
    format: FileFormat,
    head: &[u8],
    is_whole: bool,
) -> Result<Schema, ReadError> {
    let contents = |message: String| ReadError::Contents {
        name: name.to_owned(),
        format: "jsonl",
        message,
    };
    let mut lines = BufReader::new(
        decompress(format, Cursor::new(head)).map_err(|error| contents(error.to_string()))?,
    );
    let mut values = Vec::new();
    let mut line = Vec::new();
    while values.len() < LINES_INFERRED {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {
                if let Ok(value @ serde_json::Value::Object(_)) = serde_json::from_slice(&line) {
                    values.push(value);
                }
            }
            // The end of what was fetched is not the end of the file.
            Err(_) if !is_whole || !values.is_empty() => break,
            Err(error) => return Err(contents(error.to_string())),
        }
    }
    infer_columns(&values).map_err(|error| contents(error.to_string()))
}

pub(crate) fn decompress<'a>(
    format: FileFormat,
    reader: impl Read + Send + 'a,
) -> std::io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match format {
        FileFormat::JsonlGzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        FileFormat::JsonlZstd => Box::new(zstd::stream::read::Decoder::new(reader)?),
        FileFormat::Jsonl | FileFormat::Parquet => Box::new(reader),
    })
}

impl Footer {
    /// Whether the columns are there and have usable types.
    ///
    /// # Errors
    ///
    /// If not; the message lists what the file has.
    pub fn check_columns(&self, name: &str, columns: &DocumentColumns) -> Result<(), ReadError> {
        check_columns(name, &self.schema, !self.row_groups.is_empty(), columns)
    }
}

/// The same of a file with this schema.
///
/// # Errors
///
/// As [`Footer::check_columns`].
pub fn check_columns(
    name: &str,
    schema: &Schema,
    has_row_groups: bool,
    columns: &DocumentColumns,
) -> Result<(), ReadError> {
    type Check = fn(&DataType) -> bool;
    let is_name: Check = |data_type| is_text(data_type) || data_type.is_integer();
    const NAME: &str = "a text or an integer";
    let text = Some(columns.text.as_str());
    let checks = [
        ("text", text, "a text", is_text as Check),
        ("id", columns.id.as_deref(), NAME, is_name),
        ("source", columns.source.as_deref(), NAME, is_name),
    ];
    // A jsonl file without a line has no columns and no rows.
    if schema.fields().is_empty() && !has_row_groups {
        return Ok(());
    }
    for (role, column, expected, is_usable) in checks {
        let Some(column) = column else { continue };
        let message = match schema.field_with_name(column) {
            Err(_) => {
                let known: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                format!(
                    "the {role} column \"{column}\" is missing; the file has {}",
                    known.join(", ")
                )
            }
            Ok(field) if !is_usable(field.data_type()) => format!(
                "the {role} column \"{column}\" has type {}, it must be {expected}",
                field.data_type()
            ),
            Ok(_) => continue,
        };
        return Err(ReadError::Column {
            name: name.to_owned(),
            message,
        });
    }
    Ok(())
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// All columns of all files, in the order in which they are first seen. All string types become
/// utf8, and so do columns that hold nothing but nulls; columns are nullable, since a file may
/// lack them.
///
/// # Errors
///
/// If a column has different types in two files.
pub fn unify_schemas<'a>(
    schemas: impl Iterator<Item = (&'a str, &'a Schema)>,
) -> Result<Schema, ReadError> {
    let mut fields: Vec<(Arc<Field>, &str)> = Vec::new();
    let mut by_name = std::collections::HashMap::new();
    for (file, schema) in schemas {
        for field in schema.fields() {
            let unified = Field::new(field.name(), unified_type(field.data_type()), true);
            match by_name.get(field.name()) {
                None => {
                    by_name.insert(field.name().clone(), fields.len());
                    fields.push((Arc::new(unified), file));
                }
                Some(&idx) => {
                    let (known, known_file) = &mut fields[idx];
                    if field.data_type() == &DataType::Null
                        || known.data_type() == unified.data_type()
                    {
                        continue;
                    }
                    return Err(ReadError::Column {
                        name: file.to_owned(),
                        message: format!(
                            "column \"{}\" has type {}, in {known_file} it has type {}",
                            field.name(),
                            unified.data_type(),
                            known.data_type()
                        ),
                    });
                }
            }
        }
    }
    Ok(Schema::new(
        fields
            .into_iter()
            .map(|(field, _)| field)
            .collect::<Vec<_>>(),
    ))
}

fn unified_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Null => DataType::Utf8,
        other if is_text(other) => DataType::Utf8,
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::listing::list_sources;

    fn parquet(text: &str) -> Vec<u8> {
        let column = Arc::new(StringArray::from(vec![text])) as _;
        let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// What is told of another version of a file is never kept for the one that was listed.
    #[tokio::test]
    async fn a_footer_tells_whether_the_file_was_replaced_since_it_was_listed() {
        let jsonl = |text: &str| format!("{{\"text\": \"{text}\"}}\n").into_bytes();
        for name in ["a.parquet", "a.jsonl"] {
            let written = |text: &str| match name {
                "a.jsonl" => jsonl(text),
                _ => parquet(text),
            };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            std::fs::write(&path, written("first")).unwrap();
            let stores = Stores::from_env();
            let listed = list_sources(&stores, &[name.to_owned()], folder.path()).await;
            let [file] = &listed.unwrap()[..] else {
                panic!("one file is there");
            };
            let footer = read_footer(&stores, file).await.unwrap();
            assert!(footer.is_as_listed, "{name}");
            // Of the same size.
            std::fs::remove_file(&path).unwrap();
            std::fs::write(folder.path().join("other"), "takes the place on the disk").unwrap();
            std::fs::write(&path, written("other")).unwrap();
            let footer = read_footer(&stores, file).await.unwrap();
            assert!(!footer.is_as_listed, "{name}");
            // Where the store has no etag, nobody knows.
            let without = SourceFile {
                etag: None,
                ..file.clone()
            };
            let footer = read_footer(&stores, &without).await.unwrap();
            assert!(!footer.is_as_listed, "{name}");
        }
    }
}
