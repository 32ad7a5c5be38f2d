//! A map phase from its plan to its manifest: offer tasks, look at the store, pin, create.
//!
//! The store alone says what is done. The queue only carries offers, and the worker's hint only
//! makes the next look come sooner; losing either costs time, never rows.
//!
//! 1. The plan is stored, so that workers find their tasks.
//! 2. In turns: look which tasks are done or failed ([`look`]), ask the queue what it knows of
//!    workers ([`watch`] bounds how long it may know of none), offer what the
//!    [ledger](crate::ledger) says, pause.
//! 3. A task that no worker could finish is replaced by smaller ones ([`crate::splits`]): the
//!    phase ends with [`PhaseEnd::Split`] and is planned again, with what is known so far.
//! 4. When each task has an outcome, [`manifest`] pins one attempt each.

mod access;
mod look;
mod manifest;
mod pinned_before;
mod telling;
mod watch;
mod work;

use std::sync::Arc;
use std::time::Duration;

use gleaner_queue::TaskQueue;
use gleaner_schemas::{
    Failure, FailureKind, PhaseManifest, PhasePlan, PlanId, Route, RunId, Task, TaskMessage, metric,
};
use gleaner_storage::{Attempts, Output, OutputError, Stores, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::runner::Trouble;
use gleaner_workers::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::Journal;
use crate::ledger::{Ledger, LedgerOptions};
use crate::observation::Observation;
use crate::progress::Progress;
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::splits;
use look::Look;
use watch::Watch;
use work::{Reused, sum};

pub use work::Work;

/// Shortest pause between two looks at the store.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two looks at the store, without a hint.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A look that takes this long is followed by a pause so many times as long: looking stays a small
/// part of the time, however far the store is and however many objects there are.
const LOOK_PAUSE_FACTOR: u32 = 3;
/// Without a hint, the pause is at most this part of the time that the phase has taken: looking
/// too late costs a few percent, not seconds of a short phase.
const LOOK_PAUSE_SHARE: u32 = 20;
/// A task is offered this many times before it is quarantined.
const OFFERS_MAX: u32 = 4;
/// Pause before a task that failed is offered again; doubles with each failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Pause between two questions to the queue.
const QUEUE_PAUSE: Duration = Duration::from_secs(2);
/// An offer is not copied before this time: its message may be on its way.
const COPY_AFTER: Duration = Duration::from_secs(10);
/// Offers are made for this many tasks per slot, so that none waits for the next look.
const OFFERS_PER_SLOT: usize = 2;

/// What dispatching needs besides the phase.
#[derive(Debug)]
pub struct Dispatcher<'a> {
    /// What tasks read from.
    pub stores: &'a Stores,
    /// The output.
    pub output: &'a Output,
    /// Where tasks are offered.
    pub queue: &'a Arc<dyn TaskQueue>,
    /// Told by workers in this process after each task.
    pub task_ended: &'a Arc<Notify>,
    /// What keeps workers in this process from recording outcomes.
    pub trouble: &'a Arc<Trouble>,
    /// Slots of the workers in this process.
    pub n_slots: usize,
    /// Where tasks are offered.
    pub route: Route,
    /// How long store, queue or workers may be missing before the run ends resumably.
    pub patience: Duration,
    /// Random bits for names of records.
    pub entropy: &'a dyn Entropy,
    /// This run.
    pub run: &'a RunId,
    /// Its journal.
    pub journal: &'a Journal,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Whether somebody asked to stop.
    pub shutdown: &'a Shutdown,
    /// When the phase began: what the ledger counts from.
    pub started: Instant,
}

/// How a phase ended.
#[derive(Debug)]
pub enum PhaseEnd {
    /// Each task has an outcome.
    Complete(PhaseOutcome),
    /// Tasks were split: it is to be planned again and to go on with what is known.
    Split(PhaseState),
}

/// What is known of a phase whose plan changes.
#[derive(Debug)]
pub struct PhaseState {
    ledger: Ledger,
    reused: Reused,
}

/// The outcome of a phase, and what it took.
#[derive(Debug)]
pub struct PhaseOutcome {
    /// The manifest that is stored.
    pub manifest: PhaseManifest,
    /// Tasks of which an attempt was there before.
    pub n_reused: u64,
    /// What this run did.
    pub work: Work,
}

/// The manifest of a phase that was complete before, if it was.
///
/// # Errors
///
/// Of the store.
pub async fn stored_manifest(
    output: &Output,
    plan: &PhasePlan,
    plan_id: &PlanId,
    tasks: &[Task],
) -> Result<Option<PhaseManifest>, OutputError> {
    let key = layout::phase_manifest(&plan.stage, &plan.phase, plan_id);
    let stored = output.phase_manifest(&key).await?;
    Ok(stored.map(|stored| manifest::told_by(stored, tasks)))
}

impl Dispatcher<'_> {
    /// Runs the tasks of a phase until each has an attempt or is quarantined, and creates the
    /// phase's manifest. `earlier` is what is known from before its tasks were split.
    ///
    /// # Errors
    ///
    /// If somebody asks to stop, or the store, the queue or workers are missing for too long.
    pub async fn run_phase(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        earlier: Option<PhaseState>,
    ) -> Result<PhaseEnd, RunError> {
        retrying(self.shutdown, || self.store_plan(plan, plan_id, tasks)).await?;
        let options = LedgerOptions {
            overdue_after: 2 * Duration::from_millis(plan.task_timeout_ms),
            offers_max: OFFERS_MAX,
            retry_pause: RETRY_PAUSE,
        };
        let mut turns = Turns {
            ledger: Ledger::new(tasks.iter().map(|task| &task.id), options),
            reused: None,
            watch: Watch::new(
                self.route.resource,
                self.patience,
                self.patience.max(options.overdue_after),
                Instant::now(),
            ),
            asked_at: None,
        };
        if let Some(earlier) = earlier {
            turns.ledger = turns.ledger.inherit(&earlier.ledger);
            let done: Vec<usize> = turns.ledger.done().collect();
            let reused = (earlier.reused.count(), sum(tasks, &done));
            turns.reused = Some(earlier.reused);
            self.phase_started(plan, plan_id, reused).await;
        }
        let attempts = self.complete(plan, plan_id, tasks, &mut turns).await?;
        let reused = turns.reused.unwrap_or_default();
        let ledger = turns.ledger;
        let Some(attempts) = attempts else {
            return Ok(PhaseEnd::Split(PhaseState { ledger, reused }));
        };
        let manifest = self
            .manifest(plan, plan_id, tasks, ledger, attempts)
            .await?;
        Ok(PhaseEnd::Complete(PhaseOutcome {
            n_reused: reused.count(),
            work: reused.work_since(tasks, &manifest),
            manifest,
        }))
    }

    /// The chunks come first, so that a plan that is visible is complete. All of it is a function
    /// of the plan id, so coordinators that race store the same bytes.
    async fn store_plan(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
    ) -> Result<(), OutputError> {
        for (chunk_idx, chunk) in (0..).zip(tasks.chunks(PhasePlan::TASKS_PER_CHUNK)) {
            let key = layout::plan_chunk(&plan.stage, &plan.phase, plan_id, chunk_idx);
            self.output
                .create_json(&key, "chunk of a plan", chunk.to_vec())
                .await?;
        }
        let key = layout::plan(&plan.stage, &plan.phase, plan_id);
        self.output.create_json(&key, "plan", plan.clone()).await?;
        Ok(())
    }

    /// Takes turns until each task has an outcome; then returns the attempts of the phase. `None`
    /// if tasks were split.
    async fn complete(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        turns: &mut Turns,
    ) -> Result<Option<Attempts>, RunError> {
        let mut is_first = true;
        loop {
            let looked_at = Instant::now();
            // Everything is looked at before anything is offered, and before the end.
            let is_whole = is_first || turns.ledger.is_complete();
            let looked = self.look(plan, tasks, &mut turns.ledger, is_whole).await;
            let has_failed = looked.is_err();
            match looked {
                Ok(look) => {
                    turns.watch.store_answered(Instant::now());
                    is_first = false;
                    self.account(plan, plan_id, tasks, turns, &look).await;
                    if turns.ledger.is_complete()
                        && let Some(attempts) = look.whole
                    {
                        self.progress.phase_finished(&plan.stage, &plan.phase);
                        return Ok(Some(attempts));
                    }
                    if let Some(failure) = look.ends_run {
                        return Err(failure.into());
                    }
                }
                Err(error) => Self::note_failure(&mut turns.watch, error.into())?,
            }
            if self.shutdown.is_draining() {
                return Err(RunError::Interrupted);
            }
            if let Some(failure) = self.trouble.get(self.output.uri()) {
                return Err(RunError::cannot_write(&failure));
            }
            if !is_first {
                if self.split(plan, tasks, turns).await? {
                    return Ok(None);
                }
                if let Err(failure) = self.offer(plan, plan_id, tasks, turns).await {
                    Self::note_failure(&mut turns.watch, failure)?;
                }
            }
            if let Some(note) = turns.watch.note(Instant::now()) {
                self.progress.note(&note);
            }
            turns.watch.check(turns.ledger.n_open(), Instant::now())?;
            // The last look follows at once, unless the store has just failed.
            if has_failed || !turns.ledger.is_complete() {
                let pause = (looked_at.elapsed() * LOOK_PAUSE_FACTOR).max(LOOK_PAUSE_MIN);
                self.pause(pause).await;
            }
        }
    }

    fn note_failure(watch: &mut Watch, failure: Failure) -> Result<(), RunError> {
        if matches!(failure.kind, FailureKind::Permanent | FailureKind::Access) {
            return Err(failure.into());
        }
        watch.failed(failure);
        Ok(())
    }

    async fn account(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        turns: &mut Turns,
        look: &Look,
    ) {
        let is_first = turns.reused.is_none();
        if is_first {
            turns.reused = Some(Reused::of(tasks, &look.news));
            let n_reused = look.news.len() as u64;
            let reused = (n_reused, sum(tasks, &look.news));
            self.phase_started(plan, plan_id, reused).await;
        }
        if !look.news.is_empty() || look.has_failures {
            turns.watch.progressed(Instant::now());
        }
        if !look.news.is_empty() {
            turns.watch.done(Instant::now());
        } else if let Some(failure) = &look.out_of_reach {
            turns.watch.out_of_reach(failure, Instant::now());
        }
        if !is_first {
            self.advance(tasks, &look.news);
        }
        self.measure(plan, tasks, &turns.ledger);
    }

    /// Replaces tasks that no worker could finish by smaller ones, where there are any. Whether it
    /// did.
    async fn split(
        &self,
        plan: &PhasePlan,
        tasks: &[Task],
        turns: &mut Turns,
    ) -> Result<bool, RunError> {
        let unsplit: Vec<(usize, Failure)> = turns
            .ledger
            .unsplit()
            .map(|(idx, failure)| (idx, failure.clone()))
            .collect();
        let mut is_split = false;
        for (idx, failure) in unsplit {
            let task = &tasks[idx];
            let stored = retrying(self.shutdown, || splits::store(self.output, task, &failure));
            if !plan.is_whole && stored.await? {
                tracing::warn!(task = %task.id, %failure, "replaced by smaller tasks");
                is_split = true;
            } else {
                turns.ledger.cannot_split(idx, self.started.elapsed());
            }
        }
        Ok(is_split)
    }

    /// Waits for a hint, but not shorter than `shortest`, which bounds the cost of looking.
    async fn pause(&self, shortest: Duration) {
        let longest = (self.started.elapsed() / LOOK_PAUSE_SHARE)
            .min(LOOK_PAUSE_MAX)
            .max(shortest);
        let earliest = Instant::now() + shortest;
        tokio::select! {
            () = self.shutdown.draining() => {}
            () = async {
                let _ = tokio::time::timeout(longest, self.task_ended.notified()).await;
                tokio::time::sleep_until(earliest).await;
            } => {}
        }
    }

    /// Asks the queue what it knows, and offers what is due.
    async fn offer(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        turns: &mut Turns,
    ) -> Result<(), Failure> {
        let is_due = turns
            .asked_at
            .is_none_or(|(asked_at, _)| asked_at.elapsed() >= QUEUE_PAUSE);
        if is_due {
            let state = self.queue.state(self.route).await?;
            let now = Instant::now();
            turns.asked_at = Some((now, state));
            let labels = [
                ("resource", self.route.resource.as_str()),
                ("priority", self.route.priority.as_str()),
            ];
            metrics::gauge!(metric::QUEUE_WAITING, &labels).set(state.n_waiting as f64);
            turns.watch.queue_answered(state, self.n_slots, now);
            self.progress.observe(&Observation::Queue {
                state,
                resource: self.route.resource,
            });
            self.record_given_up(plan, tasks, &turns.ledger, &mut turns.watch)
                .await?;
        }
        let state = turns.asked_at.map(|(_, state)| state).unwrap_or_default();
        let n_slots = state
            .n_slots
            .map_or(self.n_slots, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let window = OFFERS_PER_SLOT.saturating_mul(n_slots.max(self.n_slots).max(1));
        let now = self.started.elapsed();
        // While messages wait, or nobody takes any, a task that was offered long ago may be waiting
        // for no fault of its own. A queue in this process loses nothing and counts no slots.
        let is_held_up = state
            .n_slots
            .is_some_and(|n_slots| n_slots == 0 || state.n_waiting > 0);
        let offers = turns.ledger.offers(now, window, !is_held_up);
        if let Err(failure) = self.publish(plan, plan_id, tasks, &offers).await {
            turns.ledger.not_published(&offers);
            return Err(failure);
        }
        // A queue that cannot tell who takes from it is in this process, and loses nothing.
        if is_due && state.n_waiting == 0 && state.n_slots.is_some() && offers.is_empty() {
            let copies = turns.ledger.copies(now, n_slots, COPY_AFTER);
            self.publish(plan, plan_id, tasks, &copies).await?;
        }
        Ok(())
    }

    async fn publish(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        offers: &[usize],
    ) -> Result<(), Failure> {
        if offers.is_empty() {
            return Ok(());
        }
        let messages: Vec<TaskMessage> = offers
            .iter()
            .map(|&idx| TaskMessage {
                format: TaskMessage::FORMAT,
                run: self.run.clone(),
                output: self.output.uri().to_owned(),
                stage: plan.stage.clone(),
                kind: plan.kind.clone(),
                phase: plan.phase.clone(),
                plan: plan_id.clone(),
                task_idx: idx as u64,
                task: tasks[idx].id.clone(),
                route: self.route,
                n_passed_on: 0,
                refusal: None,
            })
            .collect();
        Ok(self.queue.publish(&messages).await?)
    }
}

/// What changes from turn to turn.
#[derive(Debug)]
struct Turns {
    ledger: Ledger,
    /// Tasks that were done before, once that is known.
    reused: Option<Reused>,
    watch: Watch,
    /// When the queue was asked last, and what it said.
    asked_at: Option<(Instant, gleaner_queue::QueueState)>,
}

#[cfg(test)]
mod tests;
