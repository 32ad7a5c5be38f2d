//! One attempt at a task: look whether it is done, compute, put one object.
//!
//! The object's name is used by no other attempt, and the object appears whole or not at all, so
//! it is the proof that the attempt is complete. Nothing else is written on success.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gleaner_schemas::units::HumanDuration;
use gleaner_schemas::{
    AttemptId, ContentHash, Failure, FailureKind, PhasePlan, TaskId, TaskMessage,
};
use gleaner_storage::{OutputError, layout};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::entropy::Entropy;
use crate::options::WorkerOptions;
use crate::plan_cache::{PlanCache, PlannedTask};
use crate::running_attempt::{self, RunningAttempt};
use crate::time_to_settle::TimeToSettle;
use crate::unsettled::{Blame, Unsettled};

/// Attempts at a task by one worker while its failures are transient.
const ATTEMPTS_MAX: u32 = 4;
/// First pause between attempts; doubles each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(20);
/// When its time is over, an attempt is cancelled, and its thread is waited for this long. It
/// looks at the cancellation with every read and every batch, so a thread that takes longer hangs
/// where nothing can reach it.
const GRACE: Duration = Duration::from_secs(30);
/// Reading a plan takes no longer.
const PLAN_READ_MAX: Duration = Duration::from_secs(5 * 60);
/// A worker with as many hanging threads has lost more than an odd file.
const HUNG_THREADS_MAX: usize = 4;

/// Computes the object of a task.
#[async_trait]
pub trait TaskExecutor: Debug + Send + Sync {
    /// The bytes of the task's object: a function of plan and task alone. Returns soon after
    /// `cancel` is cancelled, with any failure.
    ///
    /// # Errors
    ///
    /// Why the task could not be computed.
    async fn execute(
        &self,
        planned: &PlannedTask,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure>;

    /// Why this worker must not compute tasks of the plan, whatever they are: it is of another
    /// version than whoever planned.
    fn refuses(&self, _plan: &PhasePlan) -> Option<Failure> {
        None
    }

    /// What is to be said of a store that tasks read and that has not answered for so long.
    fn silent_store(&self, _span: Duration) -> Option<String> {
        None
    }

    /// Called when no more tasks are executed: ends, within `limit`, what was begun for tasks and
    /// outlives them.
    async fn finish(&self, _limit: Duration) {}

    /// Threads of attempts that were given up, and that have not returned.
    fn n_hung(&self) -> usize {
        0
    }
}

/// What a worker needs to work on tasks.
#[derive(Debug)]
pub struct Workbench {
    /// Plans that were read.
    pub plans: PlanCache,
    /// Computes objects.
    pub executor: Arc<dyn TaskExecutor>,
    /// Random bits for attempt ids and jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// How the work on a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// The store holds an attempt.
    Committed,
    /// The store held one already.
    Found,
    /// The task failed and the store holds a record of that.
    Recorded(Failure),
}

/// Why an attempt came to nothing.
enum Failed {
    /// The task cannot be computed.
    Task(Failure),
    /// It took too long, and would again: whoever offers tasks decides whether it is tried again.
    TimedOut(Failure),
    /// The output does not take or show objects, whatever the task is.
    Output(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self::Task(failure)
    }
}

impl From<OutputError> for Failed {
    fn from(error: OutputError) -> Self {
        Self::Output(error.into())
    }
}

impl Workbench {
    /// Works on the task that `message` names until the store holds an outcome.
    ///
    /// # Errors
    ///
    /// When not even a failure could be recorded, when the output refuses what is computed, when
    /// this worker is of another version, or after `cancel`: the delivery must be given back.
    pub async fn work(
        &self,
        message: &TaskMessage,
        options: &WorkerOptions,
        cancel: &CancellationToken,
    ) -> Result<TaskEnd, Unsettled> {
        let time = TimeToSettle::begin(options.consumer_timeout);
        let read_max = time.share(PLAN_READ_MAX);
        let planned = match tokio::time::timeout(read_max, self.plans.find(message)).await {
            Ok(found) => found?,
            Err(_) => return Err(unread(read_max)),
        };
        if let Some(failure) = self.executor.refuses(&planned.plan) {
            let blame = Blame::Worker;
            return Err(Unsettled { failure, blame });
        }
        let task_timeout = Duration::from_millis(planned.plan.task_timeout_ms);
        if let Some(consumer_timeout) = options.consumer_timeout
            && task_timeout > consumer_timeout / 2
        {
            let failure = too_long(task_timeout, consumer_timeout);
            return self.record(message, &planned, failure, time).await;
        }
        let mut attempt_number = 1;
        loop {
            let span = tracing::error_span!(
                "attempt",
                number = attempt_number,
                id = tracing::field::Empty
            );
            let attempt = self.attempt(&planned, message, options, cancel, time);
            let (failure, is_task) = match attempt.instrument(span).await {
                Ok(end) => return Ok(end),
                Err(Failed::Task(failure)) => (failure, true),
                Err(Failed::Output(failure)) => (failure, false),
                Err(Failed::TimedOut(failure)) if !cancel.is_cancelled() => {
                    return self.record(message, &planned, failure, time).await;
                }
                Err(Failed::TimedOut(failure)) => return Err(failure.into()),
            };
            if cancel.is_cancelled() {
                return Err(failure.into());
            }
            if is_task && failure.kind == FailureKind::Access {
                if !options.is_beside_coordinator {
                    let blame = Blame::Access;
                    return Err(Unsettled { failure, blame });
                }
                // Whoever would have to decide is denied it as well.
                let kind = FailureKind::Permanent;
                let failure = Failure { kind, ..failure };
                return self.record(message, &planned, failure, time).await;
            }
            // On a full disk a small record may fit where the object does not. It would give up
            // rows that nothing is wrong with.
            if failure.kind != FailureKind::Transient && !is_task {
                return Err(failure.into());
            }
            let is_last = attempt_number >= ATTEMPTS_MAX || !time.is_enough_for(task_timeout);
            if failure.kind != FailureKind::Transient || is_last {
                return self.record(message, &planned, failure, time).await;
            }
            tracing::warn!(
                task = %message.task, stage = message.stage, phase = message.phase,
                attempt_number, %failure, "attempt failed, trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(self.back_off(attempt_number)) => {}
                () = cancel.cancelled() => return Err(failure.into()),
            }
            attempt_number += 1;
        }
    }

    /// Full jitter: workers that failed together must not come back together.
    fn back_off(&self, attempt_number: u32) -> Duration {
        let longest = BACK_OFF_MIN
            .saturating_mul(2_u32.saturating_pow(attempt_number - 1))
            .min(BACK_OFF_MAX);
        let longest_ms = u64::try_from(longest.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_millis(self.entropy.next_u64() % longest_ms)
    }

    async fn attempt(
        &self,
        planned: &PlannedTask,
        message: &TaskMessage,
        options: &WorkerOptions,
        cancel: &CancellationToken,
        time: TimeToSettle,
    ) -> Result<TaskEnd, Failed> {
        let PlannedTask { output, plan, task } = planned;
        let folder = layout::attempt_folder(&plan.folder, &task.id, plan.n_tasks);
        let time_limit = Duration::from_millis(plan.task_timeout_ms);
        // Looking, computing and putting have one time limit together.
        let deadline = Instant::now() + time_limit;
        let attempts = answered(time_limit, output.attempts(&folder)).await?;
        if attempts.contains_key(&task.id) {
            running_attempt::found(planned);
            return Ok(TaskEnd::Found);
        }
        let running = RunningAttempt::begin(options, planned, message);
        match self.commit(planned, deadline, cancel, time).await {
            Ok((attempt, bytes)) => {
                tracing::Span::current().record("id", tracing::field::display(&attempt));
                tracing::debug!(bytes, "the object is stored");
                running.committed(attempt, bytes);
                Ok(TaskEnd::Committed)
            }
            Err(failed) => {
                if !cancel.is_cancelled() {
                    let (Failed::Task(failure)
                    | Failed::Output(failure)
                    | Failed::TimedOut(failure)) = &failed;
                    running.failed(failure);
                }
                Err(failed)
            }
        }
    }

    /// Computes the object of a task and puts it: the attempt's name, and its size in bytes.
    async fn commit(
        &self,
        planned: &PlannedTask,
        deadline: Instant,
        cancel: &CancellationToken,
        time: TimeToSettle,
    ) -> Result<(AttemptId, u64), Failed> {
        let PlannedTask { output, plan, task } = planned;
        let bytes = self
            .execute_in_time(planned, deadline, cancel, time)
            .await?;
        let n_bytes = bytes.len() as u64;
        let content = ContentHash::of(&bytes);
        // The nonce is the upper half, so it fits.
        let attempt = AttemptId::new((self.entropy.next_u64() >> 32) as u32, &content);
        let key = layout::attempt(&plan.folder, &task.id, &attempt, plan.n_tasks);
        match tokio::time::timeout_at(deadline, output.put(&key, bytes)).await {
            Ok(put) => put?,
            Err(_) => {
                let time_limit = Duration::from_millis(plan.task_timeout_ms);
                return Err(Failed::TimedOut(put_too_late(time_limit, n_bytes)));
            }
        }
        Ok((attempt, n_bytes))
    }

    async fn execute_in_time(
        &self,
        planned: &PlannedTask,
        deadline: Instant,
        cancel: &CancellationToken,
        time: TimeToSettle,
    ) -> Result<Bytes, Failed> {
        let cancel = cancel.child_token();
        let _cancel_on_return = cancel.clone().drop_guard();
        let mut execution = self.executor.execute(planned, cancel.clone());
        if let Ok(result) = tokio::time::timeout_at(deadline, &mut execution).await {
            return Ok(result?);
        }
        let time_limit = Duration::from_millis(planned.plan.task_timeout_ms);
        let silent = self.executor.silent_store(time_limit / 2);
        cancel.cancel();
        // The thread that computes is ours: it is waited for, unless it hangs.
        let grace = time.share(GRACE);
        let returned = tokio::time::timeout(grace, &mut execution).await.is_ok();
        drop(execution);
        let seconds = time_limit.as_secs();
        let (kind, mut message) = match silent {
            // Nothing is wrong with the task.
            Some(silent) => (
                FailureKind::Transient,
                format!("the task took longer than task_timeout ({seconds} s): {silent}"),
            ),
            None => (
                FailureKind::Timeout,
                format!(
                    "the task took longer than task_timeout ({seconds} s); lower `task_bytes` or \
                     raise `task_timeout` in the job file"
                ),
            ),
        };
        if !returned {
            message.push_str(&self.hung(&planned.task.id, grace));
        }
        Err(Failed::TimedOut(Failure::new(kind, message)))
    }

    /// Says that a thread was left behind, and how many are.
    fn hung(&self, task: &TaskId, grace: Duration) -> String {
        let n_hung = self.executor.n_hung();
        tracing::warn!(%task, n_hung, "an attempt does not end; its thread is left behind");
        if n_hung >= HUNG_THREADS_MAX {
            tracing::error!(
                n_hung,
                "threads of this worker hang where nothing can end them: does the file system \
                 answer? they hold memory until it does; restart the worker if it never will"
            );
        }
        format!(
            "; it did not even end {} s after it was cancelled, so its thread was left behind, and \
             {n_hung} hang in this worker now: does the file system or the store answer?",
            grace.as_secs()
        )
    }

    async fn record(
        &self,
        message: &TaskMessage,
        planned: &PlannedTask,
        failure: Failure,
        time: TimeToSettle,
    ) -> Result<TaskEnd, Unsettled> {
        let nonce = (self.entropy.next_u64() >> 32) as u32;
        let key = layout::failure(&message.run, &message.task, nonce);
        let put = planned.output.put_json(&key, "failure", &failure);
        let time_limit = Duration::from_millis(planned.plan.task_timeout_ms);
        match answered(time.left(time_limit), put).await {
            Ok(()) => Ok(TaskEnd::Recorded(failure)),
            Err(Failed::Task(error) | Failed::Output(error) | Failed::TimedOut(error)) => {
                Err(error.into())
            }
        }
    }
}

fn unread(read_max: Duration) -> Unsettled {
    let message = format!(
        "the plan of the task could not be read within {} s",
        read_max.as_secs_f64()
    );
    Failure::new(FailureKind::Transient, message).into()
}

fn put_too_late(time_limit: Duration, n_bytes: u64) -> Failure {
    Failure::new(
        FailureKind::Transient,
        format!(
            "the task took longer than task_timeout ({} s): it was computed, but the output had \
             not taken its {n_bytes} bytes by then; lower `task_bytes` or raise `task_timeout` in \
             the job file, or look at the store",
            time_limit.as_secs()
        ),
    )
}

fn too_long(task_timeout: Duration, consumer_timeout: Duration) -> Failure {
    let (task_timeout, consumer_timeout) = (
        HumanDuration::new(task_timeout),
        HumanDuration::new(consumer_timeout),
    );
    Failure::new(
        FailureKind::Permanent,
        format!(
            "task_timeout ({task_timeout}) is longer than half of the time after which the broker \
             takes a task away from its worker ({consumer_timeout}); lower `task_timeout` in the \
             job file, or raise the broker's consumer_timeout and give it to the workers as \
             --consumer-timeout"
        ),
    )
}

/// The answer of the output, unless it takes longer than the task may.
async fn answered<T>(
    time_limit: Duration,
    operation: impl Future<Output = Result<T, OutputError>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(time_limit, operation).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failed::Output(Failure::new(
            FailureKind::Transient,
            format!(
                "the output did not answer within what task_timeout leaves ({} s)",
                time_limit.as_secs_f64()
            ),
        ))),
    }
}

#[cfg(test)]
mod tests;
