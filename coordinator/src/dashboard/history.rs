//! How much was done when, over a whole run, in a bounded number of equal spans of time.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

/// Spans that are kept. When there would be more, each two become one.
const SPANS_MAX: usize = 120;
/// The first span's length, in seconds.
const SPAN_SECONDS: u64 = 1;
/// Moments that are kept of the span that a speed is taken from.
const MOMENTS: usize = 32;
/// A speed is that of the last minute, or of the last quarter of a long phase.
const SPEED_SECONDS: f64 = 60.0;
const SPEED_SHARE: f64 = 0.25;

/// What was done in each span of time since the run began.
#[derive(Debug, Clone, Serialize)]
pub(super) struct History {
    /// Length of a span.
    span_seconds: u64,
    /// Bytes that were read in each.
    bytes: Vec<u64>,
    /// Rows that were read in each, where the number of rows is known before.
    rows: Vec<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            span_seconds: SPAN_SECONDS,
            bytes: Vec::new(),
            rows: Vec::new(),
        }
    }
}

impl History {
    /// So much was done by `at`, counted from the begin of the run.
    pub(super) fn add(&mut self, at: Duration, rows: u64, bytes: u64) {
        let span = self.reach(at);
        self.rows[span] += rows;
        self.bytes[span] += bytes;
    }

    /// The history until `at`: nothing has happened since what was added last.
    pub(super) fn until(&self, at: Duration) -> Self {
        let mut history = self.clone();
        history.reach(at);
        history
    }

    /// The number of the span of a time, which exists then.
    fn reach(&mut self, at: Duration) -> usize {
        loop {
            let span = usize::try_from(at.as_secs() / self.span_seconds).unwrap_or(usize::MAX);
            if span < SPANS_MAX {
                let n_spans = self.bytes.len().max(span + 1);
                self.bytes.resize(n_spans, 0);
                self.rows.resize(n_spans, 0);
                return span;
            }
            self.span_seconds *= 2;
            for values in [&mut self.bytes, &mut self.rows] {
                *values = values.chunks(2).map(|two| two.iter().sum()).collect();
            }
        }
    }
}

/// How fast a phase goes, by what it did lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Speed {
    /// Seconds, rows, bytes: some moments of the span that counts, and one before it.
    moments: VecDeque<(f64, u64, u64)>,
    /// Rows and bytes, as they were told last.
    last: Option<(u64, u64)>,
}

/// The span of time that counts, so long after the begin.
fn speed_span(seconds: f64) -> f64 {
    SPEED_SECONDS.max(seconds * SPEED_SHARE)
}

impl Speed {
    /// By `seconds` after the begin of the phase, so much was done by this run.
    pub(super) fn add(&mut self, seconds: f64, rows: u64, bytes: u64) {
        self.last = Some((rows, bytes));
        let span = speed_span(seconds);
        let pause = span / MOMENTS as f64;
        let before = self.moments.back();
        if before.is_none_or(|(at, ..)| seconds - at >= pause) {
            self.moments.push_back((seconds, rows, bytes));
        }
        let is_before =
            |moment: Option<&(f64, u64, u64)>| moment.is_some_and(|(at, ..)| seconds - at >= span);
        while is_before(self.moments.get(1)) {
            self.moments.pop_front();
        }
    }

    /// Rows and bytes per second, `seconds` after the begin.
    pub(super) fn at(&self, seconds: f64) -> Option<(f64, f64)> {
        let (rows, bytes) = self.last?;
        let span = speed_span(seconds);
        let mut latest_first = self.moments.iter().rev();
        let before = latest_first.find(|(at, ..)| seconds - at >= span);
        let (since, rows_before, bytes_before) = before.copied().unwrap_or_default();
        let span = seconds - since;
        (span > 0.0).then(|| {
            (
                rows.saturating_sub(rows_before) as f64 / span,
                bytes.saturating_sub(bytes_before) as f64 / span,
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_of_any_length_is_short_and_loses_nothing() {
        let mut history = History::default();
        for second in 0..100_000 {
            history.add(Duration::from_secs(second), 2, 3);
            assert!(history.bytes.len() <= SPANS_MAX);
        }
        assert_eq!(history.span_seconds, 1024);
        assert_eq!(history.bytes.iter().sum::<u64>(), 300_000);
        assert_eq!(history.rows.iter().sum::<u64>(), 200_000);
        assert_eq!(history.bytes[1], 3 * 1024);
        let later = history.until(Duration::from_secs(100_000 + 5 * 1024));
        assert_eq!(later.bytes.len(), history.bytes.len() + 5);
        assert_eq!(later.bytes.last(), Some(&0));
    }

    #[test]
    fn a_speed_is_that_of_lately() {
        let mut speed = Speed::default();
        assert_eq!(speed.at(1.0), None);
        for second in 1..=1000_u64 {
            speed.add(second as f64, second, 100 * second);
        }
        // Ten times as fast from then on.
        for second in 1001..=1500_u64 {
            let done = 1000 + 10 * (second - 1000);
            speed.add(second as f64, done, 100 * done);
            // While the span grows, those of its beginning are closer together.
            assert!(speed.moments.len() <= MOMENTS * 5 / 4 + 2);
        }
        let (rows, bytes) = speed.at(1500.0).unwrap();
        assert!((rows - 10.0).abs() < 0.5, "{rows}");
        assert!((bytes - 1000.0).abs() < 50.0, "{bytes}");
        // Nothing came since.
        assert!(speed.at(3000.0).unwrap().0 < 0.1);
    }
}
