//! Workers that the store does not let write or read: the coordinator learns of it, and others do
//! the work.

use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::job::{Job, LONG, SOON, n_attempts_in};
use gleaner_tests::plain_job;
use gleaner_tests::servers::fake_s3::{FakeS3, Faults};

use super::shared;

/// The key of those who may only read.
const READER: &str = "reader";

fn denying_store() -> FakeS3 {
    let store = FakeS3::start(&["bucket"]);
    store.set(Faults {
        deny_puts_of: Some(READER),
        ..Faults::default()
    });
    store
}

#[test]
fn a_worker_that_may_not_write_leaves_its_tasks_to_others_and_says_so() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let store = denying_store();
    let queue = broker.new_vhost_url();
    let mut denied = job.cluster_with(queue.clone(), store.variables_of(READER));
    let mut cluster = job.cluster_with(queue, store.variables());
    denied.start_worker(7, &[]);
    cluster.start_coordinator(&["--output", "s3://bucket/out"]);
    cluster.await_that("nobody is told", SOON, || {
        let log = cluster.log("coordinator.log");
        log.contains("a worker leaves the tasks of this run to other workers")
    });
    let log = cluster.log("coordinator.log");
    assert!(log.contains("AccessDenied"), "{log}");
    // Also the log of a coordinator, which has warnings only, names what they are about.
    let warning = log.lines().find(|line| line.contains(" WARN ")).unwrap();
    for span in ["job{name=", "stage{name=", "phase{name="] {
        assert!(warning.contains(span), "{warning}");
    }
    assert_eq!(n_attempts_in(&store, "bucket", "out/"), 0);
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    // Nothing was given up for it: that would end with 3.
    assert!(store.counts().denied > 0);
    job.check(&cluster, "s3://bucket/out");
    // With tasks that it cannot do, it ends and says why.
    let end = denied.log("worker-7.log");
    assert!(end.contains("giving the task back"), "{end}");
}

#[test]
fn where_no_worker_may_write_the_run_ends_soon_to_be_resumed_and_says_why() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let store = denying_store();
    let queue = broker.new_vhost_url();
    let mut denied = job.cluster_with(queue.clone(), store.variables_of(READER));
    let mut cluster = job.cluster_with(queue, store.variables());
    denied.start_worker(7, &[]);
    let arguments = [
        "--output",
        "s3://bucket/out",
        "--patience",
        "3s",
        "--set",
        "task_timeout=5s",
    ];
    cluster.start_coordinator(&arguments);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    let log = cluster.log("coordinator.log");
    let (_, end) = log.rsplit_once("error: ").unwrap();
    assert!(end.contains("to others"), "{end}");
    assert!(end.contains("AccessDenied"), "{end}");
    assert!(end.contains("run the job again to go on"), "{end}");
    denied.kill_worker(7);
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&arguments[..2]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "s3://bucket/out");
}

#[test]
fn a_worker_that_may_not_read_the_corpus_leaves_its_tasks_to_others_and_says_so() {
    let Some(broker) = shared() else { return };
    let store = FakeS3::start(&["bucket"]);
    let workspace = plain_job::workspace_with_corpus_in(&store, "bucket");
    store.set(Faults {
        deny_gets_of: Some((READER, "corpus/")),
        ..Faults::default()
    });
    let queue = broker.new_vhost_url();
    let cluster_of = |variables| {
        let queue = queue.clone();
        Cluster::new(&workspace, Surroundings { queue, variables })
    };
    let mut denied = cluster_of(store.variables_of(READER));
    let mut cluster = cluster_of(store.variables());
    denied.start_worker(7, &[]);
    cluster.start_coordinator(&[]);
    cluster.await_that("nobody is told", SOON, || {
        let log = cluster.log("coordinator.log");
        log.contains("a worker leaves the tasks of this run to other workers")
    });
    assert!(cluster.log("coordinator.log").contains("AccessDenied"));
    cluster.start_worker(0, &[]);
    // Nothing was given up for it: that would end with 3.
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    assert!(store.counts().denied > 0);
}

#[test]
fn what_the_coordinator_may_not_read_either_is_given_up_with_the_cause() {
    let Some(broker) = shared() else { return };
    let store = FakeS3::start(&["bucket"]);
    let workspace = plain_job::workspace_with_corpus_in(&store, "bucket");
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: store.variables(),
    };
    let mut cluster = Cluster::new(&workspace, surroundings);
    cluster.start_coordinator(&["--patience", "60s"]);
    let plans = workspace.path().join("out/_gleaner/plans");
    cluster.await_that("nothing is planned", SOON, || plans.exists());
    store.set(Faults {
        deny_gets_of: Some(("", "corpus/part-1")),
        ..Faults::default()
    });
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(3));
    let log = cluster.log("coordinator.log");
    assert!(log.contains("AccessDenied"), "{log}");
    assert!(log.contains("corpus/part-1.parquet"), "{log}");
}
