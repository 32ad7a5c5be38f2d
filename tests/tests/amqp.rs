//! The queue on RabbitMQ, against the real broker.
#![cfg(unix)]

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gleaner_queue::conformance::{check_all, message};
use gleaner_queue::{AmqpOptions, AmqpQueue, Delivery, QueueError, QueueState, TaskQueue};
use gleaner_schemas::job::Priority;
use gleaner_schemas::{Resource, Route, RunId, TaskMessage};
use gleaner_tests::servers::rabbitmq::{RabbitMq, Settings};
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};

/// Bound of everything that must happen soon, on a machine that does much else.
const SOON: Duration = Duration::from_secs(60);
/// Long enough to see that something does not happen.
const SILENCE: Duration = Duration::from_millis(500);

fn options(url: impl Into<String>, n_slots: usize) -> AmqpOptions {
    AmqpOptions {
        resources: vec![Resource::Cpu],
        n_slots,
        connect_timeout: SOON,
        confirm_timeout: SOON,
        ..AmqpOptions::new(url)
    }
}

async fn connect(url: impl Into<String>, n_slots: usize) -> AmqpQueue {
    AmqpQueue::connect(options(url, n_slots)).await.unwrap()
}

async fn receive(queue: &AmqpQueue) -> Delivery {
    let deadline = Instant::now() + SOON;
    loop {
        match tokio::time::timeout(SOON, queue.receive()).await {
            Ok(Ok(delivery)) => return delivery,
            // Told while the broker is away.
            Ok(Err(QueueError::Unreachable(_))) if Instant::now() < deadline => {}
            other => panic!("no delivery: {other:?}"),
        }
    }
}

async fn assert_silent(queue: &AmqpQueue) {
    let received = tokio::time::timeout(SILENCE, queue.receive()).await;
    assert!(received.is_err(), "unexpected delivery: {received:?}");
}

/// Publishes, again and again while the broker is away, as a coordinator does.
async fn publish(queue: &AmqpQueue, tasks: &[TaskMessage]) {
    let deadline = Instant::now() + SOON;
    loop {
        match queue.publish(tasks).await {
            Ok(()) => return,
            Err(QueueError::Unreachable(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("cannot publish: {error}"),
        }
    }
}

async fn eventually(queue: &AmqpQueue, route: Route, is_so: impl Fn(QueueState) -> bool) {
    let deadline = Instant::now() + SOON;
    loop {
        let state = queue.state(route).await;
        match state {
            Ok(state) if is_so(state) => return,
            _ => assert!(Instant::now() < deadline, "the queue stays at {state:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn given_up(queue: &AmqpQueue, run: RunId) -> Vec<Delivery> {
    let deadline = Instant::now() + SOON;
    loop {
        let found = queue.given_up(&run).await.unwrap();
        if !found.is_empty() {
            return found;
        }
        assert!(Instant::now() < deadline, "nothing was given up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn of_priority(task_idx: u64, priority: Priority) -> TaskMessage {
    let route = Route {
        resource: Resource::Cpu,
        priority,
    };
    TaskMessage {
        route,
        ..message(task_idx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    check_all(|| connect(broker.new_vhost_url(), 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_arrive_once_each() {
    const N_TASKS: u64 = 10_000;
    const N_SLOTS: usize = 8;
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    let worker = connect(url, N_SLOTS).await;
    let tasks: Vec<_> = (0..N_TASKS).map(message).collect();
    coordinator.publish(&tasks).await.unwrap();
    let n_left = AtomicU64::new(N_TASKS);
    let slots = (0..N_SLOTS).map(|_| async {
        let mut seen = Vec::new();
        while n_left.load(Ordering::SeqCst) > 0 {
            let Ok(delivery) = tokio::time::timeout(SILENCE, worker.receive()).await else {
                continue;
            };
            let delivery = delivery.unwrap();
            seen.push(delivery.task.task_idx);
            delivery.ack().await.unwrap();
            n_left.fetch_sub(1, Ordering::SeqCst);
        }
        seen
    });
    let mut seen = tokio::time::timeout(4 * SOON, futures::future::join_all(slots))
        .await
        .unwrap()
        .concat();
    seen.sort_unstable();
    assert_eq!(seen, (0..N_TASKS).collect::<Vec<_>>());
    eventually(&coordinator, Route::default(), |state| state.n_waiting == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_come_first() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    let mut tasks = Vec::new();
    for priority in [Priority::Low, Priority::High, Priority::Normal] {
        tasks.extend((0..5).map(|task_idx| of_priority(task_idx, priority)));
    }
    coordinator.publish(&tasks).await.unwrap();
    let worker = connect(url, 1).await;
    let mut order = Vec::new();
    for _ in 0..tasks.len() {
        let delivery = receive(&worker).await;
        order.push(delivery.task.route.priority);
        delivery.ack().await.unwrap();
    }
    let expect: Vec<_> = Priority::ALL.into_iter().flat_map(|of| [of; 5]).collect();
    assert_eq!(order, expect);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_busy_worker_cannot_begin_is_left_to_an_idle_one() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let low = Route {
        resource: Resource::Cpu,
        priority: Priority::Low,
    };
    let busy = AmqpOptions {
        pass_on_after: Duration::from_secs(1),
        ..options(url.clone(), 1)
    };
    let busy = AmqpQueue::connect(busy).await.unwrap();
    busy.publish(&[message(0)]).await.unwrap();
    let in_hand = receive(&busy).await;
    busy.publish(&[of_priority(1, Priority::Low)])
        .await
        .unwrap();
    // It has reached the worker that is busy.
    let coordinator = connect(url.clone(), 0).await;
    eventually(&coordinator, low, |state| state.n_waiting == 0).await;
    let idle = connect(url, 1).await;
    let other = receive(&idle).await;
    assert_eq!(other.task.task_idx, 1);
    other.ack().await.unwrap();
    in_hand.ack().await.unwrap();
    assert_silent(&busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_counted_while_they_live() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    assert!(matches!(
        coordinator.receive().await,
        Err(QueueError::Closed)
    ));
    let n_slots = |n| move |state: QueueState| state.n_slots == Some(n);
    eventually(&coordinator, Route::default(), n_slots(0)).await;
    let one = connect(url.clone(), 1).await;
    let two = connect(url, 2).await;
    eventually(&coordinator, Route::default(), n_slots(3)).await;
    let accelerator = Route {
        resource: Resource::Accelerator,
        priority: Priority::Normal,
    };
    eventually(&coordinator, accelerator, n_slots(0)).await;
    drop(one);
    eventually(&coordinator, Route::default(), n_slots(2)).await;
    two.close().await;
    eventually(&coordinator, Route::default(), n_slots(0)).await;
    assert!(matches!(two.receive().await, Err(QueueError::Closed)));
    let published = two.publish(&[message(0)]).await;
    assert!(matches!(published, Err(QueueError::Closed)));
}

/// As often as a message may be delivered, and a few times more.
const BEYOND_THE_LIMIT: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_never_settled_is_given_up() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let queue = connect(broker.new_vhost_url(), 2).await;
    let other_run = TaskMessage {
        run: RunId::new(2),
        ..message(1)
    };
    queue
        .publish(&[message(0), other_run.clone()])
        .await
        .unwrap();
    let mut n_deliveries = 0;
    while let Ok(delivery) = tokio::time::timeout(4 * SILENCE, queue.receive()).await {
        drop(delivery.unwrap());
        n_deliveries += 1;
        assert!(
            n_deliveries < 2 * BEYOND_THE_LIMIT,
            "it is delivered for ever"
        );
    }
    assert_eq!(n_deliveries, 2 * 4);
    let mut found = given_up(&queue, RunId::new(1)).await;
    assert_eq!(found.len(), 1);
    // Dropped before it is settled, it is still there.
    assert_eq!(found.pop().unwrap().task, message(0));
    for delivery in given_up(&queue, RunId::new(1)).await {
        delivery.ack().await.unwrap();
    }
    assert!(queue.given_up(&RunId::new(1)).await.unwrap().is_empty());
    // That of the other run is still there, however often it was looked at; and can be revived.
    for _ in 0..BEYOND_THE_LIMIT {
        assert!(queue.given_up(&RunId::new(1)).await.unwrap().is_empty());
    }
    let mut found = given_up(&queue, RunId::new(2)).await;
    assert_eq!(found.len(), 1);
    found.pop().unwrap().pass_on().await.unwrap();
    let revived = receive(&queue).await;
    assert_eq!(revived.task, other_run);
    revived.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_uses_up_no_attempts() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    coordinator.publish(&[message(0)]).await.unwrap();
    for _ in 0..BEYOND_THE_LIMIT {
        let worker = connect(url.clone(), 1).await;
        eventually(&coordinator, Route::default(), |state| state.n_waiting == 0).await;
        worker.close().await;
        eventually(&coordinator, Route::default(), |state| state.n_waiting == 1).await;
    }
    let worker = connect(url, 1).await;
    receive(&worker).await.ack().await.unwrap();
    assert_silent(&worker).await;
}

/// A client without any of our code.
async fn plain_client(url: &str) -> (Connection, lapin::Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_put_aside_once() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let worker = connect(url.clone(), 1).await;
    let (_connection, channel) = plain_client(&url).await;
    let mut future = serde_json::to_value(message(0)).unwrap();
    future["format"] = 99.into();
    let bodies = [future.to_string(), "no JSON".to_owned()];
    for body in &bodies {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let queue = "gleaner.cpu.normal".into();
        channel
            .basic_publish("".into(), queue, options, body.as_bytes(), properties)
            .await
            .unwrap();
    }
    worker.publish(&[message(7)]).await.unwrap();
    let delivery = receive(&worker).await;
    assert_eq!(delivery.task.task_idx, 7);
    delivery.ack().await.unwrap();
    assert_silent(&worker).await;
    // They do not hide anything, and stay where somebody can look at them.
    assert!(worker.given_up(&RunId::new(1)).await.unwrap().is_empty());
    let mut aside = Vec::new();
    let deadline = Instant::now() + SOON;
    while aside.len() < bodies.len() {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get("gleaner.dead".into(), options).await;
        match got.unwrap() {
            Some(got) => aside.push(String::from_utf8(got.delivery.data).unwrap()),
            None => assert!(Instant::now() < deadline, "only {aside:?} were put aside"),
        }
    }
    aside.sort_unstable();
    let mut bodies = bodies;
    bodies.sort_unstable();
    assert_eq!(aside, bodies);
}

/// Connects in vain; returns the message and the help.
async fn refused(options: AmqpOptions) -> (String, String) {
    match AmqpQueue::connect(options).await {
        Err(QueueError::Refused { message, help }) => {
            let text = format!("{message} {help}");
            assert!(!text.contains("s3cret"), "{text}");
            (message, help)
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_says_why() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let vhost = broker.new_vhost();
    broker.ctl(["add_user", "nobody", "s3cret"]);
    let as_nobody = |n_slots| options(broker.url_of("nobody", "s3cret", &vhost), n_slots);
    let check = |found: (String, String), message: &str, help: &str| {
        assert!(found.0.contains(message), "{found:?} has no {message:?}");
        assert!(found.1.contains(help), "{found:?} has no {help:?}");
    };

    let wrong_password = options(broker.url_of("guest", "s3cret", &vhost), 0);
    check(
        refused(wrong_password).await,
        "user or its password",
        "check user",
    );
    let wrong_password = AmqpOptions {
        password: Some("s3cret".to_owned()),
        ..options(broker.url_of("guest", "guest", &vhost), 0)
    };
    check(
        refused(wrong_password).await,
        "user or its password",
        "check user",
    );
    let no_vhost = options(broker.url_of("guest", "guest", "nowhere"), 0);
    check(refused(no_vhost).await, "no such vhost", "add_vhost");
    check(
        refused(as_nobody(0)).await,
        "into the vhost",
        "set_permissions",
    );

    let permit = |configure: &str, write: &str, read: &str| {
        broker.ctl([
            "set_permissions",
            "-p",
            &vhost,
            "nobody",
            configure,
            write,
            read,
        ]);
    };
    permit("^$", ".*", ".*");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit to declare the queues", "configure");
    permit("^gleaner\\.", "^gleaner\\.", "^gleaner\\.");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit to declare the queues", "amq");
    permit("^gleaner\\.", "^(gleaner\\.|amq\\.default)", "^$");
    let found = refused(as_nobody(0)).await;
    check(found, "does not permit", "read");
    permit("^gleaner\\.", "^(gleaner\\.|amq\\.default)", "^gleaner\\.");
    let queue = AmqpQueue::connect(as_nobody(1)).await.unwrap();
    assert!(!format!("{queue:?}").contains("s3cret"));
    queue.publish(&[message(0)]).await.unwrap();
    // The permission goes while it works. A channel remembers it, a new one does not.
    permit("^$", "^$", "^$");
    broker.ctl(["close_all_connections", "-p", &vhost, "by a test"]);
    let is_refused = |error: &QueueError| match error {
        QueueError::Refused { message, .. } => message.contains("does not permit"),
        _ => false,
    };
    let deadline = Instant::now() + SOON;
    loop {
        let published = queue.publish(&[message(1)]).await.map(|()| "published");
        let received = tokio::time::timeout(SILENCE, queue.receive()).await;
        let received = received.map(|received| received.map(|_| "received"));
        match (&published, &received) {
            (Err(one), Ok(Err(other))) if is_refused(one) && is_refused(other) => break,
            _ => assert!(Instant::now() < deadline, "{published:?}, {received:?}"),
        }
    }
    assert!(!queue.is_well());
    // And comes back.
    permit(".*", ".*", ".*");
    while !queue.is_well() {
        assert!(Instant::now() < deadline, "it stays refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publish(&queue, &[message(2)]).await;
    receive(&queue).await.ack().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_named() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let (_connection, channel) = plain_client(&url).await;
    let durable = lapin::options::QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .queue_declare("gleaner.cpu.low".into(), durable, Default::default())
        .await
        .unwrap();
    let (message, help) = refused(options(url, 1)).await;
    assert!(message.contains("gleaner.cpu.low"), "{message}");
    assert!(help.contains("delete_queue"), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_is_declared_again() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let coordinator = connect(url.clone(), 0).await;
    coordinator.publish(&[message(0)]).await.unwrap();
    let (_connection, channel) = plain_client(&url).await;
    let delete = async || {
        let queue = "gleaner.cpu.normal".into();
        channel
            .queue_delete(queue, Default::default())
            .await
            .unwrap()
    };
    assert_eq!(delete().await, 1);
    // The broker acknowledges it, and returns it.
    let lost = coordinator.publish(&[message(1)]).await;
    assert!(
        matches!(&lost, Err(QueueError::Unreachable(text)) if text.contains("lost a queue")),
        "{lost:?}"
    );
    coordinator.publish(&[message(2)]).await.unwrap();
    let worker = connect(url, 1).await;
    let delivery = receive(&worker).await;
    assert_eq!(delivery.task.task_idx, 2);
    delivery.ack().await.unwrap();
    // Those who consume notice by themselves.
    delete().await;
    eventually(&coordinator, Route::default(), |state| {
        state.n_slots == Some(1)
    })
    .await;
    publish(&coordinator, &[message(3)]).await;
    assert_eq!(receive(&worker).await.task.task_idx, 3);
}

/// Connects in vain; returns the message.
async fn unreachable(options: AmqpOptions) -> String {
    match AmqpQueue::connect(options).await {
        Err(QueueError::Unreachable(message)) => message,
        other => panic!("reached: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    // It accepts, and says nothing.
    let silent = AmqpOptions {
        connect_timeout: Duration::from_secs(1),
        ..options(url.clone(), 0)
    };
    let began = Instant::now();
    let message = unreachable(silent).await;
    assert!(message.contains(&url), "{message}");
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    // Nothing is left behind: the other side sees the end.
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(SOON)).unwrap();
    std::io::Read::read_to_end(&mut accepted, &mut Vec::new()).unwrap();
    drop(accepted);
    drop(listener);
    let message = unreachable(options(url.clone(), 0)).await;
    assert!(
        message.contains(&url) && message.contains("refused"),
        "{message}"
    );
    unreachable(options("amqp://gleaner.invalid", 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_with_an_authority_of_ones_own() {
    let settings = Settings {
        tls: true,
        ..Settings::default()
    };
    let Some(broker) = RabbitMq::start_with(&settings) else {
        return;
    };
    let with_ca = |url: String, ca_file: &Path| AmqpOptions {
        ca_file: Some(ca_file.to_owned()),
        ..options(url, 1)
    };
    let url = broker.tls_url();
    let queue = AmqpQueue::connect(with_ca(url.clone(), &broker.ca_file()))
        .await
        .unwrap();
    queue.publish(&[message(0)]).await.unwrap();
    receive(&queue).await.ack().await.unwrap();

    let message = unreachable(options(url.clone(), 0)).await;
    assert!(message.contains("CA file"), "{message}");
    let by_address = url.replace("localhost", "127.0.0.1");
    let message = unreachable(with_ca(by_address, &broker.ca_file())).await;
    assert!(message.contains("another host name"), "{message}");
    let plain_port = url.replace(&url_port(&url), &broker.port().to_string());
    let message = unreachable(with_ca(plain_port, &broker.ca_file())).await;
    assert!(message.contains("speak TLS"), "{message}");
    let plain = url.replace("amqps:", "amqp:");
    let message = unreachable(options(plain, 0)).await;
    assert!(message.contains("without TLS"), "{message}");
    for (file, expect) in [
        ("/nowhere/ca.pem", "cannot be read"),
        ("/dev/null", "no cert"),
    ] {
        let (message, _) = refused(with_ca(url.clone(), Path::new(file))).await;
        assert!(message.contains(expect), "{message}");
    }
}

fn url_port(url: &str) -> String {
    let (_, rest) = url.rsplit_once(':').unwrap();
    rest.split('/').next().unwrap().to_owned()
}

/// Something that happens to a broker.
type Break = (&'static str, fn(&mut RabbitMq));

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_and_comes_back() {
    let Some(mut broker) = RabbitMq::start() else {
        return;
    };
    let coordinator = connect(broker.url(), 0).await;
    let worker = connect(broker.url(), 2).await;
    let all: HashSet<u64> = (0..20).collect();
    let tasks: Vec<_> = all.iter().copied().map(message).collect();
    let breaks: [Break; 4] = [
        ("connections cut", |broker| broker.close_all_connections()),
        ("restarted", |broker| {
            broker.stop();
            broker.start_again();
        }),
        ("killed", |broker| {
            broker.kill();
            broker.start_again();
        }),
        ("wiped", |broker| {
            broker.kill();
            broker.wipe();
            broker.start_again();
        }),
    ];
    for (what, fault) in breaks {
        publish(&coordinator, &tasks).await;
        let held = [receive(&worker).await, receive(&worker).await];
        fault(&mut broker);
        for delivery in held {
            let acked = delivery.ack().await;
            assert!(
                matches!(acked, Err(QueueError::Unreachable(_))),
                "{what}: {acked:?}"
            );
        }
        if what == "wiped" {
            publish(&coordinator, &tasks).await;
        }
        let mut seen = HashSet::new();
        while seen != all {
            let delivery = receive(&worker).await;
            seen.insert(delivery.task.task_idx);
            delivery.ack().await.unwrap();
        }
        eventually(&coordinator, Route::default(), |state| {
            state.n_waiting == 0 && state.n_slots == Some(2)
        })
        .await;
        assert_silent(&worker).await;
        assert!(worker.is_well(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_hangs_nobody() {
    let Some(broker) = RabbitMq::start() else {
        return;
    };
    let impatient = AmqpOptions {
        confirm_timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(20),
        heartbeat: Duration::from_secs(2),
        ..options(broker.url(), 1)
    };
    let queue = AmqpQueue::connect(impatient).await.unwrap();
    queue.publish(&[message(0)]).await.unwrap();
    receive(&queue).await.ack().await.unwrap();

    // Out of memory: it reads no more from who publishes.
    broker.ctl(["set_vm_memory_high_watermark", "absolute", "1MB"]);
    let began = Instant::now();
    let published = queue.publish(&[message(1)]).await;
    assert!(
        matches!(&published, Err(QueueError::Unreachable(text)) if text.contains("short of memory")),
        "{published:?}"
    );
    assert!(began.elapsed() < SOON / 2, "{:?}", began.elapsed());
    // Looking is not hindered.
    queue.state(Route::default()).await.unwrap();
    broker.ctl(["set_vm_memory_high_watermark", "0.6"]);
    publish(&queue, &[message(2)]).await;
    let mut numbers = Vec::new();
    while !numbers.contains(&2) {
        let delivery = receive(&queue).await;
        numbers.push(delivery.task.task_idx);
        delivery.ack().await.unwrap();
    }

    // Frozen: connections stay, nothing answers.
    broker.freeze();
    for _ in 0..2 {
        let published = queue.publish(&[message(3)]).await;
        assert!(matches!(published, Err(QueueError::Unreachable(_))));
        let state = queue.state(Route::default()).await;
        assert!(
            matches!(state, Err(QueueError::Unreachable(_))),
            "{state:?}"
        );
    }
    broker.thaw();
    publish(&queue, &[message(4)]).await;
    loop {
        let delivery = receive(&queue).await;
        let task_idx = delivery.task.task_idx;
        delivery.ack().await.unwrap();
        if task_idx == 4 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_kept_for_too_long_comes_again() {
    let settings = Settings {
        consumer_timeout: Some(Duration::from_secs(2)),
        ..Settings::default()
    };
    let Some(broker) = RabbitMq::start_with(&settings) else {
        return;
    };
    let queue = connect(broker.url(), 2).await;
    queue.publish(&[message(0)]).await.unwrap();
    let kept = receive(&queue).await;
    let again = receive(&queue).await;
    assert_eq!(again.task, kept.task);
    let acked = kept.ack().await;
    assert!(
        matches!(acked, Err(QueueError::Unreachable(_))),
        "{acked:?}"
    );
    again.ack().await.unwrap();
    // Both slots are there again.
    eventually(&queue, Route::default(), |state| state.n_slots == Some(2)).await;
    queue.publish(&[message(1), message(2)]).await.unwrap();
    let (first, second) = (receive(&queue).await, receive(&queue).await);
    first.ack().await.unwrap();
    second.ack().await.unwrap();
    assert_silent(&queue).await;
}
