//! Do two methods mean the same documents? Ranks and the highest of both, and a sample to see.

use serde::Serialize;

use super::losses::LOSS_REDUCTION;
use super::{Section, numbers, weights};
use crate::report::examples::{hash, sample};
use crate::report::html::{Cell, Table, facts, number, percent, whole};
use crate::report::input::{Input, column, count, float};
use crate::report::svg::{self, Caption};
use crate::run_error::RunError;
use crate::sql::quote_name;

/// Pairs of methods that are compared.
const PAIRS_MAX: usize = 6;
/// Tables with more rows are not ranked for a report.
const RANKED_ROWS_MAX: u64 = 50_000_000;
/// Documents of the sample.
const POINTS: u64 = 1500;
/// Shares of the rows whose highest scores are compared.
const SHARES: [f64; 5] = [0.01, 0.05, 0.1, 0.25, 0.5];

/// A score that one method gives to documents.
struct Method {
    stage: String,
    /// SQL over the stage's table.
    expression: String,
    /// How it is written for people.
    label: String,
}

#[derive(Debug, Serialize)]
struct Agreement {
    a: String,
    b: String,
    n: u64,
    /// Spearman's; absent where one of the scores is the same for all.
    rank_correlation: Option<f64>,
    overlaps: Vec<Overlap>,
    /// Scores of both of a sample of the documents.
    points: Vec<(f64, f64)>,
}

/// The highest `k` by one method beside the highest `k` by the other.
#[derive(Debug, Serialize)]
struct Overlap {
    share: f64,
    k: u64,
    common: u64,
    /// `common / k`; by chance it would be `share`.
    overlap: f64,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let methods = methods(input);
    let mut pairs = Vec::new();
    for (idx, a) in methods.iter().enumerate() {
        pairs.extend(methods[idx + 1..].iter().map(|b| (a, b)));
    }
    pairs.retain(|(a, b)| a.stage != b.stage);
    let mut sections = Vec::new();
    for (a, b) in pairs.into_iter().take(PAIRS_MAX) {
        let Some(found) = gather(input, a, b).await? else {
            continue;
        };
        sections.push(Section {
            name: "agreement",
            stage: None,
            title: format!("Agreement: {} and {}", a.stage, b.stage),
            numbers: numbers(&found)?,
            body: render(&found),
        });
    }
    Ok(sections)
}

/// Every score of a method over documents: weights per token, since loss reductions are so too.
fn methods(input: &Input) -> Vec<Method> {
    let mut methods = Vec::new();
    for (stage, of) in input.stages() {
        let n_rows = input.n_rows(stage).unwrap_or(u64::MAX);
        if !input.has(stage, "doc_id") || n_rows > RANKED_ROWS_MAX {
            continue;
        }
        match of.kind.as_str() {
            "importance_weights" => {
                for name in weights::columns(input, stage) {
                    methods.push(Method {
                        stage: stage.to_owned(),
                        expression: format!("{} / n_tokens", quote_name(&name)),
                        label: format!("{stage}.{name} / n_tokens"),
                    });
                }
            }
            "loss_reduction" if input.has(stage, LOSS_REDUCTION) => methods.push(Method {
                stage: stage.to_owned(),
                expression: LOSS_REDUCTION.to_owned(),
                label: format!("{stage}.{LOSS_REDUCTION}"),
            }),
            _ => {}
        }
    }
    methods
}

/// Documents that both have scored, with both scores. Rows of one id are told apart by their place;
/// chunks of documents have ids of their own, which the other method does not know.
fn pairs(input: &Input, a: &Method, b: &Method) -> String {
    let side = |method: &Method| {
        format!(
            "(SELECT doc_id, input_file, input_row, {} AS score FROM {} WHERE {} AND {} IS NOT NULL)",
            method.expression,
            quote_name(&method.stage),
            input.eligible(&method.stage),
            method.expression
        )
    };
    let same = ["doc_id", "input_file", "input_row"]
        .map(|name| format!("{} = {}", column("left", name), column("right", name)));
    format!(
        "(SELECT \"left\".doc_id AS doc_id, \"left\".score AS a, \"right\".score AS b FROM {} AS \
         \"left\" JOIN {} AS \"right\" ON {})",
        side(a),
        side(b),
        same.join(" AND ")
    )
}

async fn gather(input: &Input, a: &Method, b: &Method) -> Result<Option<Agreement>, RunError> {
    let pairs = pairs(input, a, b);
    let overlaps: Vec<String> = SHARES
        .iter()
        .enumerate()
        .map(|(idx, share)| {
            let k = format!("round({share} * n)");
            format!("count(*) FILTER (WHERE a_rank <= {k} AND b_rank <= {k}) AS common_{idx}")
        })
        .collect();
    let sql = format!(
        // Rows of one score share the mean of their ranks: `rank` tells how many are below, `count`
        // how many are not above.
        "SELECT count(*) AS n, corr(a_mean, b_mean) AS correlation, {} FROM (
           SELECT (rank() OVER (ORDER BY a) + count(*) OVER (ORDER BY a)) / 2.0 AS a_mean,
                  (rank() OVER (ORDER BY b) + count(*) OVER (ORDER BY b)) / 2.0 AS b_mean,
                  row_number() OVER (ORDER BY a DESC, doc_id) AS a_rank,
                  row_number() OVER (ORDER BY b DESC, doc_id) AS b_rank,
                  count(*) OVER () AS n
           FROM {pairs})",
        overlaps.join(", ")
    );
    let row = input.row(&sql).await?;
    let n = count(&row, "n");
    if n < 2 {
        return Ok(None);
    }
    let overlaps = SHARES.iter().enumerate().map(|(idx, &share)| {
        let k = (share * n as f64).round() as u64;
        let common = count(&row, &format!("common_{idx}"));
        Overlap {
            share,
            k,
            common,
            overlap: common as f64 / k.max(1) as f64,
        }
    });
    let overlaps = overlaps.filter(|it| it.k > 0);
    let sql = format!(
        "SELECT a, b FROM {pairs} WHERE {} ORDER BY {}, doc_id, a, b LIMIT {POINTS}",
        // So many more that the limit, not chance, says how many there are.
        sample("doc_id", 2.0 * POINTS as f64, n),
        hash("doc_id"),
    );
    let points = input.rows(&sql).await?;
    let points = points
        .iter()
        .filter_map(|row| float(row, "a").zip(float(row, "b")));
    Ok(Some(Agreement {
        a: a.label.clone(),
        b: b.label.clone(),
        n,
        rank_correlation: float(&row, "correlation"),
        overlaps: overlaps.collect(),
        points: points.collect(),
    }))
}

fn render(agreement: &Agreement) -> String {
    let correlation = agreement.rank_correlation.map_or_else(
        || "–".to_owned(),
        |it| number((1000.0 * it).round() / 1000.0),
    );
    let mut html = facts(&[
        ("documents scored by both", whole(agreement.n)),
        ("rank correlation", correlation.clone()),
    ]);
    let description = format!(
        "{} documents; rank correlation of all: {correlation}",
        whole(agreement.points.len() as u64)
    );
    let title = format!(
        "A sample of {} documents",
        whole(agreement.points.len() as u64)
    );
    let caption = Caption {
        title: &title,
        description: &description,
        x: &agreement.a,
        y: &agreement.b,
    };
    html.push_str("<div class=plots>\n");
    html.push_str(&svg::scatter(&caption, &agreement.points));
    let mut table = Table::new(
        "Overlap of the highest k by each",
        &["highest", "#k", "#in common", "#overlap", "#by chance"],
    );
    for overlap in &agreement.overlaps {
        table.row([
            Cell::Text(percent(overlap.share)),
            Cell::Number(whole(overlap.k)),
            Cell::Number(whole(overlap.common)),
            Cell::Number(percent(overlap.overlap)),
            Cell::Number(percent(overlap.share)),
        ]);
    }
    html.push_str(&table.finish());
    html.push_str("</div>\n");
    html
}
