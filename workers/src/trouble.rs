//! What keeps the workers of this process from recording outcomes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use gleaner_schemas::{Failure, FailureKind};
use tokio::sync::watch;

use crate::unsettled::{Blame, Unsettled};

/// So many tasks in a row whose outcome could not be recorded mean that no other's can be. One
/// alone may be of a job whose output is closed to this worker.
const TASKS_IN_ROW: u32 = 5;

/// What keeps the workers of this process from recording any outcome: a full disk, a missing
/// permission. A coordinator in the same process ends the run with it, rather than wait for tasks
/// that nobody can finish; a worker alone ends when it persists.
#[derive(Debug, Default)]
pub struct Trouble {
    state: Mutex<State>,
    persisting: watch::Sender<Option<Failure>>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Failure>,
    n_in_row: u32,
}

impl Trouble {
    /// The last failure to record an outcome that trying again cannot help.
    #[must_use]
    pub fn get(&self) -> Option<Failure> {
        self.lock().last.clone()
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

    /// A task came to nothing in the store.
    pub(crate) fn unsettled(&self, unsettled: &Unsettled) {
        let Unsettled { failure, blame } = unsettled;
        if failure.kind == FailureKind::Transient {
            return;
        }
        let mut state = self.lock();
        state.last = Some(failure.clone());
        if *blame == Blame::Surroundings {
            state.n_in_row += 1;
            if state.n_in_row >= TASKS_IN_ROW {
                self.persisting.send_replace(Some(failure.clone()));
            }
        }
    }

    /// The store took the outcome of a task.
    pub(crate) fn settled(&self) {
        self.lock().n_in_row = 0;
    }

    /// Nothing that holds the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
