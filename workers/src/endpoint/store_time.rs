//! The store's time, by which processes on several machines judge each other's notes and leases.
//!
//! Clocks of machines differ, by hours where nobody sets them. A sender whose clock is behind would be
//! taken for dead while its request is in flight, which is then paid for twice; one whose clock is
//! ahead would block what it noted for hours when it is killed. The store tells of each object when it
//! was put, so its clock is the one that all agree on: a process puts an object, and counts on from
//! there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gleaner_storage::{Output, OutputError, layout};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::clock::Clock;
use crate::entropy::Entropy;

/// The store is asked again after this time: clocks drift.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// The machine's clock was set, or the machine has slept, where its two clocks differ by more.
const STEP_MAX_MS: i64 = 1_000;

/// What the store told, and when.
#[derive(Debug, Clone, Copy)]
struct Told {
    store_ms: i64,
    local_ms: i64,
    at: Instant,
}

/// Knows the store's time.
#[derive(Debug)]
pub struct StoreTime {
    output: Output,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    told: Mutex<Option<Told>>,
}

impl StoreTime {
    /// Of the store of `output`.
    #[must_use]
    pub fn new(output: Output, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            output,
            clock,
            entropy,
            told: Mutex::default(),
        }
    }

    /// Milliseconds since 1970 by the store's clock, about: a second more or less, never minutes.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn now_ms(&self) -> Result<i64, OutputError> {
        let mut told = self.told.lock().await;
        let local_ms = self.clock.now_ms();
        if let Some(told) = *told {
            let elapsed = told.at.elapsed();
            let elapsed_ms = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
            let local_elapsed_ms = local_ms.saturating_sub(told.local_ms);
            let step_ms = local_elapsed_ms.saturating_sub(elapsed_ms).saturating_abs();
            if elapsed < ASK_AGAIN && step_ms <= STEP_MAX_MS {
                return Ok(told.store_ms.saturating_add(elapsed_ms));
            }
        }
        let store_ms = self.ask().await?;
        *told = Some(Told {
            store_ms,
            local_ms: self.clock.now_ms(),
            at: Instant::now(),
        });
        Ok(store_ms)
    }

    async fn ask(&self) -> Result<i64, OutputError> {
        let key = layout::clock(self.entropy.next_u64());
        self.output.put(&key, Bytes::from_static(b"{}\n")).await?;
        let found = self.output.get_dated(&key).await?;
        if let Err(error) = self.output.delete(&key).await {
            tracing::debug!(%error, "an object that told the store's time stays");
        }
        // A store that hides what was just put tells nothing, and neither does one without a clock.
        Ok(match found {
            Some((_, modified_ms)) if modified_ms > 0 => modified_ms,
            _ => self.clock.now_ms(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use gleaner_storage::Stores;

    use super::super::clock::SystemClock;
    use super::*;
    use crate::entropy::SeededEntropy;

    #[derive(Debug, Default)]
    struct Differing(AtomicI64);

    impl Clock for Differing {
        fn now_ms(&self) -> i64 {
            SystemClock.now_ms() + self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn the_machines_clock_does_not_matter() {
        let store = Arc::new(object_store::memory::InMemory::new());
        let stores = Stores::from_env().with("memory://time", store);
        let output = Output::open(&stores, "memory://time/out").unwrap();
        let clock = Arc::new(Differing::default());
        let entropy = Arc::new(SeededEntropy::new(1));
        let time = StoreTime::new(output.clone(), clock.clone(), entropy);
        for hours in [0, 5, -7, -7] {
            clock.0.store(hours * 3_600_000, Ordering::Relaxed);
            let before = SystemClock.now_ms();
            let now_ms = time.now_ms().await.unwrap();
            // Much less than an hour.
            assert!((now_ms - before).abs() < 600_000, "{hours} h: {now_ms}");
        }
        assert!(output.list("").await.unwrap().is_empty());
    }
}
