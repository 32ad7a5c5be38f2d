//! Checkpoints of Delta tables, which other programs make: all actions up to a commit that still hold,
//! as the rows of Parquet objects. With them the commits before may be gone.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;
use bytes::Bytes;
use gleaner_storage::{Output, OutputError, layout};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnPath;

use super::actions::Line;
use super::log::{lines, malformed};

/// Columns without which a table is not known. Others may have types that JSON has not.
const COLUMNS: [&[&str]; 5] = [
    &["protocol"],
    &["metaData"],
    &["txn"],
    &["add", "path"],
    &["add", "size"],
];

/// The newest checkpoint that is complete: up to which commit it goes, and the keys of its objects.
pub(super) fn newest<'a>(keys: impl Iterator<Item = &'a str>) -> Option<(u64, Vec<&'a str>)> {
    let mut checkpoints: BTreeMap<(u64, u32), Vec<&str>> = BTreeMap::new();
    for key in keys {
        if let Some(checkpoint) = layout::parse_delta_checkpoint(key) {
            checkpoints.entry(checkpoint).or_default().push(key);
        }
    }
    let mut complete = checkpoints
        .into_iter()
        .filter(|((_, n_parts), keys)| keys.len() == *n_parts as usize);
    complete
        .next_back()
        .map(|((number, _), keys)| (number, keys))
}

/// Hands on the actions of an object of a checkpoint.
pub(super) async fn read(
    output: &Output,
    key: &str,
    bytes: Bytes,
    mut each: impl FnMut(Line),
) -> Result<(), OutputError> {
    let decoded = tokio::task::spawn_blocking(move || decode(bytes)).await;
    let batches = decoded
        .map_err(|error| malformed(output, key, error.to_string()))?
        .map_err(|error| malformed(output, key, error.to_string()))?;
    for batch in batches {
        for line in lines(output, key, &batch)? {
            each(line);
        }
    }
    Ok(())
}

/// The rows as lines of JSON.
fn decode(bytes: Bytes) -> Result<Vec<Vec<u8>>, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.parquet_schema();
    let columns = schema.columns().iter().enumerate();
    let needed = columns.filter(|(_, column)| is_needed(column.path()));
    let mask = ProjectionMask::leaves(schema, needed.map(|(idx, _)| idx));
    let reader = builder.with_projection(mask).build()?;
    reader.map(|batch| Ok(json_lines(&batch?)?)).collect()
}

fn is_needed(path: &ColumnPath) -> bool {
    COLUMNS.iter().any(|needed| {
        let start = path.parts().iter().take(needed.len());
        start.eq(needed.iter())
    })
}

fn json_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut text = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut text);
    writer.write(batch)?;
    writer.finish()?;
    Ok(text)
}
