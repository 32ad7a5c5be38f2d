//! What an object's own bytes tell, against what the version says of it.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use gleaner_schemas::{ContentHash, Lanes, TableFile, Version, columns};
use gleaner_storage::{encode, layout};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// How the rows of a table tell their lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// By the column `status`.
    Status,
    /// All are ok: rows of other lanes are left out.
    Rows,
    /// They are no input rows.
    Nothing,
}

impl Counting {
    pub(super) fn of(version: &Version, table: &str) -> Self {
        match version.stages.get(table).map(|stage| stage.kind.as_str()) {
            // A column named `status` is the user's here.
            Some("query" | "select") => Self::Rows,
            Some(_) => Self::Status,
            None => Self::Nothing,
        }
    }
}

/// Everything that an object's bytes tell, against what the version says about it.
pub(super) fn recount(
    bytes: &Bytes,
    schema: &Schema,
    file: &TableFile,
    counting: Counting,
) -> Result<(u64, Vec<String>), String> {
    let mut messages = Vec::new();
    let checksum = ContentHash::of(bytes);
    if checksum != file.checksum {
        messages.push(format!("has checksum {checksum}, not {}", file.checksum));
    }
    match layout::parse_attempt(&file.path) {
        Some((task, attempt)) => {
            if attempt.content() != checksum {
                messages.push(format!("its name says checksum {}", attempt.content()));
            }
            if file.task.as_ref().is_some_and(|named| *named != task) {
                messages.push(format!("its name says task {task}"));
            }
        }
        None => messages.push("its name is not that of an attempt".to_owned()),
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone())
        .map_err(|error| error.to_string())?;
    let found = encode::table_schema(builder.metadata()).map_err(|error| error.to_string())?;
    if found != *schema {
        messages.push(schema_difference(&found, schema));
    }
    let metadata = builder.metadata().file_metadata();
    let stored_lanes: Option<Lanes> = metadata
        .key_value_metadata()
        .and_then(|entries| entries.iter().find(|entry| entry.key == encode::LANES))
        .and_then(|entry| serde_json::from_str(entry.value.as_deref()?).ok());
    let status = (0..metadata.schema_descr().num_columns())
        .filter(|_| counting == Counting::Status)
        .find(|&i| metadata.schema_descr().column(i).path().string() == columns::STATUS);
    // Without a column of lanes any column does: rows are counted from data, not from the footer.
    let mask = ProjectionMask::leaves(metadata.schema_descr(), [status.unwrap_or(0)]);
    let footer_rows = metadata.num_rows();
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|error| error.to_string())?;
    let (mut rows, mut lanes) = (0, BTreeMap::<String, u64>::new());
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        rows += batch.num_rows() as u64;
        if status.is_some() {
            let column =
                cast(batch.column(0), &DataType::Utf8).map_err(|error| error.to_string())?;
            for value in column.as_string::<i32>() {
                *lanes.entry(value.unwrap_or("null").to_owned()).or_default() += 1;
            }
            debug_assert_eq!(column.len(), batch.num_rows());
        }
    }
    if rows != file.rows || u64::try_from(footer_rows) != Ok(rows) {
        messages.push(format!(
            "has {rows} rows; its footer says {footer_rows}, the manifest {}",
            file.rows
        ));
    }
    if counting == Counting::Rows && rows != file.lanes.ok {
        messages.push(format!(
            "has {rows} rows, its lanes say {} ok",
            file.lanes.ok
        ));
    }
    check_lanes(
        file,
        stored_lanes,
        status.is_some().then_some(&lanes),
        &mut messages,
    );
    Ok((rows, messages))
}

fn check_lanes(
    file: &TableFile,
    stored: Option<Lanes>,
    recounted: Option<&BTreeMap<String, u64>>,
    messages: &mut Vec<String>,
) {
    if !file.lanes.is_balanced() {
        messages.push(format!(
            "lanes are not balanced: {}",
            lanes_text(&file.lanes)
        ));
    }
    if stored != Some(file.lanes) {
        messages.push(match stored {
            Some(stored) => format!(
                "its footer says {}, the manifest {}",
                lanes_text(&stored),
                lanes_text(&file.lanes)
            ),
            None => "its footer has no lanes".to_owned(),
        });
    }
    let Some(recounted) = recounted else { return };
    let expected = [
        ("ok", file.lanes.ok),
        ("ineligible", file.lanes.ineligible),
        ("rejected", file.lanes.rejected),
        ("failed", file.lanes.failed),
    ];
    for (lane, expected) in expected {
        let found = recounted.get(lane).copied().unwrap_or(0);
        if found != expected {
            messages.push(format!("has {found} rows that are {lane}, not {expected}"));
        }
    }
    for lane in recounted.keys() {
        if !expected.iter().any(|(known, _)| known == lane) {
            messages.push(format!("has rows with the unknown status {lane:?}"));
        }
    }
}

fn schema_difference(found: &Schema, expected: &Schema) -> String {
    for (i, field) in expected.fields().iter().enumerate() {
        match found.fields().get(i) {
            Some(other) if other == field => {}
            Some(other) => {
                return format!(
                    "column {i} is {} ({}), the table's is {} ({})",
                    other.name(),
                    other.data_type(),
                    field.name(),
                    field.data_type()
                );
            }
            None => return format!("has no column {}", field.name()),
        }
    }
    match found.fields().get(expected.fields().len()) {
        Some(field) => format!(
            "has the column {}, which the table does not have",
            field.name()
        ),
        None => "its schema has other metadata than the table's".to_owned(),
    }
}

pub(super) fn lanes_text(lanes: &Lanes) -> String {
    format!(
        "{} in = {} ok + {} ineligible + {} rejected + {} failed",
        lanes.rows_in, lanes.ok, lanes.ineligible, lanes.rejected, lanes.failed
    )
}
