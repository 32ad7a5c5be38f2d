//! Pauses that grow while nothing gets better, with jitter: workers that failed together must not
//! come back together.

use std::time::Duration;

use crate::entropy::Entropy;
use crate::shutdown::Shutdown;

/// Shortest and longest pause.
pub(super) type Bounds = (Duration, Duration);

/// While only tasks come that the worker does not take.
pub(super) const FOREIGN_KIND: Bounds = (Duration::from_millis(500), Duration::from_secs(10));
/// While the queue or the store cannot be reached.
pub(super) const UNREACHABLE: Bounds = (Duration::from_secs(1), Duration::from_secs(10));

/// A pause that doubles each time, until it is reset.
#[derive(Debug)]
pub(super) struct Pause {
    bounds: Bounds,
    next: Duration,
}

impl Pause {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            next: bounds.0,
        }
    }

    /// Things got better.
    pub(super) fn reset(&mut self) {
        self.next = self.bounds.0;
    }

    /// Waits, no longer than until the worker is to stop.
    pub(super) async fn wait(&mut self, entropy: &dyn Entropy, stop: &Shutdown) {
        let pause = self.draw(entropy);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.draining() => {}
        }
    }

    /// At least the shortest, at most the longest pause.
    fn draw(&mut self, entropy: &dyn Entropy) -> Duration {
        let (shortest, longest) = self.bounds;
        let ceiling = (self.next * 2).min(longest);
        self.next = ceiling;
        let spread_ms = u64::try_from((ceiling - shortest).as_millis()).unwrap_or(u64::MAX);
        shortest + Duration::from_millis(entropy.next_u64() % spread_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn pauses_grow_within_their_bounds() {
        let entropy = SeededEntropy::new(1);
        let mut pause = Pause::new(FOREIGN_KIND);
        let drawn: Vec<_> = (0..200).map(|_| pause.draw(&entropy)).collect();
        let (shortest, longest) = FOREIGN_KIND;
        assert!(
            drawn
                .iter()
                .all(|pause| (shortest..longest).contains(pause))
        );
        assert!(drawn[0] < 2 * shortest);
        assert!(drawn.iter().any(|pause| *pause > longest / 2));
        pause.reset();
        assert!(pause.draw(&entropy) < 2 * shortest);
    }
}
