use std::sync::atomic::{AtomicU32, Ordering};

use gleaner_schemas::{PhasePlan, PlanId, Reader, Route, RunId, Shard, Task};
use gleaner_storage::{Output, Stores};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::entropy::SeededEntropy;

const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Takes for ever, and may not even look at the cancellation.
#[derive(Debug, Default)]
struct Endless {
    looks_at_cancel: bool,
    n_executions: AtomicU32,
    /// The store that it reads has not answered for so long.
    silence: Duration,
}

#[async_trait]
impl TaskExecutor for Endless {
    async fn execute(
        &self,
        _planned: &PlannedTask,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure> {
        self.n_executions.fetch_add(1, Ordering::SeqCst);
        if !self.looks_at_cancel {
            std::future::pending::<()>().await;
        }
        cancel.cancelled().await;
        Err(Failure::new(FailureKind::Transient, "cancelled"))
    }

    fn silent_store(&self, span: Duration) -> Option<String> {
        (self.silence >= span).then(|| "s3://bucket has not answered".to_owned())
    }

    fn n_hung(&self) -> usize {
        7
    }
}

/// Takes some time, and then has nothing, or fails.
#[derive(Debug)]
struct Takes(Duration, Option<Failure>);

#[async_trait]
impl TaskExecutor for Takes {
    async fn execute(
        &self,
        _planned: &PlannedTask,
        _cancel: CancellationToken,
    ) -> Result<Bytes, Failure> {
        tokio::time::sleep(self.0).await;
        self.1.clone().map_or_else(|| Ok(Bytes::new()), Err)
    }
}

/// A bench with an executor, and the message of a task whose plan is stored.
async fn bench(executor: Arc<dyn TaskExecutor>) -> (Workbench, TaskMessage, Output) {
    bench_over(Arc::new(InMemory::new()), executor).await
}

async fn bench_over(
    store: Arc<dyn ObjectStore>,
    executor: Arc<dyn TaskExecutor>,
) -> (Workbench, TaskMessage, Output) {
    let stores = Stores::from_env().with("memory://m", store);
    let output = Output::open(&stores, "memory://m/out").unwrap();
    let plan = PhasePlan {
        format: PhasePlan::FORMAT,
        stage: "stage".to_owned(),
        kind: "kind".to_owned(),
        code_version: 1,
        phase: "phase".to_owned(),
        params: Value::Null,
        decision: Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: "stage".to_owned(),
        n_tasks: 1,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 20,
        task_timeout_ms: TIME_LIMIT.as_millis() as u64,
        is_whole: false,
    };
    let shard = Shard::default();
    let task = Task {
        id: plan.task_id(&shard),
        shard,
    };
    let plan_id: PlanId = plan.plan_id(std::iter::once(&task.id));
    let message = TaskMessage {
        format: TaskMessage::FORMAT,
        run: RunId::new(1),
        output: output.uri().to_owned(),
        stage: plan.stage.clone(),
        kind: plan.kind.clone(),
        phase: plan.phase.clone(),
        plan: plan_id.clone(),
        task_idx: 0,
        task: task.id.clone(),
        route: Route::default(),
        n_passed_on: 0,
        refusal: None,
    };
    let chunk = layout::plan_chunk("stage", "phase", &plan_id, 0);
    output.put_json(&chunk, "chunk", &vec![task]).await.unwrap();
    let key = layout::plan("stage", "phase", &plan_id);
    output.put_json(&key, "plan", &plan).await.unwrap();
    let bench = Workbench {
        plans: PlanCache::new(stores),
        executor,
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    (bench, message, output)
}

async fn time_out(looks_at_cancel: bool) -> (Failure, Duration) {
    let endless = Endless {
        looks_at_cancel,
        silence: TIME_LIMIT / 3,
        ..Endless::default()
    };
    let (failure, elapsed) = time_out_with(endless).await;
    assert_eq!(failure.kind, FailureKind::Timeout);
    (failure, elapsed)
}

async fn time_out_with(endless: Endless) -> (Failure, Duration) {
    let executor = Arc::new(endless);
    let (bench, message, output) = bench(Arc::clone(&executor) as _).await;
    let started = Instant::now();
    let end = bench
        .work(
            &message,
            &WorkerOptions::default(),
            &CancellationToken::new(),
        )
        .await;
    let elapsed = started.elapsed();
    assert_eq!(executor.n_executions.load(Ordering::SeqCst), 1);
    let records = output.list(&layout::failures(&message.run)).await.unwrap();
    assert_eq!(records.len(), 1);
    let stored: Option<Failure> = output.get_json(&records[0].path, "record").await.unwrap();
    let failure = stored.unwrap();
    assert_eq!(end, Ok(TaskEnd::Recorded(failure.clone())));
    assert!(
        failure.message.contains("longer than task_timeout (900 s)"),
        "{failure}"
    );
    (failure, elapsed)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_takes_too_long_is_recorded_and_not_tried_again_here() {
    let (failure, elapsed) = time_out(true).await;
    assert!(elapsed < TIME_LIMIT + Duration::from_secs(1), "{elapsed:?}");
    assert!(!failure.message.contains("thread"), "{failure}");
}

/// It is no fault of the task, which would be given up for it in the end.
#[tokio::test(start_paused = true)]
async fn a_task_that_waited_for_a_silent_store_has_not_taken_too_long() {
    let endless = Endless {
        looks_at_cancel: true,
        silence: TIME_LIMIT / 2,
        ..Endless::default()
    };
    let (failure, _) = time_out_with(endless).await;
    assert_eq!(failure.kind, FailureKind::Transient);
    assert!(
        failure.message.ends_with("s3://bucket has not answered"),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_does_not_end_is_given_up_after_a_grace() {
    let (failure, elapsed) = time_out(false).await;
    assert!(elapsed >= TIME_LIMIT + GRACE, "{elapsed:?}");
    assert!(
        elapsed < TIME_LIMIT + GRACE + Duration::from_secs(1),
        "{elapsed:?}"
    );
    assert!(
        failure.message.contains("7 hang in this worker now"),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_cancelled_is_given_back_without_a_record() {
    let executor = Arc::new(Endless {
        looks_at_cancel: true,
        ..Endless::default()
    });
    let (bench, message, output) = bench(executor).await;
    let cancel = CancellationToken::new();
    let options = WorkerOptions::default();
    let stop = async {
        tokio::time::sleep(TIME_LIMIT / 2).await;
        cancel.cancel();
    };
    let (end, ()) = tokio::join!(bench.work(&message, &options, &cancel), stop);
    assert!(end.is_err());
    let records = output.list(&layout::failures(&message.run)).await.unwrap();
    assert_eq!(records.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_output_that_does_not_answer_holds_no_slot_for_ever() {
    let started = Instant::now();
    let answer = answered(
        TIME_LIMIT,
        std::future::pending::<Result<(), OutputError>>(),
    )
    .await;
    assert!(
        matches!(answer, Err(Failed::Output(failure)) if failure.kind == FailureKind::Transient)
    );
    assert!(started.elapsed() < TIME_LIMIT + Duration::from_secs(1));
}

/// The broker takes a task away from whoever holds it for longer.
#[tokio::test(start_paused = true)]
async fn however_slow_all_is_a_task_is_not_held_for_longer_than_the_broker_allows() {
    let consumer_timeout = 2 * TIME_LIMIT;
    for part in [0.3, 0.6, 0.9] {
        for computing in [0.3, 0.6, 0.9, 5.0] {
            let (pause, computing) = (TIME_LIMIT.mul_f64(part), TIME_LIMIT.mul_f64(computing));
            // The plan is there before the store gets slow.
            let throttled = ThrottledStore::new(InMemory::new(), ThrottleConfig::default());
            let throttled = Arc::new(throttled);
            let executor = Arc::new(Takes(computing, None));
            let (bench, message, _) = bench_over(Arc::clone(&throttled) as _, executor).await;
            throttled.config_mut(|config| {
                config.wait_list_per_call = pause;
                config.wait_put_per_call = pause;
            });
            let options = WorkerOptions {
                consumer_timeout: Some(consumer_timeout),
                ..WorkerOptions::default()
            };
            let started = Instant::now();
            let _ = bench
                .work(&message, &options, &CancellationToken::new())
                .await;
            let held = started.elapsed();
            assert!(held <= consumer_timeout, "{pause:?} {computing:?} {held:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_worker_may_not_read_is_left_to_others() {
    let denied = Failure::new(FailureKind::Access, "the store denies access");
    for is_beside_coordinator in [false, true] {
        let executor = Arc::new(Takes(Duration::ZERO, Some(denied.clone())));
        let (bench, message, output) = bench(executor).await;
        let options = WorkerOptions {
            is_beside_coordinator,
            ..WorkerOptions::default()
        };
        let end = bench
            .work(&message, &options, &CancellationToken::new())
            .await;
        let records = output.list(&layout::failures(&message.run)).await.unwrap();
        if is_beside_coordinator {
            // Who could decide that others may read it is denied it too.
            let failure = Failure::new(FailureKind::Permanent, denied.message.clone());
            assert_eq!(end, Ok(TaskEnd::Recorded(failure)));
            assert_eq!(records.len(), 1);
        } else {
            assert_eq!(end.unwrap_err().blame, Blame::Access);
            assert_eq!(records.len(), 0);
        }
    }
}
