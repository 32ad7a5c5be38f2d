//! Since when a store has not answered. What waits for it cannot tell its own slowness from the
//! store's: a request is sent again for minutes before it fails.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is known of one store.
#[derive(Debug)]
pub(super) struct Silence {
    store: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    n_asked: usize,
    /// When it was first asked since it last answered.
    since: Option<Instant>,
    /// The last failure since then.
    failure: Option<(Instant, String)>,
}

impl Silence {
    /// Nothing is known of the store with this name.
    pub(super) fn new(store: String) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { store, state })
    }

    /// The store is asked something, until that is answered or dropped.
    pub(super) fn ask(self: &Arc<Self>) -> Asked {
        let mut state = self.lock();
        state.n_asked += 1;
        state.since.get_or_insert_with(Instant::now);
        Asked(Arc::clone(self))
    }

    /// What is to be said of it if it has not answered for so long, and was asked within that time.
    pub(super) fn lasts(&self, span: Duration) -> Option<String> {
        let state = self.lock();
        let silent = state.since?.elapsed();
        let is_asked = state.n_asked > 0;
        let failure = state.failure.as_ref();
        if silent < span || !(is_asked || failure.is_some_and(|(at, _)| at.elapsed() < span)) {
            return None;
        }
        let why = failure.map_or_else(String::new, |(_, why)| format!(": {why}"));
        let (store, seconds) = (&self.store, silent.as_secs());
        Some(format!("{store} has not answered for {seconds} s{why}"))
    }

    /// Nothing that holds the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to a store.
#[derive(Debug)]
pub(super) struct Asked(Arc<Silence>);

impl Asked {
    /// The store has answered, whatever it said.
    pub(super) fn answered(self) {
        let mut state = self.0.lock();
        state.since = None;
        state.failure = None;
    }

    /// The store cannot be reached, or is not well.
    pub(super) fn failed(self, why: String) {
        self.0.lock().failure = Some((Instant::now(), why));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.n_asked -= 1;
        // Whoever asked did not wait for the answer.
        if state.n_asked == 0 && state.failure.is_none() {
            state.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_asked_in_vain_is_silent() {
        let silence = Silence::new("s3://bucket".to_owned());
        assert_eq!(silence.lasts(Duration::ZERO), None);
        let asked = silence.ask();
        tokio::time::advance(5 * SECOND).await;
        let said = silence.lasts(5 * SECOND).unwrap();
        assert_eq!(said, "s3://bucket has not answered for 5 s");
        assert_eq!(silence.lasts(6 * SECOND), None);
        asked.failed("nobody listens".to_owned());
        tokio::time::advance(SECOND).await;
        let said = silence.lasts(5 * SECOND).unwrap();
        assert_eq!(said, "s3://bucket has not answered for 6 s: nobody listens");
        // It was not asked for long.
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(silence.lasts(5 * SECOND), None);
        silence.ask().answered();
        let asked = silence.ask();
        tokio::time::advance(SECOND).await;
        assert_eq!(silence.lasts(2 * SECOND), None);
        drop(asked);
        tokio::time::advance(SECOND).await;
        let _asked = silence.ask();
        assert_eq!(silence.lasts(SECOND), None);
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_is_enough() {
        let silence = Silence::new("s3://bucket".to_owned());
        let (first, second) = (silence.ask(), silence.ask());
        tokio::time::advance(5 * SECOND).await;
        second.answered();
        assert_eq!(silence.lasts(SECOND), None);
        first.failed("reset".to_owned());
        assert_eq!(silence.lasts(SECOND), None);
    }
}
