//! Nothing waits without a bound: what was last heard of store, queue and workers, and when that
//! is too long ago.

use std::time::Duration;

use gleaner_queue::QueueState;
use gleaner_schemas::{Failure, Resource};
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
    /// What workers must have to do a task.
    resource: Resource,
    patience: Duration,
    store_at: Instant,
    queue_at: Instant,
    workers_at: Instant,
    last_failure: Option<Failure>,
    is_noted: bool,
    /// Why workers leave tasks to others, since one last had an outcome.
    refusal: Option<String>,
    /// What of that the user was told.
    noted_refusal: Option<String>,
    outcome_at: Instant,
    done_at: Instant,
    /// What tasks could not reach, and when that was last heard of, since one was last done.
    out_of_reach: Option<(Failure, Instant)>,
    /// Whether the user was told of that.
    is_reach_noted: bool,
    /// How long no task may have an outcome while workers refuse some, and how long none may be done
    /// while what they read cannot be reached.
    outcome_within: Duration,
}

impl Watch {
    /// Everything is fine at `now`; each may be missing for `patience`, and outcomes, while
    /// workers that have `resource` refuse tasks or cannot reach what these read, for
    /// `outcome_within`.
    pub(super) fn new(
        resource: Resource,
        patience: Duration,
        outcome_within: Duration,
        now: Instant,
    ) -> Self {
        Self {
            resource,
            patience,
            store_at: now,
            queue_at: now,
            workers_at: now,
            last_failure: None,
            is_noted: false,
            refusal: None,
            noted_refusal: None,
            outcome_at: now,
            done_at: now,
            out_of_reach: None,
            is_reach_noted: false,
            outcome_within,
        }
    }

    /// The store answered.
    pub(super) fn store_answered(&mut self, now: Instant) {
        self.store_at = now;
    }

    /// Some task has an outcome that is news: somebody works, whatever the queue says.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.outcome_at = now;
        self.refusal = None;
        self.workers_seen(now);
    }

    /// Some task is done.
    pub(super) fn done(&mut self, now: Instant) {
        self.done_at = now;
        self.out_of_reach = None;
        self.is_reach_noted = false;
    }

    /// A task has failed, since what it reads or writes could not be reached. It is tried again.
    pub(super) fn out_of_reach(&mut self, failure: &Failure, now: Instant) {
        self.out_of_reach = Some((failure.clone(), now));
    }

    fn workers_seen(&mut self, now: Instant) {
        self.workers_at = now;
        self.is_noted = false;
    }

    /// A worker leaves tasks to others, for a reason that does not go away by itself.
    pub(super) fn refused(&mut self, failure: &Failure) {
        tracing::warn!(%failure, "a worker leaves the tasks of this run to others");
        self.refusal = Some(failure.to_string());
    }

    /// The queue answered. `n_own_slots` are those of this process.
    pub(super) fn queue_answered(&mut self, state: QueueState, n_own_slots: usize, now: Instant) {
        self.queue_at = now;
        if n_own_slots > 0 || state.n_slots.is_none_or(|n_slots| n_slots > 0) {
            self.workers_seen(now);
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
        if self.refusal.is_some() && self.refusal != self.noted_refusal {
            self.noted_refusal.clone_from(&self.refusal);
            let refusal = self.refusal.as_deref().unwrap_or_default();
            return Some(format!(
                "a worker leaves the tasks of this run to other workers: {refusal}"
            ));
        }
        if let Some((failure, at)) = &self.out_of_reach
            && *at - self.done_at >= NOTE_AFTER
            && !self.is_reach_noted
        {
            self.is_reach_noted = true;
            return Some(format!(
                "tasks cannot reach what they read or write, and are tried again: {failure}"
            ));
        }
        let (missing, span) = self.longest_missing(now);
        if missing != Missing::Workers || span < NOTE_AFTER || self.is_noted {
            return None;
        }
        self.is_noted = true;
        Some(format!(
            "waiting for workers: none that takes tasks for `{0}` is connected; start some with \
             `gleaner-worker --queue ... --resources {0}` (giving up in {1})",
            self.resource.as_str(),
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
            self.check_reach(n_open)?;
            return self.check_refusals(n_open, now);
        }
        let span = crate::progress::duration(span);
        let refusal = self.refusal.as_ref().map_or_else(String::new, |refusal| {
            format!("; a worker that was there left its tasks to others: {refusal}")
        });
        let cause = self
            .last_failure
            .as_ref()
            .map_or_else(String::new, |failure| format!(": {failure}"));
        Err(RunError::Unreachable(match missing {
            Missing::Store => format!("the output's store has not answered for {span}{cause}"),
            Missing::Queue => format!("the queue has not answered for {span}{cause}"),
            Missing::Workers => format!(
                "no worker that takes tasks for `{0}` has been connected for {span} and {n_open} \
                 tasks are open; start workers (`gleaner-worker --queue ... --resources {0}`) and \
                 run the job again to go on{refusal}",
                self.resource.as_str()
            ),
        }))
    }

    /// Where no task can reach what it reads, it would take all of them to fail as often as each may.
    fn check_reach(&self, n_open: usize) -> Result<(), RunError> {
        match &self.out_of_reach {
            Some((failure, at)) if *at - self.done_at > self.outcome_within => {
                Err(RunError::Unreachable(format!(
                    "no task has been done for {} and {n_open} are open, since what they read or write \
                     cannot be reached: {failure}\nrun the job again to go on when it can",
                    crate::progress::duration(*at - self.done_at)
                )))
            }
            _ => Ok(()),
        }
    }

    /// Workers that are connected, but that cannot do any task, are as good as none.
    fn check_refusals(&self, n_open: usize, now: Instant) -> Result<(), RunError> {
        let span = now.saturating_duration_since(self.outcome_at);
        match &self.refusal {
            Some(refusal) if span > self.outcome_within => Err(RunError::Unreachable(format!(
                "no task has come to an end for {} and {n_open} are open, since workers leave them \
                 to others; mend that and run the job again to go on: {refusal}",
                crate::progress::duration(span)
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    const OUTCOME_WITHIN: Duration = Duration::from_secs(200);

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
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
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
            message.starts_with("no worker that takes tasks for `cpu` has been connected"),
            "{message}"
        );
        watch.queue_answered(state(1), 0, at(62));
        watch.store_answered(at(62));
        assert_eq!(check(&watch, at(62)), "");
    }

    #[tokio::test]
    async fn workers_that_refuse_are_as_good_as_none_in_the_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
        let hear = |watch: &mut Watch, second| {
            watch.store_answered(at(second));
            watch.queue_answered(state(1), 0, at(second));
        };
        let denied = Failure::new(gleaner_schemas::FailureKind::Permanent, "access denied");
        watch.refused(&denied);
        let note = watch.note(at(1)).expect("a note");
        assert!(note.ends_with("access denied"), "{note}");
        // Said once, and forgotten when another worker does a task.
        watch.refused(&denied);
        assert_eq!(watch.note(at(2)), None);
        watch.progressed(at(100));
        hear(&mut watch, 400);
        assert_eq!(check(&watch, at(400)), "");
        watch.refused(&denied);
        watch.progressed(at(500));
        watch.refused(&denied);
        hear(&mut watch, 700);
        assert_eq!(check(&watch, at(700)), "");
        hear(&mut watch, 701);
        let message = check(&watch, at(701));
        assert!(message.starts_with("no task has come"), "{message}");
        assert!(message.ends_with("access denied"), "{message}");
        // Gone altogether, they are missed sooner, and the cause is told all the same.
        watch.queue_answered(state(0), 0, at(770));
        watch.store_answered(at(770));
        let message = check(&watch, at(770));
        assert!(
            message.starts_with("no worker that takes tasks for `cpu` has been connected"),
            "{message}"
        );
        assert!(message.ends_with("access denied"), "{message}");
    }

    #[tokio::test]
    async fn what_cannot_be_reached_for_too_long_is_not_tried_with_every_task() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
        let refused = Failure::new(
            gleaner_schemas::FailureKind::Transient,
            "s3://bucket: connection refused",
        );
        let mut n_notes = 0;
        let mut fail = |watch: &mut Watch, second| {
            watch.store_answered(at(second));
            watch.queue_answered(state(1), 0, at(second));
            watch.progressed(at(second));
            watch.out_of_reach(&refused, at(second));
            n_notes += usize::from(watch.note(at(second)).is_some());
            check(watch, at(second))
        };
        for second in (10..=200).step_by(10) {
            assert_eq!(fail(&mut watch, second), "");
        }
        watch.done(at(205));
        for second in (210..=405).step_by(15) {
            assert_eq!(fail(&mut watch, second), "");
        }
        let message = fail(&mut watch, 406);
        assert!(
            message.starts_with("no task has been done for"),
            "{message}"
        );
        assert!(
            message.contains("s3://bucket: connection refused"),
            "{message}"
        );
        assert!(message.contains("run the job again"), "{message}");
        // Once each time.
        assert_eq!(n_notes, 2);
        // A failure of long ago says nothing of now.
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
        watch.out_of_reach(&refused, at(100));
        watch.store_answered(at(900));
        watch.queue_answered(state(1), 0, at(900));
        assert_eq!(check(&watch, at(900)), "");
    }

    #[tokio::test]
    async fn what_is_done_proves_that_somebody_works() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
        watch.progressed(at(50));
        watch.store_answered(at(100));
        watch.queue_answered(state(0), 0, at(100));
        assert_eq!(check(&watch, at(100)), "");
    }

    #[tokio::test]
    async fn store_and_queue_are_told_apart() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(Resource::Cpu, PATIENCE, OUTCOME_WITHIN, start);
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
