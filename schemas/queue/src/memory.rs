//! The queue of embedded mode: a list of messages in this process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gleaner_schemas::{Route, RunId, TaskMessage};
use tokio::sync::Notify;

use crate::{Delivery, QueueError, QueueState, Receipt, TaskQueue};

/// Reports that are kept; the oldest make room.
const REPORTS_MAX: usize = 1000;

/// A queue within one process. Clones share it. It is as long as the coordinator's window of
/// published tasks, which bounds it.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<TaskMessage>,
    n_on_loan: usize,
    reported: VecDeque<TaskMessage>,
    is_closed: bool,
}

impl MemoryQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Messages that wait, and messages on loan.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.ready.len(), state.n_on_loan)
    }

    /// Makes every present and later [`TaskQueue::receive`] return [`QueueError::Closed`].
    pub fn close(&self) {
        self.shared.lock().is_closed = true;
        self.shared.arrived.notify_waiters();
    }
}

impl Shared {
    /// A thread that panicked while it held the lock left the list as it was: every change under
    /// the lock is a single push or pop.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, task: TaskMessage) {
        let mut state = self.lock();
        state.n_on_loan -= 1;
        state.ready.push_back(task);
        drop(state);
        self.arrived.notify_one();
    }
}

#[async_trait]
impl TaskQueue for MemoryQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        if state.is_closed {
            return Err(QueueError::Closed);
        }
        state.ready.extend(tasks.iter().cloned());
        drop(state);
        for _ in tasks {
            self.shared.arrived.notify_one();
        }
        // `notify_one` keeps a single permit; whoever takes it passes the word on.
        Ok(())
    }

    async fn receive(&self) -> Result<Delivery, QueueError> {
        loop {
            let arrived = self.shared.arrived.notified();
            tokio::pin!(arrived);
            // Registered before the look, so that a message that comes in between is not missed.
            arrived.as_mut().enable();
            {
                let mut state = self.shared.lock();
                if state.is_closed {
                    return Err(QueueError::Closed);
                }
                if let Some(task) = state.ready.pop_front() {
                    state.n_on_loan += 1;
                    let is_more = !state.ready.is_empty();
                    drop(state);
                    if is_more {
                        self.shared.arrived.notify_one();
                    }
                    let receipt = Loan {
                        shared: Arc::clone(&self.shared),
                        task: task.clone(),
                    };
                    return Ok(Delivery::new(task, Box::new(receipt)));
                }
            }
            arrived.await;
        }
    }

    async fn state(&self, _route: Route) -> Result<QueueState, QueueError> {
        Ok(QueueState {
            n_waiting: self.shared.lock().ready.len() as u64,
            n_slots: None,
        })
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        state.reported.push_back(refused.clone());
        if state.reported.len() > REPORTS_MAX {
            state.reported.pop_front();
        }
        Ok(())
    }

    /// Reports only. Whoever takes a task is in this process: there is nobody else to be lost.
    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        let mut state = self.shared.lock();
        let all = std::mem::take(&mut state.reported);
        let (ours, others) = all.into_iter().partition(|task| task.run == *run);
        state.reported = others;
        drop(state);
        let ours: VecDeque<TaskMessage> = ours;
        let deliveries = ours.into_iter().map(|task| {
            let shared = Arc::clone(&self.shared);
            let receipt = Report(task.clone(), shared);
            Delivery::new(task, Box::new(receipt))
        });
        Ok(deliveries.collect())
    }
}

#[derive(Debug)]
struct Loan {
    shared: Arc<Shared>,
    task: TaskMessage,
}

#[async_trait]
impl Receipt for Loan {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.shared.lock().n_on_loan -= 1;
        Ok(())
    }

    async fn pass_on(self: Box<Self>, task: &TaskMessage) -> Result<(), QueueError> {
        self.shared.put_back(task.clone());
        Ok(())
    }

    fn give_back(self: Box<Self>) {
        self.shared.put_back(self.task);
    }
}

/// A report that is told to somebody.
#[derive(Debug)]
struct Report(TaskMessage, Arc<Shared>);

#[async_trait]
impl Receipt for Report {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        Ok(())
    }

    async fn pass_on(self: Box<Self>, _task: &TaskMessage) -> Result<(), QueueError> {
        self.give_back();
        Ok(())
    }

    fn give_back(self: Box<Self>) {
        self.1.lock().reported.push_back(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::check_all(|| async { MemoryQueue::new() }).await;
    }

    #[tokio::test]
    async fn closing_wakes_those_who_wait() {
        let queue = MemoryQueue::new();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.receive().await }
        });
        tokio::task::yield_now().await;
        queue.close();
        assert!(matches!(waiting.await, Ok(Err(QueueError::Closed))));
    }
}
