//! Puts messages on the broker and waits for it to confirm them.

use gleaner_schemas::TaskMessage;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};

use super::link::{Broker, Link};
use super::topology;
use crate::QueueError;

/// Messages that may be on their way at a time. A batch of this size has the confirm timeout for
/// itself.
const IN_FLIGHT_MAX: usize = 1000;
/// `delivery_mode` of messages that outlive the broker.
const PERSISTENT: u8 = 2;

/// Publishes `tasks`. On return the broker has each on its disks.
///
/// One batch at a time has the channel, so that whatever the broker returns or refuses belongs to
/// that batch: the client gives returned messages to any publication that is confirmed next.
pub(super) async fn publish(link: &Link, tasks: &[TaskMessage]) -> Result<(), QueueError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let turn = link.lock().await?;
    let broker = turn.broker();
    let timeout = broker.options.confirm_timeout;
    for batch in tasks.chunks(IN_FLIGHT_MAX) {
        let published = publish_batch(broker, &turn.channel, batch);
        match tokio::time::timeout(timeout, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(turn.fail(error)),
            Err(_) => {
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
) -> Result<(), QueueError> {
    let explain = |error: lapin::Error| broker.explain(&error, "publish to the queue");
    let sent = batch.iter().map(|task| send(broker, channel, task));
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
) -> Result<lapin::PublisherConfirm, QueueError> {
    let body = serde_json::to_vec(task).map_err(|error| QueueError::Refused {
        message: format!("cannot write a message: {error}"),
        help: "this is an error of the program".to_owned(),
    })?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into());
    let queue = topology::queue_of(task.route);
    channel
        .basic_publish("".into(), queue, options, &body, properties)
        .await
        .map_err(|error| broker.explain(&error, "publish to the queue"))
}
