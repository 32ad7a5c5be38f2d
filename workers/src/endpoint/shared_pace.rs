//! Requests and tokens per minute, of all workers of a job together.
//!
//! Time is cut into windows, each with its share of the rates. A worker takes a part of the
//! window's share by one change of a value in the store, and sends without asking until it is used
//! up. Clocks of workers may differ: then their windows do, and each is kept all the same.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, OutputError, layout};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::entropy::Entropy;

/// Length of a window where rates are high.
const WINDOW_MS: u64 = 10_000;
/// Where a shorter one would hold hardly anything.
const WINDOW_LONG_MS: u64 = 60_000;
/// Below so many requests per minute the long window is used.
const REQUESTS_FOR_SHORT: u64 = 120;
/// A worker takes this part of a window at a time.
const PARTS: u64 = 16;
/// Another worker was faster, this often in a row.
const CHANGES_MAX: u32 = 100;

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

/// What this worker has of the window that it takes from.
#[derive(Debug)]
struct Held {
    window: u64,
    list: Numbered,
    requests: u64,
    tokens: u64,
}

/// Paces the requests of one worker process to one endpoint.
pub struct SharedPace {
    output: Output,
    endpoint: String,
    rates: Rates,
    window_ms: u64,
    entropy: Arc<dyn Entropy>,
    clock: Arc<dyn Clock>,
    held: Mutex<Option<Held>>,
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
            held: Mutex::new(None),
        }
    }

    /// Waits until a request of about `tokens` may be sent. False if `cancel` was cancelled before.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn wait(&self, tokens: u64, cancel: &CancellationToken) -> Result<bool, OutputError> {
        if self.rates == Rates::default() {
            return Ok(!cancel.is_cancelled());
        }
        let mut held = self.held.lock().await;
        loop {
            if cancel.is_cancelled() {
                return Ok(false);
            }
            let now_ms = u64::try_from(self.clock.now_ms()).unwrap_or(0);
            let window = now_ms / self.window_ms;
            let mut current = match held.take() {
                Some(current) if current.window == window => current,
                _ => Held {
                    window,
                    list: Numbered::new(self.output.clone(), layout::pace(&self.endpoint, window)),
                    requests: 0,
                    tokens: 0,
                },
            };
            let has_requests = self.rates.requests.is_none() || current.requests > 0;
            let has_tokens = self.rates.tokens.is_none() || current.tokens >= tokens;
            let may_send = (has_requests && has_tokens) || self.take(&mut current, tokens).await?;
            if may_send {
                current.requests = current.requests.saturating_sub(1);
                current.tokens = current.tokens.saturating_sub(tokens);
            }
            *held = Some(current);
            if may_send {
                return Ok(true);
            }
            N_WAITS.fetch_add(1, Ordering::Relaxed);
            let rest_ms = self.window_ms - now_ms % self.window_ms;
            // Workers that wait for the same window must not ask at the same moment.
            let jitter_ms = self.entropy.next_u64() % (self.window_ms / 20);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(rest_ms + jitter_ms)) => {}
                () = cancel.cancelled() => return Ok(false),
            }
        }
    }

    fn per_window(&self, rate: u64) -> u64 {
        (rate.saturating_mul(self.window_ms) / 60_000).max(1)
    }

    /// Takes a part of the window that is enough for `tokens`. False if it is used up.
    async fn take(&self, held: &mut Held, tokens: u64) -> Result<bool, OutputError> {
        for _ in 0..CHANGES_MAX {
            let newest = held.list.newest().await?;
            let mut taken: Taken = newest
                .as_ref()
                .and_then(|(_, bytes)| serde_json::from_slice(bytes).ok())
                .unwrap_or_default();
            let Some((requests, more_tokens)) = self.part(taken, held, tokens) else {
                return Ok(false);
            };
            taken.requests += requests;
            taken.tokens += more_tokens;
            taken.nonce = self.entropy.next_u64();
            let bytes = serde_json::to_vec(&taken).unwrap_or_default();
            let last = newest.map(|(number, _)| number);
            if held.list.append(last, bytes.into()).await? {
                held.requests += requests;
                held.tokens += more_tokens;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to take so that one request may be sent; `None` if there is not as much left. A request
    /// that is larger than a whole window gets one for itself.
    fn part(&self, taken: Taken, held: &Held, tokens: u64) -> Option<(u64, u64)> {
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
                let fits = need <= left || taken.tokens == 0;
                fits.then_some(need.max(left.min(quota / PARTS)))?
            }
            _ => 0,
        };
        Some((requests, more_tokens))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use gleaner_storage::Stores;

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

    /// How many requests all workers may send in one window.
    async fn sent_in_window(paces: &[SharedPace], tokens: u64) -> u64 {
        let mut n_sent = 0;
        for pace in paces {
            loop {
                let cancel = CancellationToken::new();
                let waited = tokio::task::unconstrained(pace.wait(tokens, &cancel));
                // The time stands still, so whoever has to wait waits for ever.
                match futures::poll!(std::pin::pin!(waited)) {
                    std::task::Poll::Ready(sent) => n_sent += u64::from(sent.expect("sent")),
                    std::task::Poll::Pending => break,
                }
            }
        }
        n_sent
    }

    #[tokio::test(start_paused = true)]
    async fn workers_share_the_rates() {
        let check = async |n_workers, requests, tokens, each, expected: [u64; 2]| {
            let (paces, clock) = paces(n_workers, Rates { requests, tokens });
            for (window, expected) in (0..).zip(expected) {
                clock
                    .0
                    .store(window * WINDOW_LONG_MS as i64, Ordering::Relaxed);
                let found = sent_in_window(&paces, each).await;
                assert_eq!(found, expected, "{requests:?} {tokens:?} window {window}");
            }
        };
        // A sixth of a minute's requests.
        check(1, Some(600), None, 1000, [100, 100]).await;
        check(3, Some(600), None, 1000, [100, 100]).await;
        // So few that the window is a minute.
        check(3, Some(5), None, 1000, [5, 5]).await;
        check(3, None, Some(60_000), 100, [100, 100]).await;
        // Larger than a window: one at a time.
        check(3, None, Some(600), 5000, [1, 1]).await;
    }
}
