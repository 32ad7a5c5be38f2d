//! From numbers to places, and round numbers along the way.

use super::{BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH};
use crate::report::distribution::round_up;
use crate::report::html::number;

/// Labels along an axis, at most.
const TICKS_MAX: f64 = 5.0;

/// An axis of a plot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    is_percent: bool,
}

impl Axis {
    /// From left to right.
    pub(super) fn x(low: f64, high: f64) -> Self {
        Self::new(low, high, LEFT, WIDTH - RIGHT)
    }

    /// From the bottom up.
    pub(super) fn y(low: f64, high: f64) -> Self {
        Self::new(low, high, HEIGHT - BOTTOM, TOP)
    }

    /// From the bottom up, with shares as percents.
    pub(super) fn percents(high: f64) -> Self {
        Self {
            is_percent: true,
            ..Self::y(0.0, 100.0 * high)
        }
    }

    fn new(low: f64, high: f64, start: f64, end: f64) -> Self {
        // Numbers that are all the same stand in the middle.
        let (low, high) = match high - low > 0.0 {
            true => (low, high),
            false => (low - 0.5, low + 0.5),
        };
        Self {
            low,
            high,
            start,
            end,
            is_percent: false,
        }
    }

    /// Where a number stands.
    pub(super) fn at(&self, value: f64) -> f64 {
        self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)
    }

    /// Round numbers, and how they are written.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let step = round_up((self.high - self.low) / TICKS_MAX);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last)
            .map(|idx| {
                let value = idx as f64 * step;
                let percent = if self.is_percent { "%" } else { "" };
                (value, number(rounded(value, step)) + percent)
            })
            .collect()
    }
}

/// Without the last digits that multiplying leaves.
fn rounded(value: f64, step: f64) -> f64 {
    let digits = (2 - step.log10().floor() as i32).max(0);
    let power = 10_f64.powi(digits);
    (value * power).round() / power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let labels = |axis: Axis| -> Vec<String> {
            axis.ticks().into_iter().map(|(_, label)| label).collect()
        };
        assert_eq!(
            labels(Axis::x(0.0, 1.0)),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
        assert_eq!(
            labels(Axis::x(-1234.0, 310.0)),
            ["\u{2212}1\u{202f}000", "\u{2212}500", "0"]
        );
        assert_eq!(
            labels(Axis::percents(0.12)),
            ["0%", "2.5%", "5%", "7.5%", "10%"]
        );
        assert_eq!(labels(Axis::x(3.0, 3.0)).len(), 5);
        let axis = Axis::y(0.0, 10.0);
        assert!(axis.at(0.0) > axis.at(10.0), "up is more");
    }
}
