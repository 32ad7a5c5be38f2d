//! What the server answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer that was written to its connection as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The request's key, if it told one.
    pub key: Option<String>,
    /// Status.
    pub status: u16,
    /// Tokens of the prompt, where it was charged for.
    pub prompt_tokens: u64,
    /// Tokens of the completion.
    pub completion_tokens: u64,
    /// Whether it is the answer of an earlier request with the same key, and free.
    pub is_replay: bool,
}

/// Everything that was answered, in order, and how many requests came.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    n_requests: usize,
    n_in_flight: usize,
    n_in_flight_max: usize,
    first_at: Option<Instant>,
    last_at: Option<Instant>,
    /// Sum of the times of all requests that have ended.
    in_flight_time: Duration,
    answered: Vec<Answered>,
}

impl Log {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self) -> usize {
        let mut state = self.state();
        let number = state.n_requests;
        state.n_requests += 1;
        state.n_in_flight += 1;
        state.first_at.get_or_insert_with(Instant::now);
        state.n_in_flight_max = state.n_in_flight_max.max(state.n_in_flight);
        number
    }

    pub(crate) fn end(&self, took: Duration) {
        let mut state = self.state();
        state.in_flight_time += took;
        state.n_in_flight -= 1;
        state.last_at = Some(Instant::now());
    }

    pub(crate) fn answered(&self, answered: Answered) {
        self.state().answered.push(answered);
    }

    /// Requests that came.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.state().n_requests
    }

    /// Most requests that were in flight at a time.
    #[must_use]
    pub fn n_in_flight_max(&self) -> usize {
        self.state().n_in_flight_max
    }

    /// Time from the begin of the first request to the end of the last one.
    #[must_use]
    pub fn span(&self) -> Duration {
        let state = self.state();
        match (state.first_at, state.last_at) {
            (Some(first), Some(last)) => last.saturating_duration_since(first),
            _ => Duration::ZERO,
        }
    }

    /// Requests that were in flight on average: what the client made of its concurrency, however
    /// fast this server was.
    #[must_use]
    pub fn n_in_flight_mean(&self) -> f64 {
        let span = self.span().as_secs_f64();
        let time = self.state().in_flight_time.as_secs_f64();
        if span > 0.0 { time / span } else { 0.0 }
    }

    /// All answers.
    #[must_use]
    pub fn all(&self) -> Vec<Answered> {
        self.state().answered.clone()
    }

    /// Keys of requests that were charged for more than once, with the number of times.
    #[must_use]
    pub fn answered_twice(&self) -> BTreeMap<String, usize> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for answered in &self.state().answered {
            if let Some(key) = &answered.key
                && answered.status == 200
                && !answered.is_replay
            {
                *counts.entry(key.clone()).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count > 1);
        counts
    }

    /// What all answers cost, in billionths, at prices per million tokens.
    #[must_use]
    pub fn price_nanos(&self, input: f64, output: f64) -> u64 {
        let state = self.state();
        let charged = state.answered.iter().filter(|it| !it.is_replay);
        charged
            .map(|it| {
                let units = it.prompt_tokens as f64 * input + it.completion_tokens as f64 * output;
                // Prices of a token are whole billionths but for the noise of floating point.
                (units * 1000.0 - 1e-6).ceil() as u64
            })
            .sum()
    }
}
