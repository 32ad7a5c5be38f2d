//! The suite that every adapter of [`TaskQueue`] passes.
//!
//! It asserts, so it belongs into tests; it is public because adapters live in several crates.

use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind, Fingerprint, Route, RunId, TaskMessage};

use crate::{Delivery, TaskQueue};

/// Longer than any adapter takes to deliver a message that is there.
const DELIVERY_MAX: Duration = Duration::from_secs(30);
/// Long enough to see that a message that must not come does not come.
const SILENCE: Duration = Duration::from_millis(200);

/// A message that differs from others by its number.
#[must_use]
pub fn message(task_idx: u64) -> TaskMessage {
    TaskMessage {
        format: TaskMessage::FORMAT,
        run: RunId::new(1),
        output: "memory://conformance".to_owned(),
        stage: "stage".to_owned(),
        kind: "kind".to_owned(),
        phase: "phase".to_owned(),
        plan: Fingerprint::of("plan", "conformance").into(),
        task_idx,
        task: Fingerprint::of("task", &task_idx).into(),
        route: Route::default(),
        n_passed_on: 0,
        refusal: None,
    }
}

/// Runs every check, each on a fresh queue.
///
/// # Panics
///
/// If the adapter does not conform.
pub async fn check_all<Q, F, Fut>(fresh_queue: F)
where
    Q: TaskQueue,
    F: Fn() -> Fut,
    Fut: Future<Output = Q>,
{
    every_task_is_delivered(&fresh_queue().await).await;
    an_acknowledged_task_does_not_come_again(&fresh_queue().await).await;
    a_dropped_delivery_comes_again(&fresh_queue().await).await;
    a_delivery_that_is_passed_on_comes_again(&fresh_queue().await).await;
    what_waits_is_counted(&fresh_queue().await).await;
    reports_come_to_whoever_asks_for_their_run(&fresh_queue().await).await;
    a_cancelled_receive_loses_nothing(&fresh_queue().await).await;
    a_waiting_receiver_is_woken(&fresh_queue().await).await;
}

async fn receive(queue: &impl TaskQueue) -> Delivery {
    match tokio::time::timeout(DELIVERY_MAX, queue.receive()).await {
        Ok(Ok(delivery)) => delivery,
        other => panic!("no delivery: {other:?}"),
    }
}

async fn publish(queue: &impl TaskQueue, numbers: std::ops::Range<u64>) {
    let messages: Vec<_> = numbers.map(message).collect();
    if let Err(error) = queue.publish(&messages).await {
        panic!("cannot publish: {error}");
    }
}

async fn ack(delivery: Delivery) {
    if let Err(error) = delivery.ack().await {
        panic!("cannot acknowledge: {error}");
    }
}

async fn assert_silent(queue: &impl TaskQueue) {
    let received = tokio::time::timeout(SILENCE, queue.receive()).await;
    assert!(received.is_err(), "unexpected delivery: {received:?}");
}

async fn every_task_is_delivered(queue: &impl TaskQueue) {
    publish(queue, 0..20).await;
    let mut numbers = Vec::new();
    for _ in 0..20 {
        let delivery = receive(queue).await;
        numbers.push(delivery.task.task_idx);
        ack(delivery).await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

async fn an_acknowledged_task_does_not_come_again(queue: &impl TaskQueue) {
    publish(queue, 0..1).await;
    ack(receive(queue).await).await;
    assert_silent(queue).await;
}

async fn a_dropped_delivery_comes_again(queue: &impl TaskQueue) {
    publish(queue, 0..1).await;
    drop(receive(queue).await);
    let again = receive(queue).await;
    assert_eq!(again.task, message(0));
    ack(again).await;
    assert_silent(queue).await;
}

async fn a_delivery_that_is_passed_on_comes_again(queue: &impl TaskQueue) {
    publish(queue, 0..1).await;
    for _ in 0..20 {
        if let Err(error) = receive(queue).await.pass_on().await {
            panic!("cannot pass on: {error}");
        }
    }
    ack(receive(queue).await).await;
    assert_silent(queue).await;
}

async fn what_waits_is_counted(queue: &impl TaskQueue) {
    publish(queue, 0..3).await;
    let deadline = tokio::time::Instant::now() + DELIVERY_MAX;
    loop {
        match queue.state(Route::default()).await {
            Ok(state) if state.n_waiting == 3 => break,
            Ok(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("3 tasks wait, the queue says {other:?}"),
        }
    }
    for _ in 0..3 {
        ack(receive(queue).await).await;
    }
    match queue.state(Route::default()).await {
        Ok(state) => assert_eq!(state.n_waiting, 0),
        Err(error) => panic!("cannot look at the queue: {error}"),
    }
}

async fn reports_come_to_whoever_asks_for_their_run(queue: &impl TaskQueue) {
    let ours = TaskMessage {
        refusal: Some(Failure::new(FailureKind::Permanent, "access denied")),
        ..message(0)
    };
    let of_another_run = TaskMessage {
        run: RunId::new(2),
        ..ours.clone()
    };
    for refused in [&ours, &of_another_run] {
        if let Err(error) = queue.report(refused).await {
            panic!("cannot report: {error}");
        }
    }
    assert_silent(queue).await;
    drop(given_up(queue, &ours).await);
    for refused in [ours, of_another_run] {
        ack(given_up(queue, &refused).await).await;
        let left = queue.given_up(&refused.run).await.unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// What was given up of the run of `expected`, which is that alone.
async fn given_up(queue: &impl TaskQueue, expected: &TaskMessage) -> Delivery {
    let deadline = tokio::time::Instant::now() + DELIVERY_MAX;
    loop {
        match queue
            .given_up(&expected.run)
            .await
            .map(|mut all| (all.pop(), all.len()))
        {
            Ok((Some(delivery), 0)) => {
                assert_eq!(delivery.task, *expected);
                return delivery;
            }
            Ok((None, _)) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("one report is there, the queue says {other:?}"),
        }
    }
}

async fn a_cancelled_receive_loses_nothing(queue: &impl TaskQueue) {
    assert_silent(queue).await;
    publish(queue, 0..1).await;
    for _ in 0..3 {
        drop(tokio::time::timeout(Duration::ZERO, queue.receive()).await);
    }
    ack(receive(queue).await).await;
    assert_silent(queue).await;
}

async fn a_waiting_receiver_is_woken(queue: &impl TaskQueue) {
    let (first, second, ()) = tokio::join!(receive(queue), receive(queue), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        publish(queue, 0..2).await;
    });
    let mut numbers = [first.task.task_idx, second.task.task_idx];
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
    ack(first).await;
    ack(second).await;
}
