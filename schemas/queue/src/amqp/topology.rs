//! The queues on the broker: always the same ones, whatever the jobs.

use std::time::Duration;

use gleaner_schemas::job::Priority;
use gleaner_schemas::{Resource, Route};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Queue};

/// The queue where messages end that were delivered too often or that nobody can read.
pub const DEAD: &str = "gleaner.dead";
/// Deliveries of a message beyond the first, until it is given up.
pub const DELIVERY_LIMIT: u32 = 3;
/// The messages of [`DEAD`] are looked at and put back, which is no reason to lose them.
const DEAD_DELIVERY_LIMIT: u32 = 1_000_000;
/// How long [`DEAD`] keeps a message.
const DEAD_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The name of the queue of a route, for whatever watches the broker from outside.
#[must_use]
pub fn queue_name(route: Route) -> String {
    let Route { resource, priority } = route;
    format!("gleaner.{}.{}", resource.as_str(), priority.as_str())
}

/// The queue of a route.
pub(super) fn queue_of(route: Route) -> ShortString {
    queue_name(route).into()
}

/// Every route, the most urgent first.
pub(super) fn routes() -> impl Iterator<Item = Route> {
    Priority::ALL.into_iter().flat_map(|priority| {
        Resource::ALL
            .into_iter()
            .map(move |resource| Route { resource, priority })
    })
}

/// Makes sure that all queues are there as they must be.
pub(super) async fn declare(channel: &Channel) -> lapin::Result<()> {
    declare_queue(channel, DEAD.into(), dead_arguments()).await?;
    for route in routes() {
        declare_queue(channel, queue_of(route), work_arguments()).await?;
    }
    Ok(())
}

/// What is known of a queue that is there.
pub(super) async fn look(channel: &Channel, queue: ShortString) -> lapin::Result<Queue> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..durable()
    };
    channel
        .queue_declare(queue, passive, FieldTable::default())
        .await
}

async fn declare_queue(
    channel: &Channel,
    queue: ShortString,
    arguments: FieldTable,
) -> lapin::Result<()> {
    channel.queue_declare(queue, durable(), arguments).await?;
    Ok(())
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    }
}

/// Dead-lettering that waits for the confirmation of the other queue needs a queue that rejects
/// rather than drops when it is full.
fn work_arguments() -> FieldTable {
    table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongUInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(DEAD)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ])
}

fn dead_arguments() -> FieldTable {
    let ttl = i64::try_from(DEAD_TTL.as_millis()).unwrap_or(i64::MAX);
    table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongUInt(DEAD_DELIVERY_LIMIT)),
        ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
    ])
}

/// Arguments of a queue that is no quorum queue, whatever the default of the vhost.
pub(super) fn classic_arguments() -> FieldTable {
    table([("x-queue-type", text("classic"))])
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert(key.into(), value);
    }
    table
}
