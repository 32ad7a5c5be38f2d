//! Requests and tokens per minute, of all workers of a job together.
//!
//! Time is cut into windows, each with its share of the rates. A worker takes a part of the
//! window's share by one change of a value in the store, and sends without asking until it is used
//! up. Where a window is used up, it takes from the first later one that has room, and waits for
//! that: whoever asks first comes first, and nobody waits for ever. A request that is larger than a
//! window's tokens takes as many whole windows as it needs, at most those of a minute, which nobody
//! else has touched. Clocks of workers may differ: then their windows do, and each is kept all the
//! same.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, OutputError, layout};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::clock::Clock;
use super::ending::Ending;
use crate::entropy::Entropy;

/// Length of a window where rates are high.
const WINDOW_MS: u64 = 10_000;
/// Where a shorter one would hold hardly anything.
const WINDOW_LONG_MS: u64 = 60_000;
/// Below so many requests per minute the long window is used.
const REQUESTS_FOR_SHORT: u64 = 120;
/// A worker takes this part of a window at a time.
const PARTS: u64 = 16;
/// A minute.
const MINUTE_MS: u64 = 60_000;
/// Windows that are looked at for one with room: more than any number of workers takes ahead.
const WINDOWS_MAX: u64 = 10_000;

/// Rates per minute; without one there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests.
    pub requests: Option<u64>,
    /// Tokens of prompts and completions.
    pub tokens: Option<u64>,
}

/// Waits for a next window, since the process started.
static N_WAITS: AtomicU64 = AtomicU64::new(0);

/// How often requests of this process waited for the rates of their job since it started.
#[must_use]
pub fn n_waits() -> u64 {
    N_WAITS.load(Ordering::Relaxed)
}

/// What was taken of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    requests: u64,
    tokens: u64,
    /// Random, so that no two changes have the same bytes.
    nonce: u64,
}

/// What this worker has of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    window: u64,
    requests: u64,
    tokens: u64,
}

/// What this worker has, and the lists of the windows that it took from, so that they are not listed
/// again.
#[derive(Debug, Default)]
struct Taking {
    held: Held,
    lists: BTreeMap<u64, Arc<Numbered>>,
}

/// Paces the requests of one worker process to one endpoint.
pub struct SharedPace {
    output: Output,
    endpoint: String,
    rates: Rates,
    window_ms: u64,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    taking: Mutex<Taking>,
}

impl fmt::Debug for SharedPace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPace")
            .field("endpoint", &self.endpoint)
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}

impl SharedPace {
    /// A pace of `rates`. `endpoint` is a hash of its URL and model.
    #[must_use]
    pub fn new(
        output: Output,
        endpoint: String,
        rates: Rates,
        entropy: Arc<dyn Entropy>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let is_slow = rates.requests.is_some_and(|rate| rate < REQUESTS_FOR_SHORT);
        Self {
            output,
            endpoint,
            rates,
            window_ms: if is_slow { WINDOW_LONG_MS } else { WINDOW_MS },
            entropy,
            clock,
            taking: Mutex::default(),
        }
    }

    /// Waits until a request of about `tokens` may be sent. False if `ending` comes before.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn wait(&self, tokens: u64, ending: &Ending<'_>) -> Result<bool, OutputError> {
        if self.rates == Rates::default() {
            return Ok(!ending.is_there());
        }
        let mut taking = tokio::select! {
            biased;
            () = ending.comes() => return Ok(false),
            taking = self.taking.lock() => taking,
        };
        loop {
            if ending.is_there() {
                return Ok(false);
            }
            let now_ms = u64::try_from(self.clock.now_ms()).unwrap_or(0);
            let now = now_ms / self.window_ms;
            if taking.held.window < now || !self.is_enough(taking.held, tokens) {
                taking.held = self.take(&mut taking, now, tokens).await?;
            }
            let held = &mut taking.held;
            if held.window <= now {
                held.requests = held.requests.saturating_sub(1);
                held.tokens = held.tokens.saturating_sub(tokens);
                return Ok(true);
            }
            N_WAITS.fetch_add(1, Ordering::Relaxed);
            let rest_ms = (held.window * self.window_ms).saturating_sub(now_ms);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(rest_ms)) => {}
                () = ending.comes() => return Ok(false),
            }
        }
    }

    fn per_window(&self, rate: u64) -> u64 {
        (rate.saturating_mul(self.window_ms) / MINUTE_MS).max(1)
    }

    fn is_enough(&self, held: Held, tokens: u64) -> bool {
        let has_requests = self.rates.requests.is_none() || held.requests > 0;
        let has_tokens = self.rates.tokens.is_none() || held.tokens >= tokens;
        has_requests && has_tokens
    }

    /// Takes a part that is enough for `tokens` of the first window from `now` on that has it.
    async fn take(&self, taking: &mut Taking, now: u64, tokens: u64) -> Result<Held, OutputError> {
        taking.lists.retain(|window, _| *window >= now);
        let held = taking.held;
        let quota = self.rates.tokens.map(|rate| self.per_window(rate));
        // As many whole windows as it needs; those after the first are left to it.
        let n_windows = match quota {
            Some(quota) if tokens > quota => tokens.div_ceil(quota).min(MINUTE_MS / self.window_ms),
            _ => 1,
        };
        let is_large = quota.is_some_and(|quota| tokens > quota);
        let mut first: Option<Held> = None;
        let mut n_taken = 0;
        for window in now..now + WINDOWS_MAX {
            let mine = match first {
                Some(_) => None,
                None if held.window == window => Some(held),
                None => Some(Held {
                    window,
                    requests: 0,
                    tokens: 0,
                }),
            };
            let list = taking.lists.entry(window).or_insert_with(|| {
                let folder = layout::pace(&self.endpoint, window);
                Arc::new(Numbered::new(self.output.clone(), folder))
            });
            let need = |taken: &Taken| match is_large {
                true => self.whole_window(taken, mine.is_some()),
                false => self.part(taken, mine.unwrap_or(held), tokens),
            };
            let Some((requests, more_tokens)) = self.change(list, need).await? else {
                continue;
            };
            n_taken += 1;
            if let Some(mut mine) = mine {
                mine.requests += requests;
                mine.tokens = if is_large {
                    tokens
                } else {
                    mine.tokens + more_tokens
                };
                first = Some(mine);
            }
            if n_taken == n_windows {
                break;
            }
        }
        // Beyond all windows that are looked at there is nothing to wait for.
        Ok(first.unwrap_or(Held {
            window: now + WINDOWS_MAX,
            requests: 1,
            tokens,
        }))
    }

    /// Adds what `need` says to what was taken of a window; `None` if there is not as much left.
    async fn change(
        &self,
        list: &Numbered,
        need: impl Fn(&Taken) -> Option<(u64, u64)>,
    ) -> Result<Option<(u64, u64)>, OutputError> {
        loop {
            let newest = list.newest().await?;
            let mut taken: Taken = newest
                .as_ref()
                .and_then(|(_, bytes)| serde_json::from_slice(bytes).ok())
                .unwrap_or_default();
            let Some((requests, tokens)) = need(&taken) else {
                return Ok(None);
            };
            taken.requests += requests;
            taken.tokens += tokens;
            taken.nonce = self.entropy.next_u64();
            let bytes = serde_json::to_vec(&taken).unwrap_or_default();
            let last = newest.map(|(number, _)| number);
            // Whoever is faster takes something, so this ends with what there is.
            if list.append(last, bytes.into()).await? {
                return Ok(Some((requests, tokens)));
            }
        }
    }

    /// Requests and tokens to take so that one request may be sent.
    fn part(&self, taken: &Taken, held: Held, tokens: u64) -> Option<(u64, u64)> {
        let requests = match self.rates.requests {
            Some(rate) if held.requests == 0 => {
                let quota = self.per_window(rate);
                let left = quota.saturating_sub(taken.requests);
                (left > 0).then_some(left.min((quota / PARTS).max(1)))?
            }
            _ => 0,
        };
        let more_tokens = match self.rates.tokens {
            Some(rate) if held.tokens < tokens => {
                let quota = self.per_window(rate);
                let left = quota.saturating_sub(taken.tokens);
                let need = tokens - held.tokens;
                (need <= left).then_some(need.max(left.min(quota / PARTS)))?
            }
            _ => 0,
        };
        Some((requests, more_tokens))
    }

    /// All tokens of a window that nobody has taken any of, with one request if it is the window
    /// that the request is sent in.
    fn whole_window(&self, taken: &Taken, is_sent_in: bool) -> Option<(u64, u64)> {
        let has_request = self
            .rates
            .requests
            .is_none_or(|rate| taken.requests < self.per_window(rate));
        let quota = self.rates.tokens.map(|rate| self.per_window(rate));
        let is_free = taken.tokens == 0 && (has_request || !is_sent_in);
        is_free.then_some((u64::from(is_sent_in), quota.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use gleaner_storage::Stores;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::entropy::SeededEntropy;

    #[derive(Debug, Default)]
    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn now_ms(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn paces(n_workers: u64, rates: Rates) -> (Vec<SharedPace>, Arc<SetClock>) {
        let store = Arc::new(object_store::memory::InMemory::new());
        let stores = Stores::from_env().with("memory://pace", store);
        let output = Output::open(&stores, "memory://pace/out").expect("an output");
        let clock = Arc::new(SetClock::default());
        let pace = |worker| {
            let entropy = Arc::new(SeededEntropy::new(worker));
            SharedPace::new(
                output.clone(),
                "e".to_owned(),
                rates,
                entropy,
                clock.clone(),
            )
        };
        ((0..n_workers).map(pace).collect(), clock)
    }

    /// A request of so many tokens by each worker in turn, until all wait: how many were sent. The time
    /// stands still.
    async fn sent_now(paces: &[SharedPace], tokens: u64) -> u64 {
        let mut n_sent = 0;
        for pace in paces {
            while may_send(pace, tokens).await {
                n_sent += 1;
            }
        }
        n_sent
    }

    async fn may_send(pace: &SharedPace, tokens: u64) -> bool {
        let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
        let ending = Ending {
            cancel: &cancel,
            stop: &stop,
        };
        let waited = tokio::task::unconstrained(pace.wait(tokens, &ending));
        match futures::poll!(std::pin::pin!(waited)) {
            std::task::Poll::Ready(sent) => sent.expect("the store answers"),
            std::task::Poll::Pending => false,
        }
    }

    fn go_to(clock: &SetClock, ms: u64) {
        clock.0.store(ms as i64, Ordering::Relaxed);
    }

    #[tokio::test(start_paused = true)]
    async fn workers_share_the_rates() {
        let check = async |n_workers, requests, tokens, each, expected: [u64; 2]| {
            let (paces, clock) = paces(n_workers, Rates { requests, tokens });
            for (minute, expected) in (0..).zip(expected) {
                go_to(&clock, minute * MINUTE_MS);
                let found = sent_now(&paces, each).await;
                assert_eq!(found, expected, "{requests:?} {tokens:?} minute {minute}");
            }
        };
        // A sixth of a minute's requests.
        check(1, Some(600), None, 1000, [100, 100]).await;
        check(3, Some(600), None, 1000, [100, 100]).await;
        // So few that the window is a minute.
        check(3, Some(5), None, 1000, [5, 5]).await;
        check(3, None, Some(60_000), 100, [100, 100]).await;
    }

    /// It takes whole windows for itself: as many as it needs, at most a minute.
    #[tokio::test(start_paused = true)]
    async fn requests_larger_than_a_window() {
        let rates = Rates {
            requests: None,
            tokens: Some(600),
        };
        // Ten seconds have a hundred tokens.
        let check = async |tokens, n_windows: u64| {
            let (paces, clock) = paces(2, rates);
            assert!(may_send(&paces[0], tokens).await, "{tokens}");
            // The other one has its turn when those windows are over.
            for window in 0..n_windows {
                go_to(&clock, window * WINDOW_MS);
                assert!(!may_send(&paces[1], 10).await, "{tokens} {window}");
            }
            go_to(&clock, n_windows * WINDOW_MS);
            assert!(may_send(&paces[1], 10).await, "{tokens}");
        };
        check(101, 2).await;
        check(300, 3).await;
        check(600, 6).await;
        check(5000, 6).await;
    }

    /// However much others send in between.
    #[tokio::test(start_paused = true)]
    async fn a_large_request_has_its_turn_beside_small_ones() {
        let rates = Rates {
            requests: None,
            tokens: Some(600),
        };
        let (paces, clock) = paces(3, rates);
        let (large, small) = (&paces[0], &paces[1..]);
        assert_eq!(sent_now(small, 10).await, 10);
        let mut was_sent_in = None;
        for window in 0..30 {
            go_to(&clock, window * WINDOW_MS);
            // Those who send little are faster each time.
            let n_sent = sent_now(small, 10).await;
            if was_sent_in.is_none() && may_send(large, 250).await {
                was_sent_in = Some(window);
                assert_eq!(n_sent, 0, "{window}");
            }
        }
        assert!(was_sent_in.is_some_and(|it| it < 6), "{was_sent_in:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_woken_by_an_end() {
        let rates = Rates {
            requests: Some(5),
            tokens: None,
        };
        let (paces, _) = paces(1, rates);
        assert_eq!(sent_now(&paces, 1).await, 5);
        let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
        let ending = Ending {
            cancel: &cancel,
            stop: &stop,
        };
        // One holds the turn and waits for the next minute, the other waits for its turn.
        let waits = async {
            let (a, b) = tokio::join!(paces[0].wait(1, &ending), paces[0].wait(1, &ending));
            (a.expect("no failure"), b.expect("no failure"))
        };
        let (waited, ()) = tokio::join!(waits, async {
            tokio::task::yield_now().await;
            stop.cancel();
        });
        assert_eq!(waited, (false, false));
    }
}
