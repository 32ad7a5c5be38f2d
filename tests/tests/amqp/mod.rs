//! The queue on RabbitMQ, against the real broker.
#![cfg(unix)]

mod away;
mod given_up;
mod refused;

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gleaner_queue::conformance::{check_all_with_losses, message};
use gleaner_queue::{AmqpOptions, AmqpQueue, Delivery, QueueError, QueueState, TaskQueue};
use gleaner_schemas::job::Priority;
use gleaner_schemas::{Resource, Route, RunId, TaskMessage};
use gleaner_tests::servers::leaderless_queue::LeaderlessQueue;
use gleaner_tests::servers::proxy::{Mode, Proxy};
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
    let fresh = || connect(broker.new_vhost_url(), 2);
    check_all_with_losses(fresh, AmqpQueue::n_losses).await;
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

/// A client without any of our code.
async fn plain_client(url: &str) -> (Connection, lapin::Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}
