//! The slots of this process, as the broker sees them.
//!
//! Each slot has a channel of its own, on which it consumes every queue of its resources and may
//! have one unsettled delivery of each. So the broker never gives this process more of a queue
//! than it has slots, and the number of consumers of a queue is the number of slots that are
//! alive. A channel that ends is opened again, on a fresh connection unless only this channel was
//! at fault.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::watch;
use tokio::time::Instant;

use super::failure;
use super::inbox::{Arrived, Inbox};
use super::link::Link;
use super::publisher::{self, To};
use super::{lost_queue, receipt, topology, wire};
use crate::QueueError;

/// Bound of the time that it takes to start consuming.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bound of the time that it takes to stop consuming.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked for deliveries that waited for too long, as a part of that time.
const LOOKS_PER_WAIT: u32 = 6;
/// Shown of a message that cannot be read.
const SHOWN_BYTES_MAX: usize = 200;

/// What the slots of a process share.
pub(super) struct Consuming {
    pub(super) link: Arc<Link>,
    pub(super) publishing: Arc<Link>,
    pub(super) inbox: Arc<Inbox>,
}

/// A slot that consumes.
pub(super) struct Subscription {
    channel: Channel,
    /// Number of the connection.
    connection: u64,
    tags: Vec<ShortString>,
    deliveries: SelectAll<BoxStream<'static, Event>>,
}

enum Event {
    Delivery(Box<Delivery>),
    Failed(lapin::Error),
    /// The broker does not deliver from one of the queues any more.
    Ended,
}

impl Consuming {
    /// Starts to consume on a channel of its own.
    pub(super) async fn subscribe(&self) -> Result<Subscription, QueueError> {
        let open = self.link.lock().await?.share();
        let broker = &self.link.broker;
        let resources = &broker.options.resources;
        let started = async {
            let channel = open.connection.create_channel().await?;
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            let mut tags = Vec::new();
            let mut deliveries = SelectAll::new();
            for route in topology::routes().filter(|route| resources.contains(&route.resource)) {
                let queue = topology::queue_of(route);
                let asked = consume(&channel, queue.clone());
                let answered = tokio::time::timeout(lost_queue::ANSWER_TIMEOUT, asked).await;
                let Ok(consumer) = answered else {
                    return Ok(Err(queue));
                };
                let consumer = consumer?;
                tags.push(consumer.tag());
                self.inbox.expect(route.priority);
                deliveries.push(events(consumer));
            }
            lapin::Result::Ok(Ok(Subscription {
                channel,
                connection: open.number,
                tags,
                deliveries,
            }))
        };
        let started = match tokio::time::timeout(SUBSCRIBE_TIMEOUT, started).await {
            Ok(Ok(Ok(subscription))) => Ok(subscription),
            Ok(Ok(Err(queue))) => {
                lost_queue::make_anew(&open.connection, &queue).await;
                let what = format!("let us take tasks from {queue}");
                Err(broker.too_late(&what, lost_queue::ANSWER_TIMEOUT))
            }
            Ok(Err(error)) => Err(broker.explain(&error, "take tasks from the queues")),
            Err(_) => Err(broker.too_late("let us take tasks", SUBSCRIBE_TIMEOUT)),
        };
        match &started {
            Ok(_) => {
                self.link.served(open.number).await;
                self.inbox.no_trouble();
            }
            Err(_) => self.link.give_up(open.number).await,
        }
        started
    }

    /// Consumes until told to stop; whatever ends before is begun anew. Returns the channel, on
    /// which deliveries can still be settled.
    pub(super) async fn run_slot(
        self: Arc<Self>,
        first: Option<Subscription>,
        mut stop: watch::Receiver<bool>,
    ) -> Option<Channel> {
        let mut first = first;
        loop {
            let subscribed = match first.take() {
                Some(subscription) => Ok(subscription),
                None => tokio::select! {
                    biased;
                    () = stopped(&mut stop) => return None,
                    subscribed = self.subscribe() => subscribed,
                },
            };
            let mut subscription = match subscribed {
                Ok(subscription) => subscription,
                Err(QueueError::Closed) => return None,
                // The link paces the attempts.
                Err(error) => {
                    tracing::warn!(%error, "cannot take tasks, trying again");
                    self.inbox.trouble(error);
                    continue;
                }
            };
            let trouble = tokio::select! {
                biased;
                () = stopped(&mut stop) => {
                    self.unsubscribe(&mut subscription).await;
                    return Some(subscription.channel);
                }
                trouble = self.receive_all(&mut subscription) => trouble,
            };
            match trouble {
                Some(error) if failure::is_consumer_timeout(&error) => tracing::warn!(
                    %error,
                    "the broker took a task back that was worked on for too long"
                ),
                Some(error) => {
                    tracing::warn!(%error, "lost the connection to the broker");
                    self.link.give_up(subscription.connection).await;
                }
                None => {
                    tracing::warn!("the broker ended the delivery of tasks");
                    self.link.give_up(subscription.connection).await;
                }
            }
        }
    }

    /// Passes on what has waited in this process for too long, until it is dropped.
    pub(super) async fn run_passing_on(self: Arc<Self>) {
        let age = self.link.broker.options.pass_on_after;
        loop {
            tokio::time::sleep(age / LOOKS_PER_WAIT).await;
            let old = self.inbox.take_older_than(age);
            if let Err(error) = self.pass_on_all(&old).await {
                tracing::warn!(%error, n_tasks = old.len(), "cannot leave tasks to others");
                let since = Instant::now();
                for arrived in old {
                    self.inbox.put(Arrived { since, ..arrived });
                }
            }
        }
    }

    /// Leaves deliveries that nobody has begun to others. If this fails none was touched, though
    /// copies may be on the queue.
    pub(super) async fn pass_on_all(&self, arrivals: &[Arrived]) -> Result<(), QueueError> {
        let tasks: Vec<_> = arrivals
            .iter()
            .map(|arrived| arrived.task.clone())
            .collect();
        publisher::publish(&self.publishing, &tasks, To::Workers).await?;
        metrics::counter!("gleaner_queue_passed_on_total").increment(tasks.len() as u64);
        for arrived in arrivals {
            // If that fails the task comes again besides its copy.
            let _ = receipt::ack(&arrived.acker).await;
        }
        Ok(())
    }

    /// Receives until something goes wrong.
    async fn receive_all(&self, subscription: &mut Subscription) -> Option<lapin::Error> {
        loop {
            match subscription.deliveries.next().await {
                Some(Event::Delivery(delivery)) => self.accept(*delivery),
                Some(Event::Failed(error)) => return Some(error),
                Some(Event::Ended) | None => return None,
            }
        }
    }

    fn accept(&self, delivery: Delivery) {
        match wire::parse(&delivery.data) {
            Ok(task) => {
                metrics::counter!("gleaner_queue_delivered_total").increment(1);
                self.inbox.put(Arrived {
                    task,
                    acker: delivery.acker,
                    since: Instant::now(),
                });
            }
            Err(why) => {
                let shown = &delivery.data[..delivery.data.len().min(SHOWN_BYTES_MAX)];
                tracing::warn!(
                    %why,
                    queue = %delivery.routing_key,
                    message = %String::from_utf8_lossy(shown),
                    "a message cannot be read; it is kept in {}", topology::DEAD
                );
                receipt::reject(&delivery.acker);
            }
        }
    }

    /// Ends the consumers, and takes in what was on its way to them.
    async fn unsubscribe(&self, subscription: &mut Subscription) {
        let ended = async {
            for tag in &subscription.tags {
                let options = BasicCancelOptions::default();
                subscription
                    .channel
                    .basic_cancel(tag.clone(), options)
                    .await?;
            }
            while let Some(event) = subscription.deliveries.next().await {
                if let Event::Delivery(delivery) = event {
                    self.accept(*delivery);
                }
            }
            lapin::Result::Ok(())
        };
        // Without an answer, the broker takes everything back when the connection ends.
        if !matches!(
            tokio::time::timeout(UNSUBSCRIBE_TIMEOUT, ended).await,
            Ok(Ok(()))
        ) {
            tracing::debug!("could not end the consumers of a slot");
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that nobody can say stop any more.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Starts a consumer of `queue`, whose tag the broker chooses.
pub(super) async fn consume(
    channel: &Channel,
    queue: ShortString,
) -> lapin::Result<lapin::Consumer> {
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    channel
        .basic_consume(queue, "".into(), options, arguments)
        .await
}

fn events(consumer: lapin::Consumer) -> BoxStream<'static, Event> {
    consumer
        .map(|delivery| match delivery {
            Ok(delivery) => Event::Delivery(Box::new(delivery)),
            Err(error) => Event::Failed(error),
        })
        .chain(futures::stream::once(async { Event::Ended }))
        .boxed()
}
