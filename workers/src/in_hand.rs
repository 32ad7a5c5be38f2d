//! Tasks that this process works on. After a reconnect a queue may hand a process its own running
//! task again: it is worked on once, and both deliveries are settled by that.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gleaner_schemas::{RunId, TaskId, TaskMessage};
use tokio::sync::watch;

/// What the store holds when work on a delivery has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// An attempt: whoever asked for the task has it.
    Attempt,
    /// The record of a failure for one run; another run wants its own.
    Failure(RunId),
}

impl Stored {
    /// Whether a delivery of `message` can be acknowledged with it.
    pub(crate) fn settles(&self, message: &TaskMessage) -> bool {
        match self {
            Self::Attempt => true,
            Self::Failure(run) => *run == message.run,
        }
    }
}

/// Task ids are hashes of content: two outputs, and two stages of one, may share them.
type Key = (String, String, String, TaskId);
type Ended = watch::Receiver<Option<Stored>>;

/// The tasks in hand. Bounded by the slots of the process.
#[derive(Debug, Default)]
pub(crate) struct InHand(Mutex<HashMap<Key, Ended>>);

/// Whether a task is in hand already.
pub(crate) enum Claim<'a> {
    /// Nobody works on it: the caller does, until it drops this.
    Ours(Hold<'a>),
    /// Somebody works on it.
    Theirs(Waiting),
}

/// A task that the holder works on.
pub(crate) struct Hold<'a> {
    in_hand: &'a InHand,
    key: Key,
    ended: watch::Sender<Option<Stored>>,
}

/// A task that somebody else works on.
pub(crate) struct Waiting(Ended);

impl InHand {
    /// Claims the task that `message` names.
    pub(crate) fn claim(&self, message: &TaskMessage) -> Claim<'_> {
        let key = (
            message.output.clone(),
            message.stage.clone(),
            message.phase.clone(),
            message.task.clone(),
        );
        let mut tasks = self.lock();
        if let Some(ended) = tasks.get(&key) {
            return Claim::Theirs(Waiting(ended.clone()));
        }
        let (ended, receiver) = watch::channel(None);
        tasks.insert(key.clone(), receiver);
        Claim::Ours(Hold {
            in_hand: self,
            key,
            ended,
        })
    }

    /// The map is whole whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Ended>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold<'_> {
    /// Tells those who wait what the store holds. Dropping the hold without this tells them that
    /// it holds nothing.
    pub(crate) fn stored(&self, stored: Stored) {
        self.ended.send_replace(Some(stored));
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.in_hand.lock().remove(&self.key);
    }
}

impl Waiting {
    /// Waits until the work has ended; `None` if it came to nothing.
    pub(crate) async fn ended(mut self) -> Option<Stored> {
        // An error means that the hold is gone; what it said last is still there.
        let _ = self.0.wait_for(Option::is_some).await;
        self.0.borrow().clone()
    }
}
