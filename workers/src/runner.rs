//! The worker's loop: receive, work, acknowledge. It keeps nothing between tasks but caches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use gleaner_queue::{Delivery, QueueError, TaskQueue};
use gleaner_schemas::{Failure, FailureKind};
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::attempt::{TaskEnd, Workbench};
use crate::shutdown::Shutdown;

/// Pause after the queue or the store could not be reached.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(1);

/// What keeps the workers of this process from recording any outcome: a full disk, a missing
/// permission. A coordinator in the same process ends the run with it, rather than wait for tasks
/// that nobody can finish.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Option<Failure>>);

impl Trouble {
    /// The last failure to record an outcome that trying again cannot help.
    #[must_use]
    pub fn get(&self) -> Option<Failure> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, failure: &Failure) {
        if failure.kind != FailureKind::Transient {
            let mut trouble = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *trouble = Some(failure.clone());
        }
    }
}

/// A worker: some slots that take tasks from a queue.
#[derive(Debug)]
pub struct Worker {
    /// Where tasks come from.
    pub queue: Arc<dyn TaskQueue>,
    /// What tasks are worked on with.
    pub bench: Arc<Workbench>,
    /// Tasks at a time.
    pub n_slots: usize,
    /// Told after each task, so that a coordinator in this process looks at once. A hint only:
    /// it may be lost.
    pub task_ended: Arc<Notify>,
    /// Told when outcomes cannot be recorded.
    pub trouble: Arc<Trouble>,
}

impl Worker {
    /// Works until the queue closes or `shutdown` asks to stop. On drain, tasks in hand are
    /// finished; on cancel they are given back. All slots have ended on return.
    pub async fn run(&self, shutdown: &Shutdown) {
        let mut slots: FuturesUnordered<_> = (0..self.n_slots)
            .map(|slot| {
                self.run_slot(shutdown)
                    .instrument(tracing::info_span!("slot", slot))
            })
            .collect();
        while slots.next().await.is_some() {}
    }

    async fn run_slot(&self, shutdown: &Shutdown) {
        loop {
            let received = tokio::select! {
                biased;
                () = shutdown.draining() => return,
                received = self.queue.receive() => received,
            };
            match received {
                Ok(delivery) => self.handle(delivery, shutdown).await,
                Err(QueueError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot receive tasks, trying again");
                    pause(shutdown).await;
                }
            }
        }
    }

    async fn handle(&self, delivery: Delivery, shutdown: &Shutdown) {
        let task = delivery.task.task.clone();
        let cancel = shutdown.child();
        let worked = tokio::select! {
            worked = self.bench.work(&delivery.task, &cancel) => worked,
            // Dropping the delivery gives the task back.
            () = shutdown.cancelled() => return,
        };
        match worked {
            Ok(end) => {
                match end {
                    TaskEnd::Committed => tracing::debug!(%task, "committed"),
                    TaskEnd::Found => tracing::debug!(%task, "already committed"),
                    TaskEnd::Recorded(failure) => tracing::warn!(%task, %failure, "task failed"),
                }
                if let Err(error) = delivery.ack().await {
                    tracing::warn!(%task, %error, "cannot acknowledge; the task will come again");
                }
            }
            Err(failure) => {
                tracing::warn!(%task, %failure, "giving the task back");
                self.trouble.set(&failure);
                self.task_ended.notify_one();
                drop(delivery);
                pause(shutdown).await;
            }
        }
        self.task_ended.notify_one();
    }
}

async fn pause(shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(UNREACHABLE_PAUSE) => {}
        () = shutdown.draining() => {}
    }
}
