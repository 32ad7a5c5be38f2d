//! The worker's loop over a queue and a store in memory, in paused time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};

use async_trait::async_trait;
use bytes::Bytes;
use gleaner_queue::{MemoryQueue, QueueState, Receipt};
use gleaner_schemas::{
    AttemptOutcome, AttemptRecord, Failure, FailureKind, PhasePlan, PlanId, Reader, Route, RunId,
    Shard, Task, TaskId,
};
use gleaner_storage::{Output, Stores, layout};
use object_store::memory::InMemory;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::attempt::TaskExecutor;
use crate::attempt_log::AttemptLog;
use crate::entropy::SeededEntropy;
use crate::plan_cache::PlanCache;

const OUTPUT: &str = "sim://store/out";
const TASK_TIMEOUT: Duration = Duration::from_secs(600);
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(3600);

/// Takes its time over each task.
#[derive(Debug)]
struct Executor {
    takes: Duration,
    fails: Option<FailureKind>,
    n_started: AtomicU64,
}

#[async_trait]
impl TaskExecutor for Executor {
    async fn execute(
        &self,
        _plan: &Arc<PhasePlan>,
        _task: &Arc<Task>,
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
}

/// Counts how deliveries end, and can refuse.
#[derive(Debug)]
struct CountingQueue {
    queue: MemoryQueue,
    ends: Arc<Ends>,
    refuses: AtomicBool,
}

#[derive(Debug, Default)]
struct Ends {
    n_received: AtomicU64,
    n_acknowledged: AtomicU64,
    n_passed_on: AtomicU64,
    n_dropped: AtomicU64,
}

impl Ends {
    /// Acknowledged, passed on, dropped.
    fn counts(&self) -> [u64; 3] {
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

    async fn pass_on(self: Box<Self>, _task: &TaskMessage) -> Result<(), QueueError> {
        self.1.n_passed_on.fetch_add(1, Ordering::Relaxed);
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

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        self.queue.given_up(run).await
    }
}

/// A worker with a plan of one stage in its store.
struct Scene {
    queue: MemoryQueue,
    ends: Arc<Ends>,
    executor: Arc<Executor>,
    worker: Worker,
    output: Output,
    plan: PhasePlan,
    plan_id: PlanId,
    tasks: Vec<Task>,
    shutdown: Shutdown,
}

impl Scene {
    async fn new(n_slots: usize, takes: Duration, options: WorkerOptions) -> Self {
        Self::failing(n_slots, takes, options, None).await
    }

    async fn failing(
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

    fn message(&self, number: usize) -> TaskMessage {
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
        }
    }

    async fn publish(&self, messages: &[TaskMessage]) {
        self.queue.publish(messages).await.unwrap();
    }

    /// Runs the worker, with `story` beside it.
    async fn run(&self, story: impl Future<Output = ()>) -> WorkerEnd {
        let both = async { tokio::join!(self.worker.run(&self.shutdown), story) };
        let ended = tokio::time::timeout(LONG, both).await;
        ended.expect("the worker ends").0
    }

    async fn until(&self, what: impl Fn() -> bool) {
        while !what() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn n_acknowledged(&self) -> u64 {
        self.ends.counts()[0]
    }

    fn n_started(&self) -> u64 {
        self.executor.n_started.load(Ordering::Relaxed)
    }

    /// How many attempts the store holds of each task.
    async fn attempts(&self) -> Vec<usize> {
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
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn tasks_of_other_kinds_are_passed_on_with_growing_pauses() {
    let options = WorkerOptions {
        kinds: Some(BTreeSet::from(["another".to_owned()])),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let end = scene
        .run(async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            scene.shutdown.drain();
        })
        .await;
    let [acknowledged, passed_on, dropped] = scene.ends.counts();
    assert_eq!((acknowledged, dropped, scene.n_started()), (0, 0, 0));
    // Two slots, each with a pause of up to 10 s: neither given up nor spinning.
    assert!((60..=260).contains(&passed_on), "{passed_on}");
    assert_eq!(scene.queue.depth(), (1, 0));
    // It was never this worker's.
    assert_eq!(end.n_given_back, 0);
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_taken_kind_is_worked_on_between_others() {
    let options = WorkerOptions {
        kinds: Some(BTreeSet::from(["simulated".to_owned()])),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, SECOND, options).await;
    let mut foreign = scene.message(0);
    foreign.kind = "another".to_owned();
    scene.publish(&[foreign, scene.message(1)]).await;
    let started = Instant::now();
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 1).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.attempts().await[..2], [0, 1]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_task_in_hand_is_worked_on_once_and_both_deliveries_are_acknowledged() {
    let scene = Scene::new(3, 10 * SECOND, WorkerOptions::default()).await;
    scene.publish(&[scene.message(0), scene.message(0)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 2).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.n_started(), 1);
    assert_eq!(scene.ends.counts(), [2, 0, 0]);
    assert_eq!(scene.attempts().await[0], 1);
    assert_eq!(scene.queue.depth(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_run_of_a_task_that_failed_gets_a_record_of_its_own() {
    let options = WorkerOptions::default();
    let scene = Scene::failing(2, SECOND, options, Some(FailureKind::Permanent)).await;
    let mut other = scene.message(0);
    other.run = RunId::new(2);
    let messages = [scene.message(0), scene.message(0), other.clone()];
    scene.publish(&messages).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 3).await;
            scene.shutdown.drain();
        })
        .await;
    for run in [&messages[0].run, &other.run] {
        let failures = scene.output.list(&layout::failures(run)).await.unwrap();
        assert!(!failures.is_empty(), "{run}");
    }
    assert_eq!(scene.queue.depth(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_twice_is_given_back_twice() {
    let options = WorkerOptions {
        grace: Some(5 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(0)]).await;
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(end.n_given_back, 2);
    assert_eq!(scene.n_started(), 1);
    assert_eq!(scene.queue.depth(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_nothing_more_and_finishes_within_the_grace() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 10 * SECOND, options).await;
    let messages: Vec<_> = (0..8).map(|number| scene.message(number)).collect();
    scene.publish(&messages).await;
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(end.n_given_back, 0);
    assert_eq!(scene.attempts().await, [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(scene.queue.depth(), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_within_the_grace_is_passed_on() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(1)]).await;
    let started = Instant::now();
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    let elapsed = started.elapsed();
    assert!((31 * SECOND..33 * SECOND).contains(&elapsed), "{elapsed:?}");
    assert_eq!(end.n_given_back, 2);
    // A preemption is not held against the tasks.
    assert_eq!(scene.ends.counts(), [0, 2, 0]);
    assert_eq!(scene.queue.depth(), (2, 0));
    assert_eq!(scene.attempts().await[..2], [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_ends_the_grace() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let started = Instant::now();
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
            tokio::time::sleep(SECOND).await;
            scene.shutdown.cancel();
        })
        .await;
    assert!(started.elapsed() < 3 * SECOND);
    assert_eq!(end.n_given_back, 1);
    assert_eq!(scene.queue.depth(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_ends_the_worker() {
    let scene = Scene::new(2, SECOND, WorkerOptions::default()).await;
    let queue = CountingQueue {
        queue: scene.queue.clone(),
        ends: Arc::clone(&scene.ends),
        refuses: AtomicBool::new(true),
    };
    let worker = Worker {
        queue: Arc::new(queue),
        ..scene.worker
    };
    let end = tokio::time::timeout(LONG, worker.run(&scene.shutdown)).await;
    let refused = end.unwrap().refused;
    assert!(
        matches!(refused, Some(QueueError::Refused { .. })),
        "{refused:?}"
    );
    // Whoever asked for the worker is not asked to stop.
    assert!(!scene.shutdown.is_draining());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_the_broker_would_take_away_is_refused_with_that_sentence() {
    let options = WorkerOptions {
        consumer_timeout: Some(2 * TASK_TIMEOUT - SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 1).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.n_started(), 0);
    let listed = scene.output.list(&layout::failures(&RunId::new(1))).await;
    let recorded = &listed.unwrap()[0].path;
    let failure: Failure = scene
        .output
        .get_json(recorded, "failure")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(
        failure.message.starts_with(
            "task_timeout (10min) is longer than half of the time after which the broker takes a \
             task away from its worker (1199s)"
        ),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_not_repeated_beyond_the_time_that_the_broker_gives() {
    let options = WorkerOptions {
        consumer_timeout: Some(2 * TASK_TIMEOUT),
        ..WorkerOptions::default()
    };
    let slow = TASK_TIMEOUT - SECOND;
    let scene = Scene::failing(1, slow, options, Some(FailureKind::Transient)).await;
    scene.publish(&[scene.message(0)]).await;
    let started = Instant::now();
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 1).await;
            scene.shutdown.drain();
        })
        .await;
    assert!(started.elapsed() < 2 * TASK_TIMEOUT);
    assert_eq!(scene.n_started(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_plan_is_dropped_and_troubles_nobody_else() {
    let scene = Scene::new(1, SECOND, WorkerOptions::default()).await;
    let mut lost = scene.message(0);
    lost.stage = "removed".to_owned();
    scene.publish(&[lost]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.ends.counts()[2] == 8).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.ends.counts()[..2], [0, 0]);
    let persisting = tokio::time::timeout(SECOND, scene.worker.trouble.persisting()).await;
    assert!(persisting.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_outcomes_is_trouble_that_persists() {
    let scene = Scene::new(1, SECOND, WorkerOptions::default()).await;
    let mut message = scene.message(0);
    // Nothing can be read or made below a file.
    message.output = "file:///dev/null/out".to_owned();
    scene.publish(&[message]).await;
    let _ = scene
        .run(async {
            let failure = scene.worker.trouble.persisting().await;
            assert!(failure.message.contains("/dev/null/out"), "{failure}");
            scene.shutdown.drain();
        })
        .await;
    let [acknowledged, passed_on, _] = scene.ends.counts();
    assert_eq!((acknowledged, passed_on), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_recorded_with_their_ends() {
    let log = AttemptLog::new("host-1-0".to_owned(), chrono::DateTime::UNIX_EPOCH);
    let options = WorkerOptions {
        grace: Some(SECOND),
        attempts: Some(Arc::new(log)),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, 10 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(1)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_started() == 2).await;
            scene.shutdown.drain();
        })
        .await;
    let mut records = Vec::new();
    for object in scene.output.list(layout::RUNS).await.unwrap() {
        assert_eq!(
            layout::parse_attempt_records(&object.path),
            Some(RunId::new(1))
        );
        let text = scene.output.get(&object.path).await.unwrap().unwrap();
        for line in std::str::from_utf8(&text).unwrap().lines() {
            records.push(serde_json::from_str::<AttemptRecord>(line).unwrap());
        }
    }
    let [first, second] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(first.outcome, AttemptOutcome::Committed);
    assert!((10.0..10.1).contains(&first.seconds), "{first:?}");
    let attempts = scene.output.attempts("stage").await.unwrap();
    assert_eq!(
        Some(&attempts[&first.task][0].attempt),
        first.attempt.as_ref()
    );
    assert_eq!(first.bytes_out, Some(6));
    assert_eq!(second.outcome, AttemptOutcome::Cancelled);
    assert_eq!(
        (second.worker.as_str(), &second.attempt),
        ("host-1-0", &None)
    );
}
