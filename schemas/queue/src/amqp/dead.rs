//! The queue of what was given up: messages that were delivered too often, and those that nobody
//! can read.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use gleaner_schemas::{RunId, TaskMessage};
use lapin::message::Delivery as Message;
use lapin::options::{BasicCancelOptions, BasicQosOptions};
use lapin::{Acker, Channel};

use super::consumer;
use super::link::{Broker, Link};
use super::receipt::{self, AmqpReceipt};
use super::{topology, wire};
use crate::{Delivery, QueueError};

/// Messages that are looked at in one scan. Messages of a run behind that many of others are
/// found only when those are gone, which is told.
const SCAN_MAX: u16 = 4096;
/// Bound of the pause between two messages of a scan; others may have taken the rest.
const SCAN_QUIET: Duration = Duration::from_secs(2);
/// Bound of a whole scan.
const SCAN_TIMEOUT: Duration = Duration::from_secs(30);

/// Takes the messages of `run` and puts the others back where they were. Those that cannot be
/// read stay until they are too old.
pub(super) async fn of_run(
    looking: &Link,
    publishing: &Arc<Link>,
    run: &RunId,
) -> Result<Vec<Delivery>, QueueError> {
    let turn = looking.lock().await?;
    let broker = turn.broker();
    let scanned = async {
        let channel = turn.connection.create_channel().await?;
        scan(broker, channel, run).await
    };
    let what = "look at what was given up";
    let (channel, found) = match tokio::time::timeout(SCAN_TIMEOUT, scanned).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err(turn.fail(broker.explain(&error, what))),
        Err(_) => return Err(turn.fail(broker.too_late("show what was given up", SCAN_TIMEOUT))),
    };
    turn.succeed();
    let channel = Arc::new(channel);
    let deliveries = found.into_iter().map(|(task, acker)| {
        let receipt = AmqpReceipt {
            acker,
            publishing: Arc::clone(publishing),
            inbox: None,
            channel: Some(Arc::clone(&channel)),
        };
        Delivery::new(task, Box::new(receipt))
    });
    Ok(deliveries.collect())
}

async fn scan(
    broker: &Broker,
    channel: Channel,
    run: &RunId,
) -> lapin::Result<(Channel, Vec<(TaskMessage, Acker)>)> {
    let mut found = Vec::new();
    let n_waiting = topology::look(&channel, topology::DEAD.into())
        .await?
        .message_count();
    let n_messages = n_waiting.min(u32::from(SCAN_MAX));
    if n_messages < n_waiting {
        broker.dead_overflows(n_waiting, SCAN_MAX);
    }
    if n_messages == 0 {
        return Ok((channel, found));
    }
    channel
        .basic_qos(SCAN_MAX, BasicQosOptions::default())
        .await?;
    let mut consumer = consumer::consume(&channel, topology::DEAD.into()).await?;
    // All are kept until the end: what is put back comes first again.
    let mut others = Vec::new();
    let mut sort = |message: Message| match wire::parse(&message.data) {
        Ok(task) if task.run == *run => found.push((task, message.acker)),
        _ => others.push(message.acker),
    };
    for _ in 0..n_messages {
        match tokio::time::timeout(SCAN_QUIET, consumer.next()).await {
            Ok(Some(message)) => sort(message?),
            Ok(None) | Err(_) => break,
        }
    }
    channel
        .basic_cancel(consumer.tag(), BasicCancelOptions::default())
        .await?;
    while let Some(message) = consumer.next().await {
        sort(message?);
    }
    for acker in &others {
        receipt::give_back(acker);
    }
    Ok((channel, found))
}
