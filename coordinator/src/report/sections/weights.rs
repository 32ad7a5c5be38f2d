//! Importance weights: how they are spread, by source, on how many documents they rest.

use gleaner_schemas::VersionStage;
use serde::Serialize;

use super::{Section, numbers};
use crate::report::distribution::Values;
use crate::report::examples::{self, Tenth};
use crate::report::html::{facts, number, optional, whole};
use crate::report::input::{Input, count, float};
use crate::report::spreads::{BySource, ScoreSpread, figures};
use crate::run_error::RunError;
use crate::sql::quote_name;

/// Columns of weights that are shown of a stage: one for each separate target.
const COLUMNS_MAX: usize = 8;

#[derive(Debug, Serialize)]
struct Weights {
    column: String,
    effective_sample_size: Option<f64>,
    weights: ScoreSpread,
    per_token: ScoreSpread,
    by_source: Option<BySource>,
    tenths: Vec<Tenth>,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut sections = Vec::new();
    for (name, stage) in input.stages_of("importance_weights") {
        for column in columns(input, name).into_iter().take(COLUMNS_MAX) {
            sections.push(section(input, name, stage, &column).await?);
        }
    }
    Ok(sections)
}

/// The columns of weights of a stage, each of one target.
pub(super) fn columns(input: &Input, stage: &str) -> Vec<String> {
    let Some(table) = input.version().tables.get(stage) else {
        return Vec::new();
    };
    let names = table.schema.fields().iter().map(|field| field.name());
    names
        .filter(|name| name.starts_with("log_weight") && !name.contains("_per_token"))
        .cloned()
        .collect()
}

async fn section(
    input: &Input,
    name: &str,
    stage: &VersionStage,
    column: &str,
) -> Result<Section, RunError> {
    let of = Values::column(input, name, column);
    let per_token = Values {
        expression: format!("{} / n_tokens", quote_name(column)),
        filter: format!("{} AND n_tokens > 0", of.filter),
        ..of.clone()
    };
    let weights = ScoreSpread::gather(input, column, &of).await?;
    let expression = format!("{column} / n_tokens");
    let per_token_spread = ScoreSpread::gather(input, &expression, &per_token).await?;
    let further = [
        ("per token", per_token.expression.clone()),
        examples::own("n_tokens"),
    ];
    let found = Weights {
        column: column.to_owned(),
        effective_sample_size: effective_sample_size(input, &of).await?,
        by_source: BySource::gather(input, &expression, &per_token, &per_token_spread.spread)
            .await?,
        tenths: examples::tenths(input, &of, &weights.spread, &further).await?,
        weights,
        per_token: per_token_spread,
    };
    let title = match column {
        "log_weight" => format!("Importance weights: {name}"),
        column => format!("Importance weights: {name}, {column}"),
    };
    Ok(Section {
        name: "weights",
        stage: Some(name.to_owned()),
        title,
        numbers: numbers(&found)?,
        body: render(&found, stage),
    })
}

/// `(sum w)² / sum w²`, with the largest weight as unit, so that no power overflows.
async fn effective_sample_size(input: &Input, values: &Values) -> Result<Option<f64>, RunError> {
    let sql = format!(
        "SELECT count(*) AS n, sum(exp(x - m)) AS w, sum(exp(2 * (x - m))) AS w2 FROM {} CROSS \
         JOIN (SELECT max(x) AS m FROM {})",
        values.sql(""),
        values.sql("")
    );
    let row = input.row(&sql).await?;
    let squares = float(&row, "w2").filter(|it| *it > 0.0 && count(&row, "n") > 0);
    Ok(float(&row, "w")
        .zip(squares)
        .map(|(sum, squares)| sum * sum / squares))
}

fn render(weights: &Weights, stage: &VersionStage) -> String {
    let text = |key: &str| match stage.params.get(key) {
        Some(serde_json::Value::String(text)) => Some(text.clone()),
        Some(value @ serde_json::Value::Number(_)) => Some(value.to_string()),
        _ => None,
    };
    let mut shown = Vec::new();
    if let Some(target) = text("target") {
        shown.push(("target", target));
    }
    shown.extend([
        ("eligible documents", whole(weights.weights.spread.n)),
        (
            "effective sample size",
            optional(weights.effective_sample_size),
        ),
        (
            "mean per token",
            weights
                .per_token
                .spread
                .mean
                .map_or_else(|| "–".to_owned(), |mean| format!("{} nats", number(mean))),
        ),
    ]);
    let mut html = facts(&shown);
    html.push_str(
        "<p>Above zero, a document is more like the target than like the corpus. The effective \
         sample size is how many equally weighted documents carry as much as these.</p>\n<div \
         class=plots>\n",
    );
    html.push_str(
        &weights
            .weights
            .plot("Log weights of documents", "log weight, nats"),
    );
    html.push_str(
        &weights
            .per_token
            .plot("Log weights per token", "nats per token"),
    );
    html.push_str("</div>\n");
    html.push_str(&figures(&[
        (&weights.weights.score, &weights.weights.spread),
        (&weights.per_token.score, &weights.per_token.spread),
    ]));
    if let Some(by_source) = &weights.by_source {
        html.push_str(&by_source.render());
    }
    html.push_str(&examples::render(&weights.column, &weights.tenths));
    html
}
