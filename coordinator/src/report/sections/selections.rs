//! What was chosen: how much, from where, and how its scores lie within all scores.

use serde::Serialize;

use super::{Section, numbers};
use crate::report::distribution::{Histogram, SourceHistogram, Spread, Values};
use crate::report::html::{Cell, Table, facts, number, optional, percent, whole};
use crate::report::input::Input;
use crate::report::spreads::{bins_of, figures, more_sources, source_name};
use crate::report::svg::{self, Caption, Series, Shape};
use crate::run_error::RunError;
use crate::summary::{SelectionSummary, selection};

/// Sources that are shown, those first of which most was chosen.
const SOURCES_MAX: usize = 24;

#[derive(Debug, Serialize)]
struct Selection {
    method: String,
    #[serde(flatten)]
    summary: SelectionSummary,
    /// Of `by_source`, before it was cut.
    n_sources: u64,
    /// Scores that could have been chosen; absent where the scores' table has no such column.
    raw: Option<Scores>,
    chosen: Scores,
}

#[derive(Debug, Serialize)]
struct Scores {
    spread: Spread,
    histogram: Option<Histogram>,
    by_source: Vec<SourceHistogram>,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut sections = Vec::new();
    for (name, stage) in input.stages_of("select") {
        let (params, facts) = (&stage.params, &stage.facts);
        let mut summary =
            selection::gather(input.version(), input.session(), name, params, facts).await?;
        let n_sources = summary.by_source.len() as u64;
        summary.by_source.truncate(SOURCES_MAX);
        let found = gather(input, name, stage, summary, n_sources).await?;
        sections.push(Section {
            name: "selection",
            stage: Some(name.to_owned()),
            title: format!("Selection: {name}"),
            numbers: numbers(&found)?,
            body: render(&found),
        });
    }
    Ok(sections)
}

async fn gather(
    input: &Input,
    name: &str,
    stage: &gleaner_schemas::VersionStage,
    summary: SelectionSummary,
    n_sources: u64,
) -> Result<Selection, RunError> {
    let (scores, column) = summary.by.split_once('.').unwrap_or((&summary.by, ""));
    let raw = input
        .has(scores, column)
        .then(|| Values::column(input, scores, column));
    let chosen = Values {
        table: name.to_owned(),
        expression: "score".to_owned(),
        filter: "true".to_owned(),
    };
    let chosen_spread = chosen.spread(input).await?;
    let raw_spread = match &raw {
        Some(raw) => Some(raw.spread(input).await?),
        None => None,
    };
    let bins = bins_of(raw_spread.iter().chain([&chosen_spread]));
    let sources: Vec<Option<String>> = summary
        .by_source
        .iter()
        .map(|it| it.source.clone())
        .collect();
    let scores = async |values: &Values, spread: Spread| -> Result<Scores, RunError> {
        let Some(bins) = bins else {
            return Ok(Scores {
                spread,
                histogram: None,
                by_source: Vec::new(),
            });
        };
        Ok(Scores {
            spread,
            histogram: Some(values.histogram(input, bins).await?),
            by_source: values.by_source(input, bins, &sources).await?,
        })
    };
    let raw = match raw.as_ref().zip(raw_spread) {
        Some((raw, spread)) => Some(scores(raw, spread).await?),
        None => None,
    };
    let method = stage.params.get("method").and_then(|it| it.as_str());
    Ok(Selection {
        method: method.unwrap_or_default().to_owned(),
        n_sources,
        raw,
        chosen: scores(&chosen, chosen_spread).await?,
        summary,
    })
}

fn render(selection: &Selection) -> String {
    let summary = &selection.summary;
    let share = summary.n_chosen as f64 / summary.n_eligible.max(1) as f64;
    let mut shown = vec![
        (
            "by",
            format!("{}, {}", summary.by, selection.method.replace('_', " ")),
        ),
        (
            "chosen",
            format!(
                "{} of {} eligible ({})",
                whole(summary.n_chosen),
                whole(summary.n_eligible),
                percent(share)
            ),
        ),
    ];
    if let Some(n_tokens) = summary.n_tokens {
        shown.push(("tokens", whole(n_tokens)));
    }
    if let Some(reduction) = summary.kl_reduction {
        shown.push(("KL reduction", format!("{} nats", number(reduction))));
    }
    let mut html = facts(&shown);
    if summary.kl_reduction.is_some() {
        html.push_str(
            "<p>The KL reduction tells how much nearer to the target the chosen documents are \
             than the whole corpus, by their n-grams; above zero is nearer.</p>\n",
        );
    }
    if summary.kl_reduction_by_target.len() > 1 {
        let mut table = Table::new("KL reduction by target", &["target", "#nats"]);
        for (target, reduction) in &summary.kl_reduction_by_target {
            table.row([
                Cell::Text(target.clone()),
                Cell::Number(optional(*reduction)),
            ]);
        }
        html.push_str(&table.finish());
    }
    html.push_str(&scores_plot(selection));
    let mut spreads = vec![("chosen", &selection.chosen.spread)];
    if let Some(raw) = &selection.raw {
        spreads.insert(0, ("all eligible", &raw.spread));
    }
    html.push_str(&figures(&spreads));
    html.push_str(&sources(selection));
    html
}

fn scores_plot(selection: &Selection) -> String {
    let raw = selection.raw.as_ref().and_then(|it| it.histogram.as_ref());
    let mut series = Vec::new();
    if let Some(histogram) = raw {
        series.push(Series {
            name: "all eligible rows",
            shape: Shape::Bars,
            histogram,
        });
    }
    if let Some(histogram) = &selection.chosen.histogram {
        series.push(Series {
            name: "chosen rows",
            shape: if raw.is_some() {
                Shape::Outline
            } else {
                Shape::Bars
            },
            histogram,
        });
    }
    let description = format!(
        "scores of the {} chosen rows",
        whole(selection.summary.n_chosen)
    );
    let caption = Caption {
        title: "Scores: chosen against all",
        description: &description,
        x: &selection.summary.by,
        y: "share of its rows",
    };
    format!(
        "<div class=plots>\n{}</div>\n",
        svg::histogram(&caption, &series)
    )
}

fn sources(selection: &Selection) -> String {
    let by_source = &selection.summary.by_source;
    if by_source.is_empty() {
        return String::new();
    }
    let titles = [
        "source",
        "#in the whole",
        "#chosen",
        "#times",
        "shares: whole, chosen",
        "scores",
        "#chosen rows",
    ];
    let mut table = Table::new(
        "What was chosen by source, against its share of the whole",
        &titles,
    );
    let shares = by_source
        .iter()
        .flat_map(|it| [it.eligible_share, it.chosen_share]);
    let largest = shares.fold(0.0, f64::max);
    let of = |scores: &Scores, source: &Option<String>| -> Option<Histogram> {
        let found = scores.by_source.iter().find(|it| it.source == *source);
        found.map(|it| it.histogram.clone())
    };
    for source in by_source {
        let name = source_name(source.source.as_deref());
        let raw = selection
            .raw
            .as_ref()
            .and_then(|raw| of(raw, &source.source));
        let chosen = of(&selection.chosen, &source.source);
        let label = format!("scores of {name}, all and chosen");
        let plot = raw.map_or_else(String::new, |raw| {
            svg::small_histogram(&label, &raw, chosen.as_ref())
        });
        let times = source.chosen_share / source.eligible_share;
        table.row([
            Cell::Text(name),
            Cell::Number(percent(source.eligible_share)),
            Cell::Number(percent(source.chosen_share)),
            Cell::Number(match times.is_finite() {
                true => format!("×{}", number((100.0 * times).round() / 100.0)),
                false => "–".to_owned(),
            }),
            Cell::Html(svg::bar(
                source.eligible_share,
                source.chosen_share,
                largest,
            )),
            Cell::Html(plot),
            Cell::Number(whole(source.n_chosen)),
        ]);
    }
    let mut html = table.finish();
    html.push_str(&more_sources(selection.n_sources, by_source.len()));
    html
}
