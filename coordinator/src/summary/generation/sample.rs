//! The texts that are measured: of whole queries or documents, chosen by a hash.

use gleaner_schemas::Version;
use serde_json::Value;

use super::{GenerationStage, grade, number, rows, text};
use crate::run_error::RunError;
use crate::sql::{CORPUS, Session, quote_name, with_places};

/// Queries (of `graded_documents`) or documents (of `synthetic_queries`) in the sample.
const GROUPS_SAMPLED: u64 = 1000;
/// Documents of the corpus that count for document frequencies.
const BACKGROUND_SAMPLED: u64 = 2000;

/// A text of the sample with what it was written for.
pub(super) struct Sampled {
    pub(super) group: String,
    pub(super) context: String,
    pub(super) grade: i8,
    pub(super) text: String,
    /// Cosine of the two, by an encoder.
    pub(super) similarity: Option<f64>,
}

/// Texts of a sample of whole groups, with what they were written for.
pub(super) async fn sample(
    version: &Version,
    session: &Session,
    stage: &GenerationStage<'_>,
) -> Result<Vec<Sampled>, RunError> {
    let table = quote_name(stage.name);
    let is_queries = stage.is_queries();
    let group = if is_queries { "doc_id" } else { "query_id" };
    let similarity = match stage.has("similarity") {
        true => "CAST(t.similarity AS DOUBLE)",
        false => "CAST(NULL AS DOUBLE)",
    };
    let sampled = format!(
        "WITH sampled AS (SELECT DISTINCT {group} AS g FROM {table} WHERE status = 'ok' ORDER BY \
         md5({group}), {group} LIMIT {GROUPS_SAMPLED})"
    );
    let sql = if is_queries {
        let input = stage.params.get("input").and_then(Value::as_str);
        let text = version
            .job_file
            .pointer("/corpus/columns/text")
            .and_then(Value::as_str)
            .unwrap_or("text");
        // Not by ids alone, which need not be unique.
        let place = "d.input_file = t.input_file AND d.input_row = t.input_row";
        let (documents, on) = match input {
            Some(input) => (
                with_places(input),
                format!("d.doc_id = t.doc_id AND {place}"),
            ),
            None => (quote_name(CORPUS), place.to_owned()),
        };
        format!(
            "{sampled} SELECT t.doc_id AS g, d.{} AS context, t.grade, t.query AS text, {similarity} AS \
             similarity FROM {table} t \
             JOIN sampled ON sampled.g = t.doc_id JOIN {documents} d ON {on} WHERE t.status = 'ok' \
             ORDER BY t.doc_id, t.query_id, t.input_file, t.input_row",
            quote_name(text)
        )
    } else {
        format!(
            "{sampled} SELECT t.query_id AS g, t.query AS context, t.grade, t.text, {similarity} AS similarity FROM \
             {table} t \
             JOIN sampled ON sampled.g = t.query_id WHERE t.status = 'ok' ORDER BY t.query_id, \
             t.doc_id"
        )
    };
    let rows = rows(session, &sql).await?;
    let sampled = rows.iter().filter_map(|row| {
        Some(Sampled {
            group: text(row, "g"),
            context: text(row, "context"),
            grade: grade(row, "grade")?,
            text: text(row, "text"),
            similarity: row.get("similarity").and_then(Value::as_f64),
        })
    });
    Ok(sampled.collect())
}

/// Texts of a sample of the corpus: every so-many-th row of each file.
pub(super) async fn background(
    session: &Session,
    version: &Version,
) -> Result<Vec<String>, RunError> {
    let column = version
        .job_file
        .pointer("/corpus/columns/text")
        .and_then(Value::as_str)
        .unwrap_or("text");
    let corpus = quote_name(CORPUS);
    let counted = rows(session, &format!("SELECT count(*) AS n FROM {corpus}")).await?;
    let n_rows = counted.first().map_or(0, |row| number(row, "n"));
    let step = (n_rows / BACKGROUND_SAMPLED).max(1);
    let sql = format!(
        "SELECT {} AS text FROM {corpus} WHERE input_row % {step} = 0 ORDER BY input_file, \
         input_row LIMIT {}",
        quote_name(column),
        2 * BACKGROUND_SAMPLED
    );
    let rows = rows(session, &sql).await?;
    Ok(rows.iter().map(|row| text(row, "text")).collect())
}
