//! Workers are connected, but none that takes the tasks of the run.

use gleaner_tests::cluster::Cluster;
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::plain_job;

use super::shared;

/// The error with which the coordinator ended.
fn error_of(cluster: &Cluster<'_>) -> String {
    let log = cluster.log("coordinator.log");
    let (_, error) = log
        .rsplit_once("error: ")
        .unwrap_or_else(|| panic!("no error: {log}"));
    error.to_owned()
}

#[test]
fn workers_that_have_other_resources_are_none() {
    let Some(broker) = shared() else { return };
    let job = Job::of(plain_job::workspace(3));
    let vhost = broker.new_vhost();
    let mut cluster = job.cluster(broker.url_of("guest", "guest", &vhost));
    cluster.start_worker(0, &["--resources", "network"]);
    cluster.await_that("the worker does not come", SOON, || {
        let consumers = broker.ctl(["-q", "list_queues", "-p", &vhost, "name", "consumers"]);
        consumers.contains("gleaner.network.normal\t1")
    });
    cluster.start_coordinator(&["--patience", "3s"]);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    assert_eq!(cluster.ended_worker(0), None);
    let error = error_of(&cluster);
    for part in [
        "no worker that takes tasks for `cpu` has been connected",
        "--resources cpu",
        "run the job again to go on",
    ] {
        assert!(error.contains(part), "{error}");
    }
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn workers_that_take_other_kinds_of_stages_are_none() {
    let Some(broker) = shared() else { return };
    let job = Job::of(plain_job::workspace(3));
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &["--stages", "select"]);
    let hasty = ["--patience", "3s", "--set", "task_timeout=5s"];
    cluster.start_coordinator(&hasty);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    assert_eq!(cluster.ended_worker(0), None);
    let error = error_of(&cluster);
    for part in [
        "no task has come to an end",
        "workers leave them to others",
        "it takes only select (`--stages`)",
        "of the kind importance_weights",
        "run the job again to go on",
    ] {
        assert!(error.contains(part), "{error}");
    }
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}
