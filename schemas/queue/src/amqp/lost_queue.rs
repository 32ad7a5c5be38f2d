//! Queues that are there by name only.
//!
//! RabbitMQ writes which members it has of its quorum queues to disk half a second late (`ra`'s
//! directory of names). A broker that is killed within that time after a queue was declared comes
//! back with a queue that has no leader and never elects one: it accepts to consume and to publish,
//! and answers neither, for ever. Such a queue holds nothing, and is made anew.
//!
//! One process at a time does that. Every process meets the same queue at the same time, and a
//! broker that deletes a queue without a leader several times at once, while another declares it,
//! may end up unable to declare it until it is restarted (`cluster_not_formed`, 3.10).

use std::time::Duration;

use lapin::options::{BasicQosOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::ShortString;
use lapin::{Channel, Connection, ErrorKind};

use super::{consumer, topology};

/// Bound of the time in which a queue answers; a longer silence is a reason to look at it.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a second look, since somebody else may have made it anew.
const SECOND_TIMEOUT: Duration = Duration::from_secs(3);
/// Bound of the time that it takes to make a queue anew; the broker itself waits for 5 s for a
/// leader, more than once.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Belongs to the connection that declares it, which so has the right to make queues anew.
const RIGHT: &str = "gleaner.repair";
/// Code of the protocol for what belongs to another connection.
const RESOURCE_LOCKED: u16 = 405;

/// What became of a queue that did not answer.
enum Outcome {
    MadeAnew,
    InUse,
    Answers,
    UpToAnother,
}

/// Deletes and declares `queue`, which does not answer, if it has neither messages nor consumers.
///
/// A message that somebody publishes meanwhile is lost, and its task is offered again like any
/// whose message is lost. The caller gives the connection up.
pub(super) async fn make_anew(connection: &Connection, queue: &ShortString) {
    match tokio::time::timeout(MAKE_TIMEOUT, in_turn(connection, queue)).await {
        Ok(Ok(Outcome::MadeAnew)) => {
            tracing::warn!(%queue, "a queue did not answer and held nothing; it was made anew");
        }
        Ok(Ok(Outcome::InUse)) => {
            tracing::warn!(%queue, "a queue does not answer, though it is in use");
        }
        Ok(Ok(Outcome::Answers)) => tracing::info!(%queue, "a queue answers again"),
        Ok(Ok(Outcome::UpToAnother)) => {
            tracing::info!(%queue, "a queue does not answer; another process mends it");
        }
        Ok(Err(error)) => tracing::warn!(%queue, %error, "cannot make a queue anew"),
        Err(_) => tracing::warn!(%queue, "a queue does not answer, nor does the broker"),
    }
}

async fn in_turn(connection: &Connection, queue: &ShortString) -> lapin::Result<Outcome> {
    let right = connection.create_channel().await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    match right
        .queue_declare(RIGHT.into(), exclusive, topology::classic_arguments())
        .await
    {
        Ok(_) => {}
        Err(error) if is_locked(&error) => return Ok(Outcome::UpToAnother),
        Err(error) => return Err(error),
    }
    let outcome = if_alone(connection, queue).await;
    // The end of the connection gives the right back, too.
    let _ = right
        .queue_delete(RIGHT.into(), QueueDeleteOptions::default())
        .await;
    outcome
}

async fn if_alone(connection: &Connection, queue: &ShortString) -> lapin::Result<Outcome> {
    let channel = connection.create_channel().await?;
    let known = topology::look(&channel, queue.clone()).await?;
    if known.message_count() > 0 || known.consumer_count() > 0 {
        return Ok(Outcome::InUse);
    }
    let asked = connection.create_channel().await?;
    if answers(&asked, queue).await? {
        asked.close(200, "bye".into()).await?;
        return Ok(Outcome::Answers);
    }
    channel
        .queue_delete(queue.clone(), QueueDeleteOptions::default())
        .await?;
    topology::declare(&channel).await?;
    Ok(Outcome::MadeAnew)
}

/// Whether a queue lets somebody consume. A consumer that is granted late stays until the
/// connection ends.
async fn answers(channel: &Channel, queue: &ShortString) -> lapin::Result<bool> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    let asked = consumer::consume(channel, queue.clone());
    match tokio::time::timeout(SECOND_TIMEOUT, asked).await {
        Ok(consumer) => consumer.map(|_| true),
        Err(_) => Ok(false),
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == RESOURCE_LOCKED)
}
