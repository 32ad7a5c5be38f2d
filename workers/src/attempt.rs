//! One attempt at a task: look whether it is done, compute, put one object.
//!
//! The object's name is used by no other attempt, and the object appears whole or not at all, so
//! it is the proof that the attempt is complete. Nothing else is written on success.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gleaner_schemas::{AttemptId, ContentHash, Failure, FailureKind, PhasePlan, Task, TaskMessage};
use gleaner_storage::{OutputError, layout};
use tokio_util::sync::CancellationToken;

use crate::entropy::Entropy;
use crate::plan_cache::{PlanCache, PlannedTask};

/// Attempts at a task by one worker while its failures are transient.
const ATTEMPTS_MAX: u32 = 4;
/// First pause between attempts; doubles each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(20);

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
        plan: &Arc<PhasePlan>,
        task: &Arc<Task>,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure>;
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
    /// When not even a failure could be recorded, when the output refuses what is computed, or
    /// after `cancel`: the delivery must be given back.
    pub async fn work(
        &self,
        message: &TaskMessage,
        cancel: &CancellationToken,
    ) -> Result<TaskEnd, Failure> {
        let planned = self.plans.find(message).await?;
        let mut attempt_number = 1;
        loop {
            let (failure, is_task) = match self.attempt(&planned, cancel).await {
                Ok(end) => return Ok(end),
                Err(Failed::Task(failure)) => (failure, true),
                Err(Failed::Output(failure)) => (failure, false),
            };
            if cancel.is_cancelled() {
                return Err(failure);
            }
            // On a full disk a small record may fit where the object does not. It would give up
            // rows that nothing is wrong with.
            if failure.kind != FailureKind::Transient && !is_task {
                return Err(failure);
            }
            if failure.kind != FailureKind::Transient || attempt_number >= ATTEMPTS_MAX {
                return self.record(message, &planned, failure).await;
            }
            tracing::warn!(
                task = %message.task, stage = message.stage, phase = message.phase,
                attempt_number, %failure, "attempt failed, trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(self.back_off(attempt_number)) => {}
                () = cancel.cancelled() => return Err(failure),
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
        cancel: &CancellationToken,
    ) -> Result<TaskEnd, Failed> {
        let PlannedTask { output, plan, task } = planned;
        let folder = layout::attempt_folder(&plan.folder, &task.id, plan.n_tasks);
        if output.attempts(&folder).await?.contains_key(&task.id) {
            return Ok(TaskEnd::Found);
        }
        let bytes = self.execute_in_time(plan, task, cancel).await?;
        let content = ContentHash::of(&bytes);
        // The nonce is the upper half, so it fits.
        let attempt = AttemptId::new((self.entropy.next_u64() >> 32) as u32, &content);
        let key = layout::attempt(&plan.folder, &task.id, &attempt, plan.n_tasks);
        output.put(&key, bytes).await?;
        Ok(TaskEnd::Committed)
    }

    async fn execute_in_time(
        &self,
        plan: &Arc<PhasePlan>,
        task: &Arc<Task>,
        cancel: &CancellationToken,
    ) -> Result<Bytes, Failure> {
        let cancel = cancel.child_token();
        let _cancel_on_return = cancel.clone().drop_guard();
        let mut execution = self.executor.execute(plan, task, cancel.clone());
        let time_limit = Duration::from_millis(plan.task_timeout_ms);
        match tokio::time::timeout(time_limit, &mut execution).await {
            Ok(result) => result,
            Err(_) => {
                cancel.cancel();
                // The thread that computes is ours: it is waited for, not left behind.
                let _ = execution.await;
                Err(Failure::new(
                    FailureKind::Transient,
                    format!(
                        "the task took longer than task_timeout ({} s); lower `task_bytes` or \
                         raise `task_timeout` in the job file",
                        time_limit.as_secs()
                    ),
                ))
            }
        }
    }

    async fn record(
        &self,
        message: &TaskMessage,
        planned: &PlannedTask,
        failure: Failure,
    ) -> Result<TaskEnd, Failure> {
        let nonce = (self.entropy.next_u64() >> 32) as u32;
        let key = layout::failure(&message.run, &message.task, nonce);
        planned.output.put_json(&key, "failure", &failure).await?;
        Ok(TaskEnd::Recorded(failure))
    }
}
