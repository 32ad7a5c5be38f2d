//! How many requests may be in flight: fewer while the server is overloaded, more as it recovers;
//! and whether it answers anybody at all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::FailureClass;

/// What remains of the limit when the server says that it has too much to do.
const DECREASE: f64 = 0.7;
/// The limit decreases once within this time: many requests in flight fail for one reason.
const DECREASE_PAUSE: Duration = Duration::from_millis(500);
/// Answers that asked for fewer requests, since the process started.
static N_THROTTLED: AtomicU64 = AtomicU64::new(0);

/// How often endpoints asked this process for fewer requests since it started.
#[must_use]
pub fn n_throttled() -> u64 {
    N_THROTTLED.load(Ordering::Relaxed)
}

/// What comes before each sending: the caller's budget and pace.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Returns when the request may be sent; false if it must not be, and then it is not.
    /// `previous` is why it is sent again.
    async fn before(&self, previous: Option<FailureClass>) -> bool;
}

#[derive(Debug)]
struct State {
    limit: f64,
    n_in_flight: usize,
    decreased_at: Option<Instant>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// When a request was answered.
    answered_at: Option<Instant>,
    /// Requests that were given up since.
    n_given_up: u32,
}

/// Shared by all requests to an endpoint.
#[derive(Debug)]
pub(crate) struct Limiter {
    ceiling: usize,
    state: Mutex<State>,
    changed: Notify,
}

/// A place among the requests in flight.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.state().n_in_flight -= 1;
        self.limiter.changed.notify_one();
    }
}

impl Limiter {
    pub(crate) fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            state: Mutex::new(State {
                limit: ceiling as f64,
                n_in_flight: 0,
                decreased_at: None,
                not_before: None,
                answered_at: None,
                n_given_up: 0,
            }),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let wait_until = {
                let mut state = self.state();
                match state.not_before {
                    Some(not_before) if not_before > now => Some(not_before),
                    _ if state.n_in_flight < state.limit as usize => {
                        state.n_in_flight += 1;
                        return Permit {
                            limiter: Arc::clone(self),
                        };
                    }
                    _ => None,
                }
            };
            match wait_until {
                Some(not_before) => {
                    tokio::time::sleep_until(not_before).await;
                    // Others wait for the same moment.
                    self.changed.notify_one();
                }
                None => changed.await,
            }
        }
    }

    /// A request was answered, whatever the answer is worth: the server works.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        state.answered_at = Some(Instant::now());
        state.n_given_up = 0;
        if state.limit < self.ceiling as f64 {
            state.limit = (state.limit + 1.0 / state.limit).min(self.ceiling as f64);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// A request was sent as often as makes sense, and not answered: how many were in a row.
    pub(crate) fn given_up(&self) -> u32 {
        let mut state = self.state();
        state.n_given_up = state.n_given_up.saturating_add(1);
        state.n_given_up
    }

    /// The server has too much to do, and asks to wait for `pause`.
    pub(crate) fn throttled(&self, pause: Option<Duration>) {
        N_THROTTLED.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut state = self.state();
        let is_due = state
            .decreased_at
            .is_none_or(|at| now.saturating_duration_since(at) >= DECREASE_PAUSE);
        if is_due {
            state.limit = (state.limit * DECREASE).max(1.0);
            state.decreased_at = Some(now);
        }
        if let Some(pause) = pause {
            let until = now + pause;
            state.not_before = state.not_before.max(Some(until));
        }
    }

    /// The last time that any request was answered, if that was after `start`, else `start`.
    pub(crate) fn answered_or(&self, start: Instant) -> Instant {
        self.state().answered_at.map_or(start, |at| at.max(start))
    }

    #[cfg(test)]
    pub(crate) fn limit(&self) -> usize {
        self.state().limit as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_follows_the_server() {
        let limiter = Arc::new(Limiter::new(10));
        let mut permits = Vec::new();
        for _ in 0..10 {
            permits.push(limiter.acquire().await);
        }
        let mut waiting = std::pin::pin!(limiter.acquire());
        assert!(futures_poll(waiting.as_mut()).is_none());
        permits.pop();
        permits.push(futures_poll(waiting.as_mut()).expect("a place is free"));
        // One decrease for many failures of one moment.
        for _ in 0..10 {
            limiter.throttled(None);
        }
        assert_eq!(limiter.limit(), 7);
        tokio::time::advance(DECREASE_PAUSE).await;
        limiter.throttled(None);
        assert_eq!(limiter.limit(), 4);
        for _ in 0..200 {
            limiter.answered();
        }
        assert_eq!(limiter.limit(), 10);
        for _ in 0..100 {
            tokio::time::advance(DECREASE_PAUSE).await;
            limiter.throttled(None);
        }
        assert_eq!(limiter.limit(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_wait_when_the_server_says_so() {
        let limiter = Arc::new(Limiter::new(10));
        limiter.throttled(Some(Duration::from_secs(7)));
        let start = Instant::now();
        let (a, b) = tokio::join!(limiter.acquire(), limiter.acquire());
        assert_eq!(start.elapsed(), Duration::from_secs(7));
        drop((a, b));
    }

    #[tokio::test(start_paused = true)]
    async fn who_answered_last() {
        let limiter = Arc::new(Limiter::new(1));
        let start = Instant::now();
        assert_eq!(limiter.answered_or(start), start);
        tokio::time::advance(Duration::from_secs(5)).await;
        limiter.answered();
        assert_eq!(limiter.answered_or(start), start + Duration::from_secs(5));
        let later = start + Duration::from_secs(9);
        assert_eq!(limiter.answered_or(later), later);
    }

    fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
