//! How a delivery is settled with the broker.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use gleaner_schemas::TaskMessage;
use gleaner_schemas::job::Priority;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use lapin::{Acker, Channel};

use super::inbox::Inbox;
use super::link::Link;
use super::publisher::{self, To};
use crate::{QueueError, Receipt};

/// Bound of the time that it takes to hand an acknowledgement to the network.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What settles a delivery: on the channel that it came from and no other, since the numbers of
/// deliveries mean something on their channel only.
pub(super) struct AmqpReceipt {
    pub(super) acker: Acker,
    pub(super) publishing: Arc<Link>,
    /// Told when the broker may send the next delivery; `None` for what a slot did not receive.
    pub(super) inbox: Option<(Arc<Inbox>, Priority)>,
    /// Keeps the channel open that the delivery came from, where nobody else does.
    pub(super) channel: Option<Arc<Channel>>,
}

impl fmt::Debug for AmqpReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acker, channel, .. } = self;
        f.debug_struct("AmqpReceipt")
            .field("acker", acker)
            .field("keeps_channel", &channel.is_some())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Receipt for AmqpReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        let acked = ack(&self.acker).await;
        self.settled();
        acked
    }

    async fn pass_on(self: Box<Self>, task: &TaskMessage) -> Result<(), QueueError> {
        let passed_on = pass_on(&self.publishing, task, &self.acker).await;
        if passed_on.is_err() {
            give_back(&self.acker);
        }
        self.settled();
        passed_on
    }

    fn give_back(self: Box<Self>) {
        give_back(&self.acker);
        self.settled();
    }
}

impl AmqpReceipt {
    fn settled(&self) {
        if let Some((inbox, priority)) = &self.inbox {
            inbox.expect(*priority);
        }
    }
}

/// Acknowledges. The broker does not answer: success says that it was sent.
pub(super) async fn ack(acker: &Acker) -> Result<(), QueueError> {
    let again = |why: String| QueueError::Unreachable(format!("{why}: the task will come again"));
    match tokio::time::timeout(SETTLE_TIMEOUT, acker.ack(BasicAckOptions::default())).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err(again("the channel of the delivery is gone".to_owned())),
        Ok(Err(error)) => Err(again(format!("cannot acknowledge: {error}"))),
        Err(_) => {
            let timeout = SETTLE_TIMEOUT.as_secs();
            Err(again(format!("cannot acknowledge within {timeout} s")))
        }
    }
}

/// Publishes a copy, then acknowledges: unlike what is given back, the copy counts as never
/// delivered. If this ends in between, the task is there twice, which does no harm.
pub(super) async fn pass_on(
    publishing: &Link,
    task: &TaskMessage,
    acker: &Acker,
) -> Result<(), QueueError> {
    if !acker.usable() {
        // It comes again anyway.
        return Ok(());
    }
    publisher::publish(publishing, std::slice::from_ref(task), To::Workers).await?;
    metrics::counter!("gleaner_queue_passed_on_total").increment(1);
    // If that fails the task comes again besides its copy.
    let _ = ack(acker).await;
    Ok(())
}

/// Makes the message available again. The client takes the request when it is first polled, and
/// sends it on its own; there is nothing to wait for.
pub(super) fn give_back(acker: &Acker) {
    let options = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    let _ = acker.nack(options).now_or_never();
}

/// Sends the message to the queue of the dead. Returns at once, like [`give_back`].
pub(super) fn reject(acker: &Acker) {
    let _ = acker
        .reject(BasicRejectOptions { requeue: false })
        .now_or_never();
}
