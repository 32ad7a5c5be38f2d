//! The queue on RabbitMQ.
//!
//! ```text
//! publish ──> gleaner.<resource>.<priority> ──> slots of workers ──> ack
//!                  │ delivered too often, or unreadable
//!                  v
//!  report ──> gleaner.dead ──> given_up, or dropped after a week
//! ```
//!
//! 1. The queues are durable quorum queues, the same ones for all jobs. Each connection declares
//!    them first, so that a broker that lost its disks is as good as a new one.
//! 2. Up to three connections, each opened when it is first needed: one publishes, one consumes,
//!    one looks. A broker that is short of memory or disk stops to read from connections that
//!    publish; nothing else may hang with them.
//! 3. Publishing waits for the broker's confirmation of each message, within a bound.
//! 4. Each slot of a worker consumes on its own ([`consumer`]); what arrives waits in an inbox,
//!    where the urgent come first. What waits there for too long is left to others.
//! 5. Whatever ends is opened again, after a pause that grows ([`link`]).
//!
//! The broker takes a delivery back that is not acknowledged within its `consumer_timeout`, 30
//! minutes unless configured otherwise. That is survived, and the task comes again; see
//! [`AmqpOptions::check_task_timeout`].

mod consumer;
mod dead;
mod failure;
mod inbox;
mod link;
mod lost_queue;
mod options;
mod publisher;
mod receipt;
mod refusals;
mod socket;
mod topology;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gleaner_schemas::{Route, RunId, TaskMessage};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use self::consumer::Consuming;
use self::link::{Broker, Link};
use self::publisher::To;
use self::receipt::AmqpReceipt;
use crate::{Delivery, QueueError, QueueState, TaskQueue};

pub use self::options::{AmqpOptions, redact};
pub use self::topology::{DEAD, DELIVERY_LIMIT, queue_name};

/// Bound of the time that it takes to look at a queue.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound of the time that unbegun deliveries are passed on when the queue is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A queue on RabbitMQ. Dropping it ends its connections, and the broker takes back what is not
/// settled; [`AmqpQueue::close`] does so without using up attempts.
pub struct AmqpQueue {
    consuming: Arc<Consuming>,
    looking: Link,
    stop: watch::Sender<bool>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// Each gives its channel back.
    slots: JoinSet<Option<lapin::Channel>>,
    passing_on: JoinSet<()>,
}

impl AmqpQueue {
    /// Connects, checks the queues or creates them, and starts to consume if there are slots.
    /// It is tried once; later on, whatever breaks is mended in the background.
    ///
    /// # Errors
    ///
    /// [`QueueError::Unreachable`] if there is no broker to talk to; [`QueueError::Refused`] if it
    /// does not want to: credentials, vhost, permissions, queues with other arguments; or if the
    /// options are wrong.
    pub async fn connect(options: AmqpOptions) -> Result<Self, QueueError> {
        let n_slots = match options.resources.is_empty() {
            true => 0,
            false => options.n_slots,
        };
        let broker = Arc::new(Broker::new(options).await?);
        let link = |purpose| Link::new(Arc::clone(&broker), purpose);
        let looking = link("looks");
        let consuming = Arc::new(Consuming {
            link: Arc::new(link("consumes")),
            publishing: Arc::new(link("publishes")),
            inbox: Arc::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Tasks::default();
        if n_slots == 0 {
            looking.lock().await?.succeed();
        } else {
            let mut first = Some(consuming.subscribe().await?);
            for _ in 0..n_slots {
                let slot = Arc::clone(&consuming).run_slot(first.take(), stopped.clone());
                tasks.slots.spawn(slot);
            }
            let passing_on = Arc::clone(&consuming).run_passing_on();
            tasks.passing_on.spawn(passing_on);
        }
        Ok(Self {
            consuming,
            looking,
            stop,
            tasks: Mutex::new(tasks),
        })
    }

    /// Whether tasks can arrive at the moment, as far as known. For probes of readiness.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.consuming.inbox.is_well()
    }

    /// How often the connection on which tasks come was lost. What was acknowledged just before may
    /// come once more: the broker does not answer to acknowledgements.
    #[must_use]
    pub fn n_losses(&self) -> u64 {
        self.consuming.link.n_lost()
    }

    /// Takes no more tasks, leaves those that nobody has begun to others, and ends the
    /// connections. Settle all deliveries before: afterwards it is too late, and they come again.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        // Open channels keep what is unsettled from coming again before it is passed on.
        let mut channels = Vec::new();
        while let Some(ended) = tasks.slots.join_next().await {
            channels.extend(ended.ok().flatten());
        }
        tasks.passing_on.shutdown().await;
        self.consuming.inbox.close();
        let unbegun = self.consuming.inbox.take_older_than(Duration::ZERO);
        let passed_on = self.consuming.pass_on_all(&unbegun);
        let passed_on = tokio::time::timeout(CLOSE_TIMEOUT, passed_on).await;
        if !matches!(passed_on, Ok(Ok(()))) {
            tracing::warn!(
                n_tasks = unbegun.len(),
                "tasks that were not begun go back to the queue as if they had failed"
            );
        }
        drop(channels);
        self.consuming.link.close().await;
        self.consuming.publishing.close().await;
        self.looking.close().await;
    }
}

impl fmt::Debug for AmqpQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpQueue")
            .field("options", &self.looking.broker.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl TaskQueue for AmqpQueue {
    async fn publish(&self, tasks: &[TaskMessage]) -> Result<(), QueueError> {
        publisher::publish(&self.consuming.publishing, tasks, To::Workers).await
    }

    /// A process without slots gets [`QueueError::Closed`].
    async fn receive(&self) -> Result<Delivery, QueueError> {
        let options = &self.looking.broker.options;
        if options.n_slots == 0 || options.resources.is_empty() {
            return Err(QueueError::Closed);
        }
        let arrived = self.consuming.inbox.take().await?;
        let receipt = AmqpReceipt {
            acker: arrived.acker,
            publishing: Arc::clone(&self.consuming.publishing),
            inbox: Some((
                Arc::clone(&self.consuming.inbox),
                arrived.task.route.priority,
            )),
            channel: None,
        };
        Ok(Delivery::new(arrived.task, Box::new(receipt)))
    }

    /// What waits on the broker, and in this process; slots of all processes. What waits in other
    /// processes counts as worked on.
    async fn state(&self, route: Route) -> Result<QueueState, QueueError> {
        let turn = self.looking.lock().await?;
        let broker = turn.broker();
        let look = topology::look(&turn.channel, topology::queue_of(route));
        let queue = match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Ok(queue)) => queue,
            Ok(Err(error)) => return Err(turn.fail(broker.explain(&error, "look at a queue"))),
            Err(_) => return Err(turn.fail(broker.too_late("show a queue", LOOK_TIMEOUT))),
        };
        turn.succeed();
        Ok(QueueState {
            n_waiting: u64::from(queue.message_count()) + self.consuming.inbox.n_waiting(route),
            n_slots: Some(u64::from(queue.consumer_count())),
        })
    }

    async fn report(&self, refused: &TaskMessage) -> Result<(), QueueError> {
        let refused = std::slice::from_ref(refused);
        publisher::publish(&self.consuming.publishing, refused, To::Dead).await
    }

    async fn given_up(&self, run: &RunId) -> Result<Vec<Delivery>, QueueError> {
        dead::of_run(&self.looking, &self.consuming.publishing, run).await
    }
}
