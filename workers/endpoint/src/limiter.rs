//! How many requests may be in flight: fewer while the server is overloaded, more as it recovers;
//! and whether it answers anybody at all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::failure::FailureClass;
use crate::series::Series;

/// What remains of the limit when the server says that it has too much to do.
const DECREASE: f64 = 0.7;
/// The limit decreases once within this time: many requests in flight fail for one reason.
const DECREASE_PAUSE: Duration = Duration::from_millis(500);
/// Requests that are got ready ahead of those in flight: this part of the limit, at least a few.
/// So the time that consent takes is not the server's.
const AHEAD_PART: usize = 2;
const AHEAD_MIN: usize = 8;
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
    /// `previous` is why it is sent again; `series` takes it in when it [has](Series::at) a number.
    async fn before(&self, previous: Option<FailureClass>, series: Series) -> bool;

    /// The number of the sending that was consented to, over all processes that send the request.
    async fn number(&self) -> Option<u32> {
        None
    }

    /// The series that the first sending goes on with: that of those before it by others.
    fn series(&self) -> Series {
        Series::default()
    }

    /// Whether consent still holds, now that there is a place in flight. If not, it is withdrawn and
    /// asked for again.
    async fn is_current(&self) -> bool {
        true
    }

    /// What was consented to is not sent after all.
    async fn withdraw(&self) {}

    /// The sending failed for this reason, and was the last one. What is kept for it may be what others
    /// wait for.
    async fn failed(&self, _class: FailureClass) {}

    /// Of several who wait in line, the smallest comes first. With the rank of its task, an older task
    /// ends before a newer one begins to send, whose requests then fill the places that the last ones
    /// of the older leave.
    fn rank(&self) -> u64 {
        0
    }
}

#[derive(Debug)]
struct State {
    limit: f64,
    /// Below it the limit doubles with each round of answers, above it grows by one.
    threshold: f64,
    /// Whether a request was answered since the limit decreased.
    was_answered: bool,
    /// Those who wait for a turn, by rank and order of arrival.
    waiting: BTreeMap<(u64, u64), Arc<Notify>>,
    n_arrived: u64,
    /// Requests that are got ready or in flight.
    n_lined_up: usize,
    n_in_flight: usize,
    decreased_at: Option<Instant>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
    /// When a request was answered.
    answered_at: Option<Instant>,
}

impl State {
    fn has_turn(&self) -> bool {
        let limit = self.limit as usize;
        self.n_lined_up < limit + (limit / AHEAD_PART).max(AHEAD_MIN)
    }

    fn has_place(&self) -> bool {
        self.n_in_flight < self.limit as usize
    }

    /// Tells whoever is first in line that there may be a turn.
    fn call_first(&self) {
        if let Some(called) = self.waiting.values().next()
            && self.has_turn()
        {
            called.notify_one();
        }
    }
}

/// Shared by all requests to an endpoint.
#[derive(Debug)]
pub(crate) struct Limiter {
    ceiling: usize,
    state: Mutex<State>,
    /// Somebody left his place.
    places: Notify,
}

/// Waits in line until it is dropped.
#[derive(Debug)]
struct Waiting<'a> {
    limiter: &'a Limiter,
    key: (u64, u64),
    called: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        state.waiting.remove(&self.key);
        state.call_first();
    }
}

/// A turn to be got ready, and then a place among the requests in flight.
#[derive(Debug)]
pub(crate) struct Turn {
    limiter: Arc<Limiter>,
    has_place: bool,
}

impl Turn {
    /// Waits for a place, which is kept until the turn is dropped.
    pub(crate) async fn place(&mut self) {
        if self.has_place {
            return;
        }
        let take = |state: &mut State| {
            let is_free = state.has_place();
            state.n_in_flight += usize::from(is_free);
            is_free
        };
        self.limiter.wait(&self.limiter.places, take).await;
        self.has_place = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.limiter.state();
            state.n_lined_up -= 1;
            state.n_in_flight -= usize::from(self.has_place);
            state.call_first();
        }
        if self.has_place {
            self.limiter.places.notify_one();
        }
    }
}

impl Limiter {
    pub(crate) fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            state: Mutex::new(State {
                limit: ceiling as f64,
                threshold: ceiling as f64,
                was_answered: true,
                waiting: BTreeMap::new(),
                n_arrived: 0,
                n_lined_up: 0,
                n_in_flight: 0,
                decreased_at: None,
                not_before: None,
                answered_at: None,
            }),
            places: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn, behind those with a smaller rank and those of its own that came before.
    pub(crate) async fn line_up(self: &Arc<Self>, rank: u64) -> Turn {
        let waiting = self.wait_in_line(rank);
        loop {
            let wait_until = {
                let mut state = self.state();
                let is_first = state.waiting.keys().next() == Some(&waiting.key);
                let not_before = state.not_before.filter(|it| *it > Instant::now());
                if not_before.is_none() && is_first && state.has_turn() {
                    state.n_lined_up += 1;
                    break;
                }
                not_before
            };
            match wait_until {
                Some(not_before) => {
                    tokio::time::sleep_until(not_before).await;
                    // Others wait for the same moment.
                    self.state().call_first();
                }
                None => waiting.called.notified().await,
            }
        }
        Turn {
            limiter: Arc::clone(self),
            has_place: false,
        }
    }

    fn wait_in_line(&self, rank: u64) -> Waiting<'_> {
        let called = Arc::new(Notify::new());
        let mut state = self.state();
        let key = (rank, state.n_arrived);
        state.n_arrived += 1;
        state.waiting.insert(key, Arc::clone(&called));
        Waiting {
            limiter: self,
            key,
            called,
        }
    }

    /// Waits until `take` takes something, and the server lets anything be sent.
    async fn wait(&self, changed: &Notify, take: impl Fn(&mut State) -> bool) {
        loop {
            let notified = changed.notified();
            let wait_until = {
                let mut state = self.state();
                let not_before = state.not_before.filter(|it| *it > Instant::now());
                if not_before.is_none() && take(&mut state) {
                    return;
                }
                not_before
            };
            match wait_until {
                Some(not_before) => {
                    tokio::time::sleep_until(not_before).await;
                    // Others wait for the same moment.
                    changed.notify_one();
                }
                None => notified.await,
            }
        }
    }

    /// A request was answered, whatever the answer is worth: the server works.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        state.answered_at = Some(Instant::now());
        state.was_answered = true;
        if state.limit < self.ceiling as f64 {
            let is_far = state.limit < state.threshold;
            let step = if is_far { 1.0 } else { 1.0 / state.limit };
            state.limit = (state.limit + step).min(self.ceiling as f64);
            state.call_first();
            drop(state);
            self.places.notify_one();
        }
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
            // While nobody is answered, nothing is learnt of how many the server bears.
            if state.was_answered {
                state.threshold = state.limit;
            }
            state.was_answered = false;
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
        let mut places = Vec::new();
        for _ in 0..10 {
            places.push(placed(&limiter).await);
        }
        let mut waiting = std::pin::pin!(placed(&limiter));
        assert!(futures_poll(waiting.as_mut()).is_none());
        places.pop();
        places.push(futures_poll(waiting.as_mut()).expect("a place is free"));
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

    /// A server that was away for a while is soon asked as much as before, and by and by more.
    #[tokio::test(start_paused = true)]
    async fn the_limit_comes_back_quickly() {
        let limiter = Limiter::new(32);
        for _ in 0..20 {
            limiter.throttled(None);
            tokio::time::advance(DECREASE_PAUSE).await;
        }
        assert_eq!(limiter.limit(), 1);
        // Each round has as many answers as the limit was.
        let mut rounds = Vec::new();
        while limiter.limit() < 32 {
            for _ in 0..limiter.limit() {
                limiter.answered();
            }
            rounds.push(limiter.limit());
        }
        assert_eq!(rounds[..6], [2, 4, 8, 16, 23, 24], "{rounds:?}");
        assert!(rounds.len() < 17, "{rounds:?}");
        // One that answers some and refuses others is not asked more and more.
        for _ in 0..3 {
            limiter.throttled(None);
            limiter.answered();
            tokio::time::advance(DECREASE_PAUSE).await;
        }
        let before = limiter.limit();
        for _ in 0..before {
            limiter.answered();
        }
        assert!(limiter.limit() <= before + 1, "{before}");
    }

    /// Some are got ready while all places are taken, but not all that are to be sent.
    #[tokio::test(start_paused = true)]
    async fn a_few_are_ready_ahead() {
        let limiter = Arc::new(Limiter::new(20));
        let mut turns = Vec::new();
        for _ in 0..30 {
            turns.push(futures_poll(std::pin::pin!(limiter.line_up(0))).expect("a turn"));
        }
        assert!(futures_poll(std::pin::pin!(limiter.line_up(0))).is_none());
        for turn in turns.iter_mut().take(20) {
            futures_poll(std::pin::pin!(turn.place())).expect("a place");
        }
        assert!(futures_poll(std::pin::pin!(turns[20].place())).is_none());
        // Whoever leaves the line without a place makes room in the line only.
        turns.pop();
        let mut last = futures_poll(std::pin::pin!(limiter.line_up(0))).expect("a turn");
        assert!(futures_poll(std::pin::pin!(last.place())).is_none());
        turns.remove(0);
        futures_poll(std::pin::pin!(last.place())).expect("a place");
    }

    /// Whoever has a smaller rank comes first, whenever it comes; who goes away holds nobody up.
    #[tokio::test(start_paused = true)]
    async fn older_tasks_come_first() {
        let limiter = Arc::new(Limiter::new(1));
        let mut turns = Vec::new();
        for _ in 0..1 + AHEAD_MIN {
            turns.push(limiter.line_up(0).await);
        }
        let mut waiting: Vec<_> = [7, 5, 7, 3, 5]
            .into_iter()
            .map(|rank| Box::pin(limiter.line_up(rank)))
            .collect();
        let mut ready = |turns: &mut Vec<Turn>| {
            let mut found = Vec::new();
            for (idx, line) in waiting.iter_mut().enumerate() {
                if let Some(turn) = futures_poll(line.as_mut()) {
                    turns.push(turn);
                    found.push(idx);
                }
            }
            for idx in found.iter().rev() {
                drop(waiting.remove(*idx));
            }
            found
        };
        assert_eq!(ready(&mut turns), Vec::<usize>::new());
        turns.pop();
        assert_eq!(ready(&mut turns), [3]);
        // Those of rank 5 in the order in which they came; they stand second and last by now.
        turns.pop();
        assert_eq!(ready(&mut turns), [1]);
        turns.pop();
        assert_eq!(ready(&mut turns), [2]);
        turns.pop();
        assert_eq!(ready(&mut turns), [0]);
        drop(waiting);
        turns.pop();
        assert!(futures_poll(std::pin::pin!(limiter.line_up(9))).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn all_wait_when_the_server_says_so() {
        let limiter = Arc::new(Limiter::new(10));
        limiter.throttled(Some(Duration::from_secs(7)));
        let start = Instant::now();
        let (a, b) = tokio::join!(placed(&limiter), placed(&limiter));
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

    async fn placed(limiter: &Arc<Limiter>) -> Turn {
        let mut turn = limiter.line_up(0).await;
        turn.place().await;
        turn
    }

    fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
