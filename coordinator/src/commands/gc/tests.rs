//! What happens while `gc` is at work, at every moment at which it can.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arrow::datatypes::Schema;
use gleaner_schemas::{
    AttemptId, ContentHash, Fingerprint, Lanes, TableFile, TableVersion, TaskId, Version,
};
use gleaner_workers::entropy::SystemEntropy;
use object_store::memory::InMemory;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::hooked::{Hooked, Request, output_in};
use crate::sweep::RENEW_AFTER;

const STAGE: &str = "weights";

fn file(task: u32) -> TableFile {
    let id: TaskId = Fingerprint::of("task", &task).into();
    let attempt = AttemptId::new(1, &ContentHash::of(b"rows"));
    TableFile {
        path: layout::attempt(STAGE, &id, &attempt, 1),
        rows: 1,
        bytes: 4,
        checksum: attempt.content(),
        task: Some(id),
        lanes: Lanes::default(),
        inputs: Vec::new(),
    }
}

async fn put(output: &Output, task: u32) {
    output.put(&file(task).path, "rows".into()).await.unwrap();
}

async fn start(output: &Output, run: u64) {
    let event = RunStarted {
        run: RunId::new(run),
        job: "job".to_owned(),
        stages: vec![STAGE.to_owned()],
        started_at: String::new(),
        pid: 1,
    };
    let key = layout::run_event(&event.run, layout::RUN_STARTED);
    output.put_json(&key, "event", &event).await.unwrap();
}

/// The run publishes what `task` yielded, and ends.
async fn publish(output: &Output, run: u64, number: u64, task: u32) {
    let table = TableVersion {
        schema: Schema::empty(),
        rows: 1,
        bytes: 4,
        files: vec![file(task)],
        since_version: number,
        since: String::new(),
        figures: None,
    };
    let version = Version {
        format: Version::FORMAT,
        number,
        job: "job".to_owned(),
        job_file: json!({}),
        run: RunId::new(run),
        published_at: String::new(),
        gleaner_version: String::new(),
        stage_order: vec![STAGE.to_owned()],
        stages: BTreeMap::new(),
        tables: BTreeMap::from([(STAGE.to_owned(), table)]),
        corpus: Vec::new(),
        checks: Vec::new(),
    };
    let key = layout::version(number);
    output.put_json(&key, "version", &version).await.unwrap();
    let ended = RunEnded {
        exit_code: 0,
        message: String::new(),
        version: Some(number),
        ended_at: String::new(),
    };
    let key = layout::run_event(&RunId::new(run), layout::RUN_ENDED);
    output.put_json(&key, "event", &ended).await.unwrap();
}

async fn is_there(output: &Output, task: u32) -> bool {
    output.get(&file(task).path).await.unwrap().is_some()
}

/// The store's clock tells milliseconds apart.
async fn later() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Whatever `gc` looks at first and at last, and with whatever number of kept versions.
#[tokio::test]
async fn what_a_run_publishes_while_gc_looks_stays() {
    for n_versions in [None, NonZeroUsize::new(1)] {
        for publishes_at in 0.. {
            let memory = Arc::new(InMemory::new());
            let plain = output_in(Arc::clone(&memory) as _);
            start(&plain, 1).await;
            put(&plain, 1).await;
            publish(&plain, 1, 1, 1).await;
            later().await;
            // What it publishes was computed before, by a run whose version is gone since.
            put(&plain, 2).await;
            put(&plain, 3).await;
            later().await;
            start(&plain, 2).await;
            let n_requests = Arc::new(AtomicUsize::new(0));
            let (counter, run) = (Arc::clone(&n_requests), plain.clone());
            let output = Hooked::over(&memory, move |_| {
                let is_due = counter.fetch_add(1, Ordering::SeqCst) == publishes_at;
                let run = run.clone();
                Box::pin(async move {
                    if is_due {
                        publish(&run, 2, 2, 2).await;
                    }
                    Ok(())
                })
            });
            let _report = gc(&output, n_versions, false, &SystemEntropy)
                .await
                .unwrap();
            assert!(is_there(&plain, 2).await, "before request {publishes_at}");
            if n_requests.load(Ordering::SeqCst) <= publishes_at {
                assert!(publishes_at > 8, "gc asked for {publishes_at} things");
                break;
            }
            // And what is not needed goes once the run has ended.
            let _report = gc(&plain, n_versions, false, &SystemEntropy).await.unwrap();
            assert!(is_there(&plain, 2).await && !is_there(&plain, 3).await);
        }
    }
}

/// A job was set back to parameters of before: the run will find work that no version names, and that
/// was done before the last publication.
#[tokio::test]
async fn what_a_run_that_is_going_on_may_come_upon_stays_however_old() {
    let output = output_in(Arc::new(InMemory::new()));
    put(&output, 2).await;
    let other = layout::attempt_in(
        "others",
        &file(2).task.unwrap(),
        &AttemptId::new(1, &file(2).checksum),
    );
    output.put(&other, "rows".into()).await.unwrap();
    let reduce = layout::reduce(STAGE, "fit", &Fingerprint::of("reduce", &1));
    output.put(&reduce, "{}".into()).await.unwrap();
    later().await;
    start(&output, 1).await;
    put(&output, 1).await;
    publish(&output, 1, 1, 1).await;
    later().await;
    start(&output, 2).await;
    let report = gc(&output, None, false, &SystemEntropy).await.unwrap();
    assert_eq!(report.at_work, [RunId::new(2)]);
    assert!(is_there(&output, 2).await);
    assert!(output.get(&reduce).await.unwrap().is_some());
    // It is no stage of that run.
    assert_eq!(report.removed, [other]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_by_a_sweep_that_is_too_old() {
    let memory = Arc::new(InMemory::new());
    let plain = output_in(Arc::clone(&memory) as _);
    for task in 0..500 {
        put(&plain, task).await;
    }
    let deletion = Duration::from_secs(60);
    let told = Arc::new(Mutex::new(Instant::now()));
    let ages: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let aged = Arc::clone(&ages);
    let output = Hooked::over(&memory, move |request| {
        match &request {
            Request::Put(path) if path.as_ref().contains(layout::SWEEPS) => {
                *told.lock().unwrap() = Instant::now();
            }
            Request::Delete(_) => aged.lock().unwrap().push(told.lock().unwrap().elapsed()),
            _ => {}
        }
        Box::pin(async move {
            if matches!(request, Request::Delete(_)) {
                tokio::time::sleep(deletion).await;
            }
            Ok(())
        })
    });
    let report = gc(&output, None, false, &SystemEntropy).await.unwrap();
    assert_eq!(report.removed.len(), 500);
    let ages = ages.lock().unwrap();
    // And the sweeps themselves, which end as soon as nothing more is removed under them.
    assert!(ages.len() > 500);
    for age in ages.iter() {
        assert!(*age < RENEW_AFTER + 2 * deletion, "{age:?}");
    }
}
