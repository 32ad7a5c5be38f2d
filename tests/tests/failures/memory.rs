//! A shard that is too large for every worker: the system ends each that takes it.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use gleaner_schemas::{FailureKind, QuarantinedTask};
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::corpus::{Document, write_parquet};
use gleaner_tests::job::LONG;
use gleaner_tests::plain_job::{self, PER_FILE};
use gleaner_tests::program::{files, number};

use serde_json::Value;

use super::shared;

/// Bytes of the document that no worker has the memory for.
const HUGE: usize = 160 << 20;
/// What a worker may have: enough for everything else.
const DATA_BYTES: u64 = 250 << 20;
const N_WORKERS: usize = 2;
/// Files that are as they should be.
const N_FILES: usize = 4;

const LOST: &str = "every worker that took the task was lost";

/// The tasks that manifests say are set aside.
fn set_aside(folder: &Path) -> Vec<QuarantinedTask> {
    let manifests = files(folder).into_iter();
    manifests
        .flat_map(|path| {
            let manifest: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let tasks: Vec<QuarantinedTask> =
                serde_json::from_value(manifest["quarantined"].clone()).unwrap();
            tasks
        })
        .collect()
}

#[test]
fn a_shard_that_kills_its_workers_is_split_and_then_set_aside_while_others_go_on() {
    let Some(broker) = shared() else { return };
    let workspace = plain_job::workspace(N_FILES);
    let huge = Document {
        id: "huge".to_owned(),
        text: "gold jazz king ".repeat(HUGE / 15),
        source: "source-0".to_owned(),
    };
    // Its file has a row group for it, and one for a document that nothing is wrong with.
    let neighbour = plain_job::document(N_FILES * PER_FILE);
    let path = workspace.path().join("corpus/huge.parquet");
    write_parquet(&path, &[huge, neighbour], 1);
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: Vec::new(),
    };
    let mut cluster = Cluster::new(&workspace, surroundings);
    for number in 0..N_WORKERS {
        cluster.start_worker_within(number, DATA_BYTES);
    }
    // By what the job says, there is memory enough.
    let arguments = [
        "memory=8GiB",
        "allow.quarantined_tasks=4",
        "allow.rejected_rows=10%",
    ];
    let arguments: Vec<&str> = arguments.iter().flat_map(|it| ["--set", it]).collect();
    cluster.start_coordinator(&arguments);
    let deadline = Instant::now() + LONG;
    let mut n_deaths = 0;
    while cluster.is_coordinated() {
        for number in 0..N_WORKERS {
            if let Some(status) = cluster.ended_worker(number) {
                assert!(
                    status.signal().is_some(),
                    "{status}: {}",
                    cluster.log("worker-0.log")
                );
                n_deaths += 1;
                cluster.start_worker_within(number, DATA_BYTES);
            }
        }
        if Instant::now() > deadline {
            cluster.fail::<()>("the coordinator does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    // In each of two phases: four for the file, and twice four for the row group alone. Copies of
    // what looks lost while no worker is there may cost some more.
    assert!((2 * 12..=3 * 12).contains(&n_deaths), "{n_deaths}");
    let log = fs::read_to_string(workspace.path().join("coordinator.log")).unwrap();
    assert!(log.contains("replaced by smaller tasks"), "{log}");
    assert!(
        log.contains("every worker that took the task was lost"),
        "{log}"
    );
    // Whatever shared its file is there.
    let rows = workspace.sql("SELECT count(*) AS n, count(DISTINCT doc_id) AS ids FROM weights");
    assert_eq!(number(&rows[0], "n"), (N_FILES * PER_FILE + 1) as u64);
    assert_eq!(number(&rows[0], "ids"), (N_FILES * PER_FILE + 1) as u64);
    let verified = cluster.gleaner(&["verify", "out"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    // What is not there is told with its cause.
    let quarantined = set_aside(&workspace.path().join("out/_gleaner/manifests"));
    assert_eq!(quarantined.len(), 2, "{quarantined:?}");
    for task in quarantined {
        assert_eq!(task.inputs[0].name, "corpus/huge.parquet");
        assert_eq!(task.rows, Some(1));
        assert_eq!(task.failure.kind, FailureKind::Memory);
        assert!(task.failure.message.contains(LOST), "{task:?}");
    }
}
