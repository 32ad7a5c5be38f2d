//! What an object's own bytes tell, against what the version says of it.

use std::collections::BTreeMap;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema, UInt64Type};
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
    /// By the column `lane` of the first row of each input row, whose rows stand together.
    Groups,
    /// Rows are sequences; a document is in the best lane of those that hold parts of it.
    Sequences,
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
            // The table is the log of a training.
            Some("train_language_model") => Self::Nothing,
            // An input row gives several.
            Some("synthetic_queries" | "graded_documents") => Self::Groups,
            Some("loss_reduction") if has_spans(version, table) => Self::Sequences,
            Some(_) => Self::Status,
            None => Self::Nothing,
        }
    }
}

fn has_spans(version: &Version, table: &str) -> bool {
    let table = version.tables.get(table);
    table.is_some_and(|table| table.schema.field_with_name(columns::SPANS).is_ok())
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
    let schema_columns = metadata.schema_descr();
    let wanted: &[&str] = match counting {
        Counting::Status => &[columns::STATUS],
        Counting::Groups => &[columns::LANE, columns::INPUT_FILE, columns::INPUT_ROW],
        Counting::Sequences => &[columns::STATUS, columns::SPANS],
        Counting::Rows | Counting::Nothing => &[],
    };
    let roots = schema_columns.root_schema().get_fields();
    let counts_lanes = !wanted.is_empty()
        && wanted
            .iter()
            .all(|name| roots.iter().any(|root| root.name() == *name));
    // Without a column of lanes any column does: rows are counted from data, not from the footer.
    let mask = if counts_lanes {
        ProjectionMask::columns(schema_columns, wanted.iter().copied())
    } else {
        ProjectionMask::leaves(schema_columns, [0])
    };
    let footer_rows = metadata.num_rows();
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|error| error.to_string())?;
    let (mut rows, mut lanes) = (0, BTreeMap::<String, u64>::new());
    let mut last_input = None;
    let mut documents = Documents::default();
    for batch in reader {
        let batch = batch.map_err(|error| error.to_string())?;
        rows += batch.num_rows() as u64;
        if !counts_lanes {
            continue;
        }
        if counting == Counting::Sequences {
            documents.add(&batch)?;
        } else {
            count_lanes(&batch, counting, &mut last_input, &mut lanes)?;
        }
    }
    for lane in documents.lanes.into_values() {
        *lanes.entry(lane).or_default() += 1;
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
        counts_lanes.then_some(&lanes),
        &mut messages,
    );
    Ok((rows, messages))
}

/// Counts the lanes of a batch. `last_input` is the input row of the row before it.
fn count_lanes(
    batch: &RecordBatch,
    counting: Counting,
    last_input: &mut Option<(String, String)>,
    lanes: &mut BTreeMap<String, u64>,
) -> Result<(), String> {
    let texts = |name: &str| {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| format!("has no column {name}"))?;
        cast(column, &DataType::Utf8).map_err(|error| error.to_string())
    };
    let groups = counting == Counting::Groups;
    let column = texts(if groups {
        columns::LANE
    } else {
        columns::STATUS
    })?;
    let inputs = groups
        .then(|| Ok::<_, String>((texts(columns::INPUT_FILE)?, texts(columns::INPUT_ROW)?)))
        .transpose()?;
    for (row, lane) in column.as_string::<i32>().iter().enumerate() {
        if let Some((files, rows)) = &inputs {
            let input = (
                files.as_string::<i32>().value(row),
                rows.as_string::<i32>().value(row),
            );
            let is_same = last_input
                .as_ref()
                .is_some_and(|(file, row)| (file.as_str(), row.as_str()) == input);
            if is_same {
                continue;
            }
            *last_input = Some((input.0.to_owned(), input.1.to_owned()));
        }
        *lanes.entry(lane.unwrap_or("null").to_owned()).or_default() += 1;
    }
    Ok(())
}

/// The lane of each document by its place, as the sequences that hold parts of it tell.
#[derive(Default)]
struct Documents {
    lanes: BTreeMap<(String, u64), String>,
}

impl Documents {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.ok_or_else(|| format!("has no column {name}"))
        };
        let status = cast(column(columns::STATUS)?, &DataType::Utf8);
        let status = status.map_err(|error| error.to_string())?;
        let spans = column(columns::SPANS)?.as_list_opt::<i32>();
        let spans = spans.ok_or_else(|| "its column of spans is no list".to_owned())?;
        for (row, status) in status.as_string::<i32>().iter().enumerate() {
            let of_row = spans.value(row);
            let of_row = of_row.as_struct_opt().and_then(|spans| {
                let files = spans.column_by_name(columns::INPUT_FILE)?;
                let rows = spans.column_by_name(columns::INPUT_ROW)?;
                let rows = rows.as_primitive_opt::<UInt64Type>()?;
                Some((files.as_string_opt::<i32>()?.clone(), rows.clone()))
            });
            let (files, rows) = of_row.ok_or_else(|| "its spans have no places".to_owned())?;
            let status = status.unwrap_or("null");
            for (file, place) in files.iter().zip(rows.values()) {
                let lane = self.lanes.entry((file.unwrap_or("").to_owned(), *place));
                let lane = lane.or_insert_with(|| status.to_owned());
                if rank(status) > rank(lane) {
                    status.clone_into(lane);
                }
            }
        }
        Ok(())
    }
}

/// Which lane a document is in that is in several.
fn rank(status: &str) -> u8 {
    match status {
        "ok" => 2,
        "ineligible" => 1,
        _ => 0,
    }
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
