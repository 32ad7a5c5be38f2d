//! How many requests a store is sent at a time: more while it serves them all, half as many when
//! it asks for fewer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Requests in flight that a store is trusted with at first.
const LIMIT_START: f64 = 64.0;
/// Above this more requests only wait elsewhere.
const LIMIT_MAX: f64 = 256.0;
/// One request is always allowed: how else would we learn that the store has recovered?
const LIMIT_MIN: f64 = 1.0;
/// What a refusal leaves of the limit.
const DECREASE: f64 = 0.5;
/// Requests that are in flight together are refused together; that is one refusal.
const DECREASE_PAUSE: Duration = Duration::from_secs(1);

/// How a request ended, as far as the limit is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The store answered.
    Served,
    /// The store asked for fewer requests.
    Throttled,
    /// Nothing is known: it was given up, or the connection broke.
    Unknown,
}

/// Additive increase, multiplicative decrease. Knows no clock.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AdaptiveLimit {
    limit: f64,
    n_in_flight: usize,
    decreased_at: Option<Duration>,
}

impl Default for AdaptiveLimit {
    fn default() -> Self {
        Self {
            limit: LIMIT_START,
            n_in_flight: 0,
            decreased_at: None,
        }
    }
}

impl AdaptiveLimit {
    /// Requests that may be in flight.
    pub(super) fn limit(&self) -> usize {
        // Between 1 and 256.
        self.limit as usize
    }

    /// Counts a request in if there is room for it.
    pub(super) fn try_start(&mut self) -> bool {
        let has_room = self.has_room();
        self.n_in_flight += usize::from(has_room);
        has_room
    }

    pub(super) fn has_room(&self) -> bool {
        self.n_in_flight < self.limit()
    }

    /// Counts a request out at the time `now`.
    pub(super) fn end(&mut self, outcome: Outcome, now: Duration) {
        let was_full = !self.has_room();
        self.n_in_flight = self.n_in_flight.saturating_sub(1);
        match outcome {
            // A limit that is not reached has not been tried.
            Outcome::Served if was_full => {
                self.limit = (self.limit + 1.0 / self.limit).min(LIMIT_MAX);
            }
            Outcome::Throttled => {
                let is_news = self
                    .decreased_at
                    .is_none_or(|then| now.saturating_sub(then) >= DECREASE_PAUSE);
                if is_news {
                    self.limit = (self.limit * DECREASE).max(LIMIT_MIN);
                    self.decreased_at = Some(now);
                }
            }
            Outcome::Served | Outcome::Unknown => {}
        }
    }
}

/// Lets requests to one store pass, as many at a time as [`AdaptiveLimit`] says.
///
/// Whoever waits here waits for requests each of which has a timeout.
#[derive(Debug)]
pub(super) struct Gate {
    store: String,
    limit: Mutex<AdaptiveLimit>,
    has_room: Notify,
    opened: Instant,
}

impl Gate {
    /// The gate of `store`, the name under which metrics show it.
    pub(super) fn new(store: String) -> Arc<Self> {
        let gate = Self {
            store,
            limit: Mutex::default(),
            has_room: Notify::new(),
            opened: Instant::now(),
        };
        gate.show(gate.lock().limit());
        Arc::new(gate)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AdaptiveLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, limit: usize) {
        metrics::gauge!("gleaner_store_concurrency_limit", "store" => self.store.clone())
            .set(limit as f64);
    }

    /// Waits for room.
    pub(super) async fn enter(self: &Arc<Self>) -> Permit {
        loop {
            {
                let mut limit = self.lock();
                if limit.try_start() {
                    // A limit that grew has room for more than the one that was woken.
                    if limit.has_room() {
                        self.has_room.notify_one();
                    }
                    break;
                }
            }
            self.has_room.notified().await;
        }
        Permit {
            gate: Arc::clone(self),
            outcome: Outcome::Unknown,
        }
    }
}

/// A request in flight. Counted out when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    outcome: Outcome,
}

impl Permit {
    /// Says how the request ended, and counts it out.
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (before, after) = {
            let mut limit = self.gate.lock();
            let before = limit.limit();
            limit.end(self.outcome, self.gate.opened.elapsed());
            (before, limit.limit())
        };
        if before != after {
            self.gate.show(after);
        }
        self.gate.has_room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn filled() -> AdaptiveLimit {
        let mut limit = AdaptiveLimit::default();
        while limit.try_start() {}
        limit
    }

    #[test]
    fn a_refusal_halves_the_limit_once_however_many_requests_it_hits() {
        let mut limit = filled();
        for _ in 0..10 {
            limit.end(Outcome::Throttled, seconds(5));
        }
        assert_eq!(limit.limit(), 32);
        limit.end(Outcome::Throttled, seconds(6));
        assert_eq!(limit.limit(), 16);
    }

    #[test]
    fn one_request_is_always_allowed() {
        let mut limit = AdaptiveLimit::default();
        for second in 0..100 {
            assert!(limit.try_start(), "second {second}");
            limit.end(Outcome::Throttled, seconds(second));
        }
        assert_eq!(limit.limit(), 1);
    }

    #[test]
    fn a_limit_that_is_used_grows_by_one_a_round_up_to_the_largest() {
        let mut limit = filled();
        for _ in 0..64 {
            limit.end(Outcome::Served, seconds(0));
            while limit.try_start() {}
        }
        // Sixty-four steps of a little less than a 64th each.
        assert_eq!(limit.limit(), 64);
        limit.end(Outcome::Served, seconds(0));
        assert_eq!(limit.limit(), 65);
        for _ in 0..100_000 {
            while limit.try_start() {}
            limit.end(Outcome::Served, seconds(0));
        }
        assert_eq!(limit.limit(), 256);
    }

    #[test]
    fn a_limit_that_is_not_reached_stays() {
        let mut limit = AdaptiveLimit::default();
        for _ in 0..10_000 {
            assert!(limit.try_start());
            limit.end(Outcome::Served, seconds(0));
        }
        assert_eq!(limit, AdaptiveLimit::default());
    }

    #[test]
    fn requests_that_were_given_up_leave_room() {
        let mut limit = filled();
        assert!(!limit.has_room());
        limit.end(Outcome::Unknown, seconds(0));
        assert!(limit.try_start());
        assert_eq!(limit.limit(), 64);
    }

    /// More tasks than the limit, some of which are refused, some dropped: all of them pass, and
    /// never more than 64 at a time.
    #[tokio::test(start_paused = true)]
    async fn everybody_passes_the_gate() {
        let gate = Gate::new("s3://bucket".to_owned());
        let passes = (0..1000_u64).map(|idx| {
            let gate = Arc::clone(&gate);
            async move {
                let permit = gate.enter().await;
                assert!(gate.lock().n_in_flight <= 65);
                tokio::time::sleep(Duration::from_millis(idx % 7)).await;
                match idx % 5 {
                    0 => permit.end(Outcome::Throttled),
                    1 => drop(permit),
                    _ => permit.end(Outcome::Served),
                }
            }
        });
        let all = futures::future::join_all(passes);
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .unwrap();
        assert_eq!(gate.lock().n_in_flight, 0);
        assert!(gate.lock().limit() < 64);
    }

    /// The permit of a waiter that is dropped after it was woken is not lost.
    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_takes_no_room() {
        let gate = Gate::new("s3://bucket".to_owned());
        let mut permits = Vec::new();
        for _ in 0..64 {
            permits.push(gate.enter().await);
        }
        let mut first = Box::pin(gate.enter());
        let mut second = Box::pin(gate.enter());
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        drop(permits.pop());
        drop(first);
        let passed = tokio::time::timeout(Duration::from_secs(1), second).await;
        assert!(passed.is_ok());
    }
}
