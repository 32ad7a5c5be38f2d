//! What several sections show of scores: a plot, the figures behind it, the sources.

use serde::Serialize;

use super::distribution::{Bins, Histogram, QUANTILES, SourceHistogram, Spread, Values};
use super::html::{Cell, Table, optional, percent, whole};
use super::input::Input;
use super::svg::{self, Caption, Series, Shape};
use crate::run_error::RunError;

/// How a score is spread.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScoreSpread {
    /// Column or expression.
    pub(crate) score: String,
    /// Figures.
    pub(crate) spread: Spread,
    /// What is drawn.
    pub(crate) histogram: Option<Histogram>,
}

impl ScoreSpread {
    /// Asks for it.
    pub(crate) async fn gather(
        input: &Input,
        score: &str,
        values: &Values,
    ) -> Result<Self, RunError> {
        let spread = values.spread(input).await?;
        let histogram = match bins_of([&spread]) {
            Some(bins) => Some(values.histogram(input, bins).await?),
            None => None,
        };
        Ok(Self {
            score: score.to_owned(),
            spread,
            histogram,
        })
    }

    /// Its plot.
    pub(crate) fn plot(&self, title: &str, unit: &str) -> String {
        let Some(histogram) = &self.histogram else {
            return String::new();
        };
        let description = format!(
            "{} rows, mean {}, median {}",
            whole(self.spread.n),
            optional(self.spread.mean),
            optional(self.spread.quantile(0.5))
        );
        let caption = Caption {
            title,
            description: &description,
            x: unit,
            y: "share of rows",
        };
        let series = Series {
            name: title,
            shape: Shape::Bars,
            histogram,
        };
        svg::histogram(&caption, &[series])
    }
}

/// Bins that show nearly all of these.
pub(crate) fn bins_of<'a>(spreads: impl IntoIterator<Item = &'a Spread>) -> Option<Bins> {
    let ends = spreads.into_iter().flat_map(|spread| {
        let first = spread.quantiles.first().map(|it| it.1);
        first
            .into_iter()
            .chain(spread.quantiles.last().map(|it| it.1))
    });
    Bins::over(ends)
}

/// The figures behind plots: a row for each score.
pub(crate) fn figures(spreads: &[(&str, &Spread)]) -> String {
    const SHOWN: [f64; 5] = [0.05, 0.2, 0.5, 0.8, 0.95];
    let mut titles = vec!["".to_owned(), "#rows".to_owned(), "#mean".to_owned()];
    titles.extend(["#deviation".to_owned(), "#lowest".to_owned()]);
    titles.extend(SHOWN.map(|share| format!("#{:.0}%", 100.0 * share)));
    titles.push("#highest".to_owned());
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let mut table = Table::new(
        "Figures; so many % of the rows are at most the number in that column",
        &titles,
    );
    for (name, spread) in spreads {
        let mut cells = vec![
            Cell::Text((*name).to_owned()),
            Cell::Number(whole(spread.n)),
            Cell::Number(optional(spread.mean)),
            Cell::Number(optional(spread.deviation)),
            Cell::Number(optional(spread.min)),
        ];
        debug_assert!(SHOWN.iter().all(|share| QUANTILES.contains(share)));
        cells.extend(SHOWN.map(|share| Cell::Number(optional(spread.quantile(share)))));
        cells.push(Cell::Number(optional(spread.max)));
        table.row(cells);
    }
    table.finish()
}

/// A score by source.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BySource {
    /// Column or expression.
    pub(crate) score: String,
    /// How many sources there are.
    pub(crate) n_sources: u64,
    /// Those with most rows.
    pub(crate) sources: Vec<SourceHistogram>,
}

impl BySource {
    /// Asks for it. None where rows have no source.
    pub(crate) async fn gather(
        input: &Input,
        score: &str,
        values: &Values,
        spread: &Spread,
    ) -> Result<Option<Self>, RunError> {
        let (sources, n_sources) = values.sources(input).await?;
        let Some(bins) = bins_of([spread]).filter(|_| !sources.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            score: score.to_owned(),
            n_sources,
            sources: values.by_source(input, bins, &sources).await?,
        }))
    }

    /// A row for each source, highest mean first.
    pub(crate) fn render(&self) -> String {
        let caption = format!("{} by source, all on one scale", self.score);
        let titles = ["source", "#rows", "#share", "#mean", "distribution"];
        let mut table = Table::new(&caption, &titles);
        let total: u64 = self.sources.iter().map(|it| it.n).sum();
        let mut sources: Vec<&SourceHistogram> = self.sources.iter().collect();
        sources.sort_by(|a, b| {
            let mean = |it: &SourceHistogram| it.mean.unwrap_or(f64::NEG_INFINITY);
            mean(b)
                .total_cmp(&mean(a))
                .then_with(|| a.source.cmp(&b.source))
        });
        for source in sources {
            let name = source_name(source.source.as_deref());
            let plot = svg::small_histogram(
                &format!("distribution of {} in {name}", self.score),
                &source.histogram,
                None,
            );
            table.row([
                Cell::Text(name),
                Cell::Number(whole(source.n)),
                Cell::Number(percent(source.n as f64 / total.max(1) as f64)),
                Cell::Number(optional(source.mean)),
                Cell::Html(plot),
            ]);
        }
        let mut html = table.finish();
        html.push_str(&more_sources(self.n_sources, self.sources.len()));
        html
    }
}

/// What a row without a source is called.
pub(crate) fn source_name(source: Option<&str>) -> String {
    source.unwrap_or("(no source)").to_owned()
}

/// That there are more sources than are shown.
pub(crate) fn more_sources(n_sources: u64, n_shown: usize) -> String {
    match n_sources.saturating_sub(n_shown as u64) {
        0 => String::new(),
        n => format!(
            "<p class=hint>and {} more sources with fewer rows</p>\n",
            whole(n)
        ),
    }
}
