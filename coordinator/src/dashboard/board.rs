//! What is known of a run, kept up to date by what the driver tells. While nobody watches, keeping
//! it is all that is done: some counters under a lock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use gleaner_queue::QueueState;
use gleaner_schemas::{AttemptRecord, Resource, RunId, Task};
use gleaner_storage::{Output, redact};
use gleaner_workers::activity::Activity;
use gleaner_workers::attempt_log::AttemptObserver;

use super::causes::{Causes, begin};
use super::history::History;
use super::snapshot::{CorpusView, EndedView, NoteView, RunState};
use super::stage::{Phase, Stage};
use super::workers::Workers;
use crate::checked_job::CheckedJob;
use crate::commands::endpoint_status::EndpointStatus;
use crate::ledger::Ledger;
use crate::observation::Observation;
use crate::progress::Progress;

/// Sentences that are kept: the last ones.
const NOTES_MAX: usize = 20;
/// Characters of a sentence.
const NOTE_LENGTH: usize = 600;

/// What is known of a run. Clones share it.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<State>>);

/// What is known of a run.
#[derive(Debug)]
pub(super) struct State {
    /// Changes with what is known.
    pub(super) revision: u64,
    pub(super) began: Instant,
    pub(super) began_at: DateTime<Utc>,
    pub(super) state: RunState,
    /// What the run is at, where that is no stage.
    pub(super) doing: String,
    pub(super) job: String,
    pub(super) output: Option<Output>,
    pub(super) run: Option<RunId>,
    pub(super) allowed: String,
    pub(super) corpus: Option<CorpusView>,
    pub(super) stages: Vec<Stage>,
    /// Number of the stage that runs, or ran last.
    pub(super) current: usize,
    pub(super) queue: Option<(QueueState, Resource)>,
    pub(super) history: History,
    pub(super) causes: Causes,
    pub(super) workers: Workers,
    pub(super) spent: Vec<EndpointStatus>,
    pub(super) has_endpoints: bool,
    pub(super) notes: VecDeque<NoteView>,
    pub(super) n_notes: u64,
    pub(super) ended: Option<EndedView>,
}

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            revision: 0,
            began: Instant::now(),
            began_at: Utc::now(),
            state: RunState::Starting,
            doing: "waiting for the plan".to_owned(),
            job: String::new(),
            output: None,
            run: None,
            allowed: String::new(),
            corpus: None,
            stages: Vec::new(),
            current: 0,
            queue: None,
            history: History::default(),
            causes: Causes::default(),
            workers: Workers::default(),
            spent: Vec::new(),
            has_endpoints: false,
            notes: VecDeque::new(),
            n_notes: 0,
            ended: None,
        })))
    }
}

impl Board {
    /// There is a worker in this process, which notes in the result what its slots do.
    #[must_use]
    pub fn workers_here(&self, name: &str, n_slots: usize) -> Arc<Activity> {
        self.change().workers.here(name, n_slots)
    }

    /// The run has ended with this exit code.
    pub fn ended(&self, exit_code: u8, message: &str, version: Option<(u64, bool)>) {
        let mut state = self.change();
        let seconds = state.began.elapsed().as_secs_f64();
        state.state = RunState::Ended;
        state.doing = String::new();
        state.ended = Some(EndedView {
            exit_code,
            message: begin(&redact::redact(message), NOTE_LENGTH),
            version: version.map(|(number, _)| number),
            is_new: version.is_some_and(|(_, is_new)| is_new),
            seconds,
        });
    }

    /// The state is valid after any panic: counters and texts.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, to be changed.
    pub(super) fn change(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.revision += 1;
        state
    }
}

impl AttemptObserver for Board {
    fn attempt_ended(&self, record: &AttemptRecord) {
        self.change().workers.attempt_ended(record);
    }
}

impl Progress for Board {
    fn phase_started(&self, _: &str, phase: &str, n_tasks: u64, n_rows: Option<u64>, bytes: u64) {
        let mut state = self.change();
        let now = state.began.elapsed();
        let totals = (n_tasks, n_rows, bytes);
        let State {
            stages,
            current,
            causes,
            ..
        } = &mut *state;
        let Some(stage) = stages.get_mut(*current) else {
            return;
        };
        stage.step(None);
        match stage.phases.last_mut() {
            Some(last) if last.name == phase => {
                last.planned_anew(totals);
                causes.forget(&stage.name, phase);
            }
            _ => stage.phases.push(Phase::new(phase, totals, now)),
        }
    }

    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        if n_tasks == 0 {
            return;
        }
        let mut state = self.change();
        let now = state.began.elapsed();
        if let Some(phase) = state.phase() {
            let (rows, bytes) = phase.advance((n_tasks, n_rows, bytes), now);
            state.history.add(now, rows, bytes);
        }
    }

    fn phase_finished(&self, _: &str, _: &str) {
        let mut state = self.change();
        let now = state.began.elapsed();
        if let Some(phase) = state.phase() {
            phase.finish(now);
        }
        if let Some(stage) = state.stage() {
            stage.step(Some("pinning what was done"));
        }
    }

    fn note(&self, text: &str) {
        let mut state = self.change();
        let note = NoteView {
            seconds: state.began.elapsed().as_secs_f64(),
            text: begin(&redact::redact(text), NOTE_LENGTH),
        };
        state.n_notes += 1;
        state.notes.push_back(note);
        if state.notes.len() > NOTES_MAX {
            state.notes.pop_front();
        }
    }

    fn observe(&self, observation: &Observation<'_>) {
        let mut state = self.change();
        let now = state.began.elapsed();
        match observation {
            Observation::RunStarted { run, job, output } => state.start(run, job, output),
            Observation::InputsRead { n_files, bytes } => {
                state.state = RunState::Running;
                state.doing = String::new();
                state.corpus = Some(CorpusView {
                    n_files: *n_files,
                    bytes: *bytes,
                });
            }
            Observation::StageStarted { stage } => {
                let number = state.stages.iter().position(|it| it.name == *stage);
                state.current = number.unwrap_or(state.current);
                if let Some(stage) = state.stage() {
                    stage.start();
                }
            }
            Observation::StepStarted { step } => {
                if let Some(stage) = state.stage() {
                    stage.step(Some(step));
                }
            }
            Observation::PhaseReused { plan } => {
                let totals = (plan.n_tasks, plan.n_rows, plan.bytes);
                if let Some(stage) = state.stage() {
                    let phase = Phase::new(&plan.phase, totals, now).reused();
                    // Splits may have led to a plan that was complete before.
                    stage.phases.retain(|it| it.name != phase.name);
                    stage.phases.push(phase);
                }
            }
            Observation::Reused { n_tasks, work } => {
                if let Some(phase) = state.phase() {
                    phase.was_there(*n_tasks, *work);
                }
            }
            Observation::Tasks { tasks, ledger } => state.know(tasks, ledger),
            Observation::Queue {
                state: of_queue,
                resource,
            } => state.queue = Some((*of_queue, *resource)),
            Observation::StageFinished { finished, .. } => {
                if let Some(stage) = state.stage() {
                    stage.finish(finished, now);
                }
            }
            Observation::Publishing => {
                state.state = RunState::Publishing;
                state.doing = "publishing the version".to_owned();
            }
        }
    }
}

impl State {
    fn start(&mut self, run: &RunId, checked: &CheckedJob, output: &Output) {
        let file = &checked.job.file;
        self.doing = "reading the inputs".to_owned();
        self.job.clone_from(&file.name);
        self.run = Some(run.clone());
        self.output = Some(output.clone());
        self.allowed = file.allow.quarantined_tasks.to_string();
        self.has_endpoints = !file.endpoints.is_empty();
        let stages = checked.stages.iter();
        self.stages = stages
            .map(|stage| Stage::new(&stage.name, stage.kind.name()))
            .collect();
    }

    fn stage(&mut self) -> Option<&mut Stage> {
        self.stages.get_mut(self.current)
    }

    fn phase(&mut self) -> Option<&mut Phase> {
        self.stage()?.phases.last_mut()
    }

    /// Looks at what is new in the ledger: the cost does not depend on the number of tasks.
    fn know(&mut self, tasks: &[Task], ledger: &Ledger) {
        let Self {
            stages,
            current,
            causes,
            ..
        } = self;
        let Some(stage) = stages.get_mut(*current) else {
            return;
        };
        let name = &stage.name;
        let Some(phase) = stage.phases.last_mut() else {
            return;
        };
        phase.know(ledger.counts(), ledger.effort());
        let n_came_back = ledger.n_given_up() - ledger.counts().quarantined;
        if n_came_back != phase.n_came_back {
            phase.n_came_back = n_came_back;
            phase.forget_given_up();
            causes.forget(name, &phase.name);
        }
        for (idx, failure) in ledger.given_up_since(phase.n_causes) {
            let shard = &tasks[idx].shard;
            phase.given_up(shard.n_rows().unwrap_or(0), shard.bytes());
            causes.add(name, &phase.name, &tasks[idx], failure);
        }
        phase.n_causes = ledger.n_given_up();
    }
}
