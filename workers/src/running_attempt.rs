//! An attempt from its begin to its end, as metrics and records tell it.

use gleaner_schemas::{
    AttemptId, AttemptOutcome, AttemptRecord, Failure, RunId, TaskMessage, metric,
};
use tokio::time::Instant;

use crate::attempt_log::peak_memory_bytes;
use crate::options::WorkerOptions;
use crate::plan_cache::PlannedTask;
use crate::throttling;

/// An attempt that goes on. One that is dropped before it ends was cancelled.
pub(crate) struct RunningAttempt<'a> {
    options: &'a WorkerOptions,
    planned: &'a PlannedTask,
    run: &'a RunId,
    started: Instant,
    has_ended: bool,
}

impl<'a> RunningAttempt<'a> {
    pub(crate) fn begin(
        options: &'a WorkerOptions,
        planned: &'a PlannedTask,
        message: &'a TaskMessage,
    ) -> Self {
        Self {
            options,
            planned,
            run: &message.run,
            started: Instant::now(),
            has_ended: false,
        }
    }

    /// The store holds the object of the attempt.
    pub(crate) fn committed(mut self, attempt: AttemptId, bytes: u64) {
        let kind = &self.planned.plan.kind;
        metrics::counter!(metric::TASK_BYTES_IN, "stage_kind" => kind.clone())
            .increment(self.planned.task.shard.bytes());
        metrics::counter!(metric::TASK_BYTES_OUT, "stage_kind" => kind.clone()).increment(bytes);
        self.end(AttemptOutcome::Committed, Some((attempt, bytes)), None);
    }

    /// The attempt came to nothing.
    pub(crate) fn failed(mut self, failure: &Failure) {
        self.end(AttemptOutcome::Failed, None, Some(failure));
    }

    fn end(
        &mut self,
        outcome: AttemptOutcome,
        object: Option<(AttemptId, u64)>,
        failure: Option<&Failure>,
    ) {
        self.has_ended = true;
        let elapsed = self.started.elapsed();
        let PlannedTask { output, plan, task } = self.planned;
        count(&plan.kind, outcome.as_str(), failure);
        metrics::histogram!(
            metric::ATTEMPT_SECONDS_NAME,
            "stage_kind" => plan.kind.clone(), "phase" => plan.phase.clone()
        )
        .record(elapsed.as_secs_f64());
        let Some(log) = &self.options.attempts else {
            return;
        };
        let (attempt, bytes_out) = object.unzip();
        let record = AttemptRecord {
            format: AttemptRecord::FORMAT,
            task: task.id.clone(),
            attempt,
            stage: plan.stage.clone(),
            phase: plan.phase.clone(),
            worker: log.worker().to_owned(),
            started_at: log.time_of(self.started),
            seconds: elapsed.as_secs_f64(),
            rows: task.shard.n_rows(),
            bytes_in: task.shard.bytes(),
            bytes_out,
            worker_peak_memory_bytes: peak_memory_bytes(),
            worker_throttled: throttling::so_far(),
            outcome,
            failure: failure.cloned(),
        };
        log.add(output, self.run, record);
    }
}

impl Drop for RunningAttempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(AttemptOutcome::Cancelled, None, None);
        }
    }
}

/// Counts a task that needed no attempt, since the store held one.
pub(crate) fn found(planned: &PlannedTask) {
    count(&planned.plan.kind, "found", None);
}

fn count(kind: &str, outcome: &'static str, failure: Option<&Failure>) {
    let failure_kind = failure.map_or_else(String::new, |failure| failure.kind.to_string());
    metrics::counter!(
        metric::ATTEMPTS,
        "stage_kind" => kind.to_owned(), "outcome" => outcome, "failure_kind" => failure_kind
    )
    .increment(1);
}
