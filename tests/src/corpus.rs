//! Corpora that tests make: real texts of the examples, and Parquet files of chosen shapes.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::program::{files, repository};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Where it comes from.
    pub source: String,
}

/// All documents of the corpus of the examples, in the order of their files.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn example_documents() -> Vec<Document> {
    let mut documents = Vec::new();
    for path in files(&repository().join("examples/data/corpus")) {
        let file = File::open(path).unwrap();
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap()
        {
            let batch = batch.unwrap();
            let column = |name: &str| {
                let column = cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
                column.as_string::<i32>().clone()
            };
            let (id, text, source) = (column("id"), column("text"), column("source"));
            documents.extend((0..batch.num_rows()).map(|row| Document {
                id: id.value(row).to_owned(),
                text: text.value(row).to_owned(),
                source: source.value(row).to_owned(),
            }));
        }
    }
    documents
}

/// `n` documents of all sources, of the corpus of the examples.
///
/// # Panics
///
/// If it cannot be read.
#[must_use]
pub fn sample_documents(n: usize) -> Vec<Document> {
    let all = example_documents();
    let step = all.len() / n;
    all.into_iter().step_by(step).take(n).collect()
}

/// The first `n` documents about health: a target.
///
/// # Panics
///
/// If they cannot be read.
#[must_use]
pub fn health_documents(n: usize) -> Vec<Document> {
    let mut all = example_documents();
    all.retain(|document| document.source == "health_medquad");
    all.truncate(n);
    all
}

/// Writes documents as Parquet with `rows_per_group` rows in each row group.
///
/// # Panics
///
/// If the file cannot be written.
pub fn write_parquet(path: &Path, documents: &[Document], rows_per_group: usize) {
    let column = |of: fn(&Document) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(documents.iter().map(of)))
    };
    let columns = [
        ("id", column(|document| &document.id)),
        ("text", column(|document| &document.text)),
        ("source", column(|document| &document.source)),
    ];
    write_columns(
        path,
        &RecordBatch::try_from_iter(columns).unwrap(),
        rows_per_group,
    );
}

/// Writes a batch as Parquet with `rows_per_group` rows in each row group.
///
/// # Panics
///
/// If the file cannot be written.
pub fn write_columns(path: &Path, batch: &RecordBatch, rows_per_group: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(rows_per_group))
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(50)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    // Piece by piece: the writer splits a batch by recursion, once for each row group.
    for first in (0..batch.num_rows()).step_by(rows_per_group.max(1)) {
        let n_rows = rows_per_group.min(batch.num_rows() - first);
        writer.write(&batch.slice(first, n_rows)).unwrap();
    }
    writer.close().unwrap();
}

/// Documents as lines of JSON.
#[must_use]
pub fn jsonl(documents: &[Document]) -> String {
    let line = |document: &Document| {
        let value = serde_json::json!({
            "id": document.id, "text": document.text, "source": document.source,
        });
        format!("{value}\n")
    };
    documents.iter().map(line).collect()
}
