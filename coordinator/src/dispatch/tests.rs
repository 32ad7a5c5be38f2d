use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use gleaner_queue::MemoryQueue;
use gleaner_schemas::{AttemptId, ContentHash, Reader, Shard};
use gleaner_workers::entropy::SeededEntropy;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde_json::Value;

use super::*;
use crate::hooked::{Hooked, Request, broken};
use crate::progress::Silent;

const PATIENCE: Duration = Duration::from_secs(600);

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
        task_timeout_ms: 900_000,
        is_whole: false,
    };
    let shard = Shard::default();
    let task = Task {
        id: plan.task_id(&shard),
        shard,
    };
    (plan, vec![task])
}

/// The store is asked again with pauses, also where all tasks are known to be done and only the last
/// look is missing.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_at_once_is_not_asked_as_fast_as_it_answers() {
    // Listings that still succeed, once the task is done.
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
    let (plan, tasks) = phase();
    let queue: Arc<dyn TaskQueue> = Arc::new(MemoryQueue::new());
    let content = ContentHash::of(b"object");
    let key = layout::attempt(&plan.folder, &tasks[0].id, &AttemptId::new(1, &content), 1);
    let worker = async {
        let delivery = queue.receive().await.unwrap();
        // Between two looks.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let path = Path::from(format!("out/{key}"));
        store.put(&path, b"object".to_vec().into()).await.unwrap();
        // The look that finds the attempt: at attempts, and at failures.
        n_left.store(2, Ordering::SeqCst);
        delivery.ack().await.unwrap();
        std::future::pending::<()>().await;
    };
    let (run, shutdown) = (RunId::new(1), Shutdown::new());
    let journal = Journal::new(output.clone(), run.clone());
    let stores = Stores::from_env();
    let dispatcher = Dispatcher {
        stores: &stores,
        output: &output,
        queue: &queue,
        task_ended: &Arc::default(),
        trouble: &Arc::default(),
        n_slots: 1,
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
    let ended = tokio::select! {
        ended = dispatcher.run_phase(&plan, &plan_id, &tasks, None) => ended,
        () = worker => panic!("the worker never ends"),
    };
    let error = ended.unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("the output's store"), "{error}");
    let n_refused = n_refused.load(Ordering::SeqCst);
    let most = PATIENCE.as_millis() / LOOK_PAUSE_MIN.as_millis();
    assert!(
        n_refused > 10 && n_refused as u128 <= most + 1,
        "{n_refused}"
    );
}
