//! Puts messages on the broker and waits for it to confirm them.

use std::collections::BTreeSet;

use gleaner_schemas::TaskMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};

use super::link::{Broker, Link};
use super::{lost_queue, topology};
use crate::QueueError;

/// Messages that may be on their way at a time. A batch of this size has the confirm timeout for
/// itself.
const IN_FLIGHT_MAX: usize = 1000;
/// `delivery_mode` of messages that outlive the broker.
const PERSISTENT: u8 = 2;
/// Milliseconds for which a report is kept. Its coordinator looks every few seconds; reports to
/// one that is gone must not pile up in front of what other coordinators look for.
const REPORT_TTL_MS: &str = "600000";

/// Which queue messages go to.
#[derive(Debug, Clone, Copy)]
pub(super) enum To {
    /// That of their route.
    Workers,
    /// That of what was given up.
    Dead,
}

impl To {
    fn queue_of(self, task: &TaskMessage) -> ShortString {
        match self {
            Self::Workers => topology::queue_of(task.route),
            Self::Dead => topology::DEAD.into(),
        }
    }
}

/// Publishes `tasks`. On return the broker has each on its disks.
///
/// One batch at a time has the channel, so that whatever the broker returns or refuses belongs to
/// that batch: the client gives returned messages to any publication that is confirmed next.
pub(super) async fn publish(link: &Link, tasks: &[TaskMessage], to: To) -> Result<(), QueueError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let turn = link.lock().await?;
    let broker = turn.broker();
    let timeout = broker.options.confirm_timeout;
    for batch in tasks.chunks(IN_FLIGHT_MAX) {
        let published = publish_batch(broker, &turn.channel, batch, to);
        match tokio::time::timeout(timeout, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(turn.fail(error)),
            Err(_) => {
                let queues: BTreeSet<_> = batch.iter().map(|task| to.queue_of(task)).collect();
                for queue in &queues {
                    lost_queue::make_anew(&turn.connection, queue).await;
                }
                let what = "confirm what was published; it may be short of memory or disk, and not";
                return Err(turn.fail(broker.too_late(what, timeout)));
            }
        }
    }
    turn.succeed();
    metrics::counter!("gleaner_queue_published_total").increment(tasks.len() as u64);
    Ok(())
}

async fn publish_batch(
    broker: &Broker,
    channel: &Channel,
    batch: &[TaskMessage],
    to: To,
) -> Result<(), QueueError> {
    let explain = |error: lapin::Error| broker.explain(&error, "publish to the queue");
    let sent = batch.iter().map(|task| send(broker, channel, task, to));
    let confirmations = futures::future::try_join_all(sent).await?;
    for confirmation in confirmations {
        match confirmation.await.map_err(explain)? {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) => {
                // The next connection declares the queues again.
                let text = format!("{} has lost a queue", broker.address);
                return Err(QueueError::Unreachable(text));
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                let text = format!("{} did not accept a message", broker.address);
                return Err(QueueError::Unreachable(text));
            }
        }
    }
    Ok(())
}

async fn send(
    broker: &Broker,
    channel: &Channel,
    task: &TaskMessage,
    to: To,
) -> Result<lapin::PublisherConfirm, QueueError> {
    let body = serde_json::to_vec(task).map_err(|error| QueueError::Refused {
        message: format!("cannot write a message: {error}"),
        help: "this is an error of the program".to_owned(),
    })?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into());
    if matches!(to, To::Dead) {
        properties = properties.with_expiration(REPORT_TTL_MS.into());
    }
    channel
        .basic_publish("".into(), to.queue_of(task), options, &body, properties)
        .await
        .map_err(|error| broker.explain(&error, "publish to the queue"))
}
