//! A map phase from its plan to its manifest: offer tasks, look at the store, pin, create.
//!
//! The store alone says what is done. The queue only carries offers, and the worker's hint only
//! makes the next look come sooner; losing either costs time, never rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gleaner_queue::TaskQueue;
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{
    Failure, FailureKind, Lanes, PhaseManifest, PhasePlan, PinnedAttempt, PlanId, QuarantinedTask,
    Route, RunId, SourceFile, Task, TaskId, TaskMessage,
};
use gleaner_storage::output::ListedAttempt;
use gleaner_storage::{Output, OutputError, encode, layout};
use gleaner_workers::runner::Trouble;
use gleaner_workers::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::journal::{Journal, PhaseStarted, rfc3339};
use crate::ledger::{Ledger, LedgerOptions};
use crate::progress::Progress;
use crate::run_error::RunError;

/// Shortest pause between two looks at the store.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between two looks at the store, without a hint.
const LOOK_PAUSE_MAX: Duration = Duration::from_secs(5);
/// A look that takes this long is followed by a pause ten times as long, so that looking stays
/// below a tenth of one core however many objects there are.
const LOOK_PAUSE_FACTOR: u32 = 10;
/// The store or the queue may be unreachable for this long before the run ends resumably.
const UNREACHABLE_MAX: Duration = Duration::from_secs(120);
/// A task is offered this many times before it is quarantined.
const OFFERS_MAX: u32 = 4;
/// Footers read at a time.
const FOOTER_READS: usize = 64;

/// What dispatching needs besides the phase.
#[derive(Debug)]
pub struct Dispatcher<'a> {
    /// The output.
    pub output: &'a Output,
    /// Where tasks are offered.
    pub queue: &'a Arc<dyn TaskQueue>,
    /// Told by workers in this process after each task.
    pub task_ended: &'a Arc<Notify>,
    /// What keeps workers in this process from recording outcomes.
    pub trouble: &'a Arc<Trouble>,
    /// Tasks that workers can run at a time, as far as known; twice as many are offered.
    pub n_slots: usize,
    /// Where tasks are offered.
    pub route: Route,
    /// This run.
    pub run: &'a RunId,
    /// Its journal.
    pub journal: &'a Journal,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Whether somebody asked to stop.
    pub shutdown: &'a Shutdown,
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

/// Work that was done, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Work {
    /// Rows of the tasks, where footers told them.
    pub rows: u64,
    /// Uncompressed bytes of the tasks.
    pub bytes: u64,
    /// From the first offer to the last attempt.
    pub seconds: f64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
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
) -> Result<Option<PhaseManifest>, OutputError> {
    let key = layout::phase_manifest(&plan.stage, &plan.phase, plan_id);
    output.get_json(&key, "phase manifest").await
}

impl Dispatcher<'_> {
    /// Runs the tasks of a phase until each has an attempt or is quarantined, and creates the
    /// phase's manifest.
    ///
    /// # Errors
    ///
    /// If somebody asks to stop, or the store or the queue stay unreachable.
    pub async fn run_phase(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
    ) -> Result<PhaseOutcome, RunError> {
        self.retrying(|| self.store_plan(plan, plan_id, tasks))
            .await?;
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id.clone()).collect();
        let options = LedgerOptions {
            window: (2 * self.n_slots).max(2),
            overdue_after: 2 * Duration::from_millis(plan.task_timeout_ms),
            offers_max: OFFERS_MAX,
        };
        let mut ledger = Ledger::new(&ids, options);
        let started = Instant::now();
        let attempts = self.complete(plan, plan_id, tasks, &mut ledger).await?;
        let mut work = Work {
            rows: plan
                .n_rows
                .unwrap_or(0)
                .saturating_sub(attempts.reused.rows),
            bytes: plan.bytes.saturating_sub(attempts.reused.bytes),
            seconds: 0.0,
        };
        if attempts.n_reused < plan.n_tasks {
            work.seconds = started.elapsed().as_secs_f64();
        }
        let manifest = self
            .manifest(plan, plan_id, tasks, &ledger, &attempts.latest)
            .await?;
        Ok(PhaseOutcome {
            manifest,
            n_reused: attempts.n_reused,
            work,
        })
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

    async fn complete(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        ledger: &mut Ledger,
    ) -> Result<Attempts, RunError> {
        let started = Instant::now();
        let mut reachable_at = started;
        let mut attempts: Option<Attempts> = None;
        loop {
            let looked_at = Instant::now();
            match self.look(plan, ledger).await {
                Ok(look) => {
                    reachable_at = Instant::now();
                    let is_first = attempts.is_none();
                    let attempts = attempts.get_or_insert_with(|| Attempts {
                        latest: BTreeMap::new(),
                        n_reused: look.news.len() as u64,
                        reused: sum(tasks, &look.news),
                    });
                    attempts.latest = look.attempts;
                    if is_first {
                        self.phase_started(plan, plan_id, attempts.n_reused).await;
                    }
                    self.advance(tasks, &look.news);
                }
                Err(error) => self.check_reachable(reachable_at, &error.into())?,
            }
            if ledger.is_complete()
                && let Some(attempts) = attempts
            {
                self.progress.phase_finished(&plan.stage, &plan.phase);
                return Ok(attempts);
            }
            if self.shutdown.is_draining() {
                return Err(RunError::Interrupted);
            }
            if let Some(failure) = self.trouble.get() {
                return Err(RunError::cannot_write(&failure));
            }
            if attempts.is_some()
                && let Err(error) = self.offer(plan, plan_id, tasks, ledger, started).await
            {
                self.check_reachable(reachable_at, &error)?;
            }
            let pause = (looked_at.elapsed() * LOOK_PAUSE_FACTOR).max(LOOK_PAUSE_MIN);
            self.pause(pause).await;
        }
    }

    /// Waits for a hint, but not shorter than `shortest`, which bounds the cost of looking.
    async fn pause(&self, shortest: Duration) {
        let longest = shortest.max(LOOK_PAUSE_MAX);
        let earliest = Instant::now() + shortest;
        tokio::select! {
            () = self.shutdown.draining() => {}
            () = async {
                let _ = tokio::time::timeout(longest, self.task_ended.notified()).await;
                tokio::time::sleep_until(earliest).await;
            } => {}
        }
    }

    fn check_reachable(&self, reachable_at: Instant, failure: &Failure) -> Result<(), RunError> {
        tracing::warn!(%failure, "cannot look at the store or offer tasks");
        if failure.kind == FailureKind::Permanent || reachable_at.elapsed() > UNREACHABLE_MAX {
            return Err(failure.clone().into());
        }
        Ok(())
    }

    async fn phase_started(&self, plan: &PhasePlan, plan_id: &PlanId, n_reused: u64) {
        self.progress.phase_started(
            &plan.stage,
            &plan.phase,
            plan.n_tasks,
            plan.n_rows,
            plan.bytes,
        );
        self.journal
            .phase_started(&PhaseStarted {
                stage: plan.stage.clone(),
                phase: plan.phase.clone(),
                plan: plan_id.clone(),
                folder: plan.folder.clone(),
                n_tasks: plan.n_tasks,
                n_reused,
                n_rows: plan.n_rows,
                bytes: plan.bytes,
                started_at: rfc3339(chrono::Utc::now()),
            })
            .await;
    }

    fn advance(&self, tasks: &[Task], news: &[usize]) {
        let work = sum(tasks, news);
        self.progress
            .advanced(news.len() as u64, work.rows, work.bytes);
    }

    async fn look(&self, plan: &PhasePlan, ledger: &mut Ledger) -> Result<Look, OutputError> {
        let attempts = self.output.attempts(&plan.folder).await?;
        let failures = self.failures(ledger).await?;
        // From here on nothing can fail: a ledger that knew of more than the listing that is
        // returned would end the phase without these tasks.
        let news = attempts
            .keys()
            .filter_map(|task| ledger.attempt_seen(task))
            .collect();
        for (task, (n_failures, failure)) in failures {
            ledger.failures_seen(&task, n_failures, &failure);
        }
        Ok(Look { attempts, news })
    }

    /// The failure records of this run: how many each task has, and one of them; a failure that
    /// trying again cannot help outweighs others.
    async fn failures(
        &self,
        ledger: &Ledger,
    ) -> Result<BTreeMap<TaskId, (u32, Failure)>, OutputError> {
        let mut failures: BTreeMap<TaskId, (u32, Failure)> = BTreeMap::new();
        for object in self.output.list(&layout::failures(self.run)).await? {
            let Some(task) = layout::parse_failure(&object.path) else {
                continue;
            };
            if !ledger.is_open(&task) {
                continue;
            }
            let record: Option<Failure> = self.output.get_json(&object.path, "failure").await?;
            let Some(failure) = record else { continue };
            failures
                .entry(task)
                .and_modify(|(n_failures, kept)| {
                    *n_failures += 1;
                    if failure.kind != FailureKind::Transient {
                        *kept = failure.clone();
                    }
                })
                .or_insert_with(|| (1, failure.clone()));
        }
        Ok(failures)
    }

    async fn offer(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        ledger: &mut Ledger,
        started: Instant,
    ) -> Result<(), Failure> {
        let offers = ledger.offers(started.elapsed());
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
            })
            .collect();
        if let Err(error) = self.queue.publish(&messages).await {
            ledger.not_published(&offers);
            return Err(error.into());
        }
        Ok(())
    }

    async fn manifest(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        ledger: &Ledger,
        attempts: &BTreeMap<TaskId, Vec<ListedAttempt>>,
    ) -> Result<PhaseManifest, RunError> {
        // Owned: a closure over borrowed pairs is not general enough for a future that is sent.
        let chosen: Vec<(usize, ListedAttempt)> = tasks
            .iter()
            .enumerate()
            .filter_map(|(idx, task)| Some((idx, attempts.get(&task.id)?.first()?.clone())))
            .collect();
        let pinned = self
            .retrying(|| {
                Output::map_concurrently(chosen.clone(), FOOTER_READS, |(idx, attempt)| {
                    self.pin(&tasks[idx], attempt)
                })
            })
            .await?;
        let quarantined: Vec<QuarantinedTask> = ledger
            .quarantined()
            .map(|(idx, failure, attempts)| QuarantinedTask {
                task: tasks[idx].id.clone(),
                failure: failure.clone(),
                attempts,
                inputs: inputs_of(&tasks[idx]),
                rows: tasks[idx].shard.n_rows(),
            })
            .collect();
        if pinned.len() + quarantined.len() != tasks.len() {
            return Err(RunError::Internal(format!(
                "stage {}, phase {}: {} of {} tasks have an outcome",
                plan.stage,
                plan.phase,
                pinned.len() + quarantined.len(),
                tasks.len()
            )));
        }
        let failed: u64 = quarantined.iter().filter_map(|task| task.rows).sum();
        let manifest = PhaseManifest {
            format: PhaseManifest::FORMAT,
            stage: plan.stage.clone(),
            phase: plan.phase.clone(),
            plan: plan_id.clone(),
            lanes: pinned.iter().map(|attempt| attempt.lanes).sum::<Lanes>()
                + Lanes {
                    rows_in: failed,
                    failed,
                    ..Lanes::default()
                },
            attempts: pinned,
            quarantined,
        };
        let key = if manifest.quarantined.is_empty() {
            layout::phase_manifest(&plan.stage, &plan.phase, plan_id)
        } else {
            let content = gleaner_schemas::Fingerprint::of("partial", &manifest);
            layout::partial_manifest(&plan.stage, &plan.phase, plan_id, &content)
        };
        self.retrying(|| {
            self.output
                .create_json(&key, "phase manifest", manifest.clone())
        })
        .await
    }

    async fn pin(&self, task: &Task, attempt: ListedAttempt) -> Result<PinnedAttempt, OutputError> {
        let path = self.output.path_of(&attempt.path);
        let facts = encode::read_facts(self.output.store(), &path, attempt.bytes)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => OutputError::Malformed {
                    uri: self.output.uri_of(&attempt.path),
                    expected: "object of a task",
                    message: format!("{}; remove it and run the job again", error_chain(&error)),
                },
                _ => OutputError::Store {
                    operation: "read the footer of",
                    uri: self.output.uri_of(&attempt.path),
                    source: error.into(),
                },
            })?;
        Ok(PinnedAttempt {
            task: task.id.clone(),
            attempt: attempt.attempt,
            path: attempt.path,
            rows: facts.rows,
            bytes: attempt.bytes,
            lanes: facts.lanes,
            inputs: inputs_of(task),
        })
    }

    /// Tries again, with pauses, while the store is unreachable, for a bounded time.
    pub(crate) async fn retrying<T, F, Fut>(&self, operation: F) -> Result<T, RunError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, OutputError>>,
    {
        retrying(self.shutdown, operation).await
    }
}

/// Tries again, with pauses, while the store is unreachable, for a bounded time.
///
/// # Errors
///
/// Of the operation, or if somebody asks to stop.
pub async fn retrying<T, F, Fut>(shutdown: &Shutdown, operation: F) -> Result<T, RunError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, OutputError>>,
{
    let started = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.kind() != FailureKind::Transient || started.elapsed() > UNREACHABLE_MAX {
            return Err(error.into());
        }
        let failure = Failure::from(error);
        tracing::warn!(%failure, "trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => return Err(RunError::Interrupted),
        }
        pause = (pause * 2).min(LOOK_PAUSE_MAX);
    }
}

struct Attempts {
    latest: BTreeMap<TaskId, Vec<ListedAttempt>>,
    n_reused: u64,
    reused: Work,
}

fn sum(tasks: &[Task], indices: &[usize]) -> Work {
    let shards = || indices.iter().map(|&idx| &tasks[idx].shard);
    Work {
        rows: shards().filter_map(|shard| shard.n_rows()).sum(),
        bytes: shards().map(gleaner_schemas::Shard::bytes).sum(),
        seconds: 0.0,
    }
}

struct Look {
    attempts: BTreeMap<TaskId, Vec<ListedAttempt>>,
    news: Vec<usize>,
}

/// The corpus files that a task's rows come from: its companions, or the files that it reads.
fn inputs_of(task: &Task) -> Vec<SourceFile> {
    if !task.shard.companions.is_empty() {
        return task.shard.companions.clone();
    }
    let mut files: Vec<SourceFile> = Vec::new();
    for slice in &task.shard.slices {
        if files.last() != Some(&slice.file) {
            files.push(slice.file.clone());
        }
    }
    files
}
