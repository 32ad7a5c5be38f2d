//! Refusals of a broker that has let this process in before: they are believed when they persist.
//!
//! A broker that is restarted opens its port before it knows all of its users, vhosts and
//! permissions. To end for what it says meanwhile would end every worker and every run at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::QueueError;

/// Refusals of the same thing in a row that are believed,
const IN_ROW: u32 = 5;
/// if they last for this time.
const LASTING: Duration = Duration::from_secs(30);
/// Refusals further apart than this are not in a row: in between, it was granted.
const APART: Duration = Duration::from_secs(60);

/// What a broker refused lately.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    was_let_in: bool,
    /// By what was refused, of which there are few kinds.
    rows: BTreeMap<String, Row>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    first: Instant,
    last: Instant,
    n: u32,
}

impl Refusals {
    /// The broker has let this process in, and permits what it does at the start.
    pub(super) fn let_in(&self) {
        self.lock().was_let_in = true;
    }

    /// A refusal of `what` at `now`, or that the broker is not there, if it may pass.
    pub(super) fn weigh(&self, refusal: QueueError, what: &str, now: Instant) -> QueueError {
        let QueueError::Refused { message, help } = refusal else {
            return refusal;
        };
        let mut state = self.lock();
        if !state.was_let_in {
            return QueueError::Refused { message, help };
        }
        let fresh = Row {
            first: now,
            last: now,
            n: 0,
        };
        let row = state.rows.entry(what.to_owned()).or_insert(fresh);
        if now.saturating_duration_since(row.last) > APART {
            *row = fresh;
        }
        row.last = now;
        row.n += 1;
        if row.n >= IN_ROW && now.saturating_duration_since(row.first) >= LASTING {
            return QueueError::Refused { message, help };
        }
        QueueError::Unreachable(format!(
            "{message} (it let this process in before, so it is asked again)"
        ))
    }

    /// Nothing that holds the lock can leave it half-changed.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> QueueError {
        QueueError::Refused {
            message: "the broker refuses the user".to_owned(),
            help: "check it".to_owned(),
        }
    }

    #[test]
    fn a_refusal_is_believed_at_once_before_it_was_let_in_and_when_it_persists_after() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let is_believed = |what: &str, second: u64| {
            let now = start + Duration::from_secs(second);
            let weighed = refusals.weigh(refused(), what, now);
            matches!(weighed, QueueError::Refused { .. })
        };
        assert!(is_believed("connect", 0));
        refusals.let_in();
        // A broker that recovers: many refusals within a short time.
        for second in 10..35 {
            assert!(!is_believed("connect", second), "{second}");
        }
        // It was there for a while, and recovers again.
        for second in [120, 130, 140] {
            assert!(!is_believed("connect", second), "{second}");
        }
        // Few, however long it takes; and each thing for itself.
        assert!(!is_believed("publish", 151));
        assert!(!is_believed("connect", 155));
        assert!(is_believed("connect", 160));
        assert!(is_believed("connect", 170));
        assert!(!is_believed("publish", 170));
    }
}
