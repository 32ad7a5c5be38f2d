//! Losses under language models, and how much the conditional one lowers them.

use serde::Serialize;

use super::{Section, numbers};
use crate::report::distribution::{Histogram, Values};
use crate::report::examples::{self, Tenth};
use crate::report::html::{facts, number, optional, percent, whole};
use crate::report::input::{Input, float};
use crate::report::spreads::{BySource, ScoreSpread, bins_of, figures};
use crate::report::svg::{self, Caption, Series, Shape};
use crate::run_error::RunError;
use crate::sql::quote_name;

/// Name of the column of reductions.
pub(super) const LOSS_REDUCTION: &str = "loss_reduction";
/// Columns of losses that are shown of a stage: one for each model.
const COLUMNS_MAX: usize = 8;

#[derive(Debug, Serialize)]
struct Losses {
    losses: Vec<ScoreSpread>,
    /// The first two on common bins.
    compared: Vec<Histogram>,
    reduction: Option<ScoreSpread>,
    mean_win_fraction: Option<f64>,
    truncated_share: Option<f64>,
    by_source: Option<BySource>,
    tenths: Vec<Tenth>,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut sections = Vec::new();
    for (name, _) in input.stages_of("loss_reduction") {
        let found = gather(input, name).await?;
        sections.push(Section {
            name: "losses",
            stage: Some(name.to_owned()),
            title: format!("Loss reduction: {name}"),
            numbers: numbers(&found)?,
            body: render(&found),
        });
    }
    Ok(sections)
}

async fn gather(input: &Input, name: &str) -> Result<Losses, RunError> {
    let mut losses = Vec::new();
    let columns = loss_columns(input, name);
    for column in &columns {
        let values = Values::column(input, name, column);
        losses.push(ScoreSpread::gather(input, column, &values).await?);
    }
    let mut compared = Vec::new();
    if let [first, second, ..] = &losses[..]
        && let Some(bins) = bins_of([&first.spread, &second.spread])
    {
        for column in &columns[..2] {
            let values = Values::column(input, name, column);
            compared.push(values.histogram(input, bins).await?);
        }
    }
    let mut found = Losses {
        losses,
        compared,
        reduction: None,
        mean_win_fraction: mean(input, name, "win_fraction").await?,
        truncated_share: mean(input, name, "truncated").await?,
        by_source: None,
        tenths: Vec::new(),
    };
    if input.has(name, LOSS_REDUCTION) {
        let values = Values::column(input, name, LOSS_REDUCTION);
        let reduction = ScoreSpread::gather(input, LOSS_REDUCTION, &values).await?;
        let spread = &reduction.spread;
        found.by_source = BySource::gather(input, LOSS_REDUCTION, &values, spread).await?;
        let further = ["prior_nll", "conditional_nll", "win_fraction", "n_tokens"];
        let further: Vec<(&str, String)> = input
            .columns_of(name, &further)
            .into_iter()
            .map(examples::own)
            .collect();
        found.tenths = examples::tenths(input, &values, spread, &further).await?;
        found.reduction = Some(reduction);
    }
    Ok(found)
}

/// The prior's loss, the conditional model's, then others.
fn loss_columns(input: &Input, name: &str) -> Vec<String> {
    const FIRST: [&str; 2] = ["prior_nll", "conditional_nll"];
    let Some(table) = input.version().tables.get(name) else {
        return Vec::new();
    };
    let names = table
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str());
    let others = names.filter(|column| column.ends_with("_nll") && !FIRST.contains(column));
    let first = input.columns_of(name, &FIRST);
    let all = first.into_iter().chain(others).map(str::to_owned);
    all.take(COLUMNS_MAX).collect()
}

async fn mean(input: &Input, table: &str, column: &str) -> Result<Option<f64>, RunError> {
    if !input.has(table, column) {
        return Ok(None);
    }
    let sql = format!(
        "SELECT avg(CAST({} AS DOUBLE)) AS mean FROM {} WHERE {}",
        quote_name(column),
        quote_name(table),
        input.eligible(table)
    );
    Ok(float(&input.row(&sql).await?, "mean"))
}

fn render(losses: &Losses) -> String {
    let mut shown = Vec::new();
    let nats = |mean: Option<f64>| {
        mean.map_or_else(
            || "–".to_owned(),
            |mean| format!("{} nats per token", number(mean)),
        )
    };
    if let Some(reduction) = &losses.reduction {
        shown.push(("rows scored", whole(reduction.spread.n)));
        shown.push(("mean reduction", nats(reduction.spread.mean)));
    }
    for loss in &losses.losses {
        shown.push((loss.score.as_str(), nats(loss.spread.mean)));
    }
    if let Some(share) = losses.mean_win_fraction {
        shown.push(("tokens predicted better", percent(share)));
    }
    if let Some(share) = losses.truncated_share {
        shown.push(("rows cut to the context", percent(share)));
    }
    let mut html = facts(&shown);
    html.push_str("<div class=plots>\n");
    if let Some(reduction) = &losses.reduction {
        html.push_str(&reduction.plot("Loss reductions", "loss reduction, nats per token"));
    }
    html.push_str(&comparison(losses));
    html.push_str("</div>\n");
    let spreads = losses.reduction.iter().chain(&losses.losses);
    let spreads: Vec<_> = spreads.map(|it| (it.score.as_str(), &it.spread)).collect();
    html.push_str(&figures(&spreads));
    if let Some(by_source) = &losses.by_source {
        html.push_str(&by_source.render());
    }
    html.push_str(&examples::render(LOSS_REDUCTION, &losses.tenths));
    html
}

fn comparison(losses: &Losses) -> String {
    let ([first, second, ..], [a, b]) = (&losses.losses[..], &losses.compared[..]) else {
        return match losses.losses.first() {
            Some(only) => only.plot("Losses", "loss, nats per token"),
            None => String::new(),
        };
    };
    let description = format!(
        "median {} of {}, {} of {}",
        optional(first.spread.quantile(0.5)),
        first.score,
        optional(second.spread.quantile(0.5)),
        second.score
    );
    let caption = Caption {
        title: "Losses under both models",
        description: &description,
        x: "loss, nats per token",
        y: "share of rows",
    };
    let series = [
        Series {
            name: &first.score,
            shape: Shape::Bars,
            histogram: a,
        },
        Series {
            name: &second.score,
            shape: Shape::Outline,
            histogram: b,
        },
    ];
    svg::histogram(&caption, &series)
}
