//! A queue that tells for how long its reader had nothing to do: for workers that end then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use gleaner_schemas::{Route, RunId, TaskMessage};
use tokio::time::Instant;

use crate::{Delivery, QueueError, QueueState, Receipt, TaskQueue};

/// A queue whose deliveries are watched.
#[derive(Debug)]
pub struct WatchedQueue {
    queue: Arc<dyn TaskQueue>,
    activity: Arc<Activity>,
}

/// For how long nothing was finished.
///
/// The time counts while no delivery is in hand, and begins anew when one is acknowledged. So
/// tasks that are only looked at and left to others, or that fail again and again, keep nobody
/// from ending.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    n_in_hand: usize,
    /// Idle time before the last delivery was taken in hand.
    idle_before: Duration,
    /// When the last delivery left the hand.
    free_since: Instant,
}

impl WatchedQueue {
    /// Watches what is received from `queue`. The time counts from now.
    #[must_use]
    pub fn new(queue: Arc<dyn TaskQueue>) -> Self {
        Self {
            queue,
            activity: Arc::new(Activity(Mutex::new(State {
                n_in_hand: 0,
                idle_before: Duration::ZERO,
                free_since: Instant::now(),
            }))),
        }
    }

    /// What is known about its deliveries.
    #[must_use]
    pub fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }
}

impl Activity {
    /// For how long nothing was in hand since the last task was finished; zero while something is.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        let state = self.lock();
        match state.n_in_hand {
            0 => state.idle_before + state.free_since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Counts from now: nothing could arrive until now.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.idle_before = Duration::ZERO;
        state.free_since = Instant::now();
    }

    fn take(&self) {
        let mut state = self.lock();
        if state.n_in_hand == 0 {
            let idle = state.free_since.elapsed();
            state.idle_before += idle;
        }
        state.n_in_hand += 1;
    }

    fn settle(&self, is_finished: bool) {
        let mut state = self.lock();
        state.n_in_hand = state.n_in_hand.saturating_sub(1);
        state.free_since = Instant::now();
        if is_finished {
            state.idle_before = Duration::ZERO;
        }
    }

    /// Each change under the lock is whole even if whoever made it panicked later.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl TaskQueue for WatchedQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        self.queue.publish(tasks).await
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        let delivery = self.queue.receive().await?;
        // No await from here on: a future that is dropped has taken nothing in hand.
        self.activity.take();
        let task = delivery.task.clone();
        let watched = Watched {
            delivery,
            activity: Arc::clone(&self.activity),
        };
        Ok(Delivery::new(task, Box::new(watched)))
    }

    async fn state(&self, route: Route) -> Result<QueueState, QueueError> {
        self.queue.state(route).await
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        self.queue.report(refused).await
    }

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        self.queue.given_up(run).await
    }
}

#[derive(Debug)]
struct Watched {
    delivery: Delivery,
    activity: Arc<Activity>,
}

#[async_trait]
impl Receipt for Watched {
    /// The task is finished even where the queue does not hear of it.
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        let settling = Settling(&self.activity, true);
        let acknowledged = self.delivery.ack().await;
        drop(settling);
        acknowledged
    }

    async fn pass_on(self: Box<Self>, _task: &TaskMessage) -> Result<(), QueueError> {
        let settling = Settling(&self.activity, false);
        let passed_on = self.delivery.pass_on().await;
        drop(settling);
        passed_on
    }

    fn give_back(self: Box<Self>) {
        drop(self.delivery);
        self.activity.settle(false);
    }
}

/// Settles when it is dropped, so that a future that is given up half way counts too.
struct Settling<'a>(&'a Activity, bool);

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        self.0.settle(self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryQueue, conformance};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn conforms() {
        conformance::check_all(|| async { WatchedQueue::new(Arc::new(MemoryQueue::new())) }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_last_task_that_was_finished() {
        let queue = WatchedQueue::new(Arc::new(MemoryQueue::new()));
        let activity = queue.activity();
        let pass = |time| tokio::time::advance(time);
        pass(MINUTE).await;
        assert_eq!(activity.idle_for(), MINUTE, "from the start");

        let tasks = [conformance::message(1), conformance::message(2)];
        queue.publish(&tasks).await.unwrap();
        let first = queue.receive().await.unwrap();
        let second = queue.receive().await.unwrap();
        pass(5 * MINUTE).await;
        assert_eq!(activity.idle_for(), Duration::ZERO, "two in hand");

        first.ack().await.unwrap();
        assert_eq!(activity.idle_for(), Duration::ZERO, "one in hand");
        second.ack().await.unwrap();
        pass(2 * MINUTE).await;
        assert_eq!(activity.idle_for(), 2 * MINUTE, "none in hand");

        activity.restart();
        assert_eq!(activity.idle_for(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_are_left_to_others_do_not_keep_a_worker() {
        let queue = WatchedQueue::new(Arc::new(MemoryQueue::new()));
        let activity = queue.activity();
        queue.publish(&[conformance::message(1)]).await.unwrap();
        for is_dropped in [false, true, false] {
            tokio::time::advance(MINUTE).await;
            let delivery = queue.receive().await.unwrap();
            // What it took is no idle time, and no reason to end at once either.
            tokio::time::advance(10 * MINUTE).await;
            match is_dropped {
                true => drop(delivery),
                false => delivery.pass_on().await.unwrap(),
            }
        }
        assert_eq!(activity.idle_for(), 3 * MINUTE);
    }
}
