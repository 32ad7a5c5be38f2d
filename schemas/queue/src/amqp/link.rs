//! One connection to the broker, opened when it is needed and again after any trouble.
//!
//! 1. Whoever needs the connection locks it; it is opened if there is none, after a pause that
//!    grows with each failure in a row.
//! 2. A fresh connection declares the queues before it is used for anything else.
//! 3. Whoever meets an error gives the connection up as a whole. The client's own recovery is not
//!    used: after a broker closed a channel it leaves consumers that wait for ever.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::RustlsConnector;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};
use rand::RngExt as _;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::failure;
use super::options::AmqpOptions;
use super::refusals::Refusals;
use super::socket::{self, Plug};
use super::topology;
use crate::QueueError;

/// Pause before the second attempt in a row; doubled for each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Bound of that.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Bound of the farewell to a broker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The broker, for all connections of a queue.
pub(super) struct Broker {
    pub(super) options: AmqpOptions,
    uri: AMQPUri,
    tls: Option<Arc<RustlsConnector>>,
    /// The address without secrets.
    pub(super) address: String,
    refusals: Refusals,
    /// Whether it was said that more was given up than is looked at.
    told_of_dead: AtomicBool,
}

impl Broker {
    pub(super) async fn new(options: AmqpOptions) -> Result<Self, QueueError> {
        let uri = options.uri()?;
        let tls = match uri.scheme {
            AMQPScheme::AMQP if options.ca_file.is_some() => {
                return Err(QueueError::Refused {
                    message: format!(
                        "there is a CA file for the queue, but {} is not encrypted",
                        options.shown()
                    ),
                    help: "write amqps:// for TLS, or leave the CA file out".to_owned(),
                });
            }
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(socket::tls(options.ca_file.as_deref()).await?),
        };
        let address = options.shown();
        Ok(Self {
            options,
            uri,
            tls,
            address,
            refusals: Refusals::default(),
            told_of_dead: AtomicBool::new(false),
        })
    }

    pub(super) fn explain(&self, error: &lapin::Error, what: &str) -> QueueError {
        let explained = failure::explain(error, what, &self.address);
        match failure::may_pass(error) {
            true => self.refusals.weigh(explained, what, Instant::now()),
            false => explained,
        }
    }

    /// Says, once, that the queue of what was given up is longer than what is looked at.
    pub(super) fn dead_overflows(&self, n_waiting: u32, n_looked_at: u16) {
        if !self.told_of_dead.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                n_waiting,
                n_looked_at,
                "gleaner.dead holds more messages than are looked at; tasks of this run that are \
                 given up behind those are noticed late, as overdue ones; look at what these \
                 messages are, and purge the queue (rabbitmqctl purge_queue gleaner.dead): no work \
                 is lost"
            );
        }
    }

    /// The answer to `what` did not come within `timeout`.
    pub(super) fn too_late(&self, what: &str, timeout: Duration) -> QueueError {
        let address = &self.address;
        let timeout = timeout.as_secs_f64();
        QueueError::Unreachable(format!("{address} did not {what} within {timeout} s"))
    }
}

/// A connection that is opened when it is needed.
pub(super) struct Link {
    pub(super) broker: Arc<Broker>,
    /// What it is for; the broker shows it.
    purpose: &'static str,
    state: Mutex<State>,
    n_lost: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<Open>>,
    /// Connections opened so far.
    n_opened: u64,
    /// Failures since the connection last served its purpose.
    n_failures: u32,
    last_failure: Option<(Instant, QueueError)>,
    is_closed: bool,
    /// Connections that were open and were given up.
    n_lost: Arc<AtomicU64>,
}

/// A connection that is open, as far as known.
pub(super) struct Open {
    /// Tells it from earlier and later ones.
    pub(super) number: u64,
    /// For what is said in turns; with confirms.
    pub(super) channel: Channel,
    pub(super) connection: Connection,
    plug: Plug,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.plug.pull();
    }
}

impl Link {
    pub(super) fn new(broker: Arc<Broker>, purpose: &'static str) -> Self {
        let state = State::default();
        Self {
            broker,
            purpose,
            n_lost: Arc::clone(&state.n_lost),
            state: Mutex::new(state),
        }
    }

    /// Connections that were open and were given up. What was on its way to the broker may be lost.
    pub(super) fn n_lost(&self) -> u64 {
        self.n_lost.load(Ordering::SeqCst)
    }

    /// The connection, for the caller alone until it drops it.
    ///
    /// Callers that wait in line while an attempt fails get its error; each would else wait for
    /// an attempt of its own.
    pub(super) async fn lock(&self) -> Result<Turn<'_>, QueueError> {
        let asked_at = Instant::now();
        let mut state = self.state.lock().await;
        if state.is_closed {
            return Err(QueueError::Closed);
        }
        if let Some(open) = &state.open
            && open.is_usable()
        {
            let open = Arc::clone(open);
            return Ok(Turn::new(self, state, open));
        }
        if let Some((failed_at, error)) = &state.last_failure
            && *failed_at >= asked_at
        {
            return Err(error.clone());
        }
        if state.lose() {
            state.n_failures = state.n_failures.saturating_add(1);
        }
        tokio::time::sleep(backoff(state.n_failures)).await;
        let number = state.n_opened + 1;
        match self.open(number).await {
            Ok(open) => {
                if number > 1 {
                    metrics::counter!("gleaner_queue_reconnects_total").increment(1);
                    tracing::info!(purpose = self.purpose, "connected to the broker again");
                }
                let open = Arc::new(open);
                state.n_opened = number;
                state.open = Some(Arc::clone(&open));
                Ok(Turn::new(self, state, open))
            }
            Err(error) => {
                state.fail(error.clone());
                Err(error)
            }
        }
    }

    /// Gives the connection of this number up.
    pub(super) async fn give_up(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state
            .open
            .as_ref()
            .is_some_and(|open| open.number == number)
        {
            state.lose();
            state.n_failures = state.n_failures.saturating_add(1);
        }
    }

    /// The connection of this number serves its purpose.
    pub(super) async fn served(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.n_opened == number {
            state.n_failures = 0;
        }
    }

    /// Says good-bye. Nothing can be done with the link any more.
    pub(super) async fn close(&self) {
        let mut state = self.state.lock().await;
        state.is_closed = true;
        if let Some(open) = state.open.take() {
            let farewell = open.connection.close(200, "bye".into());
            // If it does not answer, the socket is closed all the same.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
        }
    }

    async fn open(&self, number: u64) -> Result<Open, QueueError> {
        let broker = &self.broker;
        let timeout = broker.options.connect_timeout;
        let plug = Plug::default();
        let attempt = async {
            let properties = ConnectionProperties::default()
                .with_connection_name(format!("gleaner {}", self.purpose).into());
            let (uri, tls) = (broker.uri.clone(), broker.tls.clone());
            let connection = socket::open(uri, tls, properties, timeout, &plug)
                .await
                .map_err(|error| broker.explain(&error, "connect to the broker"))?;
            let checked = async {
                let channel = connection.create_channel().await?;
                channel
                    .confirm_select(ConfirmSelectOptions::default())
                    .await?;
                topology::declare(&channel).await?;
                Ok(channel)
            };
            match checked.await {
                Ok(channel) => {
                    broker.refusals.let_in();
                    Ok(Open {
                        number,
                        channel,
                        connection,
                        plug: plug.clone(),
                    })
                }
                Err(error) => {
                    let farewell = connection.close(200, "bye".into());
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, farewell).await;
                    Err(broker.explain(&error, "declare the queues"))
                }
            }
        };
        let opened = match tokio::time::timeout(timeout, attempt).await {
            Ok(opened) => opened,
            Err(_) => Err(broker.too_late("let us connect", timeout)),
        };
        if opened.is_err() {
            plug.pull();
        }
        opened
    }
}

impl State {
    /// Gives the connection up, if there is one. Whether there was.
    fn lose(&mut self) -> bool {
        let was_open = self.open.take().is_some();
        if was_open {
            self.n_lost.fetch_add(1, Ordering::SeqCst);
        }
        was_open
    }

    fn fail(&mut self, error: QueueError) {
        self.lose();
        self.n_failures = self.n_failures.saturating_add(1);
        self.last_failure = Some((Instant::now(), error));
    }
}

impl Open {
    fn is_usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }
}

/// A connection while somebody has it for himself. If he goes away in the middle of something,
/// it is given up, since answers may still come for which nobody waits.
pub(super) struct Turn<'a> {
    link: &'a Link,
    state: MutexGuard<'a, State>,
    open: Arc<Open>,
    in_doubt: bool,
}

impl<'a> Turn<'a> {
    fn new(link: &'a Link, state: MutexGuard<'a, State>, open: Arc<Open>) -> Self {
        Self {
            link,
            state,
            open,
            in_doubt: true,
        }
    }

    /// The connection serves its purpose.
    pub(super) fn succeed(mut self) {
        self.in_doubt = false;
        self.state.n_failures = 0;
    }

    /// The connection, for channels of the caller's own.
    pub(super) fn share(mut self) -> Arc<Open> {
        self.in_doubt = false;
        Arc::clone(&self.open)
    }

    /// The connection is given up because of `error`.
    pub(super) fn fail(mut self, error: QueueError) -> QueueError {
        self.in_doubt = false;
        self.state.fail(error.clone());
        error
    }

    pub(super) fn broker(&self) -> &'a Arc<Broker> {
        &self.link.broker
    }
}

impl Deref for Turn<'_> {
    type Target = Open;

    fn deref(&self) -> &Open {
        &self.open
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.in_doubt {
            self.state.lose();
            // Others may hold the connection.
            self.open.plug.pull();
        }
    }
}

/// Spread evenly over the upper half, so that many workers do not come at once.
fn backoff(n_failures: u32) -> Duration {
    if n_failures == 0 {
        return Duration::ZERO;
    }
    let doublings = (n_failures - 1).min(16);
    let longest = BACKOFF_FIRST
        .saturating_mul(1 << doublings)
        .min(BACKOFF_MAX);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        assert_eq!(backoff(0), Duration::ZERO);
        for (n_failures, longest) in [
            (1, 100),
            (2, 200),
            (5, 1600),
            (8, 10_000),
            (u32::MAX, 10_000),
        ] {
            let longest = Duration::from_millis(longest);
            for _ in 0..100 {
                let pause = backoff(n_failures);
                assert!(
                    pause >= longest / 2 && pause <= longest,
                    "{n_failures}: {pause:?}"
                );
            }
        }
    }
}
