//! Whether requests that were given up are to blame, or their server: one that a server fails at each
//! time is given up for good, and a server that fails at everything ends the job, so that nothing is
//! given up that will be answered tomorrow.

use tokio::sync::watch;

/// Requests given up in a row, with no answer to any other in between, that are the server's fault.
const GIVEN_UP_MAX: u32 = 5;

#[derive(Debug, Default)]
struct State {
    /// Requests that may still be answered.
    n_open: usize,
    /// Requests that were given up since any was answered.
    n_given_up: u32,
    n_answers: u64,
}

/// Shared by all requests to an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    state: watch::Sender<State>,
}

/// A request that may still be answered, until it is dropped.
#[derive(Debug)]
pub(crate) struct Open<'a>(&'a Verdicts);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.n_open -= 1);
    }
}

impl Verdicts {
    /// A request begins.
    pub(crate) fn begin(&self) -> Open<'_> {
        self.state.send_modify(|state| state.n_open += 1);
        Open(self)
    }

    /// A request was answered, whatever the answer is worth.
    pub(crate) fn answered(&self) {
        self.state.send_modify(|state| {
            state.n_given_up = 0;
            state.n_answers += 1;
        });
    }

    /// Whether the server is to blame for a request that was sent as often as makes sense. Waits until
    /// that is known: others that are under way tell, or there are none.
    pub(crate) async fn is_servers_fault(&self, given_up: Open<'_>) -> bool {
        let mut changes = self.state.subscribe();
        let mut n_answers = 0;
        self.state.send_modify(|state| {
            state.n_given_up = state.n_given_up.saturating_add(1);
            n_answers = state.n_answers;
        });
        drop(given_up);
        let is_fault =
            |state: &State| state.n_answers == n_answers && state.n_given_up >= GIVEN_UP_MAX;
        let known = changes
            .wait_for(|state| state.n_answers != n_answers || state.n_open == 0 || is_fault(state));
        // The sender lives as long as `self`.
        known.await.is_ok_and(|state| is_fault(&state))
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    async fn faults(verdicts: &Verdicts, given_up: Vec<Open<'_>>) -> Vec<bool> {
        let waiting = given_up
            .into_iter()
            .map(|open| verdicts.is_servers_fault(open));
        join_all(waiting).await
    }

    #[tokio::test]
    async fn the_first_of_many_are_no_more_to_blame_than_the_last() {
        let verdicts = Verdicts::default();
        let given_up: Vec<_> = (0..8).map(|_| verdicts.begin()).collect();
        assert_eq!(faults(&verdicts, given_up).await, [true; 8]);
    }

    #[tokio::test]
    async fn one_that_fails_alone_is_to_blame() {
        let verdicts = Verdicts::default();
        let given_up = vec![verdicts.begin()];
        assert_eq!(faults(&verdicts, given_up).await, [false]);
        let given_up = (0..3).map(|_| verdicts.begin()).collect();
        assert_eq!(faults(&verdicts, given_up).await, [false; 3]);
        // In a row with those before.
        let given_up = vec![verdicts.begin()];
        assert_eq!(faults(&verdicts, given_up).await, [true]);
        verdicts.answered();
        let given_up = vec![verdicts.begin()];
        assert_eq!(faults(&verdicts, given_up).await, [false]);
    }

    #[tokio::test]
    async fn an_answer_to_another_shows_that_the_server_works() {
        let verdicts = Verdicts::default();
        let other = verdicts.begin();
        let given_up: Vec<_> = (0..4).map(|_| verdicts.begin()).collect();
        let waiting = faults(&verdicts, given_up);
        tokio::pin!(waiting);
        let early = tokio::select! {
            biased;
            faults = &mut waiting => Some(faults),
            () = tokio::task::yield_now() => None,
        };
        assert_eq!(early, None, "nothing is known yet");
        verdicts.answered();
        assert_eq!(waiting.await, [false; 4]);
        drop(other);
    }
}
