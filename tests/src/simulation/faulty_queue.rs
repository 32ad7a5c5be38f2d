//! A queue that does as it pleases, decided by a seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::stream::TryStreamExt as _;
use gleaner_queue::{Delivery, MemoryQueue, QueueError, QueueState, Receipt, TaskQueue};
use gleaner_schemas::{Route, RunId, TaskId, TaskMessage};
use gleaner_storage::layout;
use object_store::memory::InMemory;
use object_store::{ObjectMeta, ObjectStore as _};

use super::faults::Faults;
use super::mutant::Mutant;

/// A queue that loses, doubles and delays messages, and whose confirmations get lost. As a broker
/// does, it gives a task up that nobody settles.
#[derive(Debug)]
pub(super) struct FaultyQueue {
    queue: MemoryQueue,
    faults: Arc<Faults>,
    unsettled: Arc<Mutex<Unsettled>>,
    store: Arc<InMemory>,
}

/// Deliveries of a task that come to nothing before it is given up.
const DELIVERIES_MAX: u32 = 4;

#[derive(Debug, Default)]
struct Unsettled {
    n_deliveries: BTreeMap<TaskId, u32>,
    given_up: Vec<TaskMessage>,
}

impl FaultyQueue {
    pub(super) fn new(faults: Arc<Faults>, store: Arc<InMemory>) -> Self {
        Self {
            queue: MemoryQueue::new(),
            faults,
            unsettled: Arc::default(),
            store,
        }
    }
}

/// Counts what comes to nothing.
#[derive(Debug)]
struct Counted {
    delivery: Delivery,
    unsettled: Arc<Mutex<Unsettled>>,
    faults: Arc<Faults>,
    store: Arc<InMemory>,
}

impl Counted {
    /// Whether the store holds what lets the delivery be acknowledged (invariant 6).
    async fn has_outcome(&self) -> bool {
        let TaskMessage { run, task, .. } = &self.delivery.task;
        let failures = layout::failures(run);
        let objects: Vec<ObjectMeta> = self.store.list(None).try_collect().await.unwrap();
        objects.iter().any(|object| {
            let path = object.location.as_ref();
            let attempt = layout::parse_attempt(path).map(|(of, _)| of);
            let failure = path
                .contains(&failures)
                .then(|| layout::parse_failure(path));
            attempt.as_ref() == Some(task) || failure.flatten().as_ref() == Some(task)
        })
    }
}

/// What was settled already.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Receipt for Nothing {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        Ok(())
    }

    async fn pass_on(self: Box<Self>, _: &TaskMessage) -> Result<(), QueueError> {
        Ok(())
    }

    fn give_back(self: Box<Self>) {}
}

#[async_trait]
impl Receipt for Counted {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        let is_dropped = self.delivery.task.n_passed_on >= TaskMessage::PASSED_ON_MAX;
        if !is_dropped && !self.has_outcome().await {
            let task = &self.delivery.task.task;
            self.faults
                .violated(format!("{task} was acknowledged without an outcome"));
        }
        self.delivery.ack().await
    }

    async fn pass_on(mut self: Box<Self>, task: &TaskMessage) -> Result<(), QueueError> {
        self.delivery.task = task.clone();
        self.delivery.pass_on().await
    }

    fn give_back(self: Box<Self>) {
        let mut unsettled = self.unsettled.lock().unwrap();
        let task = self.delivery.task.clone();
        let n = unsettled.n_deliveries.entry(task.task.clone()).or_default();
        *n += 1;
        if *n < DELIVERIES_MAX {
            return;
        }
        *n = 0;
        unsettled.given_up.push(task);
        // The queue in memory acknowledges at once.
        let acknowledged = self.delivery.ack().now_or_never();
        acknowledged.unwrap().unwrap();
    }
}

/// A task that was given up; comes again unless it is settled.
#[derive(Debug)]
struct GivenUp {
    task: TaskMessage,
    unsettled: Arc<Mutex<Unsettled>>,
}

#[async_trait]
impl Receipt for GivenUp {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        Ok(())
    }

    async fn pass_on(self: Box<Self>, _: &TaskMessage) -> Result<(), QueueError> {
        self.give_back();
        Ok(())
    }

    fn give_back(self: Box<Self>) {
        self.unsettled.lock().unwrap().given_up.push(self.task);
    }
}

#[async_trait]
impl TaskQueue for FaultyQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        let unreachable = || QueueError::Unreachable("the connection was reset".to_owned());
        let share_doubled = if self.faults.is_race { 0.7 } else { 0.05 };
        for task in tasks {
            tokio::time::sleep(self.faults.time(1..100)).await;
            if self.faults.fails() {
                return Err(unreachable());
            }
            let copies = match () {
                () if self.faults.happens(0.02) => 0,
                () if self.faults.happens(share_doubled) => 2,
                () => 1,
            };
            for _ in 0..copies {
                self.queue.publish(std::slice::from_ref(task)).await?;
            }
        }
        if self.faults.fails() {
            Err(unreachable())
        } else {
            Ok(())
        }
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        let delivery = self.queue.receive().await?;
        if self.faults.happens(0.01) {
            // The broker lost it.
            delivery.ack().await?;
            return Err(QueueError::Unreachable(
                "the connection was reset".to_owned(),
            ));
        }
        let task = delivery.task.clone();
        let unsettled = Arc::clone(&self.unsettled);
        let counted = Box::new(Counted {
            delivery,
            unsettled,
            faults: Arc::clone(&self.faults),
            store: Arc::clone(&self.store),
        });
        if self.faults.mutant == Some(Mutant::AcknowledgeEarly) {
            counted.ack().await?;
            return Ok(Delivery::new(task, Box::new(Nothing)));
        }
        Ok(Delivery::new(task, counted))
    }

    async fn state(&self, route: Route) -> Result<QueueState, QueueError> {
        self.queue.state(route).await
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        self.queue.report(refused).await
    }

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        let reports = self.queue.given_up(run).await?;
        let mut unsettled = self.unsettled.lock().unwrap();
        let all = std::mem::take(&mut unsettled.given_up);
        let (ours, others) = all.into_iter().partition(|task| task.run == *run);
        unsettled.given_up = others;
        let ours: Vec<TaskMessage> = ours;
        let deliveries = ours.into_iter().map(|task| {
            let unsettled = Arc::clone(&self.unsettled);
            let receipt = GivenUp {
                task: task.clone(),
                unsettled,
            };
            Delivery::new(task, Box::new(receipt))
        });
        Ok(reports.into_iter().chain(deliveries).collect())
    }
}
