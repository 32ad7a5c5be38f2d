//! Ids that several rows share. That is no error, and every row stays, but whoever joins by id
//! should know.

use serde_json::Value;

use crate::commands::explain::objects;
use crate::commands::run::RunReport;
use crate::run_error::RunError;
use crate::sql::{Session, quote_name};

/// Above this, comparing ids would take longer than people wait for a summary.
const ROWS_MAX: u64 = 50_000_000;
/// Memory for comparing ids; what does not fit is spilled to disk.
const MEMORY_BYTES: usize = 512 << 20;

/// A sentence about the ids of a table, unless all of them differ.
pub(crate) async fn note(report: &RunReport, table: &str, n_rows: u64) -> Option<String> {
    if n_rows > ROWS_MAX {
        return Some(format!(
            "ids were not compared: {n_rows} rows are more than {ROWS_MAX}"
        ));
    }
    match of_run(report, table).await {
        Ok(note) => note,
        // The run is published; a summary that lacks something is no reason to fail.
        Err(error) => Some(format!("ids were not compared: {error}")),
    }
}

async fn of_run(report: &RunReport, table: &str) -> Result<Option<String>, RunError> {
    let version = &report.published.version;
    let stores = &report.io.stores;
    let session = Session::open_within(stores, &report.output, version, MEMORY_BYTES)?;
    count(&session, table).await
}

/// The same, asked of a session that bounds its memory.
pub(crate) async fn count(session: &Session, table: &str) -> Result<Option<String>, RunError> {
    let sql = format!(
        "SELECT count(*) AS n_ids, sum(n) AS n_rows, min(doc_id) AS example \
         FROM (SELECT doc_id, count(*) AS n FROM {} GROUP BY doc_id HAVING count(*) > 1)",
        quote_name(table)
    );
    let rows = objects(&session.query(&sql).await?)?;
    let get = |key: &str| rows.first().and_then(|row| row.get(key));
    let number = |key: &str| get(key).and_then(Value::as_u64).unwrap_or(0);
    let (n_ids, n_rows) = (number("n_ids"), number("n_rows"));
    if n_ids == 0 {
        return Ok(None);
    }
    let example = get("example").and_then(Value::as_str).unwrap_or_default();
    Ok(Some(format!(
        "{n_ids} ids occur more than once, in {n_rows} rows, for example {example:?}; all rows \
         are kept; tell them apart by input_file and input_row, or give the corpus other ids \
         (`columns: {{id: ...}}`)"
    )))
}
