//! The summary at the end of a run: what went where, did it work, what does it look like.
//!
//! [`gather`] asks the published version by SQL, so every number of the summary is one that a
//! user can get again; [`Summary::render`] writes it for people. The same as JSON is the last event of
//! `run --json`.

pub(crate) mod documents;
mod drift;
pub(crate) mod duplicates;
pub(crate) mod generation;
pub(crate) mod losses;
mod render;
mod render_generation;
mod render_losses;
pub(crate) mod selection;
pub mod text;
mod weights;

use std::collections::BTreeMap;

use gleaner_schemas::{Check, Lanes, Reuse};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::run::RunReport;
use crate::datasets::DatasetRows;
use crate::dispatch::Work;
use crate::run_error::RunError;
use crate::sql::Session;

pub use drift::DriftSummary;
pub use generation::{
    Cost, End, Followed, GenerationSummary, GradeSummary, Interval, JudgeSummary,
};
pub use losses::{Agreement, LossDocument, LossSummary, SourceReduction, Spread, TrainingSummary};
pub use selection::{SelectionSummary, SourceShare};
pub use weights::{DocumentSummary, WeightsSummary};

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the job.
    pub job: String,
    /// URI of the output.
    pub output: String,
    /// Number of the newest version.
    pub version: u64,
    /// Whether this run published it. If not, there was nothing to do.
    pub is_new: bool,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// Files of the corpus, and their bytes.
    pub corpus: (u64, u64),
    /// Files of the corpus that cannot be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// What was found in the rows of datasets, where some of them cannot be used.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub datasets: BTreeMap<String, DatasetRows>,
    /// Stages in order.
    pub stages: Vec<StageSummary>,
    /// How what was found compares with the version before, and with what models were fitted on.
    pub guardrails: Vec<Check>,
}

/// What a stage did.
#[derive(Debug, Clone, Serialize)]
pub struct StageSummary {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Rows of its table.
    pub rows: u64,
    /// Where input rows ended up; a query has no rows of its own to account for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<Lanes>,
    /// Tasks that were given up.
    pub n_quarantined: u64,
    /// Those of them whose rows nobody could count: they are in no lane.
    pub n_uncounted: u64,
    /// Tasks, and how many were there before.
    pub reuse: Reuse,
    /// What this run did for it.
    pub work: Work,
    /// Sentences.
    pub notes: Vec<String>,
    /// Of `importance_weights`: its input beside what the model was fitted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftSummary>,
    /// Of `importance_weights`: one for each column of weights.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightsSummary>,
    /// Of `train_language_model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingSummary>,
    /// Of `loss_reduction`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub losses: Option<LossSummary>,
    /// Of `select`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<SelectionSummary>,
    /// Of `synthetic_queries` and `graded_documents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationSummary>,
}

/// Gathers the summary of a run. Nothing is computed where nothing is new.
///
/// # Errors
///
/// Of the store.
pub async fn gather(report: &RunReport) -> Result<Summary, RunError> {
    let version = &report.published.version;
    let session = Session::open(&report.io.stores, &report.output, version).await?;
    let mut stages = Vec::new();
    for (name, finished) in &report.stages {
        let completed = &finished.completed;
        let mut stage = StageSummary {
            name: name.clone(),
            kind: completed.kind.clone(),
            rows: version.tables.get(name).map_or(0, |table| table.rows),
            lanes: (completed.kind != "query").then_some(completed.lanes),
            n_quarantined: finished.quarantined.len() as u64,
            n_uncounted: finished
                .quarantined
                .iter()
                .filter(|task| task.rows.is_none())
                .count() as u64,
            reuse: finished.reuse,
            work: finished.work,
            notes: finished.notes.clone(),
            drift: drift::of(completed),
            weights: Vec::new(),
            training: losses::training(&completed.facts),
            losses: None,
            selection: None,
            generation: None,
        };
        let n_objects = version
            .tables
            .get(name)
            .map_or(0, |table| table.files.len());
        let is_small_part = is_small_part(n_objects, stage.rows, finished.reuse);
        if report.published.is_new && is_small_part {
            stage.notes.push(
                "little of it is new, so that its rows are not read again for this summary; \
                 `gleaner report` shows all of it"
                    .to_owned(),
            );
        } else if report.published.is_new {
            match completed.kind.as_str() {
                "importance_weights" => {
                    stage.weights = weights::gather(report, &session, name, completed).await?;
                    let duplicates = duplicates::note(report, name, stage.rows).await;
                    stage.notes.extend(duplicates);
                }
                "loss_reduction" => {
                    let losses = losses::gather(report, &session, name, completed).await?;
                    stage.losses = Some(losses);
                }
                "select" => {
                    let (params, facts) = (&completed.params, &completed.facts);
                    let selection = selection::gather(version, &session, name, params, facts);
                    stage.selection = Some(selection.await?);
                }
                "synthetic_queries" | "graded_documents" => {
                    let of = generation::GenerationStage {
                        name,
                        kind: &completed.kind,
                        params: &completed.params,
                        schema: &completed.schema,
                    };
                    let found = generation::gather(version, &session, &of).await?;
                    stage.generation = Some(found);
                }
                _ => {}
            }
        }
        stages.push(stage);
    }
    Ok(Summary {
        job: version.job.clone(),
        output: report.output.uri().to_owned(),
        version: version.number,
        is_new: report.published.is_new,
        seconds: report.elapsed.as_secs_f64(),
        corpus: (
            version.corpus.len() as u64,
            version.corpus.iter().map(|file| file.bytes).sum(),
        ),
        unreadable: report.unreadable.clone(),
        datasets: report
            .datasets
            .iter()
            .filter(|(_, rows)| rows.n_rejected > 0)
            .map(|(name, rows)| (name.clone(), rows.clone()))
            .collect(),
        stages,
        guardrails: report.checks.clone(),
    })
}

/// Whether a run did a small part of a table of many objects or rows: to read all of them would take longer
/// than what the run did.
fn is_small_part(n_objects: usize, n_rows: u64, reuse: Reuse) -> bool {
    const OBJECTS_MIN: usize = 200;
    const ROWS_MIN: u64 = 1_000_000;
    const PART: u64 = 10;
    let is_large = n_objects >= OBJECTS_MIN || n_rows >= ROWS_MIN;
    let n_done = reuse.n_tasks.saturating_sub(reuse.n_reused);
    is_large && n_done.saturating_mul(PART) < reuse.n_tasks
}

impl Summary {
    /// The last event of `run --json`.
    #[must_use]
    pub fn to_event(&self) -> Value {
        let mut event = json!(self);
        if let Some(fields) = event.as_object_mut() {
            fields.insert("event".to_owned(), json!("finished"));
        }
        event
    }
}
