//! A worker with a plan of one stage in its store, over a queue and a store in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gleaner_queue::{Delivery, MemoryQueue, QueueError, QueueState, Receipt, TaskQueue};
use gleaner_schemas::{
    Failure, FailureKind, PhasePlan, PlanId, Reader, Route, RunId, Shard, Task, TaskId, TaskMessage,
};
use gleaner_storage::{Output, Stores, layout};
use object_store::memory::InMemory;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::attempt::{TaskExecutor, Workbench};
use crate::entropy::SeededEntropy;
use crate::options::WorkerOptions;
use crate::plan_cache::{PlanCache, PlannedTask};
use crate::runner::{Worker, WorkerEnd};
use crate::shutdown::Shutdown;

const OUTPUT: &str = "sim://store/out";
pub(super) const TASK_TIMEOUT: Duration = Duration::from_secs(600);
/// Longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// Takes its time over each task.
#[derive(Debug)]
pub(super) struct Executor {
    takes: Duration,
    fails: Option<FailureKind>,
    /// As a worker of another version than whoever planned.
    pub(super) refuses: AtomicBool,
    n_started: AtomicU64,
}

#[async_trait]
impl TaskExecutor for Executor {
    async fn execute(
        &self,
        _planned: &PlannedTask,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure> {
        self.n_started.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(self.takes) => {}
            () = cancel.cancelled() => {
                return Err(Failure::new(FailureKind::Transient, "cancelled"));
            }
        }
        match self.fails {
            Some(kind) => Err(Failure::new(kind, "as told")),
            None => Ok(Bytes::from_static(b"object")),
        }
    }

    fn refuses(&self, _plan: &PhasePlan) -> Option<Failure> {
        let refuses = self.refuses.load(Ordering::Relaxed);
        refuses.then(|| Failure::new(FailureKind::Permanent, "of another version"))
    }
}

/// Counts how deliveries end, and can refuse.
#[derive(Debug)]
pub(super) struct CountingQueue {
    pub(super) queue: MemoryQueue,
    pub(super) ends: Arc<Ends>,
    pub(super) refuses: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct Ends {
    n_received: AtomicU64,
    n_acknowledged: AtomicU64,
    n_passed_on: AtomicU64,
    n_dropped: AtomicU64,
    /// Whether the queue takes nothing back.
    pub(super) hangs: AtomicBool,
}

impl Ends {
    /// Acknowledged, passed on, dropped.
    pub(super) fn counts(&self) -> [u64; 3] {
        [&self.n_acknowledged, &self.n_passed_on, &self.n_dropped]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Counted(Delivery, Arc<Ends>);

#[async_trait]
impl Receipt for Counted {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.1.n_acknowledged.fetch_add(1, Ordering::Relaxed);
        self.0.ack().await
    }

    async fn pass_on(mut self: Box<Self>, task: &TaskMessage) -> Result<(), QueueError> {
        self.1.n_passed_on.fetch_add(1, Ordering::Relaxed);
        if self.1.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.0.task = task.clone();
        self.0.pass_on().await
    }

    fn give_back(self: Box<Self>) {
        self.1.n_dropped.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl TaskQueue for CountingQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        self.queue.publish(tasks).await
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(QueueError::Refused {
                message: "the password is wrong".to_owned(),
                help: "give another".to_owned(),
            });
        }
        let delivery = self.queue.receive().await?;
        self.ends.n_received.fetch_add(1, Ordering::Relaxed);
        let task = delivery.task.clone();
        let receipt = Counted(delivery, Arc::clone(&self.ends));
        Ok(Delivery::new(task, Box::new(receipt)))
    }

    async fn state(&self, route: Route) -> Result<QueueState, QueueError> {
        self.queue.state(route).await
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        self.queue.report(refused).await
    }

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        self.queue.given_up(run).await
    }
}

/// A worker with a plan of one stage in its store.
pub(super) struct Scene {
    pub(super) queue: MemoryQueue,
    pub(super) ends: Arc<Ends>,
    pub(super) executor: Arc<Executor>,
    pub(super) worker: Worker,
    pub(super) output: Output,
    pub(super) plan: PhasePlan,
    pub(super) plan_id: PlanId,
    pub(super) tasks: Vec<Task>,
    pub(super) shutdown: Shutdown,
}

impl Scene {
    pub(super) async fn new(n_slots: usize, takes: Duration, options: WorkerOptions) -> Self {
        Self::failing(n_slots, takes, options, None).await
    }

    pub(super) async fn failing(
        n_slots: usize,
        takes: Duration,
        options: WorkerOptions,
        fails: Option<FailureKind>,
    ) -> Self {
        let stores = Stores::from_env().with("sim://store", Arc::new(InMemory::new()));
        let output = Output::open(&stores, OUTPUT).unwrap();
        let mut plan = plan();
        let tasks: Vec<Task> = (0..8)
            .map(|number| {
                plan.params = json!(number);
                let shard = Shard::default();
                Task {
                    id: plan.task_id(&shard),
                    shard,
                }
            })
            .collect();
        let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
        let key = layout::plan("stage", "phase", &plan_id);
        output.put_json(&key, "plan", &plan).await.unwrap();
        let key = layout::plan_chunk("stage", "phase", &plan_id, 0);
        output.put_json(&key, "chunk", &tasks).await.unwrap();
        let executor = Arc::new(Executor {
            takes,
            fails,
            refuses: AtomicBool::new(false),
            n_started: AtomicU64::new(0),
        });
        let (queue, ends) = (MemoryQueue::new(), Arc::new(Ends::default()));
        let counting = CountingQueue {
            queue: queue.clone(),
            ends: Arc::clone(&ends),
            refuses: AtomicBool::new(false),
        };
        let worker = Worker {
            queue: Arc::new(counting),
            bench: Arc::new(Workbench {
                plans: PlanCache::new(stores),
                executor: Arc::clone(&executor) as _,
                entropy: Arc::new(SeededEntropy::new(1)),
            }),
            n_slots,
            task_ended: Arc::default(),
            trouble: Arc::default(),
            options,
        };
        Self {
            queue,
            ends,
            executor,
            worker,
            output,
            plan,
            plan_id,
            tasks,
            shutdown: Shutdown::new(),
        }
    }

    pub(super) fn message(&self, number: usize) -> TaskMessage {
        TaskMessage {
            format: TaskMessage::FORMAT,
            run: RunId::new(1),
            output: OUTPUT.to_owned(),
            stage: "stage".to_owned(),
            kind: self.plan.kind.clone(),
            phase: "phase".to_owned(),
            plan: self.plan_id.clone(),
            task_idx: number as u64,
            task: self.tasks[number].id.clone(),
            route: Route::default(),
            n_passed_on: 0,
            refusal: None,
        }
    }

    pub(super) async fn publish(&self, messages: &[TaskMessage]) {
        self.queue.publish(messages).await.unwrap();
    }

    /// Runs the worker, with `story` beside it.
    pub(super) async fn run(&self, story: impl Future<Output = ()>) -> WorkerEnd {
        let both = async { tokio::join!(self.worker.run(&self.shutdown), story) };
        let ended = tokio::time::timeout(LONG, both).await;
        ended.expect("the worker ends").0
    }

    pub(super) async fn until(&self, what: impl Fn() -> bool) {
        while !what() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn n_acknowledged(&self) -> u64 {
        self.ends.counts()[0]
    }

    pub(super) fn n_started(&self) -> u64 {
        self.executor.n_started.load(Ordering::Relaxed)
    }

    /// How many attempts the store holds of each task.
    pub(super) async fn attempts(&self) -> Vec<usize> {
        let attempts = self.output.attempts("stage").await.unwrap();
        let of = |task: &TaskId| attempts.get(task).map_or(0, Vec::len);
        self.tasks.iter().map(|task| of(&task.id)).collect()
    }
}

fn plan() -> PhasePlan {
    PhasePlan {
        format: PhasePlan::FORMAT,
        stage: "stage".to_owned(),
        kind: "simulated".to_owned(),
        code_version: 1,
        phase: "phase".to_owned(),
        params: json!({}),
        decision: serde_json::Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: "stage".to_owned(),
        n_tasks: 8,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 20,
        task_timeout_ms: TASK_TIMEOUT.as_millis() as u64,
        is_whole: false,
    }
}
