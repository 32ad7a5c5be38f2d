//! How long tasks take: counts by size of time, from which quantiles follow.

use serde::Serialize;

/// Classes per doubling of time: a quantile is told within 5 percent.
const PER_DOUBLING: f64 = 8.0;
/// Times below this are one class, in seconds.
const SHORTEST: f64 = 0.01;
/// From [`SHORTEST`] to some days.
const CLASSES: usize = 200;
/// Bars that are shown.
const BARS_MAX: usize = 24;

/// The times of the tasks of a phase.
#[derive(Debug, Clone)]
pub(super) struct Times {
    classes: Box<[u64; CLASSES]>,
    n: u64,
    longest: f64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            classes: Box::new([0; CLASSES]),
            n: 0,
            longest: 0.0,
        }
    }
}

/// The times of the tasks of a phase, in short.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TimesView {
    /// Name of the stage.
    pub(super) stage: String,
    /// Name of the phase.
    pub(super) phase: String,
    /// Tasks.
    n: u64,
    /// Half of the tasks took no longer, in seconds.
    median: f64,
    /// 19 of 20 tasks took no longer.
    p95: f64,
    /// The longest task.
    longest: f64,
    /// How many times the median the longest took.
    skew: f64,
    /// From, to, number of tasks.
    bars: Vec<(f64, f64, u64)>,
}

fn class_of(seconds: f64) -> usize {
    let doublings = (seconds.max(SHORTEST) / SHORTEST).log2();
    // Floats become integers without wrapping.
    ((doublings * PER_DOUBLING) as usize).min(CLASSES - 1)
}

fn begin_of(class: usize) -> f64 {
    SHORTEST * (class as f64 / PER_DOUBLING).exp2()
}

impl Times {
    /// A task took so long.
    pub(super) fn add(&mut self, seconds: f64) {
        if !seconds.is_finite() {
            return;
        }
        self.classes[class_of(seconds)] += 1;
        self.n += 1;
        self.longest = self.longest.max(seconds);
    }

    fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.n as f64).ceil().max(1.0) as u64;
        let mut n = 0;
        for (class, n_here) in self.classes.iter().enumerate() {
            n += n_here;
            if n >= rank {
                let middle = begin_of(class) * (0.5 / PER_DOUBLING).exp2();
                return middle.min(self.longest);
            }
        }
        self.longest
    }

    /// The times in short, unless there are none.
    pub(super) fn view(&self, stage: &str, phase: &str) -> Option<TimesView> {
        if self.n == 0 {
            return None;
        }
        let median = self.quantile(0.5);
        Some(TimesView {
            stage: stage.to_owned(),
            phase: phase.to_owned(),
            n: self.n,
            median,
            p95: self.quantile(0.95),
            longest: self.longest,
            skew: self.longest / median.max(f64::MIN_POSITIVE),
            bars: self.bars(),
        })
    }

    /// Bars of equal width on a scale of doublings, as wide as it takes for few bars.
    fn bars(&self) -> Vec<(f64, f64, u64)> {
        let first = self.classes.iter().position(|n| *n > 0).unwrap_or(0);
        let last = self.classes.iter().rposition(|n| *n > 0).unwrap_or(0);
        let width = (1..).find(|width| last / width - first / width < BARS_MAX);
        let width = width.unwrap_or(CLASSES);
        (first / width..=last / width)
            .map(|bar| {
                let end = ((bar + 1) * width).min(CLASSES);
                let classes = &self.classes[bar * width..end];
                (begin_of(bar * width), begin_of(end), classes.iter().sum())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_and_bars_few() {
        let mut times = Times::default();
        assert!(times.view("s", "p").is_none());
        for i in 1..=1000 {
            times.add(f64::from(i) / 100.0);
        }
        times.add(1e7);
        times.add(f64::NAN);
        let view = times.view("s", "p").unwrap();
        assert_eq!(view.n, 1001);
        assert!((view.median / 5.0 - 1.0).abs() < 0.05, "{}", view.median);
        assert!((view.p95 / 9.5 - 1.0).abs() < 0.05, "{}", view.p95);
        assert_eq!(view.longest, 1e7);
        assert!(view.bars.len() <= BARS_MAX, "{}", view.bars.len());
        assert_eq!(view.bars.iter().map(|bar| bar.2).sum::<u64>(), 1001);
        for pair in view.bars.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
    }

    #[test]
    fn equal_times_have_no_skew() {
        let mut times = Times::default();
        for _ in 0..5 {
            times.add(2.0);
        }
        let view = times.view("s", "p").unwrap();
        assert!((0.95..1.06).contains(&view.skew), "{}", view.skew);
        assert_eq!(view.bars.len(), 1);
    }
}
