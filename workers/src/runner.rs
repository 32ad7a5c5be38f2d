//! The worker's loop: receive, work, acknowledge. It keeps nothing between tasks but caches.
//!
//! A delivery ends in one of three ways. It is **acknowledged** once the store holds the outcome
//! of its task. It is **passed on** when nothing is known against the task: the worker does not
//! take its kind, is of another version, is told to stop, or cannot reach or write the store. It
//! is **dropped** when it names what is not there; the queue counts that, and gives the task up in
//! the end. Where trying again cannot help, the coordinator is told why ([`crate::refusals`]).

mod pause;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use gleaner_queue::{Delivery, QueueError, TaskQueue};
use gleaner_schemas::{Failure, FailureKind, TaskMessage, metric};
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::attempt::{TaskEnd, Workbench};
use crate::attempt_log::AttemptLog;
use crate::in_hand::{Claim, InHand, Stored};
use crate::options::WorkerOptions;
use crate::refusals::Refusals;
use crate::shutdown::Shutdown;
use crate::unsettled::{Blame, Unsettled};
use pause::{FOREIGN_KIND, Pause, UNREACHABLE};

pub use crate::trouble::Trouble;

/// Handing a task back while stopping takes no longer; the queue notices by itself that the worker
/// is gone.
const PASS_ON_MAX: Duration = Duration::from_secs(5);
/// Replies to requests that were sent are waited for this long when a worker stops.
const SENT_MAX: Duration = Duration::from_secs(20);
/// Writing the last records takes no longer.
const LAST_RECORDS_MAX: Duration = Duration::from_secs(5);
/// How often records are looked at. Those of a worker that has nothing to do are written then.
const RECORDS_EVERY: Duration = Duration::from_secs(2);

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
    /// How to work.
    pub options: WorkerOptions,
}

/// How a worker ended.
#[derive(Debug, Default)]
pub struct WorkerEnd {
    /// Tasks that it had in hand and did not finish.
    pub n_given_back: usize,
    /// What the queue refuses, if that is why it ended.
    pub refused: Option<QueueError>,
}

impl Worker {
    /// Works until the queue closes or refuses, or `shutdown` asks to stop. On drain, no more
    /// tasks are taken and those in hand may go on for the grace; on cancel they end at once.
    /// What is not finished is passed on. All slots have ended on return.
    pub async fn run(&self, shutdown: &Shutdown) -> WorkerEnd {
        let run = Run {
            worker: self,
            stop: shutdown.nested(),
            in_hand: InHand::default(),
            n_busy: AtomicUsize::new(0),
            n_given_back: AtomicUsize::new(0),
            refused: Mutex::default(),
            refusals: Refusals::default(),
        };
        // Programs have few slots; a float counts them exactly.
        metrics::gauge!(metric::SLOTS).set(self.n_slots as f64);
        metrics::gauge!(metric::SLOTS_BUSY).set(0.0);
        tokio::select! {
            () = run.slots() => {}
            () = run.end_grace() => {}
            () = run.write_records() => {}
        }
        // What was sent to a server and may be paid for is waited for, and stored.
        self.bench.executor.finish(SENT_MAX).await;
        if let Some(log) = &self.options.attempts {
            let written = tokio::time::timeout(LAST_RECORDS_MAX, log.write(true)).await;
            if written.is_err() {
                tracing::warn!("the last attempts could not be recorded in time");
            }
        }
        WorkerEnd {
            n_given_back: run.n_given_back.into_inner(),
            refused: run
                .refused
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// One run of a worker.
struct Run<'a> {
    worker: &'a Worker,
    /// The caller's request to stop, and our own.
    stop: Shutdown,
    in_hand: InHand,
    n_busy: AtomicUsize,
    n_given_back: AtomicUsize,
    refused: Mutex<Option<QueueError>>,
    refusals: Refusals,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handled {
    Acknowledged,
    GivenBack,
    /// Left to workers of another version.
    Foreign,
}

impl Run<'_> {
    async fn slots(&self) {
        let mut slots: FuturesUnordered<_> = (0..self.worker.n_slots)
            .map(|slot| {
                self.run_slot()
                    .instrument(tracing::info_span!("slot", slot))
            })
            .collect();
        while slots.next().await.is_some() {}
    }

    /// Cancels what is in hand when the grace is over. Never returns.
    async fn end_grace(&self) {
        self.stop.draining().await;
        if let Some(grace) = self.worker.options.grace {
            tokio::time::sleep(grace).await;
            self.stop.cancel();
        }
        std::future::pending().await
    }

    /// Never returns.
    async fn write_records(&self) {
        if let Some(log) = &self.worker.options.attempts {
            loop {
                tokio::time::sleep(RECORDS_EVERY).await;
                log.write(self.n_busy.load(Ordering::Relaxed) == 0).await;
            }
        }
        std::future::pending().await
    }

    async fn run_slot(&self) {
        let entropy = self.worker.bench.entropy.as_ref();
        let mut foreign = Pause::new(FOREIGN_KIND);
        let mut unreachable = Pause::new(UNREACHABLE);
        loop {
            let received = tokio::select! {
                biased;
                () = self.stop.draining() => return,
                received = self.worker.queue.receive() => received,
            };
            match received {
                Ok(delivery) if !self.takes(&delivery.task) => {
                    self.leave_kind(delivery).await;
                    foreign.wait(entropy, &self.stop).await;
                }
                Ok(delivery) => match self.handle(delivery).await {
                    Handled::Acknowledged => {
                        foreign.reset();
                        unreachable.reset();
                    }
                    Handled::GivenBack => unreachable.wait(entropy, &self.stop).await,
                    Handled::Foreign => foreign.wait(entropy, &self.stop).await,
                },
                Err(QueueError::Closed) => return,
                Err(error @ QueueError::Refused { .. }) => {
                    let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                    refused.get_or_insert(error);
                    self.stop.drain();
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot receive tasks, trying again");
                    unreachable.wait(entropy, &self.stop).await;
                }
            }
        }
    }

    fn takes(&self, message: &TaskMessage) -> bool {
        let kinds = self.worker.options.kinds.as_ref();
        kinds.is_none_or(|kinds| kinds.contains(&message.kind))
    }

    /// Leaves a task of a kind that this worker does not take to others, and tells its coordinator: who
    /// has no other workers waits for nothing.
    async fn leave_kind(&self, delivery: Delivery) {
        let kind = &delivery.task.kind;
        tracing::debug!(kind, "left to other workers");
        let kinds = self.worker.options.kinds.iter().flatten();
        let kinds: Vec<&str> = kinds.map(String::as_str).collect();
        let failure = Failure::new(
            FailureKind::Permanent,
            format!(
                "it takes only {} (`--stages`), and the tasks are of the kind {kind}; start workers \
                 that take that kind too",
                kinds.join(", ")
            ),
        );
        self.report(&delivery.task, &failure, false).await;
        self.pass_on(delivery, "kind").await;
    }

    /// Tells the coordinator of a task why it is left to others, if that is due. Whether for the first
    /// time.
    async fn report(&self, task: &TaskMessage, failure: &Failure, is_of_task: bool) -> bool {
        let Worker { queue, options, .. } = self.worker;
        let log = options.attempts.as_deref();
        let name = log.map_or("a worker", AttemptLog::worker);
        self.refusals
            .report(&**queue, task, name, failure, is_of_task)
            .await
    }

    /// Sees to it that a delivery ends, with all that is logged within the spans of its task.
    async fn handle(&self, delivery: Delivery) -> Handled {
        let message = &delivery.task;
        // Spans have the highest level, so that whatever is logged within them has their ids.
        let span = tracing::error_span!("job", run = %message.run);
        let span = tracing::error_span!(
            parent: &span, "stage", stage = message.stage, phase = message.phase
        );
        let span = tracing::error_span!(parent: &span, "task", id = %message.task);
        let handled = self.claim(delivery).instrument(span).await;
        self.worker.task_ended.notify_one();
        handled
    }

    async fn claim(&self, delivery: Delivery) -> Handled {
        loop {
            let waiting = match self.in_hand.claim(&delivery.task) {
                Claim::Ours(hold) => {
                    let worked = self.work(&delivery.task).await;
                    if let Ok(stored) = &worked {
                        hold.stored(stored.clone());
                    }
                    drop(hold);
                    return match worked {
                        Ok(_) => self.acknowledge(delivery).await,
                        Err(unsettled) => self.give_back(delivery, unsettled).await,
                    };
                }
                Claim::Theirs(waiting) => waiting,
            };
            tracing::debug!("in hand already, waiting for its end");
            let ended = tokio::select! {
                biased;
                ended = waiting.ended() => ended,
                () = self.stop.cancelled() => None,
            };
            match ended {
                Some(stored) if stored.settles(&delivery.task) => {
                    return self.acknowledge(delivery).await;
                }
                // Of another run, which wants to know on its own.
                Some(_) => {}
                None => return self.give_back(delivery, None).await,
            }
        }
    }

    /// Works on a task; without a reason, because the worker must stop.
    async fn work(&self, message: &TaskMessage) -> Result<Stored, Option<Unsettled>> {
        let _busy = Busy::new(&self.n_busy);
        let Worker { bench, options, .. } = self.worker;
        let _in_slot = options.activity.as_ref().map(|it| it.begin(message));
        let cancel = self.stop.child();
        let worked = tokio::select! {
            biased;
            worked = bench.work(message, options, &cancel) => worked,
            () = self.stop.cancelled() => return Err(None),
        };
        match worked {
            Ok(end) => {
                self.worker.trouble.settled(&message.output);
                Ok(match end {
                    TaskEnd::Committed => {
                        tracing::debug!("committed");
                        Stored::Attempt
                    }
                    TaskEnd::Found => {
                        tracing::debug!("already committed");
                        Stored::Attempt
                    }
                    TaskEnd::Recorded(failure) => {
                        tracing::warn!(task = %message.task, %failure, "task failed");
                        Stored::Failure(message.run.clone())
                    }
                })
            }
            Err(_) if cancel.is_cancelled() => Err(None),
            Err(unsettled) => Err(Some(unsettled)),
        }
    }

    async fn acknowledge(&self, delivery: Delivery) -> Handled {
        let task = delivery.task.task.clone();
        if let Err(error) = delivery.ack().await {
            tracing::warn!(%task, %error, "cannot acknowledge; the task will come again");
        }
        Handled::Acknowledged
    }

    /// `unsettled` is `None` where another delivery of the task, or the end of the worker, is the
    /// reason.
    async fn give_back(&self, delivery: Delivery, unsettled: Option<Unsettled>) -> Handled {
        let task = &delivery.task.task;
        let is_stopping = self.stop.is_draining();
        if is_stopping {
            self.n_given_back.fetch_add(1, Ordering::Relaxed);
        }
        match unsettled {
            Some(unsettled) => return self.leave(delivery, &unsettled).await,
            None if is_stopping => {
                tracing::info!(%task, "stopping; the task is left to other workers");
                let passed_on = self.pass_on(delivery, "stopping");
                if tokio::time::timeout(PASS_ON_MAX, passed_on).await.is_err() {
                    tracing::warn!("the queue does not take the task back in time");
                }
            }
            None => self.pass_on(delivery, "surroundings").await,
        }
        Handled::GivenBack
    }

    /// Leaves a task to others that came to nothing here, and tells its coordinator why if it would
    /// again.
    async fn leave(&self, delivery: Delivery, unsettled: &Unsettled) -> Handled {
        let Unsettled { failure, blame } = unsettled;
        let task = &delivery.task.task;
        if !matches!(blame, Blame::Worker | Blame::Access) {
            tracing::warn!(%task, %failure, "giving the task back");
        }
        self.worker
            .trouble
            .unsettled(&delivery.task.output, unsettled);
        let is_first = match failure.kind {
            FailureKind::Transient | FailureKind::Timeout => false,
            FailureKind::Memory
            | FailureKind::Permanent
            | FailureKind::Access
            | FailureKind::Endpoint
            | FailureKind::Budget => {
                let is_of_task = *blame == Blame::Access;
                self.report(&delivery.task, failure, is_of_task).await
            }
        };
        match blame {
            Blame::Message => drop(delivery),
            Blame::Surroundings => self.pass_on(delivery, "surroundings").await,
            Blame::Worker => {
                // The version does not change while the worker runs: once is enough.
                if is_first {
                    tracing::warn!(%task, %failure, "the tasks of this run are left to others");
                }
                self.pass_on(delivery, "version").await;
                return Handled::Foreign;
            }
            Blame::Access => {
                if is_first {
                    tracing::warn!(%task, %failure, "the task is left to others");
                }
                self.pass_on(delivery, "access").await;
                return Handled::Foreign;
            }
        }
        Handled::GivenBack
    }

    /// Publishes the task afresh for others, unless that was done so often that nobody can be
    /// expected to take it: its coordinator, if it lives, notices that and offers it again.
    async fn pass_on(&self, mut delivery: Delivery, reason: &'static str) {
        let task = delivery.task.task.clone();
        if delivery.task.n_passed_on >= TaskMessage::PASSED_ON_MAX {
            metrics::counter!(metric::PASSED_ON, "reason" => "dropped").increment(1);
            tracing::warn!(
                %task, run = %delivery.task.run, reason, n_passed_on = delivery.task.n_passed_on,
                "dropped a message that workers leave to each other; its run, if it goes on, \
                 offers the task again"
            );
            self.acknowledge(delivery).await;
            return;
        }
        delivery.task.n_passed_on += 1;
        metrics::counter!(metric::PASSED_ON, "reason" => reason).increment(1);
        if let Err(error) = delivery.pass_on().await {
            tracing::warn!(%task, %error, "cannot leave the task to others; it will come again");
        }
    }
}

/// A slot that has a task in hand.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(n_busy: &'a AtomicUsize) -> Self {
        n_busy.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!(metric::SLOTS_BUSY).increment(1.0);
        Self(n_busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!(metric::SLOTS_BUSY).decrement(1.0);
    }
}
