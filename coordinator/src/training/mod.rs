//! `gleaner export --format beir` and its like: graded queries as the trainers of retrievers read
//! them.
//!
//! 1. SQL gives judged documents sorted by query: of `graded_documents` its own, of
//!    `synthetic_queries` the documents that the queries were made from.
//! 2. [`judged`] collects them into queries, with ids that no loader misreads.
//! 3. [`split`] puts each query into a split, so that neither a query nor a source document stands
//!    in two.
//! 4. [`layout`] makes lines, and leaves out what a trainer would silently misread.
//! 5. [`card`] tells of it in a README.

mod card;
mod files;
mod judged;
mod layout;
mod split;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use futures::StreamExt as _;
use gleaner_schemas::Version;
use gleaner_storage::Stores;
use gleaner_workers::generation::published::AskedGroup;
use serde::Serialize;
use serde_json::Value;

pub(crate) use card::size_category;
pub use files::WrittenFile;
pub use layout::{Grades, LeftOut, TrainingLayout};
pub use split::{FoldKind, Shares, SplitOverlap};

use self::files::Files;
use self::judged::Grouping;
use self::split::{ShownTables, Splits};
use crate::progress::{bytes, count};
use crate::run_error::RunError;
use crate::sql::{CORPUS, Session, SqlError, quote_name, with_places};

const GRADED_DOCUMENTS: &str = "graded_documents";
const SYNTHETIC_QUERIES: &str = "synthetic_queries";

/// How a training set is made.
#[derive(Debug, Clone)]
pub struct TrainingOptions {
    /// For which trainer.
    pub layout: TrainingLayout,
    /// Shares of the splits.
    pub shares: Shares,
    /// Folds of similar queries in place of shares.
    pub folds: Option<FoldKind>,
    /// Seed of the splits.
    pub seed: u64,
    /// Documents of this grade or more are positive; absent: of the highest that was asked for.
    pub positive_grade: Option<i64>,
    /// Documents of a complete query; absent: as many as were asked for.
    pub group_size: Option<usize>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainingReport {
    /// Name of the stage.
    pub stage: String,
    /// Version of the output.
    pub version: u64,
    /// For which trainer.
    pub layout: TrainingLayout,
    /// Absolute URI of the folder.
    pub to: String,
    /// Queries by split.
    pub queries: BTreeMap<String, u64>,
    /// How near the queries of other splits are to those of the first one, if there are several.
    pub overlap: Option<SplitOverlap>,
    /// Queries that were left out, by the reason.
    pub left_out: BTreeMap<LeftOut, u64>,
    /// Queries that stand in the first split whatever its share: they, or what stands together with
    /// them, were shown to the model as examples.
    pub n_shown: u64,
    /// Rows that repeat a document of their query.
    pub n_doubled: u64,
    /// Files.
    pub files: Vec<WrittenFile>,
}

/// Writes a training set of a stage's table.
///
/// # Errors
///
/// If the stage has no graded queries, or of the stores.
pub async fn export(
    stores: &Stores,
    session: &Session,
    version: &Version,
    stage: &str,
    options: &TrainingOptions,
    to: &str,
) -> Result<TrainingReport, RunError> {
    let sql = judged_sql(version, stage)?;
    let grades = grades(session, version, stage, &sql, options).await?;
    let shown = ShownTables::of(version, stage);
    let splits = match options.folds {
        Some(kind) => Splits::by_folds(session, &sql, kind, &shown, options.seed).await?,
        None => Splits::of(session, &sql, &options.shares, &shown, options.seed).await?,
    };
    let mut files = Files::below(stores, to, options.layout).await?;
    let mut report = TrainingReport {
        stage: stage.to_owned(),
        version: version.number,
        layout: options.layout,
        to: String::new(),
        queries: BTreeMap::new(),
        overlap: splits.overlap(session, &sql, options.seed).await?,
        left_out: BTreeMap::new(),
        n_shown: 0,
        n_doubled: 0,
        files: Vec::new(),
    };
    // Hashes: a set of ids of all documents may be too large.
    let mut written: HashSet<u64> = HashSet::new();
    let mut grouping = Grouping::default();
    let ordered = format!(
        "SELECT * FROM ({sql}) ORDER BY query_id, grade DESC, doc_id, input_file, input_row"
    );
    let mut rows = session.query_stream(&ordered).await?;
    loop {
        let batch = rows.next().await.transpose().map_err(SqlError::from)?;
        let queries = match &batch {
            Some(batch) => grouping.push(batch)?,
            None => grouping.finish().into_iter().collect(),
        };
        for query in queries {
            let split = splits.of_query(&query.query_id);
            let lines = if splits.leaves_out(&query.query_id) {
                Err(LeftOut::Shown)
            } else {
                options.layout.query_lines(&query, split, &grades)
            };
            let lines = match lines {
                Ok(lines) => lines,
                Err(left_out) => {
                    *report.left_out.entry(left_out).or_default() += 1;
                    continue;
                }
            };
            *report.queries.entry(split.to_owned()).or_default() += 1;
            report.n_shown += u64::from(splits.was_shown(&query.query_id));
            files.write(lines).await?;
            if options.layout.has_corpus() {
                let new = query.documents.iter().filter(|document| {
                    written.insert(xxhash_rust::xxh3::xxh3_64(document.id.as_bytes()))
                });
                let lines = new.map(TrainingLayout::document_line).collect();
                files.write(lines).await?;
            }
        }
        if batch.is_none() {
            break;
        }
    }
    report.n_doubled = grouping.n_doubled;
    if report.queries.is_empty() {
        return Err(RunError::usage(
            format!(
                "no query of {stage} can be exported{} (a group has {} documents, those of grade \
                 {} or more are positive)",
                left_out_text(&report.left_out),
                grades.group_size,
                grades.positive
            ),
            "look at the columns `status` and `reason` of the stage, or give --group-size and \
             --positive-grade",
        ));
    }
    let card = card::Card {
        version,
        stage,
        options,
        grades: &grades,
        report: &report.clone(),
    };
    let (uri, written) = files.finish(|files| card.render(files)).await?;
    report.to = uri;
    report.files = written;
    Ok(report)
}

/// SQL of the columns `query_id`, `query`, `doc_id`, `text`, `grade`, `source_document` and the place
/// of what the row was made from.
fn judged_sql(version: &Version, stage: &str) -> Result<String, RunError> {
    let table = quote_name(stage);
    let found = version.stages.get(stage);
    match found.map(|found| found.kind.as_str()) {
        Some(GRADED_DOCUMENTS) => Ok(format!(
            "SELECT query_id, query, doc_id, text, grade, coalesce(source_doc_id, query_id) AS \
             source_document, input_file, input_row FROM {table} WHERE status = 'ok'"
        )),
        Some(SYNTHETIC_QUERIES) => {
            let input = found.and_then(|found| found.params.get("input")?.as_str());
            let text = version
                .job_file
                .pointer("/corpus/columns/text")
                .and_then(Value::as_str)
                .unwrap_or("text");
            // Not by ids alone, which need not be unique.
            let place = "d.input_file = q.input_file AND d.input_row = q.input_row";
            let (documents, on) = match input.filter(|input| *input != CORPUS) {
                Some(input) => (
                    with_places(input),
                    format!("d.doc_id = q.doc_id AND {place}"),
                ),
                None => (quote_name(CORPUS), place.to_owned()),
            };
            Ok(format!(
                "SELECT q.query_id, q.query, q.doc_id, d.{} AS text, q.grade, q.doc_id AS \
                 source_document, q.input_file, q.input_row FROM {table} q JOIN {documents} d ON {on} WHERE q.status = 'ok'",
                quote_name(text)
            ))
        }
        Some(kind) => Err(RunError::usage(
            format!("stage {stage} is of kind {kind}, which has no graded queries"),
            "name a stage of kind synthetic_queries or graded_documents; `--format jsonl` and \
             `--format parquet` write any table",
        )),
        None => Err(RunError::usage(
            format!("version {} has no stage {stage}", version.number),
            format!("it has {}", version.stage_order.join(", ")),
        )),
    }
}

/// What was asked for decides, not what came of it: where a filter rejects most texts of a grade, the
/// queries that lack it are not complete, and the next grade is not the highest.
async fn grades(
    session: &Session,
    version: &Version,
    stage: &str,
    sql: &str,
    options: &TrainingOptions,
) -> Result<Grades, RunError> {
    let of_stage = version.stages.get(stage);
    let asked = of_stage.and_then(|of| AskedGroup::of(&of.kind, stage, &of.params));
    let (highest, n_documents) = match &asked {
        Some(asked) => (i64::from(asked.highest()), asked.n_documents()),
        None => observed_group(session, sql).await?,
    };
    let positive = options.positive_grade.unwrap_or(highest);
    let group_size = options.group_size.unwrap_or(n_documents);
    let n_negatives = match asked {
        Some(asked) if options.group_size.is_none() => asked.n_below(positive),
        _ => group_size.saturating_sub(1),
    };
    Ok(Grades {
        highest,
        positive,
        group_size,
        n_negatives,
    })
}

/// The highest grade that is there, and the usual number of documents: where parameters do not tell.
async fn observed_group(session: &Session, sql: &str) -> Result<(i64, usize), RunError> {
    let summary = session
        .query(&format!(
            "SELECT max(highest) AS highest, approx_percentile_cont(n, 0.5) AS usual FROM (SELECT \
             query_id, max(grade) AS highest, count(DISTINCT doc_id) AS n FROM ({sql}) GROUP BY \
             query_id)"
        ))
        .await?;
    let number = |name: &str| {
        let batch = summary.iter().find(|batch| batch.num_rows() > 0)?;
        let column = batch.column_by_name(name)?;
        let column = arrow::compute::cast(column, &arrow::datatypes::DataType::Int64).ok()?;
        let column = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&column);
        let is_valid = arrow::array::Array::is_valid(column, 0);
        is_valid.then(|| column.value(0))
    };
    let highest = number("highest").unwrap_or(0);
    let usual = number("usual").unwrap_or(1);
    Ok((highest, usize::try_from(usual).unwrap_or(1)))
}

fn left_out_text(left_out: &BTreeMap<LeftOut, u64>) -> String {
    let mut text = String::new();
    for (reason, n_queries) in left_out {
        let _ = write!(text, "; {} {}", count(*n_queries), reason.as_str());
    }
    text
}

impl TrainingReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let n_queries: u64 = self.queries.values().sum();
        let mut text = format!(
            "wrote {} queries of {} (version {}) to {}\n",
            count(n_queries),
            self.stage,
            self.version,
            self.to
        );
        for (split, n_queries) in &self.queries {
            let _ = writeln!(text, "  {split}: {} queries", count(*n_queries));
        }
        if let Some(overlap) = &self.overlap {
            let _ = writeln!(
                text,
                "  queries of other splits: nearest cosine to the first one {:.2} on average, {:.1}% \
                 have the very words of one there",
                overlap.nearest_cosine,
                100.0 * overlap.same_words_share
            );
        }
        for file in &self.files {
            let _ = writeln!(
                text,
                "  {}: {} lines, {}",
                file.name,
                count(file.lines),
                bytes(file.bytes)
            );
        }
        for (reason, n_queries) in &self.left_out {
            let _ = writeln!(
                text,
                "  left out: {} {}",
                count(*n_queries),
                reason.as_str()
            );
        }
        if self.n_shown > 0 {
            let _ = writeln!(
                text,
                "  {} queries stand in the first split since the model was shown them, or what stands \
                 together with them, as examples",
                count(self.n_shown)
            );
        }
        if self.n_doubled > 0 {
            let _ = writeln!(text, "  {} rows repeat a document", count(self.n_doubled));
        }
        text
    }
}
