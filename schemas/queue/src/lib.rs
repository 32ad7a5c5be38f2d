//! The queue: it says that *someone should do this*; the store alone says *this is done*.
//!
//! Delivery is at least once and in no order. Losing every message loses no work: the
//! coordinator offers open tasks again. So the port is small, and an adapter may be as unreliable
//! as a broker without persistence.

mod amqp;
mod idle;
mod memory;

use std::fmt::Debug;

use async_trait::async_trait;
use gleaner_schemas::{Failure, FailureKind, Route, RunId, TaskMessage};

pub use amqp::{AmqpOptions, AmqpQueue, DEAD, DELIVERY_LIMIT, queue_name, redact};
pub use idle::{Activity, WatchedQueue};
pub use memory::MemoryQueue;

/// Hands tasks to workers, at least once, in no order.
#[async_trait]
pub trait TaskQueue: Debug + Send + Sync {
    /// Puts tasks on the queue. On return they are as durable as the queue can make them; after
    /// an error some of them may be on the queue all the same.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached or does not confirm in time.
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError>;

    /// Waits for a task. Cancel-safe: dropping the future loses no task.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached; [`QueueError::Closed`] when nothing will ever come again.
    async fn receive(&self) -> Result<Delivery, QueueError>;

    /// What is known about a route at the moment. A hint: nothing may depend on it but how soon
    /// something is tried.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    async fn state(&self, route: Route) -> Result<QueueState, QueueError>;

    /// Tells whoever asks for what was given up of a run that a worker refuses one of its tasks:
    /// `refused` is the message of the task with the reason. The task itself stays where it is.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError>;

    /// Tasks of `run` that the queue has stopped delivering, because whoever took them never
    /// settled them; and what workers [reported](TaskQueue::report), with its reason. Acknowledge
    /// each once the store holds what was made of it.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError>;
}

/// What is known about a route of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Tasks that wait for a worker.
    pub n_waiting: u64,
    /// Slots of the workers that are connected and take tasks of this route; `None` where the
    /// queue cannot tell.
    pub n_slots: Option<u64>,
}

/// A task on loan. Acknowledge it once the store holds its outcome; dropping it gives it back.
#[derive(Debug)]
pub struct Delivery {
    /// The task.
    pub task: TaskMessage,
    receipt: Option<Box<dyn Receipt>>,
}

impl Delivery {
    /// A delivery of `task` that `receipt` settles.
    #[must_use]
    pub fn new(task: TaskMessage, receipt: Box<dyn Receipt>) -> Self {
        Self {
            task,
            receipt: Some(receipt),
        }
    }

    /// Takes the task off the queue for good. If that fails the task will come again, which does
    /// no harm.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    pub async fn ack(mut self) -> Result<(), QueueError> {
        match self.receipt.take() {
            Some(receipt) => receipt.ack().await,
            None => Ok(()),
        }
    }

    /// Leaves the task to others, and says that nothing is wrong with it: unlike a delivery that
    /// is dropped, it does not count towards what the queue gives up. If that fails the task will
    /// come again all the same.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    pub async fn pass_on(mut self) -> Result<(), QueueError> {
        match self.receipt.take() {
            Some(receipt) => receipt.pass_on(&self.task).await,
            None => Ok(()),
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            receipt.give_back();
        }
    }
}

/// How an adapter settles a delivery. Exactly one of the methods is called, once.
#[async_trait]
pub trait Receipt: Debug + Send + Sync {
    /// Takes the task off the queue.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;

    /// Makes the task available to others, as if it had never been delivered.
    ///
    /// # Errors
    ///
    /// If the queue cannot be reached.
    async fn pass_on(self: Box<Self>, task: &TaskMessage) -> Result<(), QueueError>;

    /// Makes the task available again. Must not block.
    fn give_back(self: Box<Self>);
}

/// The queue did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// It cannot be reached, or did not answer in time: try again.
    #[error("the queue is unreachable: {0}")]
    Unreachable(String),
    /// It refuses what it was asked for, and will refuse it again: credentials, permissions, queues
    /// of other arguments.
    #[error("{message}")]
    Refused {
        /// What it refuses, and what it says.
        message: String,
        /// What to do about it.
        help: String,
    },
    /// It was closed on purpose.
    #[error("the queue is closed")]
    Closed,
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Refused { message, help } => {
                Self::new(FailureKind::Permanent, format!("{message}; {help}"))
            }
            other => Self::new(FailureKind::Transient, other.to_string()),
        }
    }
}

/// What every adapter must do. Tests of adapters call [`conformance::check_all`].
pub mod conformance;
