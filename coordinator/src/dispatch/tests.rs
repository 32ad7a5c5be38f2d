use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::FutureExt as _;
use gleaner_queue::{Delivery, MemoryQueue, QueueError, QueueState};
use gleaner_schemas::{AttemptId, ContentHash, Reader, Shard};
use gleaner_workers::entropy::SeededEntropy;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::Value;

use super::*;
use crate::hooked::{Hooked, Request, broken, output_in};
use crate::progress::Silent;

const PATIENCE: Duration = Duration::from_secs(600);
const TASK_TIMEOUT: Duration = Duration::from_secs(900);

/// A phase of one task.
fn phase() -> (PhasePlan, Vec<Task>) {
    let plan = PhasePlan {
        format: PhasePlan::FORMAT,
        stage: "stage".to_owned(),
        kind: "kind".to_owned(),
        code_version: 1,
        phase: "table".to_owned(),
        params: Value::Null,
        decision: Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: layout::table_folder("stage"),
        n_tasks: 1,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 20,
        task_timeout_ms: TASK_TIMEOUT.as_millis() as u64,
        is_whole: false,
    };
    let shard = Shard::default();
    let task = Task {
        id: plan.task_id(&shard),
        shard,
    };
    (plan, vec![task])
}

/// Where an attempt at the task is stored.
fn attempt(plan: &PhasePlan, task: &Task) -> Path {
    let attempt = AttemptId::new(1, &ContentHash::of(b"object"));
    let key = layout::attempt(&plan.folder, &task.id, &attempt, plan.n_tasks);
    Path::from(format!("out/{key}"))
}

/// Dispatches [`phase`] over `queue`.
async fn dispatch(output: &Output, queue: Arc<dyn TaskQueue>) -> Result<PhaseEnd, RunError> {
    let (plan, tasks) = phase();
    let (run, shutdown) = (RunId::new(1), Shutdown::new());
    let journal = Journal::new(output.clone(), run.clone());
    let dispatcher = Dispatcher {
        stores: &Stores::from_env(),
        output,
        queue: &queue,
        task_ended: &Arc::default(),
        trouble: &Arc::default(),
        n_slots: 0,
        route: Route::default(),
        patience: PATIENCE,
        entropy: &SeededEntropy::new(1),
        run: &run,
        journal: &journal,
        progress: &Silent,
        shutdown: &shutdown,
        started: Instant::now(),
    };
    let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
    dispatcher.run_phase(&plan, &plan_id, &tasks, None).await
}

/// The store is asked again with pauses, also where all tasks are known to be done and only the last
/// look is missing.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_at_once_is_not_asked_as_fast_as_it_answers() {
    // Listings that still succeed.
    let n_left = Arc::new(AtomicUsize::new(usize::MAX));
    let n_refused = Arc::new(AtomicUsize::new(0));
    let (left, refused) = (Arc::clone(&n_left), Arc::clone(&n_refused));
    let (store, output) = Hooked::output(move |request| {
        let result = match request {
            Request::List if left.load(Ordering::SeqCst) == 0 => {
                let n_refused = refused.fetch_add(1, Ordering::SeqCst);
                assert!(n_refused < 100_000, "asked without a pause");
                Err(broken())
            }
            Request::List => {
                left.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
            _ => Ok(()),
        };
        async { result }.boxed()
    });
    let queue = Arc::new(MemoryQueue::new());
    let worker = async {
        let delivery = queue.receive().await.unwrap();
        // Between two looks.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (plan, tasks) = phase();
        let path = attempt(&plan, &tasks[0]);
        let _ = store.put(&path, b"object".to_vec().into()).await.unwrap();
        // The look that finds the attempt: at attempts, and at failures.
        n_left.store(2, Ordering::SeqCst);
        delivery.ack().await.unwrap();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = dispatch(&output, Arc::clone(&queue) as _) => ended,
        () = worker => panic!("the worker never ends"),
    };
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("the output's store"), "{error}");
    let n_refused = n_refused.load(Ordering::SeqCst) as u128;
    let most = PATIENCE.as_millis() / LOOK_PAUSE_MIN.as_millis();
    assert!(n_refused > 10 && n_refused <= most + 1, "{n_refused}");
}

/// A broker as a test wants it, and nobody who works.
#[derive(Debug, Default)]
struct Idle {
    /// It takes no messages.
    refuses: AtomicBool,
    /// It says that so many wait.
    n_waiting: u64,
    n_published: AtomicU32,
}

#[async_trait]
impl TaskQueue for Idle {
    async fn publish(&self, _tasks: &[TaskMessage]) -> Result<(), QueueError> {
        self.n_published.fetch_add(1, Ordering::SeqCst);
        match self.refuses.load(Ordering::SeqCst) {
            true => Err(QueueError::Unreachable("gone".to_owned())),
            false => Ok(()),
        }
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        std::future::pending().await
    }

    async fn state(&self, _route: Route) -> Result<QueueState, QueueError> {
        Ok(QueueState {
            n_waiting: self.n_waiting,
            n_slots: Some(1),
        })
    }

    async fn report(&self, _refused: &TaskMessage) -> Result<(), QueueError> {
        Ok(())
    }

    async fn given_up(&self, _run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        Ok(Vec::new())
    }
}

/// Whether the phase ends within `span`.
async fn ends_within(span: Duration, queue: &Arc<Idle>) -> bool {
    let output = output_in(Arc::new(InMemory::new()));
    let dispatched = dispatch(&output, Arc::clone(queue) as _);
    tokio::time::timeout(span, dispatched).await.is_ok()
}

/// However often that is: nothing is known against the task.
#[tokio::test(start_paused = true)]
async fn a_task_whose_offers_do_not_reach_the_queue_is_not_given_up() {
    let queue = Arc::new(Idle::default());
    queue.refuses.store(true, Ordering::SeqCst);
    assert!(!ends_within(PATIENCE / 2, &queue).await);
    assert!(queue.n_published.load(Ordering::SeqCst) > 2 * OFFERS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_in_the_queue_is_not_overdue() {
    let long = 4 * OFFERS_MAX * TASK_TIMEOUT;
    let queue = Idle {
        n_waiting: 1,
        ..Idle::default()
    };
    assert!(!ends_within(long, &Arc::new(queue)).await);
    // Where nobody can have it any more, it is.
    assert!(ends_within(long, &Arc::new(Idle::default())).await);
}

/// Of failures that may pass, the one that is no fault of the task says why it is tried again.
#[tokio::test]
async fn what_could_not_be_reached_outweighs_what_took_too_long() {
    use FailureKind::{Permanent, Timeout, Transient};
    for (kinds, expected) in [
        (vec![Timeout, Transient], Transient),
        (vec![Transient, Timeout], Transient),
        (vec![Timeout, Timeout], Timeout),
        (vec![Permanent, Timeout, Transient], Permanent),
        (vec![Transient, Timeout, Permanent], Permanent),
    ] {
        let output = output_in(Arc::new(InMemory::new()));
        let (_, tasks) = phase();
        let run = RunId::new(1);
        for (nonce, kind) in (0..).zip(&kinds) {
            let failure = Failure::new(*kind, "why");
            let key = layout::failure(&run, &tasks[0].id, nonce);
            output.put_json(&key, "failure", &failure).await.unwrap();
        }
        let options = LedgerOptions {
            overdue_after: TASK_TIMEOUT,
            offers_max: OFFERS_MAX,
            retry_pause: RETRY_PAUSE,
        };
        let ledger = Ledger::new(tasks.iter().map(|task| &task.id), options);
        let failures = look::failures(&output, &run, &ledger).await.unwrap();
        let (n_failures, failure) = &failures[&tasks[0].id];
        assert_eq!(
            (*n_failures as usize, failure.kind),
            (kinds.len(), expected)
        );
    }
}
