//! `gleaner explain`: where a document stands, stage by stage.

use std::fmt::Write as _;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use gleaner_algorithms::resample::gumbel;
use gleaner_schemas::columns::{DOC_ID, INPUT_FILE, INPUT_ROW, REASON, SPANS, STATUS};
use gleaner_schemas::{Version, VersionStage};
use gleaner_workers::select::{Method, SelectParams};
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value};

use crate::run_error::RunError;
use crate::sql::{Session, quote, quote_name};

/// Rows of one table that are shown: a document may have many chunks.
const ROWS_MAX: usize = 20;

/// Where a document stands.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Its id.
    pub doc_id: String,
    /// Version of the output.
    pub version: u64,
    /// Its place in the corpus, if it was found there.
    pub place: Option<(String, u64)>,
    /// Stages in order.
    pub stages: Vec<Standing>,
}

/// Where a document stands in a stage.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// Name of the stage.
    pub stage: String,
    /// Kind of the stage.
    pub kind: String,
    /// In one word: a lane, `chosen` or `not chosen`.
    pub lane: String,
    /// Why.
    pub reason: Option<String>,
    /// Its rows in the stage's table.
    pub rows: Vec<Map<String, Value>>,
}

/// Looks a document up in every stage.
///
/// # Errors
///
/// If no table and no corpus has it, or of the store.
pub async fn explain(
    session: &Session,
    version: &Version,
    doc_id: &str,
) -> Result<Explanation, RunError> {
    let mut explanation = Explanation {
        doc_id: doc_id.to_owned(),
        version: version.number,
        place: None,
        stages: Vec::new(),
    };
    for name in &version.stage_order {
        let (Some(stage), Some(table)) = (version.stages.get(name), version.tables.get(name))
        else {
            continue;
        };
        if table.schema.field_with_name(SPANS).is_ok() {
            let rows = sequences_of(session, name, &table.schema, doc_id).await?;
            explanation.stages.push(packed(name, stage, rows));
            continue;
        }
        if table.schema.field_with_name(DOC_ID).is_err() {
            continue;
        }
        let is_chunked = table.schema.field_with_name("chunk_start").is_ok();
        let mut condition = format!("{DOC_ID} = {}", quote(doc_id));
        if is_chunked {
            let start = quote(&format!("{doc_id}#"));
            condition = format!("({condition} OR starts_with({DOC_ID}, {start}))");
        }
        let table_name = quote_name(name);
        let sql = format!("SELECT * FROM {table_name} WHERE {condition} LIMIT {ROWS_MAX}");
        let rows = objects(&session.query(&sql).await?)?;
        if explanation.place.is_none() {
            explanation.place = rows.first().and_then(place_of);
        }
        let standing = if stage.kind == "select" {
            selected(session, version, &explanation, name, stage, rows).await?
        } else {
            scored(name, stage, rows)
        };
        explanation.stages.push(standing);
    }
    if explanation.stages.iter().all(|stage| stage.rows.is_empty()) {
        return Err(not_found(version, doc_id));
    }
    Ok(explanation)
}

fn not_found(version: &Version, doc_id: &str) -> RunError {
    let quarantined: usize = version
        .stages
        .values()
        .map(|stage| stage.quarantined.len())
        .sum();
    let excluded: u64 = version
        .stages
        .values()
        .map(|stage| stage.lanes.excluded)
        .sum();
    let mut why = vec![
        "ids are those of the id column, else <file>#<row> as in the column input_file".to_owned(),
    ];
    if quarantined > 0 {
        why.push(format!(
            "{quarantined} tasks were quarantined (gleaner.tasks lists their files)"
        ));
    }
    if excluded > 0 {
        why.push("rows may have been excluded by `where`".to_owned());
    }
    RunError::usage(
        format!(
            "no stage of version {} has a document {doc_id}",
            version.number
        ),
        why.join("; "),
    )
}

fn scored(name: &str, stage: &VersionStage, rows: Vec<Map<String, Value>>) -> Standing {
    let text = |key: &str| {
        let value = rows.first().and_then(|row| row.get(key));
        value.and_then(Value::as_str).map(str::to_owned)
    };
    Standing {
        stage: name.to_owned(),
        kind: stage.kind.clone(),
        lane: text(STATUS)
            .unwrap_or_else(|| if rows.is_empty() { "absent" } else { "ok" }.to_owned()),
        reason: text(REASON),
        rows,
    }
}

/// The sequences that hold parts of a document, each with the part.
async fn sequences_of(
    session: &Session,
    name: &str,
    schema: &Schema,
    doc_id: &str,
) -> Result<Vec<Map<String, Value>>, RunError> {
    let fields = schema.fields().iter();
    let plain = fields.filter(|field| !matches!(field.data_type(), DataType::List(_)));
    let columns: Vec<String> = plain.map(|field| quote_name(field.name())).collect();
    let columns = columns.join(", ");
    let sql = format!(
        "SELECT {columns}, part['first_token'] AS first_token_of_document, part['n_tokens'] AS \
         n_tokens_of_document FROM (SELECT {columns}, unnest({SPANS}) AS part FROM {}) \
         WHERE part['doc_id'] = {} ORDER BY first_token_of_document LIMIT {ROWS_MAX}",
        quote_name(name),
        quote(doc_id)
    );
    objects(&session.query(&sql).await?)
}

/// A document in a table of sequences is in the best lane of those that hold parts of it.
fn packed(name: &str, stage: &VersionStage, rows: Vec<Map<String, Value>>) -> Standing {
    let status = |row: &Map<String, Value>| row.get(STATUS).and_then(Value::as_str) == Some("ok");
    let best = rows.iter().position(status).unwrap_or(0);
    let mut standing = scored(name, stage, rows.get(best).cloned().into_iter().collect());
    standing.rows = rows;
    standing
}

async fn selected(
    session: &Session,
    version: &Version,
    explanation: &Explanation,
    name: &str,
    stage: &VersionStage,
    rows: Vec<Map<String, Value>>,
) -> Result<Standing, RunError> {
    let standing = |lane: &str, reason, rows| Standing {
        stage: name.to_owned(),
        kind: stage.kind.clone(),
        lane: lane.to_owned(),
        reason,
        rows,
    };
    if !rows.is_empty() {
        return Ok(standing("chosen", None, rows));
    }
    let by = stage
        .params
        .get("by")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (source, column) = by.split_once('.').unwrap_or((by, ""));
    let scored = explanation
        .stages
        .iter()
        .find(|stage| stage.stage == source);
    let Some(scored) = scored.filter(|scored| !scored.rows.is_empty()) else {
        return Ok(standing(
            "not chosen",
            Some(format!("{source} has no such row")),
            rows,
        ));
    };
    if scored.lane != "ok" {
        let reason = scored.reason.clone().unwrap_or_default();
        return Ok(standing(
            "not chosen",
            Some(format!("{}: {reason}", scored.lane)),
            rows,
        ));
    }
    let reason = below(session, version, &scored.rows, name, stage, column).await?;
    Ok(standing("not chosen", reason, rows))
}

/// The document's key beside the last that was chosen, where the stage has one order of rows.
async fn below(
    session: &Session,
    version: &Version,
    scored: &[Map<String, Value>],
    name: &str,
    stage: &VersionStage,
    column: &str,
) -> Result<Option<String>, RunError> {
    let table_has = |field: &str| {
        version
            .tables
            .get(name)
            .is_some_and(|table| table.schema.field_with_name(field).is_ok())
    };
    let params = SelectParams::deserialize(&stage.params)
        .map_err(|error| RunError::Internal(format!("parameters of {name}: {error}")))?;
    let score = scored
        .first()
        .and_then(|row| row.get(column))
        .and_then(Value::as_f64);
    let (Some(score), false) = (score, table_has("target")) else {
        return Ok(None);
    };
    if let Some(threshold) = params.threshold {
        return Ok(Some(format!(
            "{column} {score:.6} is below the threshold {threshold}"
        )));
    }
    let doc_id = scored
        .first()
        .and_then(|row| row.get(DOC_ID))
        .and_then(Value::as_str);
    let key = match params.method {
        Method::Resample => {
            score / params.temperature + gumbel(params.seed, "", doc_id.unwrap_or_default())
        }
        _ => score,
    };
    let last = if params.method == Method::BottomK {
        "max"
    } else {
        "min"
    };
    let mut sql = format!("SELECT {last}(key) FROM {}", quote_name(name));
    let mut of_group = String::new();
    if let Some(group_by) = &params.group_by {
        let group = scored
            .first()
            .and_then(|row| row.get(group_by))
            .and_then(Value::as_str);
        let (Some(group), true) = (group, table_has(group_by)) else {
            return Ok(None);
        };
        sql = format!("{sql} WHERE {} = {}", quote_name(group_by), quote(group));
        of_group = format!(" of {group_by} {group}");
    }
    let batches = session.query(&sql).await?;
    let last = batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .map(|batch| {
            let column = batch.column(0);
            let column = column.as_primitive_opt::<Float64Type>()?;
            column.is_valid(0).then(|| column.value(0))
        });
    Ok(Some(match last.flatten() {
        Some(last) => {
            format!("its key is {key:.6}, the last that was chosen{of_group} has {last:.6}")
        }
        None => format!("its key is {key:.6}; nothing was chosen{of_group}"),
    }))
}

fn place_of(row: &Map<String, Value>) -> Option<(String, u64)> {
    let file = row.get(INPUT_FILE)?.as_str()?.to_owned();
    Some((file, row.get(INPUT_ROW)?.as_u64()?))
}

/// Rows as objects: numbers and booleans as such, everything else as text.
pub(crate) fn objects(batches: &[RecordBatch]) -> Result<Vec<Map<String, Value>>, RunError> {
    let internal = |error| RunError::Internal(format!("cannot show a row: {error}"));
    let mut rows = Vec::new();
    for batch in batches {
        let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let data_type = field.data_type();
            let values: Vec<Value> = if data_type.is_floating() {
                let numbers = cast(column, &DataType::Float64).map_err(internal)?;
                numbers
                    .as_primitive::<Float64Type>()
                    .iter()
                    .map(Value::from)
                    .collect()
            } else if data_type.is_integer() {
                let text = cast(column, &DataType::Utf8).map_err(internal)?;
                let number = |text: &str| text.parse::<i64>().map(Value::from).ok();
                let texts = text.as_string::<i32>().iter();
                texts
                    .map(|text| text.and_then(number).unwrap_or(Value::Null))
                    .collect()
            } else {
                let options = FormatOptions::default();
                let formatter = ArrayFormatter::try_new(column, &options).map_err(internal)?;
                let show = |row| match column.is_null(row) {
                    true => Value::Null,
                    false => Value::from(formatter.value(row).to_string()),
                };
                (0..batch.num_rows()).map(show).collect()
            };
            columns.push((field.name().clone(), values));
        }
        for row in 0..batch.num_rows() {
            let cells = columns
                .iter()
                .map(|(name, values)| (name.clone(), values[row].clone()));
            rows.push(cells.collect());
        }
    }
    Ok(rows)
}

impl Explanation {
    /// The explanation as text.
    #[must_use]
    pub fn render(&self) -> String {
        const CELL_MAX: usize = 100;
        let mut text = format!("{} in version {}", self.doc_id, self.version);
        if let Some((file, row)) = &self.place {
            let _ = write!(text, ", row {row} of {file}");
        }
        text.push('\n');
        for stage in &self.stages {
            let _ = write!(text, "  {} ({}): {}", stage.stage, stage.kind, stage.lane);
            if let Some(reason) = &stage.reason {
                let _ = write!(text, ": {reason}");
            }
            text.push('\n');
            for row in &stage.rows {
                for (name, value) in row {
                    let shown = match value {
                        Value::Null => continue,
                        Value::String(value) => value.replace(['\n', '\r'], " "),
                        other => other.to_string(),
                    };
                    let is_known =
                        [DOC_ID, STATUS, REASON, INPUT_FILE, INPUT_ROW].contains(&name.as_str());
                    if !is_known {
                        let shown = crate::summary::text::truncate(&shown, CELL_MAX);
                        let _ = writeln!(text, "    {name:<22} {shown}");
                    }
                }
            }
        }
        text
    }
}
