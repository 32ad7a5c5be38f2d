//! What stages with language models found: how training went, how losses are spread, which
//! documents and sources the models disagree about most.

use std::collections::BTreeMap;

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
/// Shares of the rows that lie below the figures of a [`Spread`].
const QUANTILES: [f64; 5] = [0.05, 0.25, 0.5, 0.75, 0.95];
/// Tables with more rows are not ranked for a summary: that would sort them in memory.
const RANKED_ROWS_MAX: u64 = 5_000_000;
/// The overlap is measured among this share of the rows.
const TOP_SHARE: u64 = 10;

/// How a model was trained.
#[derive(Debug, Clone, Serialize)]
pub struct TrainingSummary {
    /// Learned numbers.
    pub n_parameters: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps that were made.
    pub n_steps: u64,
    /// The step whose weights were kept.
    pub best_step: u64,
    /// Mean loss of the held-out tokens before the first step, in nats.
    pub first_held_out_loss: Option<f64>,
    /// The same with the weights that were kept.
    pub held_out_loss: Option<f64>,
    /// Folder of the model's files, relative to the output.
    pub folder: Option<String>,
}

/// A column of losses or reductions.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    /// Name of the column.
    pub column: String,
    /// Mean over the rows with a loss.
    pub mean: Option<f64>,
    /// Below them lie 5, 25, 50, 75, 95 % of the rows (approximately).
    pub quantiles: Vec<Option<f64>>,
}

/// The mean reduction of a source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceReduction {
    /// The source; absent for rows without one.
    pub source: Option<String>,
    /// Rows with a loss.
    pub n: u64,
    /// Their mean reduction, in nats per token.
    pub mean: Option<f64>,
}

/// How far the reduction and the importance weights agree.
#[derive(Debug, Clone, Serialize)]
pub struct Agreement {
    /// Stage and column of the weights, per token.
    pub with: String,
    /// Rows that have both.
    pub n: u64,
    /// Spearman's correlation of the ranks.
    pub rank_correlation: Option<f64>,
    /// Share of the highest tenth by the one that is in the highest tenth by the other; a tenth
    /// where they have nothing to do with each other.
    pub overlap: Option<f64>,
}

/// A document with its losses.
#[derive(Debug, Clone, Serialize)]
pub struct LossDocument {
    /// Id of the document or the sequence.
    pub id: String,
    /// Where it comes from.
    pub source: Option<String>,
    /// Its reduction, in nats per token.
    pub loss_reduction: f64,
    /// Share of its tokens that the conditional model predicts better.
    pub win_fraction: Option<f64>,
    /// Share of its reduction that its best tenth of tokens carries.
    pub top_decile_share: Option<f64>,
    /// How its text begins, on one line.
    pub excerpt: Option<String>,
    #[serde(skip)]
    place: Option<Place>,
}

/// What a stage of losses found.
#[derive(Debug, Clone, Serialize)]
pub struct LossSummary {
    /// Of each model, then of the reduction.
    pub spreads: Vec<Spread>,
    /// Highest first.
    pub by_source: Vec<SourceReduction>,
    /// With each stage of importance weights over the same documents.
    pub agreement: Vec<Agreement>,
    /// Rows with the highest reductions.
    pub highest: Vec<LossDocument>,
    /// Rows with the lowest.
    pub lowest: Vec<LossDocument>,
}

/// What a training stage tells of itself.
pub(crate) fn training(facts: &BTreeMap<String, Value>) -> Option<TrainingSummary> {
    let training = facts.get("training")?;
    let model = facts.get("model")?;
    let number = |key: &str| training.get(key).and_then(Value::as_u64);
    let file = model.get("files")?.get(0)?;
    let path = file.get("place")?.get("path").and_then(Value::as_str);
    Some(TrainingSummary {
        n_parameters: model.get("n_parameters")?.as_u64()?,
        tokens: number("tokens")?,
        n_steps: number("n_steps")?,
        best_step: number("best_step")?,
        first_held_out_loss: training.get("first_held_out_loss").and_then(Value::as_f64),
        held_out_loss: training.get("held_out_loss").and_then(Value::as_f64),
        folder: path
            .and_then(|path| path.rsplit_once('/'))
            .map(|(folder, _)| folder.to_owned()),
    })
}

/// Asks for one stage of losses.
pub(crate) async fn gather(
    report: &RunReport,
    session: &Session,
    name: &str,
    completed: &CompletedStage,
) -> Result<LossSummary, RunError> {
    let columns: Vec<&str> = completed
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| *name == "loss_reduction" || name.ends_with("_nll"))
        .collect();
    let has_reduction = columns.contains(&"loss_reduction");
    let mut summary = LossSummary {
        spreads: Vec::new(),
        by_source: Vec::new(),
        agreement: Vec::new(),
        highest: Vec::new(),
        lowest: Vec::new(),
    };
    for column in columns {
        summary.spreads.push(spread(session, name, column).await?);
    }
    if !has_reduction {
        return Ok(summary);
    }
    let has = |column: &str| completed.schema.field_with_name(column).is_ok();
    if has("source") {
        summary.by_source = by_source(session, name).await?;
    }
    let n_rows = report
        .published
        .version
        .tables
        .get(name)
        .map_or(0, |table| table.rows);
    if has("doc_id") && n_rows <= RANKED_ROWS_MAX {
        for (other, finished) in &report.stages {
            let has_weights = finished
                .completed
                .schema
                .field_with_name("log_weight")
                .is_ok();
            if finished.completed.kind == "importance_weights" && has_weights {
                summary
                    .agreement
                    .extend(agreement(session, name, other).await?);
            }
        }
    }
    let place = if has("doc_id") {
        "doc_id AS id, source, input_file, input_row"
    } else {
        "sequence_id AS id"
    };
    summary.highest = ends(session, name, place, "DESC").await?;
    summary.lowest = ends(session, name, place, "ASC").await?;
    let documents = summary.highest.iter_mut().chain(&mut summary.lowest);
    let excerpts = documents.map(|document| (document.place.clone(), &mut document.excerpt));
    add_excerpts(&report.io, &report.published.version, excerpts.collect()).await;
    Ok(summary)
}

async fn spread(session: &Session, name: &str, column: &str) -> Result<Spread, RunError> {
    let quoted = quote_name(column);
    let quantiles = QUANTILES.iter().enumerate().map(|(idx, quantile)| {
        format!("approx_percentile_cont({quantile}) WITHIN GROUP (ORDER BY {quoted}) AS q{idx}")
    });
    let sql = format!(
        "SELECT avg({quoted}) AS mean, {} FROM {} WHERE eligible",
        quantiles.collect::<Vec<_>>().join(", "),
        quote_name(name)
    );
    let rows = objects(&session.query(&sql).await?)?;
    let number = |key: &str| {
        rows.first()
            .and_then(|row| row.get(key))
            .and_then(Value::as_f64)
    };
    Ok(Spread {
        column: column.to_owned(),
        mean: number("mean"),
        quantiles: (0..QUANTILES.len())
            .map(|idx| number(&format!("q{idx}")))
            .collect(),
    })
}

async fn by_source(session: &Session, name: &str) -> Result<Vec<SourceReduction>, RunError> {
    let sql = format!(
        "SELECT source, count(*) AS n, avg(loss_reduction) AS mean FROM {} WHERE eligible \
         GROUP BY source ORDER BY mean DESC, source",
        quote_name(name)
    );
    let rows = objects(&session.query(&sql).await?)?;
    let sources: Vec<SourceReduction> = rows
        .iter()
        .map(|row| SourceReduction {
            source: row.get("source").and_then(Value::as_str).map(str::to_owned),
            n: row.get("n").and_then(Value::as_u64).unwrap_or(0),
            mean: row.get("mean").and_then(Value::as_f64),
        })
        .collect();
    let has_source = sources.iter().any(|source| source.source.is_some());
    Ok(if has_source { sources } else { Vec::new() })
}

async fn agreement(
    session: &Session,
    name: &str,
    weights: &str,
) -> Result<Option<Agreement>, RunError> {
    // Rows of one id are told apart by their place, as the report does. Chunks have ids of their own;
    // the join then finds nothing. Equal scores share the mean of their
    // ranks, as Spearman has it; which of them are among the highest is decided by their ids, as
    // selections do.
    let sql = format!(
        "WITH scores AS (
           SELECT l.doc_id, l.input_file, l.input_row, l.loss_reduction AS x,
                  w.log_weight / w.n_tokens AS y
           FROM {} l JOIN {} w
             ON w.doc_id = l.doc_id AND w.input_file = l.input_file AND w.input_row = l.input_row
           WHERE l.eligible AND w.eligible
         ), places AS (
           SELECT rank() OVER (ORDER BY x) + (count(*) OVER (PARTITION BY x) - 1) / 2.0 AS rank_x,
                  rank() OVER (ORDER BY y) + (count(*) OVER (PARTITION BY y) - 1) / 2.0 AS rank_y,
                  row_number() OVER (ORDER BY x DESC, doc_id, input_file, input_row) AS place_x,
                  row_number() OVER (ORDER BY y DESC, doc_id, input_file, input_row) AS place_y,
                  count(*) OVER () AS n
           FROM scores
         )
         SELECT count(*) AS n, corr(rank_x, rank_y) AS correlation,
                sum(CASE WHEN place_x <= n / {TOP_SHARE} AND place_y <= n / {TOP_SHARE} THEN 1
                    ELSE 0 END) AS common
         FROM places",
        quote_name(name),
        quote_name(weights)
    );
    let rows = objects(&session.query(&sql).await?)?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let n = row.get("n").and_then(Value::as_u64).unwrap_or(0);
    let common = row.get("common").and_then(Value::as_u64).unwrap_or(0);
    let n_top = n / TOP_SHARE;
    Ok((n > 1).then(|| Agreement {
        with: format!("{weights}.log_weight / n_tokens"),
        n,
        rank_correlation: row.get("correlation").and_then(Value::as_f64),
        overlap: (n_top > 0).then(|| common as f64 / n_top as f64),
    }))
}

async fn ends(
    session: &Session,
    name: &str,
    place: &str,
    order: &str,
) -> Result<Vec<LossDocument>, RunError> {
    let sql = format!(
        "SELECT {place}, loss_reduction, win_fraction, top_decile_share FROM {} WHERE eligible \
         ORDER BY loss_reduction {order}, id LIMIT {DOCUMENTS_SHOWN}",
        quote_name(name)
    );
    let rows = objects(&session.query(&sql).await?)?;
    Ok(rows.iter().filter_map(document).collect())
}

fn document(row: &Map<String, Value>) -> Option<LossDocument> {
    let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let float = |key: &str| row.get(key).and_then(Value::as_f64);
    Some(LossDocument {
        id: text("id")?,
        source: text("source"),
        loss_reduction: float("loss_reduction")?,
        win_fraction: float("win_fraction"),
        top_decile_share: float("top_decile_share"),
        excerpt: None,
        place: text("input_file").zip(row.get("input_row").and_then(Value::as_u64)),
    })
}

/// Names of quantiles, for those who print them.
pub(crate) fn quantile_names() -> BTreeMap<usize, String> {
    let names = QUANTILES.iter().enumerate();
    names
        .map(|(idx, quantile)| (idx, format!("{:.0}%", 100.0 * quantile)))
        .collect()
}
