//! The suite that every adapter of [`TaskQueue`] passes.
//!
//! It asserts, so it belongs into tests; it is public because adapters live in several crates.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind, Fingerprint, Route, RunId, TaskMessage};

use crate::{Delivery, QueueError, TaskQueue};

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

/// Runs every check, each on a fresh queue, which never loses a connection.
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
    check_all_with_losses(fresh_queue, |_| 0).await;
}

/// [`check_all`] of queues that may lose their connection; `n_losses` tells how often one has.
///
/// An acknowledgement has no answer: what is on its way is lost with the connection. So each loss may
/// bring a task once more that was acknowledged. Nothing else may come again.
///
/// # Panics
///
/// If the adapter does not conform.
pub async fn check_all_with_losses<Q, F, Fut>(fresh_queue: F, n_losses: impl Fn(&Q) -> u64)
where
    Q: TaskQueue,
    F: Fn() -> Fut,
    Fut: Future<Output = Q>,
{
    let n_losses: &dyn Fn(&Q) -> u64 = &n_losses;
    let fresh = async || Checked {
        queue: fresh_queue().await,
        n_losses,
        surplus: Mutex::default(),
    };
    every_task_is_delivered(&fresh().await).await;
    an_acknowledged_task_does_not_come_again(&fresh().await).await;
    a_dropped_delivery_comes_again(&fresh().await).await;
    a_delivery_that_is_passed_on_comes_again(&fresh().await).await;
    what_waits_is_counted(&fresh().await).await;
    reports_come_to_whoever_asks_for_their_run(&fresh().await).await;
    a_cancelled_receive_loses_nothing(&fresh().await).await;
    a_waiting_receiver_is_woken(&fresh().await).await;
}

/// A queue with what was acknowledged on it.
struct Checked<'a, Q> {
    queue: Q,
    n_losses: &'a dyn Fn(&Q) -> u64,
    /// Tasks that were acknowledged, and how often each came again since.
    surplus: Mutex<HashMap<u64, u64>>,
}

impl<Q: TaskQueue> Checked<'_, Q> {
    /// The next delivery; none within `longest`.
    async fn next(&self, longest: Duration) -> Option<Delivery> {
        let deadline = tokio::time::Instant::now() + longest;
        loop {
            match tokio::time::timeout_at(deadline, self.queue.receive()).await {
                Ok(Ok(delivery)) if self.is_surplus(&delivery.task) => self.ack(delivery).await,
                Ok(Ok(delivery)) => return Some(delivery),
                // Told to whoever waits while the connection is gone.
                Ok(Err(QueueError::Unreachable(_))) if self.n_losses() > 0 => {}
                Ok(Err(error)) => panic!("no delivery: {error}"),
                Err(_) => return None,
            }
        }
    }

    fn n_losses(&self) -> u64 {
        (self.n_losses)(&self.queue)
    }

    /// Whether the task was acknowledged and comes once more for the loss of a connection.
    fn is_surplus(&self, task: &TaskMessage) -> bool {
        let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(n_surplus) = surplus.get_mut(&task.task_idx) else {
            return false;
        };
        *n_surplus += 1;
        let (n_surplus, n_losses) = (*n_surplus, self.n_losses());
        assert!(
            n_surplus <= n_losses,
            "task {} came {n_surplus} times after it was acknowledged; connections were lost \
             {n_losses} times",
            task.task_idx
        );
        true
    }

    async fn receive(&self) -> Delivery {
        match self.next(DELIVERY_MAX).await {
            Some(delivery) => delivery,
            None => panic!("no delivery"),
        }
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let messages: Vec<_> = numbers.map(message).collect();
        if let Err(error) = self.queue.publish(&messages).await {
            panic!("cannot publish: {error}");
        }
    }

    async fn ack(&self, delivery: Delivery) {
        let task_idx = delivery.task.task_idx;
        match delivery.ack().await {
            Ok(()) => {}
            Err(QueueError::Unreachable(_)) if self.n_losses() > 0 => {}
            Err(error) => panic!("cannot acknowledge: {error}"),
        }
        let mut surplus = self.surplus.lock().unwrap_or_else(PoisonError::into_inner);
        surplus.entry(task_idx).or_default();
    }

    async fn assert_silent(&self) {
        let received = self.next(SILENCE).await;
        assert!(received.is_none(), "unexpected delivery: {received:?}");
    }
}

async fn every_task_is_delivered<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.publish(0..20).await;
    let mut numbers = Vec::new();
    for _ in 0..20 {
        let delivery = queue.receive().await;
        numbers.push(delivery.task.task_idx);
        queue.ack(delivery).await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
}

async fn an_acknowledged_task_does_not_come_again<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.publish(0..1).await;
    queue.ack(queue.receive().await).await;
    queue.assert_silent().await;
}

async fn a_dropped_delivery_comes_again<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.publish(0..1).await;
    drop(queue.receive().await);
    let again = queue.receive().await;
    assert_eq!(again.task, message(0));
    queue.ack(again).await;
    queue.assert_silent().await;
}

async fn a_delivery_that_is_passed_on_comes_again<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.publish(0..1).await;
    for _ in 0..20 {
        if let Err(error) = queue.receive().await.pass_on().await {
            panic!("cannot pass on: {error}");
        }
    }
    queue.ack(queue.receive().await).await;
    queue.assert_silent().await;
}

async fn what_waits_is_counted<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.publish(0..3).await;
    let deadline = tokio::time::Instant::now() + DELIVERY_MAX;
    loop {
        match queue.queue.state(Route::default()).await {
            Ok(state) if state.n_waiting == 3 => break,
            Ok(_) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => panic!("3 tasks wait, the queue says {other:?}"),
        }
    }
    for _ in 0..3 {
        queue.ack(queue.receive().await).await;
    }
    queue.assert_silent().await;
    match queue.queue.state(Route::default()).await {
        Ok(state) => assert_eq!(state.n_waiting, 0),
        Err(error) => panic!("cannot look at the queue: {error}"),
    }
}

async fn reports_come_to_whoever_asks_for_their_run<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    let ours = TaskMessage {
        refusal: Some(Failure::new(FailureKind::Permanent, "access denied")),
        ..message(0)
    };
    let of_another_run = TaskMessage {
        run: RunId::new(2),
        ..ours.clone()
    };
    for refused in [&ours, &of_another_run] {
        if let Err(error) = queue.queue.report(refused).await {
            panic!("cannot report: {error}");
        }
    }
    queue.assert_silent().await;
    drop(given_up(queue, &ours).await);
    for refused in [ours, of_another_run] {
        queue.ack(given_up(queue, &refused).await).await;
        let left = queue.queue.given_up(&refused.run).await.unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// What was given up of the run of `expected`, which is that alone.
async fn given_up<Q: TaskQueue>(queue: &Checked<'_, Q>, expected: &TaskMessage) -> Delivery {
    let deadline = tokio::time::Instant::now() + DELIVERY_MAX;
    loop {
        match queue
            .queue
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

async fn a_cancelled_receive_loses_nothing<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    queue.assert_silent().await;
    queue.publish(0..1).await;
    for _ in 0..3 {
        drop(tokio::time::timeout(Duration::ZERO, queue.queue.receive()).await);
    }
    queue.ack(queue.receive().await).await;
    queue.assert_silent().await;
}

async fn a_waiting_receiver_is_woken<Q: TaskQueue>(queue: &Checked<'_, Q>) {
    let (first, second, ()) = tokio::join!(queue.receive(), queue.receive(), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        queue.publish(0..2).await;
    });
    let mut numbers = [first.task.task_idx, second.task.task_idx];
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1]);
    queue.ack(first).await;
    queue.ack(second).await;
}
