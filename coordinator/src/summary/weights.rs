//! What a stage of importance weights found: spread of the weights, highest and lowest documents.

use gleaner_workers::stage::CompletedStage;
use serde::Serialize;
use serde_json::{Map, Value};

use super::documents::{Place, add_excerpts};
use crate::commands::explain::objects;
use crate::commands::run::RunReport;
use crate::run_error::RunError;
use crate::sql::{Session, quote_name};

/// Documents that are shown at each end.
const DOCUMENTS_SHOWN: usize = 5;

/// A column of weights.
#[derive(Debug, Clone, Serialize)]
pub struct WeightsSummary {
    /// Name of the column.
    pub column: String,
    /// Eligible rows.
    pub n_eligible: u64,
    /// Mean log weight per token of the eligible rows, in nats.
    pub mean_per_token: Option<f64>,
    /// `(sum w)^2 / sum w^2` of the eligible rows: how many documents a resampling rests on.
    pub effective_sample_size: Option<f64>,
    /// Eligible documents with the highest weights.
    pub highest: Vec<DocumentSummary>,
    /// Eligible documents with the lowest weights.
    pub lowest: Vec<DocumentSummary>,
}

/// A document, in short.
#[derive(Debug, Clone, Serialize)]
pub struct DocumentSummary {
    /// Its id.
    pub doc_id: String,
    /// Where it comes from.
    pub source: Option<String>,
    /// Its log weight in nats.
    pub log_weight: f64,
    /// Its tokens.
    pub n_tokens: u64,
    /// How its text begins, on one line.
    pub excerpt: Option<String>,
    #[serde(skip)]
    place: Option<Place>,
}

/// Asks for each column of weights.
pub(crate) async fn gather(
    report: &RunReport,
    session: &Session,
    name: &str,
    completed: &CompletedStage,
) -> Result<Vec<WeightsSummary>, RunError> {
    let fields = completed
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str());
    let columns: Vec<&str> = fields
        .filter(|field| field.starts_with("log_weight") && !field.contains("_per_token"))
        .collect();
    let mut summaries = Vec::new();
    for column in columns {
        let mut summary = of_column(session, name, column).await?;
        let documents = summary.highest.iter_mut().chain(&mut summary.lowest);
        let excerpts = documents.map(|document| (document.place.clone(), &mut document.excerpt));
        add_excerpts(&report.io, &report.published.version, excerpts.collect()).await;
        summaries.push(summary);
    }
    Ok(summaries)
}

async fn of_column(
    session: &Session,
    name: &str,
    column: &str,
) -> Result<WeightsSummary, RunError> {
    let table = quote_name(name);
    let weight = quote_name(column);
    let sql = format!(
        "SELECT count(*) AS n, avg({weight} / n_tokens) AS mean, \
         sum(exp({weight} - m)) AS w, sum(exp(2 * ({weight} - m))) AS w2 \
         FROM {table} CROSS JOIN (SELECT max({weight}) AS m FROM {table} WHERE eligible) \
         WHERE eligible"
    );
    let rows = objects(&session.query(&sql).await?)?;
    let number = |key: &str| {
        rows.first()
            .and_then(|row| row.get(key))
            .and_then(Value::as_f64)
    };
    let square = number("w2").filter(|square| *square > 0.0);
    let ends = |order: &str| {
        format!(
            "SELECT doc_id, source, {weight} AS w, n_tokens, input_file, input_row FROM {table} \
             WHERE eligible ORDER BY w {order}, doc_id LIMIT {DOCUMENTS_SHOWN}"
        )
    };
    let documents = async |order: &str| -> Result<Vec<DocumentSummary>, RunError> {
        let rows = objects(&session.query(&ends(order)).await?)?;
        Ok(rows.iter().filter_map(document).collect())
    };
    Ok(WeightsSummary {
        column: column.to_owned(),
        n_eligible: rows
            .first()
            .and_then(|row| row.get("n"))
            .and_then(Value::as_u64)
            .unwrap_or(0),
        mean_per_token: number("mean"),
        effective_sample_size: number("w")
            .zip(square)
            .map(|(sum, square)| sum * sum / square),
        highest: documents("DESC").await?,
        lowest: documents("ASC").await?,
    })
}

fn document(row: &Map<String, Value>) -> Option<DocumentSummary> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| row.get(key).and_then(Value::as_u64);
    Some(DocumentSummary {
        doc_id: text("doc_id")?,
        source: text("source"),
        log_weight: row.get("w")?.as_f64()?,
        n_tokens: number("n_tokens").unwrap_or(0),
        excerpt: None,
        place: text("input_file").zip(number("input_row")),
    })
}
