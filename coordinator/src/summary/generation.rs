//! What stages of generation wrote, and how far it can be trusted: ends by reason, cost, and
//! measures that need no language model.
//!
//! The measures look at a sample of whole queries (or documents), chosen by a hash, so that the
//! same table has the same figures whoever asks, and millions of rows cost no more than thousands.
//! BM25 has the document frequencies of the sample's texts and of a sample of the corpus. It sees
//! words alone: a model that stuffs the words of a query into relevant documents does well by it.

mod cost;
mod measure;
mod sample;

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use gleaner_algorithms::grading::{ConfusionMatrix, Estimate};
use gleaner_schemas::Version;
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::cost::Cost;
pub(crate) use self::cost::cost;
use self::measure::measure;
use self::sample::{background, sample};
use crate::commands::explain::objects;
use crate::run_error::RunError;
use crate::sql::{Session, quote_name};

/// A mean with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Values that it is the mean of.
    pub n: u64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl From<Estimate> for Interval {
    fn from(estimate: Estimate) -> Self {
        Self {
            mean: estimate.mean,
            n: estimate.n as u64,
            low: estimate.low,
            high: estimate.high,
        }
    }
}

/// How rows ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// `ok`, `rejected` or `failed`.
    pub status: String,
    /// The class of the reason, without its words.
    pub reason: Option<String>,
    /// Rows.
    pub n: u64,
}

/// What was written of one grade.
#[derive(Debug, Clone, Serialize)]
pub struct GradeSummary {
    /// The grade that was asked for.
    pub grade: i8,
    /// Its label.
    pub label: String,
    /// Rows.
    pub n: u64,
    /// Of them, those that are ok.
    pub ok: u64,
    /// Median words of those that are ok and in the sample.
    pub words: Option<f64>,
    /// Share of distinct pairs of words among all.
    pub distinct_2: Option<f64>,
    /// How much texts are like others of the grade: self-BLEU-4.
    pub self_bleu: Option<f64>,
    /// Share of a text that stands in what it was written for, in runs of words.
    pub copied: Option<f64>,
    /// The commonest first three words, and the share of texts that begin so.
    pub commonest_start: Option<(String, f64)>,
    /// Of those that a judge graded, the share to which it gave the grade asked for.
    pub faithfulness: Option<f64>,
}

/// How far a score follows the grade.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Followed {
    /// Share of pairs of one query (or document) of which the text with the higher grade has the
    /// higher score; a half by chance.
    pub monotonicity: Option<Interval>,
    /// The same for each pair of neighbouring grades, lower and upper.
    pub steps: Vec<(i8, i8, Interval)>,
    /// Kendall's tau-b of grades and scores.
    pub kendall_tau_b: Option<Interval>,
}

/// How far a judge agrees with what was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct JudgeSummary {
    /// Rows asked for a grade (outer) and judged as one (inner).
    pub confusion: BTreeMap<i8, BTreeMap<i8, u64>>,
    /// Share with equal grades.
    pub exact_agreement: Option<f64>,
    /// Mean difference of grades.
    pub mean_absolute_difference: Option<f64>,
    /// Quadratic weighted kappa.
    pub quadratic_kappa: Option<f64>,
    /// Spearman's correlation.
    pub spearman: Option<f64>,
}

/// What a stage of generation wrote.
#[derive(Debug, Clone, Serialize)]
pub struct GenerationSummary {
    /// How rows ended, the most frequent first.
    pub ends: Vec<End>,
    /// By grade, the most relevant first.
    pub grades: Vec<GradeSummary>,
    /// Share of pairs of one query (or document) of which the text with the higher grade has the
    /// higher BM25 score; a half where grades and words have nothing to do with each other.
    pub monotonicity: Option<Interval>,
    /// The same for each pair of neighbouring grades, lower and upper.
    pub steps: Vec<(i8, i8, Interval)>,
    /// Kendall's tau-b of grades and scores.
    pub kendall_tau_b: Option<Interval>,
    /// The same three by the cosines of an encoder, where the job names one.
    pub embeddings: Option<Followed>,
    /// The chance that of two texts the longer one has the higher grade; a half where length tells
    /// nothing.
    pub length_tells_grade: Option<f64>,
    /// Share of words that two texts of one query have in common.
    pub overlap: Option<f64>,
    /// Share of relevant queries whose document is among their first 1, 10 and 30 of the corpus.
    pub recall: Option<[f64; 3]>,
    /// What a judge said, if there was one.
    pub judge: Option<JudgeSummary>,
    /// What it took.
    pub cost: Cost,
    /// Queries or documents that the measures looked at.
    pub n_sampled: u64,
}

/// A stage that is asked about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GenerationStage<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) params: &'a Value,
    /// Of its table.
    pub(crate) schema: &'a Schema,
}

impl GenerationStage<'_> {
    fn is_queries(&self) -> bool {
        self.kind == "synthetic_queries"
    }

    /// Whether its table has a column.
    fn has(&self, column: &str) -> bool {
        self.schema.field_with_name(column).is_ok()
    }
}

/// Asks for one stage of generation.
pub(crate) async fn gather(
    version: &Version,
    session: &Session,
    stage: &GenerationStage<'_>,
) -> Result<GenerationSummary, RunError> {
    let is_queries = stage.is_queries();
    let table = quote_name(stage.name);
    let sampled = sample(version, session, stage).await?;
    let background = background(session, version).await?;
    let mut summary = GenerationSummary {
        ends: ends(session, &table).await?,
        grades: grades(session, &table).await?,
        monotonicity: None,
        steps: Vec::new(),
        kendall_tau_b: None,
        embeddings: None,
        length_tells_grade: None,
        overlap: None,
        recall: recall(session, &table, stage).await?,
        judge: None,
        cost: cost(session, version, stage).await?,
        n_sampled: 0,
    };
    judge(session, &table, &mut summary).await?;
    // Seconds of work on texts, away from the threads that wait for stores.
    let measured = tokio::task::spawn_blocking(move || {
        measure(&mut summary, &sampled, &background, is_queries);
        summary
    });
    measured
        .await
        .map_err(|error| RunError::Internal(format!("measuring texts panicked: {error}")))
}

async fn rows(session: &Session, sql: &str) -> Result<Vec<Map<String, Value>>, RunError> {
    objects(&session.query(sql).await?)
}

fn text(row: &Map<String, Value>, key: &str) -> String {
    row.get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn number(row: &Map<String, Value>, key: &str) -> u64 {
    let value = row.get(key);
    value
        .and_then(Value::as_u64)
        .or_else(|| value.and_then(Value::as_f64).map(|it| it as u64))
        .unwrap_or(0)
}

fn grade(row: &Map<String, Value>, key: &str) -> Option<i8> {
    i8::try_from(row.get(key)?.as_i64()?).ok()
}

async fn ends(session: &Session, table: &str) -> Result<Vec<End>, RunError> {
    let sql = format!(
        "SELECT status, split_part(reason, ':', 1) AS reason, count(*) AS n FROM {table} GROUP BY 1, \
         2 ORDER BY n DESC, status, reason"
    );
    let rows = rows(session, &sql).await?;
    Ok(rows
        .iter()
        .map(|row| End {
            status: text(row, "status"),
            reason: row.get("reason").and_then(Value::as_str).map(str::to_owned),
            n: number(row, "n"),
        })
        .collect())
}

async fn grades(session: &Session, table: &str) -> Result<Vec<GradeSummary>, RunError> {
    let sql = format!(
        "SELECT grade, label, count(*) AS n, sum(CASE WHEN status = 'ok' THEN 1 ELSE 0 END) AS ok \
         FROM {table} WHERE grade IS NOT NULL GROUP BY grade, label ORDER BY grade DESC, label"
    );
    let rows = rows(session, &sql).await?;
    let summary = |row: &Map<String, Value>| {
        Some(GradeSummary {
            grade: grade(row, "grade")?,
            label: text(row, "label"),
            n: number(row, "n"),
            ok: number(row, "ok"),
            words: None,
            distinct_2: None,
            self_bleu: None,
            copied: None,
            commonest_start: None,
            faithfulness: None,
        })
    };
    Ok(rows.iter().filter_map(summary).collect())
}

async fn recall(
    session: &Session,
    table: &str,
    stage: &GenerationStage<'_>,
) -> Result<Option<[f64; 3]>, RunError> {
    if !stage.has("bm25_rank") {
        return Ok(None);
    }
    let within = |k: u32| format!("avg(CASE WHEN bm25_rank <= {k} THEN 1.0 ELSE 0.0 END) AS r{k}");
    let sql = format!(
        "SELECT {}, {}, {} FROM {table} WHERE grade > 0 AND query IS NOT NULL",
        within(1),
        within(10),
        within(30)
    );
    let rows = rows(session, &sql).await?;
    let share = |key: &str| rows.first()?.get(key)?.as_f64();
    Ok((|| Some([share("r1")?, share("r10")?, share("r30")?]))())
}

async fn judge(
    session: &Session,
    table: &str,
    summary: &mut GenerationSummary,
) -> Result<(), RunError> {
    let sql = format!(
        "SELECT grade, judged_grade, count(*) AS n FROM {table} WHERE grade IS NOT NULL AND \
         judged_grade IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let mut matrix = ConfusionMatrix::default();
    let mut confusion: BTreeMap<i8, BTreeMap<i8, u64>> = BTreeMap::new();
    for row in rows(session, &sql).await? {
        if let (Some(asked), Some(judged)) = (grade(&row, "grade"), grade(&row, "judged_grade")) {
            let n = number(&row, "n");
            matrix.add_count(asked, judged, n);
            confusion.entry(asked).or_default().insert(judged, n);
        }
    }
    if matrix.n() == 0 {
        return Ok(());
    }
    for grade in &mut summary.grades {
        grade.faithfulness = matrix.faithfulness(grade.grade);
    }
    summary.judge = Some(JudgeSummary {
        confusion,
        exact_agreement: matrix.exact_agreement(),
        mean_absolute_difference: matrix.mean_absolute_difference(),
        quadratic_kappa: matrix.quadratic_kappa(),
        spearman: matrix.spearman(),
    });
    Ok(())
}
