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

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::ShortString;
use lapin::{Channel, Connection, ErrorKind};

use super::{consumer, topology};

/// Bound of the time in which a queue answers; a longer silence is a reason to look at it.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a second look, since somebody else may have made it anew.
const SECOND_TIMEOUT: Duration = Duration::from_secs(3);
/// Bound of the time that it takes to look whether a queue is to be made anew.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// Bound of the time that it takes to make a queue anew; the broker itself waits for 5 s for a
/// leader, more than once.
const MAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Belongs to the connection that declares it, which so has the right to make queues anew.
const RIGHT: &str = "gleaner.repair";
/// Code of the protocol for what belongs to another connection.
const RESOURCE_LOCKED: u16 = 405;

/// What a second look at a queue that did not answer has found.
enum Found {
    /// It is to be mended, by whoever has this channel.
    Lost(Channel),
    InUse,
    Answering,
    UpToAnother,
}

/// Deletes and declares `queue`, which does not answer, if it has neither messages nor consumers.
///
/// A message that somebody publishes meanwhile is lost, and its task is offered again like any
/// whose message is lost. The caller gives the connection up.
pub(super) async fn make_anew(connection: &Connection, queue: &ShortString) {
    let silent = || tracing::warn!(%queue, "a queue does not answer, nor does the broker");
    let failed = |error| tracing::warn!(%queue, %error, "cannot make a queue anew");
    let found = match tokio::time::timeout(LOOK_TIMEOUT, look(connection, queue)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return failed(error),
        Err(_) => return silent(),
    };
    match found {
        Found::Lost(right) => {
            let made = make(&right, queue);
            match tokio::time::timeout(MAKE_TIMEOUT, made).await {
                Ok(Ok(())) => tracing::warn!(
                    %queue,
                    "a queue did not answer and held nothing; it was made anew"
                ),
                Ok(Err(error)) => failed(error),
                Err(_) => silent(),
            }
        }
        Found::InUse => tracing::warn!(%queue, "a queue does not answer, though it is in use"),
        Found::Answering => tracing::info!(%queue, "a queue answers again"),
        Found::UpToAnother => {
            tracing::info!(%queue, "a queue does not answer; another process mends it");
        }
    }
}

/// Takes the right to mend queues, and looks whether there is something to mend.
async fn look(connection: &Connection, queue: &ShortString) -> lapin::Result<Found> {
    let right = connection.create_channel().await?;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let taken = right.queue_declare(RIGHT.into(), exclusive, topology::classic_arguments());
    match taken.await {
        Ok(_) => {}
        Err(error) if is_locked(&error) => return Ok(Found::UpToAnother),
        Err(error) => return Err(error),
    }
    let known = topology::look(&right, queue.clone()).await?;
    let found = if known.message_count() > 0 || known.consumer_count() > 0 {
        Found::InUse
    } else if answers(connection, queue).await? {
        Found::Answering
    } else {
        return Ok(Found::Lost(right));
    };
    give_back(&right).await?;
    Ok(found)
}

async fn make(right: &Channel, queue: &ShortString) -> lapin::Result<()> {
    let options = QueueDeleteOptions::default();
    right.queue_delete(queue.clone(), options).await?;
    topology::declare(right).await?;
    give_back(right).await
}

/// The end of the connection does that, too.
async fn give_back(right: &Channel) -> lapin::Result<()> {
    let options = QueueDeleteOptions::default();
    right.queue_delete(RIGHT.into(), options).await?;
    Ok(())
}

/// Whether a queue lets somebody consume. A consumer that is granted late stays until the
/// connection ends.
async fn answers(connection: &Connection, queue: &ShortString) -> lapin::Result<bool> {
    let channel = connection.create_channel().await?;
    let asked = consumer::consume(&channel, queue.clone());
    match tokio::time::timeout(SECOND_TIMEOUT, asked).await {
        Ok(Ok(_)) => channel.close(200, "bye".into()).await.map(|()| true),
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn is_locked(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == RESOURCE_LOCKED)
}
