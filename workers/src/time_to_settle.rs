//! How long a worker may hold a delivery: what the broker allows, shared out so that the outcome is
//! stored before the broker takes the delivery away.

use std::time::Duration;

use tokio::time::Instant;

/// What reading a plan, and waiting for a thread that was cancelled, may take of the whole. The
/// rest is for attempts, each of which is bounded by at most half of the whole, and for recording
/// their failure.
const PART: u32 = 8;

/// The time until a delivery must be settled, from when it was taken. Unbounded where the queue
/// lets a worker hold what it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeToSettle {
    held_max: Option<(Duration, Instant)>,
}

impl TimeToSettle {
    /// A delivery is taken now.
    pub(crate) fn begin(consumer_timeout: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            held_max: consumer_timeout.map(|timeout| (timeout, now + timeout)),
        }
    }

    /// How long something beside attempts may take, and `most` at most.
    pub(crate) fn share(self, most: Duration) -> Duration {
        self.held_max
            .map_or(most, |(held_max, _)| most.min(held_max / PART))
    }

    /// What is left, and `most` at most.
    pub(crate) fn left(self, most: Duration) -> Duration {
        self.held_max.map_or(most, |(_, until)| {
            most.min(until.saturating_duration_since(Instant::now()))
        })
    }

    /// Whether another attempt that takes `task_timeout`, and what may follow it, fit.
    pub(crate) fn is_enough_for(self, task_timeout: Duration) -> bool {
        self.held_max.is_none_or(|(held_max, until)| {
            Instant::now() + task_timeout + held_max / PART * 2 <= until
        })
    }
}
