//! Keeps who removes objects (`gleaner gc`, and runs that have ended, [`crate::losers`]) and runs that
//! begin meanwhile out of each other's way.
//!
//! A run that begins may pin an attempt that nobody has named before: the very one that `gc` is
//! about to remove. So each tells the other first and looks second:
//!
//! 1. `gc` announces its sweep, then looks at the runs, and removes nothing if one has begun that
//!    it does not know.
//! 2. A run announces itself, then looks for sweeps, and waits until there is none.
//!
//! Whoever is later sees the other. A sweep is over for sure when it is older than [`OVER_AFTER`]
//! by the store's clock, since `gc` removes nothing more once its announcement is older than
//! [`RENEW_AFTER`], and announces itself anew: one that was killed holds nobody up for longer. A
//! `gc` that was put to sleep in between, for longer than the difference, is not caught.

use std::time::Duration;

use gleaner_storage::{Output, OutputError, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::progress::Progress;
use crate::retry::retrying;
use crate::run_error::RunError;

/// `gc` announces itself anew after this time.
pub const RENEW_AFTER: Duration = Duration::from_secs(5 * 60);
/// Nothing is removed any more by a sweep that was announced this long ago.
pub const OVER_AFTER: Duration = Duration::from_secs(15 * 60);
/// Pause between two looks of a run that waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Announcement {
    /// Process id, for those on the same machine.
    pid: u32,
}

/// A sweep that others know of.
#[derive(Debug)]
pub struct Sweep {
    key: String,
    announced: Instant,
}

impl Sweep {
    /// Tells runs that objects are about to be removed.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn announce(output: &Output, entropy: &dyn Entropy) -> Result<Self, OutputError> {
        let key = layout::sweep(entropy.next_u64());
        // Before the store's clock can have read it.
        let announced = Instant::now();
        let announcement = Announcement {
            pid: std::process::id(),
        };
        output
            .put_json(&key, "announcement of a sweep", &announcement)
            .await?;
        Ok(Self { key, announced })
    }

    /// Whether it is too old to remove anything.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.announced.elapsed() >= RENEW_AFTER
    }

    /// Tells runs that it is over.
    ///
    /// # Errors
    ///
    /// Of the store; runs that begin wait for [`OVER_AFTER`] then.
    pub async fn end(self, output: &Output) -> Result<(), OutputError> {
        output.delete(&self.key).await
    }
}

/// Waits until no sweep is under way that may not know of the run whose start lies at `start`.
///
/// # Errors
///
/// Of the store, or if somebody asks to stop.
pub async fn await_none(
    output: &Output,
    start: &str,
    shutdown: &Shutdown,
    progress: &dyn Progress,
) -> Result<(), RunError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let sweeps = retrying(shutdown, || output.list(layout::SWEEPS)).await?;
        if sweeps.is_empty() {
            return Ok(());
        }
        let folder = start.rsplit_once('/').map_or(start, |(folder, _)| folder);
        let own = retrying(shutdown, || output.list(folder)).await?;
        // Without one's own start nothing is known of the store's clock, and all are waited for.
        let own_ms = own
            .iter()
            .find(|event| event.path == start)
            .map_or(i64::MIN, |event| event.modified_ms);
        let over_after = OVER_AFTER.saturating_sub(began.elapsed());
        let over_after_ms = i64::try_from(over_after.as_millis()).unwrap_or(i64::MAX);
        let is_under_way = sweeps
            .iter()
            .any(|sweep| own_ms.saturating_sub(sweep.modified_ms) < over_after_ms);
        if !is_under_way || began.elapsed() >= OVER_AFTER {
            return Ok(());
        }
        if !told {
            progress.note(
                "objects of this output are being removed (by `gleaner gc`, or at the end of \
                 another run); waiting for its end",
            );
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.draining() => return Err(RunError::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use gleaner_storage::Stores;
    use gleaner_workers::entropy::SystemEntropy;

    use super::*;
    use crate::progress::Silent;

    async fn is_held_up(output: &Output, start: &str) -> bool {
        let shutdown = Shutdown::new();
        let waits = await_none(output, start, &shutdown, &Silent);
        tokio::time::timeout(LOOK_EVERY * 3, waits).await.is_err()
    }

    #[tokio::test]
    async fn a_run_waits_for_a_sweep_until_it_ends_or_must_be_over() {
        let folder = tempfile::tempdir().unwrap();
        let output = Output::open(
            &Stores::from_env(),
            &format!("file://{}", folder.path().display()),
        );
        let output = output.unwrap();
        let start = layout::run_event(&gleaner_schemas::RunId::new(1), layout::RUN_STARTED);
        output.put_json(&start, "event", &1).await.unwrap();
        assert!(!is_held_up(&output, &start).await);
        let sweep = Sweep::announce(&output, &SystemEntropy).await.unwrap();
        assert!(!sweep.is_old());
        assert!(is_held_up(&output, &start).await);
        let age = |age: Duration| {
            let file = std::fs::File::open(folder.path().join(&sweep.key)).unwrap();
            file.set_modified(std::time::SystemTime::from(chrono::Utc::now()) - age)
                .unwrap();
        };
        age(OVER_AFTER - Duration::from_secs(30));
        assert!(is_held_up(&output, &start).await);
        age(OVER_AFTER + Duration::from_secs(60));
        assert!(!is_held_up(&output, &start).await);
        age(Duration::ZERO);
        sweep.end(&output).await.unwrap();
        assert!(!is_held_up(&output, &start).await);
    }
}
