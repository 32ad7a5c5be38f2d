//! What breaks in production, each on real processes over a real broker: whoever dies, nothing is
//! lost, doubled or changed, and nothing waits without a bound.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::time::Duration;

use gleaner_queue::TaskQueue as _;
use gleaner_queue::{AmqpOptions, AmqpQueue};
use gleaner_schemas::Resource;
use gleaner_tests::cluster::{Cluster, Surroundings, example_workspace, published};
use gleaner_tests::program::{Workspace, files};
use gleaner_tests::servers::ceph::Ceph;
use gleaner_tests::servers::fake_s3::{FakeS3, Faults};
use gleaner_tests::servers::proxy::{Mode, Proxy};
use gleaner_tests::servers::rabbitmq::{RabbitMq, Settings};

/// Longer than any of these jobs takes, with everything that is waited for on the way.
const LONG: Duration = Duration::from_secs(240);
/// Longer than something takes that is about to happen.
const SOON: Duration = Duration::from_secs(60);

/// The workspace of a job and what its undisturbed run publishes.
struct Job {
    workspace: Workspace,
    expected: BTreeMap<(String, String), String>,
}

impl Job {
    fn new() -> Self {
        // Task ids depend on the files, so that each workspace has its own.
        let workspace = example_workspace();
        let _ = workspace.run(&["--output", "undisturbed"]).expect(0);
        let expected = published(|arguments| workspace.gleaner(arguments), "undisturbed");
        Self {
            workspace,
            expected,
        }
    }

    fn cluster(&self, queue: String) -> Cluster<'_> {
        let variables = Vec::new();
        Cluster::new(&self.workspace, Surroundings { queue, variables })
    }

    /// Objects of tasks in the output `out`.
    fn n_attempts(&self) -> usize {
        let out = self.workspace.path().join("out");
        if !out.exists() {
            return 0;
        }
        let objects = files(&out);
        let is_attempt = |name: &str| gleaner_storage::layout::parse_attempt(name).is_some();
        objects
            .iter()
            .filter(|path| is_attempt(&path.display().to_string()))
            .count()
    }

    /// Waits until some tasks are done, and more are left.
    fn await_attempts(&self, cluster: &Cluster<'_>, n: usize) {
        cluster.await_that("no task is done", SOON, || self.n_attempts() >= n);
    }

    /// The output is what an undisturbed run leaves.
    #[track_caller]
    fn check(&self, cluster: &Cluster<'_>, output: &str) {
        let verified = cluster.gleaner(&["verify", output]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        let found = published(|arguments| cluster.gleaner(arguments), output);
        let different: Vec<_> = self
            .expected
            .iter()
            .filter(|(task, hash)| found.get(task) != Some(hash))
            .collect();
        assert!(different.is_empty(), "{different:?}");
        assert_eq!(found.len(), self.expected.len());
    }
}

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
    assert!(log.contains("no worker has been connected"), "{log}");
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
fn the_broker_is_restarted_and_loses_its_disk() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let job = Job::new();
    let mut cluster = job.cluster(broker.url());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 2);
    broker.stop();
    broker.start_again();
    assert!(cluster.is_coordinated() || job.n_attempts() > 2);
    broker.kill();
    broker.wipe();
    broker.start_again();
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

/// The usual run waits shorter than the two minutes of the name.
#[test]
fn the_broker_is_gone_for_two_minutes() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let job = Job::new();
    let mut cluster = job.cluster(broker.url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    job.await_attempts(&cluster, 2);
    broker.kill();
    let is_long = std::env::var_os("GLEANER_LONG_TESTS").is_some();
    std::thread::sleep(Duration::from_secs(if is_long { 120 } else { 15 }));
    assert!(
        cluster.is_coordinated(),
        "{}",
        cluster.log("coordinator.log")
    );
    broker.start_again();
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn every_message_is_delivered_three_times() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let (offered, taken) = (broker.new_vhost_url(), broker.new_vhost_url());
    let of_coordinator = offered.clone();
    // Workers are told of another vhost than the coordinator, and this thread goes between.
    let mut cluster = job.cluster(taken.clone());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tripling = runtime.spawn(async move {
        let options = AmqpOptions {
            resources: vec![Resource::Cpu],
            n_slots: 4,
            ..AmqpOptions::new(offered)
        };
        let from = AmqpQueue::connect(options).await.unwrap();
        let to = AmqpQueue::connect(AmqpOptions::new(taken)).await.unwrap();
        loop {
            let delivery = from.receive().await.unwrap();
            let copies = vec![delivery.task.clone(); 3];
            to.publish(&copies).await.unwrap();
            delivery.ack().await.unwrap();
        }
    });
    cluster.start_coordinator(&["--queue", &of_coordinator]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    tripling.abort();
    job.check(&cluster, "out");
}

#[test]
fn a_message_of_an_unknown_version_is_set_aside() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let vhost = broker.new_vhost();
    let url = broker.url_of("guest", "guest", &vhost);
    let mut cluster = job.cluster(url.clone());
    cluster.start_worker(0, &[]);
    let n_consumers = || broker.ctl(["-q", "list_queues", "-p", &vhost, "name", "consumers"]);
    let takes = |text: String| text.contains("gleaner.cpu.normal\t1");
    cluster.await_that("no consumer", SOON, || takes(n_consumers()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default());
        let channel = connection.await.unwrap().create_channel().await.unwrap();
        let body = br#"{"format": 99, "task": "of the future"}"#;
        let (options, properties) = (Default::default(), Default::default());
        let queue = "gleaner.cpu.normal".into();
        let published = channel.basic_publish("".into(), queue, options, body, properties);
        let _ = published.await.unwrap().await.unwrap();
    });
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
    let n_dead = || broker.ctl(["-q", "list_queues", "-p", &vhost, "name", "messages"]);
    let is_dead = |text: String| text.contains("gleaner.dead\t1");
    cluster.await_that("it is not set aside", SOON, || is_dead(n_dead()));
}

#[test]
fn a_store_that_throttles_cuts_and_lies_about_puts() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let store = FakeS3::start(&["bucket"]);
    let faults = Faults {
        throttle_every: 11,
        fail_after_put_every: 5,
        silent_after_put_every: 7,
        cut_every: 13,
        delay: Duration::from_millis(5),
        ..Faults::default()
    };
    store.set(faults);
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: store.variables(),
    };
    let mut cluster = Cluster::new(&job.workspace, surroundings);
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&["--output", "s3://bucket/out"]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let counts = store.counts();
    assert!(
        counts.throttled > 0 && counts.failed_puts > 0 && counts.cut > 0,
        "{counts:?}"
    );
    store.set(Faults::default());
    job.check(&cluster, "s3://bucket/out");
}

#[test]
fn a_partition_between_one_worker_and_the_store_but_not_the_broker() {
    let (Some(broker), Some(ceph)) = (shared(), Ceph::shared()) else {
        return;
    };
    let job = Job::new();
    let proxy = Proxy::start(ceph.address());
    let bucket = ceph.new_bucket();
    let output = format!("s3://{bucket}/out");
    let queue = broker.new_vhost_url();
    let cut_off = Surroundings {
        queue: queue.clone(),
        variables: ceph.variables_by(proxy.address()),
    };
    let surroundings = Surroundings {
        queue,
        variables: ceph.variables(),
    };
    let mut behind = Cluster::new(&job.workspace, cut_off);
    let mut cluster = Cluster::new(&job.workspace, surroundings);
    behind.start_worker(7, &[]);
    cluster.start_coordinator(&["--output", &output]);
    cluster.await_that("the worker does not come", SOON, || {
        proxy.n_connections() > 0
    });
    proxy.set(Mode::BlackHole);
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    proxy.set(Mode::Pass);
    job.check(&cluster, &output);
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
    let mut cluster = Cluster::new(&job.workspace, Surroundings { queue, variables });
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
