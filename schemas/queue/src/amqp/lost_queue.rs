//! Queues that are there by name only.
//!
//! RabbitMQ writes which members it has of its quorum queues to disk half a second late (`ra`'s
//! directory of names). A broker that is killed within that time after a queue was declared comes
//! back with a queue that has no leader and never elects one: it accepts to consume and to publish,
//! and answers neither, for ever. Such a queue holds nothing, and is made anew.

use std::time::Duration;

use lapin::Connection;
use lapin::options::QueueDeleteOptions;
use lapin::types::ShortString;

use super::topology;

/// Bound of the time in which a queue answers; a longer silence is a reason to look at it.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bound of the time that it takes to make a queue anew; the broker itself waits for 5 s for a
/// leader.
const MAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Deletes and declares `queue`, which does not answer, if it has neither messages nor consumers.
///
/// A message that somebody publishes meanwhile is lost, and its task is offered again like any
/// whose message is lost.
pub(super) async fn make_anew(connection: &Connection, queue: &ShortString) {
    let made = async {
        let channel = connection.create_channel().await?;
        let known = topology::look(&channel, queue.clone()).await?;
        if known.message_count() > 0 || known.consumer_count() > 0 {
            return Ok(false);
        }
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.clone(), options).await?;
        topology::declare(&channel).await?;
        lapin::Result::Ok(true)
    };
    match tokio::time::timeout(MAKE_TIMEOUT, made).await {
        Ok(Ok(true)) => {
            tracing::warn!(%queue, "a queue did not answer and held nothing; it was made anew");
        }
        Ok(Ok(false)) => tracing::warn!(%queue, "a queue does not answer, though it is in use"),
        Ok(Err(error)) => tracing::warn!(%queue, %error, "cannot make a queue anew"),
        Err(_) => tracing::warn!(%queue, "a queue does not answer, nor does the broker"),
    }
}
