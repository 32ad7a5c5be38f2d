//! Threads that nobody waits for any more and that have not ended.
//!
//! A thread cannot be ended from outside. One that hangs in a read of a file system that does not
//! answer is left behind knowingly: its slot goes on with another task, and it is counted.

use std::sync::{Arc, Mutex, PoisonError};

/// A count of the threads of a process that hang.
#[derive(Debug, Clone, Default)]
pub(crate) struct HungThreads(Arc<Mutex<usize>>);

impl HungThreads {
    /// How many hang now.
    pub(crate) fn count(&self) -> usize {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One value for whoever waits for a thread and one for the thread, to be dropped when the
    /// waiting or the thread ends.
    pub(crate) fn watch(&self) -> (Waiting, Running) {
        let state = Arc::new(Mutex::new(State::Awaited));
        let watch = || Watch {
            state: Arc::clone(&state),
            hung: Arc::clone(&self.0),
        };
        (Waiting(watch()), Running(watch()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Awaited,
    LeftBehind,
    Ended,
}

#[derive(Debug)]
struct Watch {
    state: Arc<Mutex<State>>,
    hung: Arc<Mutex<usize>>,
}

impl Watch {
    fn becomes(&self, next: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hung = self.hung.lock().unwrap_or_else(PoisonError::into_inner);
        match (*state, next) {
            (State::Awaited, State::LeftBehind) => *hung += 1,
            (State::LeftBehind, State::Ended) => *hung -= 1,
            (State::Ended, _) => return,
            _ => {}
        }
        *state = next;
    }
}

/// Held while somebody waits for the thread.
#[derive(Debug)]
pub(crate) struct Waiting(Watch);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.becomes(State::LeftBehind);
    }
}

/// Held by the thread.
#[derive(Debug)]
pub(crate) struct Running(Watch);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.becomes(State::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_hangs_from_when_it_is_left_until_it_ends() {
        let hung = HungThreads::default();
        let (waiting, running) = hung.watch();
        drop(running);
        drop(waiting);
        assert_eq!(hung.count(), 0);
        let (waiting, running) = hung.watch();
        let (_still_waiting, _still_running) = hung.watch();
        assert_eq!(hung.count(), 0);
        drop(waiting);
        assert_eq!(hung.count(), 1);
        drop(running);
        assert_eq!(hung.count(), 0);
    }
}
