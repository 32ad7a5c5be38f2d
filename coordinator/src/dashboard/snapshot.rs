//! What is shown of a run: one value whose size does not depend on how many tasks, workers and
//! failures there are.

use chrono::Utc;
use gleaner_schemas::Throttled;
use gleaner_workers::endpoint::spending::Amounts;
use serde::Serialize;

use super::board::{Board, State};
use super::causes::{CausesView, begin};
use super::history::History;
use super::stage::StageView;
use super::times::TimesView;
use super::workers::WorkersView;
use crate::journal::rfc3339;

/// The version of this format: the page and the server are of one build, others may not be.
const FORMAT: u32 = 1;
/// Stages that are shown around the one that runs.
const STAGES_MAX: usize = 40;
/// Endpoints that are shown.
const ENDPOINTS_MAX: usize = 20;
/// Characters of names that are shown.
const NAME_LENGTH: usize = 200;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RunState {
    /// Nothing is planned yet.
    Starting,
    /// Stages are worked on.
    Running,
    /// All stages are complete.
    Publishing,
    /// It is over.
    Ended,
}

/// The corpus.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct CorpusView {
    pub(super) n_files: u64,
    pub(super) bytes: u64,
}

/// A sentence that the user was told.
#[derive(Debug, Clone, Serialize)]
pub(super) struct NoteView {
    /// When, counted from the begin of the run.
    pub(super) seconds: f64,
    pub(super) text: String,
}

/// How the run ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct EndedView {
    pub(super) exit_code: u8,
    pub(super) message: String,
    pub(super) version: Option<u64>,
    /// Whether this run published it.
    pub(super) is_new: bool,
    pub(super) seconds: f64,
}

/// What the queue knows.
#[derive(Debug, Clone, Serialize)]
struct QueueView {
    resource: &'static str,
    n_waiting: u64,
    /// Slots that are connected, where the queue can tell.
    n_slots: Option<u64>,
}

/// Beyond one offer per task, of all phases.
#[derive(Debug, Clone, Default, Serialize)]
struct EffortView {
    n_offered_again: u64,
    n_copies: u64,
    n_failures: u64,
}

/// Tasks that were given up.
#[derive(Debug, Clone, Serialize)]
struct QuarantineView {
    n: u64,
    /// What the job allows, per phase.
    allowed: String,
    #[serde(flatten)]
    causes: CausesView,
}

/// What an endpoint costs.
#[derive(Debug, Clone, Serialize)]
struct MoneyView {
    name: String,
    /// Money in billionths, tokens, requests.
    spent: Amounts,
    /// The part of it that workers may have spent that are gone.
    possibly: Amounts,
    /// What workers hold to spend.
    reserved: Amounts,
    budget: Option<f64>,
}

/// What is shown of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Snapshot {
    format: u32,
    gleaner: &'static str,
    state: RunState,
    doing: String,
    job: String,
    run: Option<String>,
    output: String,
    started_at: String,
    /// Since the program started.
    seconds: f64,
    corpus: Option<CorpusView>,
    n_stages: usize,
    /// Number of the first stage that is shown, from 0.
    first_stage: usize,
    /// Number of the stage that runs, from 0.
    current_stage: usize,
    stages: Vec<StageView>,
    throughput: History,
    queue: Option<QueueView>,
    workers: WorkersView,
    effort: EffortView,
    throttled: Throttled,
    quarantine: QuarantineView,
    /// Of the phase that runs, or ran last.
    times: Option<TimesView>,
    /// Absent where the job has no endpoints.
    money: Option<Vec<MoneyView>>,
    notes: Vec<NoteView>,
    n_notes: u64,
    ended: Option<EndedView>,
}

impl Board {
    /// What is known now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    /// The same as JSON, in one line.
    #[must_use]
    pub fn snapshot_json(&self) -> String {
        // Texts, finite numbers and lists of them can always be said in JSON.
        serde_json::to_string(&self.snapshot()).unwrap_or_default()
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        let now = self.began.elapsed();
        let first_stage = self
            .current
            .saturating_sub(STAGES_MAX / 2)
            .min(self.stages.len().saturating_sub(STAGES_MAX));
        let shown = self.stages.iter().skip(first_stage).take(STAGES_MAX);
        let mut effort = EffortView::default();
        for phase in self.stages.iter().flat_map(|stage| &stage.phases) {
            effort.n_offered_again += phase.effort.n_offered_again;
            effort.n_copies += phase.effort.n_copies;
            effort.n_failures += phase.effort.n_failures;
        }
        let output = self.output.as_ref().map_or("", |output| output.uri());
        let seconds = match &self.ended {
            Some(ended) => ended.seconds,
            None => now.as_secs_f64(),
        };
        let until = std::time::Duration::from_secs_f64(seconds);
        Snapshot {
            format: FORMAT,
            gleaner: env!("CARGO_PKG_VERSION"),
            state: self.state,
            doing: self.doing.clone(),
            job: begin(&self.job, NAME_LENGTH),
            run: self.run.as_ref().map(ToString::to_string),
            output: begin(&gleaner_storage::redact::redact(output), NAME_LENGTH),
            started_at: rfc3339(self.began_at),
            seconds,
            corpus: self.corpus,
            n_stages: self.stages.len(),
            first_stage,
            current_stage: self.current,
            stages: shown.map(|stage| stage.view(until)).collect(),
            throughput: self.history.until(until),
            queue: self.queue.map(|(state, resource)| QueueView {
                resource: resource.as_str(),
                n_waiting: state.n_waiting,
                n_slots: state.n_slots,
            }),
            workers: self.workers.view(Utc::now()),
            effort,
            throttled: self.workers.throttled(),
            quarantine: QuarantineView {
                n: self.stages.iter().map(|stage| stage.n_quarantined()).sum(),
                allowed: self.allowed.clone(),
                causes: self.causes.view(),
            },
            times: self.times(),
            money: self.has_endpoints.then(|| self.money()),
            notes: self.notes.iter().rev().cloned().collect(),
            n_notes: self.n_notes,
            ended: self.ended.clone(),
        }
    }

    /// The times of the last phase of which a task has ended.
    fn times(&self) -> Option<TimesView> {
        let stages = self.stages.iter().take(self.current + 1).rev();
        stages
            .flat_map(|stage| stage.phases.iter().rev().map(move |it| (stage, it)))
            .find_map(|(stage, phase)| self.workers.times(&stage.name, &phase.name))
    }

    fn money(&self) -> Vec<MoneyView> {
        let endpoints = self.spent.iter().take(ENDPOINTS_MAX);
        endpoints
            .map(|endpoint| MoneyView {
                name: begin(&endpoint.name, NAME_LENGTH),
                spent: endpoint.spent,
                possibly: endpoint.possibly,
                reserved: endpoint.reserved,
                budget: endpoint.budget,
            })
            .collect()
    }
}
