//! A phase of 100,000 tasks, most of which fail, with thousands of workers: what is sent and shown
//! of it is as little as of a small one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gleaner_coordinator::commands::prepare::{self, JobArguments};
use gleaner_coordinator::dashboard::{Board, Dashboard, Hosts};
use gleaner_coordinator::ledger::{Ledger, LedgerOptions};
use gleaner_coordinator::observation::Observation;
use gleaner_coordinator::progress::Progress as _;
use gleaner_queue::QueueState;
use gleaner_schemas::{
    AttemptOutcome, AttemptRecord, Failure, FailureKind, FileFormat, Fingerprint, Resource, RunId,
    Shard, Slice, SourceFile, Task,
};
use gleaner_storage::{Output, Stores};
use gleaner_tests::browser::Browser;
use gleaner_tests::scale::processor_seconds;
use gleaner_workers::attempt_log::AttemptObserver as _;
use serde_json::Value;

const TASKS: u64 = 100_000;
const WORKERS: u64 = 5_000;
const ROWS: u64 = 1_000;
const BYTES: u64 = 256 << 20;
/// Bytes of a snapshot, whatever it is of.
const SNAPSHOT_MAX: usize = 64 << 10;
/// Elements of the page, whatever it shows.
const NODES_MAX: u64 = 2_000;

fn task(number: u64) -> Task {
    let file = SourceFile {
        name: format!("corpus/{}/part-{number:06}.parquet", "deep".repeat(20)),
        uri: format!("s3://bucket/corpus/part-{number:06}.parquet"),
        format: FileFormat::Parquet,
        bytes: BYTES,
        identity: number.to_string(),
        etag: None,
    };
    Task {
        id: Fingerprint::of("task", &number).into(),
        shard: Shard {
            slices: vec![Slice {
                file: Arc::new(file),
                row_groups: None,
                first_row: 0,
                n_rows: Some(ROWS),
                bytes: BYTES,
                row_group_facts: Vec::new(),
            }],
            companions: Vec::new(),
            effect: None,
        },
    }
}

fn record(number: u64, task: &Task) -> AttemptRecord {
    AttemptRecord {
        format: AttemptRecord::FORMAT,
        task: task.id.clone(),
        attempt: None,
        stage: "weights".to_owned(),
        phase: "score".to_owned(),
        worker: format!("worker-{:05}-with-a-long-name", number % WORKERS),
        started_at: "2026-01-01T00:00:00.000Z".to_owned(),
        seconds: (number % 977) as f64 / 10.0,
        rows: Some(ROWS),
        bytes_in: BYTES,
        bytes_out: Some(1),
        worker_peak_memory_bytes: Some(BYTES),
        worker_throttled: None,
        outcome: AttemptOutcome::Committed,
        failure: None,
    }
}

/// A run whose board saw a large phase; a third of the tasks are done, a third given up.
fn board() -> Board {
    let arguments = JobArguments {
        path: PathBuf::from("job.yaml"),
        text: Some(gleaner_tests::plain_job::JOB.to_owned()),
        output: Some("memory://large/out".to_owned()),
        ..JobArguments::default()
    };
    let (job, _) = prepare::read_job(&arguments).unwrap();
    let store = Arc::new(object_store::memory::InMemory::new());
    let stores = Stores::from_env().with("memory://large", store);
    let output = Output::open(&stores, &job.output).unwrap();
    let tasks: Vec<Task> = (0..TASKS).map(task).collect();
    let options = LedgerOptions {
        overdue_after: Duration::from_secs(1800),
        offers_max: 4,
        retry_pause: Duration::from_secs(1),
    };
    let mut ledger = Ledger::new(tasks.iter().map(|task| &task.id), options);
    let board = Board::default();
    let run = RunId::new(1);
    board.observe(&Observation::RunStarted {
        run: &run,
        job: &job,
        output: &output,
    });
    board.observe(&Observation::InputsRead {
        n_files: TASKS,
        bytes: TASKS * BYTES,
    });
    board.observe(&Observation::StageStarted { stage: "weights" });
    board.phase_started("weights", "score", TASKS, Some(TASKS * ROWS), TASKS * BYTES);
    board.observe(&Observation::Queue {
        state: QueueState {
            n_waiting: 7,
            n_slots: Some(WORKERS),
        },
        resource: Resource::Cpu,
    });
    // In looks of a thousand tasks, as the driver takes them.
    for (look, chunk) in tasks.chunks(1_000).enumerate() {
        let now = Duration::from_secs(look as u64);
        let mut n_done = 0;
        for (number, task) in (look as u64 * 1_000..).zip(chunk) {
            match number % 3 {
                0 => {
                    ledger.attempt_seen(&task.id, now).unwrap();
                    board.attempt_ended(&record(number, task));
                    n_done += 1;
                }
                1 => {
                    // Every message is another one.
                    let n_letters = number as usize % 700;
                    let message = format!("{} {}", "y".repeat(n_letters), "x".repeat(500));
                    let failure = Failure::new(FailureKind::Permanent, message);
                    ledger.failures_seen(&task.id, 1, &failure, now);
                }
                _ => {}
            }
        }
        let unsplit: Vec<usize> = ledger.unsplit().map(|(idx, _)| idx).collect();
        for idx in unsplit {
            ledger.cannot_split(idx, now);
        }
        board.advanced(n_done, n_done * ROWS, n_done * BYTES);
        board.observe(&Observation::Tasks {
            tasks: &tasks,
            ledger: &ledger,
        });
        board.note(&"a long sentence that says what is amiss ".repeat(50));
    }
    board
}

#[test]
fn a_snapshot_is_small_and_exact() {
    let board = board();
    let started = Instant::now();
    let text = board.snapshot_json();
    println!("{} bytes in {:?}", text.len(), started.elapsed());
    assert!(text.len() < SNAPSHOT_MAX, "{} bytes", text.len());
    let snapshot: Value = serde_json::from_str(&text).unwrap();
    let phase = &snapshot["stages"][0]["phases"][0];
    let third = TASKS.div_ceil(3);
    assert_eq!(phase["tasks"]["done"], third);
    assert_eq!(phase["tasks"]["total"], TASKS);
    assert_eq!(phase["tasks"]["given_up"], TASKS / 3);
    assert_eq!(phase["rows"]["done"], third * ROWS);
    assert_eq!(phase["rows"]["total"], TASKS * ROWS);
    assert_eq!(phase["bytes"]["done"], third * BYTES);
    assert_eq!(phase["bytes"]["given_up"], TASKS / 3 * BYTES);
    let quarantine = &snapshot["quarantine"];
    assert_eq!(quarantine["n"], TASKS / 3);
    let causes = quarantine["causes"].as_array().unwrap();
    let shown: u64 = causes
        .iter()
        .map(|it| it["n_tasks"].as_u64().unwrap())
        .sum();
    assert_eq!(shown + quarantine["n_others"].as_u64().unwrap(), TASKS / 3);
    assert_eq!(snapshot["workers"]["n"], WORKERS);
    assert_eq!(snapshot["times"]["n"], third);
}

/// Measures, among the long tests, what a page that somebody watches costs the coordinator: seconds
/// of the processor, of a build without optimisation, for each second. The tasks end as those of
/// 5,000 workers do, each in a hundred seconds; so much is told to the board whether anybody watches
/// or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_is_measured() {
    const SECONDS: u64 = 30;
    if std::env::var_os("GLEANER_LONG_TESTS").is_none() {
        println!("skipped: it measures for minutes; set GLEANER_LONG_TESTS");
        return;
    }
    let board = board();
    let address = Some("127.0.0.1:0".parse().unwrap());
    let dashboard = Dashboard::bind(address, Hosts::default(), board.clone());
    let dashboard = dashboard.await.unwrap();
    let url = format!("http://{}/", dashboard.address());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(dashboard.serve(async {
        let _ = stopped.await;
    }));
    let measured = tokio::task::spawn_blocking(move || {
        let advance = |seconds: u64| {
            let (began, before) = (Instant::now(), processor_seconds());
            let mut number = 0;
            while began.elapsed() < Duration::from_secs(seconds) {
                for _ in 0..WORKERS / 100 / 10 {
                    board.attempt_ended(&record(number, &task(number)));
                    number += 1;
                }
                board.advanced(5, 5 * ROWS, 5 * BYTES);
                std::thread::sleep(Duration::from_millis(100));
            }
            (processor_seconds() - before) / began.elapsed().as_secs_f64()
        };
        let alone = advance(SECONDS);
        let mut browser = Browser::start()?;
        browser.open(&url);
        browser.await_that("document.querySelectorAll('#stage-list > li').length === 2");
        let paint = browser.value(
            "(performance.getEntriesByName('first-contentful-paint')[0] ?? {startTime: -1}).startTime",
        );
        let watched = advance(SECONDS);
        println!(
            "painted first after {paint} ms; processor: {:.2} % alone, {:.2} % watched",
            100.0 * alone,
            100.0 * watched
        );
        Some(())
    });
    let measured = measured.await.unwrap();
    drop(stop);
    serving.await.unwrap();
    assert!(measured.is_some(), "there is no browser to measure with");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_it_has_few_elements_and_moves() {
    let board = board();
    let dashboard = Dashboard::bind(
        Some("127.0.0.1:0".parse().unwrap()),
        Hosts::default(),
        board.clone(),
    );
    let dashboard = dashboard.await.unwrap();
    let url = format!("http://{}/", dashboard.address());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(dashboard.serve(async {
        let _ = stopped.await;
    }));
    let looked = tokio::task::spawn_blocking(move || {
        let mut browser = Browser::start()?;
        browser.open(&url);
        browser.await_that("document.querySelectorAll('#stage-list > li').length === 2");
        let n_nodes = browser.value("document.querySelectorAll('*').length");
        let paint = browser.value(
            "(performance.getEntriesByName('first-contentful-paint')[0] ?? {startTime: -1}).startTime",
        );
        println!("{n_nodes} elements, painted first after {paint} ms");
        assert!(n_nodes.as_u64() < Some(NODES_MAX), "{n_nodes} elements");
        // What changes is shown where it stands, not beside.
        board.advanced(10, 10 * ROWS, 10 * BYTES);
        let done = TASKS.div_ceil(3) + 10;
        let done = format!("{},{}", done / 1000, done % 1000);
        browser.await_that(&format!(
            "document.getElementById('now-facts').textContent.includes('{done} of 100,000 tasks')"
        ));
        let n_later = browser.value("document.querySelectorAll('*').length");
        assert_eq!(n_later, n_nodes);
        assert_eq!(browser.complaints(), [] as [String; 0]);
        Some(())
    });
    looked.await.unwrap();
    drop(stop);
    serving.await.unwrap();
}
