//! Nothing waits without a bound: what was last heard of store, queue and workers, and when that
//! is too long ago.

use std::time::Duration;

use gleaner_queue::QueueState;
use gleaner_schemas::Failure;
use tokio::time::Instant;

use crate::run_error::RunError;

/// After this time without a worker, the user is told.
const NOTE_AFTER: Duration = Duration::from_secs(15);

/// What keeps a phase from going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Store,
    Queue,
    Workers,
}

/// When things were last heard of.
#[derive(Debug)]
pub(super) struct Watch {
    patience: Duration,
    store_at: Instant,
    queue_at: Instant,
    workers_at: Instant,
    last_failure: Option<Failure>,
    is_noted: bool,
}

impl Watch {
    /// Everything is fine at `now`; each may be missing for `patience`.
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self {
            patience,
            store_at: now,
            queue_at: now,
            workers_at: now,
            last_failure: None,
            is_noted: false,
        }
    }

    /// The store answered.
    pub(super) fn store_answered(&mut self, now: Instant) {
        self.store_at = now;
    }

    /// Some task has an outcome that is news: somebody works, whatever the queue says.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.workers_at = now;
        self.is_noted = false;
    }

    /// The queue answered. `n_own_slots` are those of this process.
    pub(super) fn queue_answered(&mut self, state: QueueState, n_own_slots: usize, now: Instant) {
        self.queue_at = now;
        if n_own_slots > 0 || state.n_slots.is_none_or(|n_slots| n_slots > 0) {
            self.progressed(now);
        }
    }

    /// Store or queue did not do what they were asked to.
    pub(super) fn failed(&mut self, failure: Failure) {
        tracing::warn!(%failure, "cannot look at the store or the queue");
        self.last_failure = Some(failure);
    }

    fn longest_missing(&self, now: Instant) -> (Missing, Duration) {
        // While the queue is silent, nothing is known of workers.
        let others = [
            (Missing::Store, self.store_at),
            (Missing::Queue, self.queue_at),
        ];
        let longest = others.map(|(what, at)| (what, now.saturating_duration_since(at)));
        let workers = self.queue_at.saturating_duration_since(self.workers_at);
        let longest = longest.into_iter().chain([(Missing::Workers, workers)]);
        longest
            .max_by_key(|(_, span)| *span)
            .unwrap_or((Missing::Workers, Duration::ZERO))
    }

    /// What the user should know now, once.
    pub(super) fn note(&mut self, now: Instant) -> Option<String> {
        let (missing, span) = self.longest_missing(now);
        if missing != Missing::Workers || span < NOTE_AFTER || self.is_noted {
            return None;
        }
        self.is_noted = true;
        Some(format!(
            "waiting for workers: none is connected; start some with `gleaner-worker --queue ...` \
             (giving up in {})",
            crate::progress::duration(self.patience.saturating_sub(span))
        ))
    }

    /// Whether something is missing for too long.
    ///
    /// # Errors
    ///
    /// What it is; the run can be resumed.
    pub(super) fn check(&self, n_open: usize, now: Instant) -> Result<(), RunError> {
        let (missing, span) = self.longest_missing(now);
        if span <= self.patience {
            return Ok(());
        }
        let span = crate::progress::duration(span);
        let cause = self
            .last_failure
            .as_ref()
            .map_or_else(String::new, |failure| format!(": {failure}"));
        Err(RunError::Unreachable(match missing {
            Missing::Store => format!("the output's store has not answered for {span}{cause}"),
            Missing::Queue => format!("the queue has not answered for {span}{cause}"),
            Missing::Workers => format!(
                "no worker has been connected for {span} and {n_open} tasks are open; start \
                 workers (`gleaner-worker --queue ...`) and run the job again to go on"
            ),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn state(n_slots: u64) -> QueueState {
        QueueState {
            n_waiting: 1,
            n_slots: Some(n_slots),
        }
    }

    fn check(watch: &Watch, now: Instant) -> String {
        match watch.check(3, now) {
            Ok(()) => String::new(),
            Err(error) => {
                assert_eq!(error.exit_code(), 4);
                error.to_string()
            }
        }
    }

    #[tokio::test]
    async fn nobody_works_for_too_long() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(PATIENCE, start);
        for second in 1..=60 {
            watch.store_answered(at(second));
            watch.queue_answered(state(0), 0, at(second));
            assert_eq!(check(&watch, at(second)), "");
            assert_eq!(watch.note(at(second)).is_some(), second == 15);
        }
        watch.queue_answered(state(0), 0, at(61));
        watch.store_answered(at(61));
        let message = check(&watch, at(61));
        assert!(
            message.starts_with("no worker has been connected"),
            "{message}"
        );
        watch.queue_answered(state(1), 0, at(62));
        watch.store_answered(at(62));
        assert_eq!(check(&watch, at(62)), "");
    }

    #[tokio::test]
    async fn what_is_done_proves_that_somebody_works() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(PATIENCE, start);
        watch.progressed(at(50));
        watch.store_answered(at(100));
        watch.queue_answered(state(0), 0, at(100));
        assert_eq!(check(&watch, at(100)), "");
    }

    #[tokio::test]
    async fn store_and_queue_are_told_apart() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(PATIENCE, start);
        watch.store_answered(at(100));
        watch.failed(Failure::new(
            gleaner_schemas::FailureKind::Transient,
            "connection refused",
        ));
        let message = check(&watch, at(100));
        assert!(
            message.starts_with("the queue has not answered"),
            "{message}"
        );
        assert!(message.contains("connection refused"), "{message}");
        watch.queue_answered(state(0), 2, at(170));
        let message = check(&watch, at(170));
        assert!(message.starts_with("the output's store"), "{message}");
    }
}
