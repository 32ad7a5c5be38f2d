//! What breaks in production, each on real processes over a real broker: whoever dies, nothing is
//! lost, doubled or changed, and nothing waits without a bound.
#![cfg(unix)]

mod beside;
mod broker;
mod data;
mod input_store;
mod jobs;
mod memory;
mod other_workers;
mod refused;
mod store;

use std::time::Duration;

use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::program::files;
use gleaner_tests::servers::rabbitmq::{RabbitMq, Settings};

fn shared() -> Option<&'static RabbitMq> {
    RabbitMq::shared()
}

#[test]
fn all_workers_die_and_the_run_ends_to_be_resumed() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&["--patience", "3s"]);
    job.await_attempts(&cluster, 3);
    cluster.kill_worker(0);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    let log = cluster.log("coordinator.log");
    assert!(
        log.contains("no worker that takes tasks for `cpu` has been connected"),
        "{log}"
    );
    let before = job.n_attempts();
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    assert!(job.n_attempts() > before);
    job.check(&cluster, "out");
}

#[test]
fn no_worker_ever_came() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_coordinator(&["--patience", "2s"]);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    let status = cluster.gleaner(&["status", "out"]).expect(0);
    assert!(status.stdout.contains("exit code 4"), "{}", status.stdout);
}

#[test]
fn idle_workers_leave_and_the_last_task_dies_with_its_worker() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 2);
    // Frozen, so that it holds a task for sure once the other one has nothing to do.
    cluster.signal_worker(0, "STOP");
    cluster.signal_worker(1, "TERM");
    let code = cluster.worker_end(1, SOON).code();
    assert!(matches!(code, Some(0 | 75)), "{code:?}");
    cluster.kill_worker(0);
    cluster.start_worker(2, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn a_worker_frozen_beyond_the_consumer_timeout_does_no_harm_when_it_wakes() {
    let settings = Settings {
        consumer_timeout: Some(Duration::from_secs(4)),
        ..Settings::default()
    };
    let Some(broker) = RabbitMq::start_with(&settings) else {
        return;
    };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    let coordinator = ["--consumer-timeout", "4s", "--set", "task_timeout=2s"];
    cluster.start_worker(0, &["--consumer-timeout", "4s"]);
    cluster.start_coordinator(&coordinator);
    job.await_attempts(&cluster, 2);
    cluster.signal_worker(0, "STOP");
    cluster.start_worker(1, &["--consumer-timeout", "4s"]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    cluster.signal_worker(0, "CONT");
    job.check(&cluster, "out");
    // The one that woke up works again, alone.
    cluster.kill_worker(1);
    let again = [&coordinator[..], &["--output", "again"]].concat();
    cluster.start_coordinator(&again);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "again");
}

#[test]
fn a_coordinator_is_killed_and_another_one_goes_on() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 3);
    cluster.kill_coordinator();
    let before = files(&job.workspace.path().join("out/_gleaner/inner"));
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let gone: Vec<_> = before.iter().filter(|path| !path.exists()).collect();
    assert!(gone.is_empty(), "done again: {gone:?}");
    job.check(&cluster, "out");
}

#[test]
fn two_coordinators_on_one_job_do_no_harm() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn an_interrupted_coordinator_leaves_a_job_to_be_resumed() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 2);
    cluster.signal_coordinator("INT");
    assert_eq!(cluster.coordinator_end(SOON), Some(130));
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn clocks_that_jump_change_nothing() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !std::path::Path::new(library).exists() {
        gleaner_tests::servers::skip("there is no libfaketime (apt-get install faketime)");
        return;
    }
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let queue = broker.new_vhost_url();
    let clock = job.workspace.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let variables = [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let mut cluster = job.cluster_with(queue, variables);
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    for jump in ["+30d", "-400d", "+3h", "-2d"] {
        job.await_attempts(&cluster, 1);
        std::fs::write(&clock, jump).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    std::fs::write(&clock, "+0").unwrap();
    job.check(&cluster, "out");
}
