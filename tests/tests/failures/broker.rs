//! The broker goes away, forgets, repeats itself, or hands out what nobody understands.

use std::time::Duration;

use gleaner_queue::TaskQueue as _;
use gleaner_queue::{AmqpOptions, AmqpQueue};
use gleaner_schemas::Resource;
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::servers::rabbitmq::RabbitMq;

use super::shared;

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

#[test]
fn a_broker_that_is_not_up_yet_is_waited_for() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let job = Job::new();
    let mut cluster = job.cluster(broker.url());
    broker.stop();
    cluster.start_coordinator(&["--patience", "90s"]);
    cluster.await_that("nobody is told", SOON, || {
        cluster
            .log("coordinator.log")
            .contains("waiting for the broker")
    });
    cluster.start_worker(0, &[]);
    broker.start_again();
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}

#[test]
fn a_broker_that_never_comes_ends_the_run_after_its_patience() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let job = Job::new();
    let mut cluster = job.cluster(format!("amqp://guest:guest@{address}"));
    cluster.start_coordinator(&["--patience", "2s"]);
    assert_eq!(cluster.coordinator_end(SOON), Some(4));
    let log = cluster.log("coordinator.log");
    assert!(log.contains(&address.to_string()), "{log}");
    assert!(log.contains("(--patience)"), "{log}");
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

/// It comes back with queues that have no leader, and never elect one.
#[test]
fn a_broker_that_is_killed_just_after_its_queues_were_declared() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connected = runtime.block_on(AmqpQueue::connect(AmqpOptions::new(broker.url())));
    broker.kill();
    drop(connected.unwrap());
    broker.start_again();
    let job = Job::new();
    let mut cluster = job.cluster(broker.url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
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
