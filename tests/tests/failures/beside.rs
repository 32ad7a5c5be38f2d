//! What goes on beside a run: other jobs, `gc`, people who look at it from elsewhere.

use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::plain_job;
use gleaner_tests::program::{command_in, ended, program};
use gleaner_tests::servers::fake_s3::{FakeS3, Faults};

use super::shared;

#[test]
fn gc_takes_nothing_from_a_run_that_is_resumed() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 3);
    cluster.kill_coordinator();
    let _ = cluster.gleaner(&["gc", "out"]).expect(0);
    let before = job.n_attempts();
    assert!(before >= 3, "{before}");
    cluster.start_coordinator(&[]);
    let mut n_gc = 0;
    while cluster.is_coordinated() {
        // A run that begins in the middle is a reason to ask again.
        let code = cluster.gleaner(&["gc", "out"]).code;
        assert!(matches!(code, Some(0 | 2)), "{code:?}");
        n_gc += u32::from(code == Some(0));
    }
    assert!(n_gc > 0, "gc never ran beside it");
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
    let _ = cluster.gleaner(&["gc", "out"]).expect(0);
    job.check(&cluster, "out");
}

/// The key of a worker that may write the output of one of two jobs.
const PARTIAL: &str = "partial";

#[test]
fn a_worker_that_one_job_keeps_out_serves_the_other() {
    let Some(broker) = shared() else { return };
    // A small one: after each task that it cannot do, the worker pauses.
    let job = Job::of(plain_job::workspace(2));
    let store = FakeS3::start(&["bucket"]);
    store.set(Faults {
        deny_puts_of: Some(PARTIAL),
        deny_puts_below: "foreign/",
        ..Faults::default()
    });
    let queue = broker.new_vhost_url();
    let mut partial = job.cluster_with(queue.clone(), store.variables_of(PARTIAL));
    let mut foreign = job.cluster_with(queue.clone(), store.variables());
    let mut ours = job.cluster_with(queue, store.variables());
    foreign.start_coordinator(&["--output", "s3://bucket/foreign"]);
    let is_planned = || !store.objects("bucket", "foreign/_gleaner/plans").is_empty();
    foreign.await_that("nothing is planned", SOON, is_planned);
    ours.start_coordinator(&["--output", "s3://bucket/ours"]);
    let is_planned = || !store.objects("bucket", "ours/_gleaner/plans").is_empty();
    ours.await_that("nothing is planned", SOON, is_planned);
    partial.start_worker(7, &[]);
    // Alone, among messages that it can do nothing about.
    assert_eq!(ours.coordinator_end(LONG), Some(0));
    assert!(store.counts().denied > 5, "{:?}", store.counts());
    job.check(&ours, "s3://bucket/ours");
    let log = partial.log("worker-7.log");
    assert!(partial.ended_worker(7).is_none(), "{log}");
    foreign.start_worker(0, &[]);
    assert_eq!(foreign.coordinator_end(LONG), Some(0));
    job.check(&foreign, "s3://bucket/foreign");
}

/// Another directory, another home, nothing but the URI and credentials.
#[test]
fn the_status_of_a_run_is_seen_from_another_machine() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let store = FakeS3::start(&["bucket"]);
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: store.variables(),
    };
    let mut cluster = Cluster::new(&job.workspace, surroundings);
    let elsewhere = tempfile::tempdir().unwrap();
    let status = || {
        let mut command = command_in(elsewhere.path(), program());
        command
            .env_clear()
            .env("HOME", elsewhere.path())
            .envs(store.variables())
            .args(["status", "s3://bucket/out", "--json"]);
        let report = ended(&mut command).expect(0).events().remove(0);
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        report
    };
    cluster.start_coordinator(&["--output", "s3://bucket/out"]);
    cluster.start_worker(0, &[]);
    let n_done = || {
        let report = status();
        assert_eq!(report["version"], serde_json::Value::Null);
        let phases = report["run"]["phases"].as_array().cloned();
        let phases = phases.unwrap_or_default();
        phases.iter().filter_map(|it| it["n_done"].as_u64()).sum()
    };
    let mut first = 0_u64;
    cluster.await_that("no task is done", SOON, || {
        first = n_done();
        first > 0
    });
    // While it goes on, and no further than it can be.
    cluster.signal_worker(0, "STOP");
    assert!(n_done() >= first);
    cluster.signal_worker(0, "CONT");
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let report = status();
    assert_eq!(report["version"]["number"], 1);
    assert_eq!(report["run"]["ended"]["version"], 1, "{report}");
}
