//! What keeps the workers of this process from recording outcomes.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gleaner_schemas::Failure;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::unsettled::{Blame, Unsettled};

/// So many tasks of an output in a row whose outcome could not be recorded mean that no other's
/// can be.
const TASKS_IN_ROW: u32 = 5;
/// A worker that had an outcome in another output within this time is of use there, whatever one
/// output refuses.
const OF_USE: Duration = Duration::from_secs(60 * 60);
/// Outputs that are remembered. Beyond that all are forgotten, and counted anew.
const OUTPUTS_MAX: usize = 1000;

/// What keeps the workers of this process from recording any outcome: a full disk, a missing
/// permission. A coordinator in the same process ends the run with it, rather than wait for tasks
/// that nobody can finish; a worker alone ends when it persists, and serves no other job.
#[derive(Debug, Default)]
pub struct Trouble {
    outputs: Mutex<BTreeMap<String, OfOutput>>,
    persisting: watch::Sender<Option<Failure>>,
}

/// What is known of one output.
#[derive(Debug, Default)]
struct OfOutput {
    last: Option<Failure>,
    n_in_row: u32,
    settled_at: Option<Instant>,
}

impl Trouble {
    /// The last failure to record an outcome in this output that trying again cannot help.
    #[must_use]
    pub fn get(&self, output: &str) -> Option<Failure> {
        self.lock().get(output)?.last.clone()
    }

    /// Waits until no outcome could be recorded for some tasks in a row, and says why.
    pub async fn persisting(&self) -> Failure {
        let mut persisting = self.persisting.subscribe();
        loop {
            let failure = persisting.borrow_and_update().clone();
            if let Some(failure) = failure {
                return failure;
            }
            if persisting.changed().await.is_err() {
                // Not while this can be called: the sender is a part of it.
                std::future::pending::<()>().await;
            }
        }
    }

    /// A task came to nothing in its output.
    pub(crate) fn unsettled(&self, output: &str, unsettled: &Unsettled) {
        let Unsettled { failure, blame } = unsettled;
        if failure.kind.may_pass() {
            return;
        }
        match blame {
            // A message may be of any run, and of an output that is long gone. A version and what a
            // task reads say nothing of where it writes.
            Blame::Message | Blame::Worker | Blame::Access => {}
            Blame::Surroundings => {
                let mut outputs = self.lock();
                let state = Self::of(&mut outputs, output);
                state.last = Some(failure.clone());
                state.n_in_row += 1;
                let is_lasting = state.n_in_row >= TASKS_IN_ROW;
                let is_of_use = outputs.iter().any(|(other, state)| {
                    let settled_at = state.settled_at.filter(|_| state.n_in_row == 0);
                    other != output && settled_at.is_some_and(|at| at.elapsed() < OF_USE)
                });
                if is_lasting && !is_of_use {
                    self.persisting.send_replace(Some(failure.clone()));
                }
            }
        }
    }

    /// The output took the outcome of a task.
    pub(crate) fn settled(&self, output: &str) {
        let mut outputs = self.lock();
        let state = Self::of(&mut outputs, output);
        state.n_in_row = 0;
        state.settled_at = Some(Instant::now());
    }

    fn of<'a>(outputs: &'a mut BTreeMap<String, OfOutput>, output: &str) -> &'a mut OfOutput {
        if outputs.len() >= OUTPUTS_MAX && !outputs.contains_key(output) {
            outputs.clear();
        }
        outputs.entry(output.to_owned()).or_default()
    }

    /// Nothing that holds the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, OfOutput>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::FailureKind;

    use super::*;

    fn denied() -> Unsettled {
        Unsettled {
            failure: Failure::new(FailureKind::Permanent, "denied"),
            blame: Blame::Surroundings,
        }
    }

    fn persists(trouble: &Trouble) -> bool {
        trouble.persisting.borrow().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_that_is_closed_ends_no_worker_that_serves_another() {
        let trouble = Trouble::default();
        trouble.settled("s3://ours");
        for _ in 0..3 * TASKS_IN_ROW {
            trouble.unsettled("s3://foreign", &denied());
        }
        assert!(!persists(&trouble));
        assert!(trouble.get("s3://foreign").is_some());
        assert_eq!(trouble.get("s3://ours"), None);
        // Nothing else to do for long, or nothing that is taken elsewhere either.
        tokio::time::advance(OF_USE).await;
        trouble.unsettled("s3://foreign", &denied());
        assert!(persists(&trouble));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_whose_outcomes_nobody_takes_is_of_no_use() {
        let trouble = Trouble::default();
        for output in ["s3://a", "s3://b"] {
            trouble.settled(output);
        }
        trouble.unsettled("s3://b", &denied());
        for n_in_row in 1..=TASKS_IN_ROW {
            assert!(!persists(&trouble), "{n_in_row}");
            trouble.unsettled("s3://a", &denied());
        }
        assert!(persists(&trouble));
    }

    #[test]
    fn what_may_pass_is_no_trouble() {
        let trouble = Trouble::default();
        for kind in [FailureKind::Transient, FailureKind::Timeout] {
            for _ in 0..2 * TASKS_IN_ROW {
                let unsettled = Unsettled::from(Failure::new(kind, "too late"));
                trouble.unsettled("s3://a", &unsettled);
            }
        }
        assert!(!persists(&trouble));
        assert_eq!(trouble.get("s3://a"), None);
    }

    #[test]
    fn outputs_without_bound_are_not_remembered() {
        let trouble = Trouble::default();
        for number in 0..3 * OUTPUTS_MAX {
            trouble.unsettled(&number.to_string(), &denied());
        }
        assert!(trouble.lock().len() <= OUTPUTS_MAX);
    }
}
