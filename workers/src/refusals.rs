//! Tells coordinators why this worker leaves their tasks to others: a store that does not let it
//! write, a program of another version. A coordinator learns of everything else from the store,
//! but such a worker has nothing there to write to, or to say about the task.
//!
//! A report is a hint, so it may be lost. Each run is told at once, then after pauses that double,
//! for as long as its tasks come: its tasks may come for ever, and so may its coordinators. What a
//! worker may not read concerns single tasks, each of which is told of like that.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gleaner_queue::TaskQueue;
use gleaner_schemas::{Failure, RunId, TaskId, TaskMessage};
use tokio::time::Instant;

/// First pause between two reports to a run; doubles each time.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// Longest pause between two reports to a run.
const PAUSE_MAX: Duration = Duration::from_secs(60 * 60);
/// Runs and tasks that are remembered. Beyond that all are forgotten, and told anew.
const TOLD_MAX: usize = 1000;
/// A report takes no longer; the next one may come through.
const REPORT_MAX: Duration = Duration::from_secs(10);
/// Bytes of the reason: a message is small.
const REASON_BYTES: usize = 600;

/// What was reported.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<HashMap<Told, Next>>);

/// A run, or a task of it.
type Told = (RunId, Option<TaskId>);

/// When something is told next.
#[derive(Debug, Clone, Copy)]
struct Next {
    next_at: Instant,
    pause: Duration,
}

impl Refusals {
    /// Reports that `worker` leaves the task to others because of `failure`, if a report is due: to
    /// its run, or of this very task. Whether it was the first.
    pub(crate) async fn report(
        &self,
        queue: &dyn TaskQueue,
        task: &TaskMessage,
        worker: &str,
        failure: &Failure,
        is_of_task: bool,
    ) -> bool {
        let told = (task.run.clone(), is_of_task.then(|| task.task.clone()));
        let Some(is_first) = self.is_due(&told, Instant::now()) else {
            return false;
        };
        let mut reason = format!("{worker}: {failure}");
        if reason.len() > REASON_BYTES {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES));
            reason.push_str(" ...");
        }
        let refused = TaskMessage {
            refusal: Some(Failure::new(failure.kind, reason)),
            ..task.clone()
        };
        let reported = tokio::time::timeout(REPORT_MAX, queue.report(&refused)).await;
        if !matches!(reported, Ok(Ok(()))) {
            tracing::debug!(run = %task.run, "the coordinator cannot be told at the moment");
        }
        is_first
    }

    /// Whether a report is due, and the first one.
    fn is_due(&self, told: &Told, now: Instant) -> Option<bool> {
        // The map is whole whenever the lock is free.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = all.get(told).copied();
        if next.is_some_and(|next| now < next.next_at) {
            return None;
        }
        if all.len() >= TOLD_MAX {
            all.clear();
        }
        let pause = next.map_or(PAUSE_MIN, |next| (2 * next.pause).min(PAUSE_MAX));
        let next_at = now + pause;
        all.insert(told.clone(), Next { next_at, pause });
        Some(next.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_at_once_and_then_after_pauses_that_double() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let mut due = Vec::new();
        for second in 0..4 * 60 * 60 {
            let now = start + Duration::from_secs(second);
            if let Some(is_first) = refusals.is_due(&(RunId::new(1), None), now) {
                assert_eq!(is_first, second == 0);
                due.push(second);
            }
        }
        assert_eq!(due[..4], [0, 30, 90, 210]);
        // The longest pause is an hour.
        assert_eq!(due.len(), 10, "{due:?}");
        assert_eq!(refusals.is_due(&(RunId::new(2), None), start), Some(true));
    }
}
