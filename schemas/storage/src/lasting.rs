//! What a local directory owes to a loss of power. An object store says that an object is put when it
//! will last; a file system says so earlier, and has to be asked.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A directory whose callers share what they ask of the file system: whoever waits while it is asked
/// is answered by the next time, together with all others that wait.
#[derive(Debug)]
pub(crate) struct LocalFolder {
    root: PathBuf,
    n_begun: AtomicU64,
    last: Mutex<Last>,
}

/// The last time that the file system was asked.
#[derive(Debug, Default)]
struct Last {
    /// Number of the last one that went well.
    done: u64,
    /// Not again before.
    not_before: Option<Instant>,
}

/// Between two times: who waits holds up nobody else.
const PAUSE: RangeInclusive<Duration> = Duration::from_millis(25)..=Duration::from_millis(200);
/// Pauses last so many times as long as asking took, within their bounds: it goes through everything
/// that is not written yet, of whomever.
const PAUSE_PER_SYNC: u32 = 16;

fn pause_after(took: Duration) -> Duration {
    (took * PAUSE_PER_SYNC).clamp(*PAUSE.start(), *PAUSE.end())
}

impl LocalFolder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            n_begun: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns once everything that was written before survives a loss of power.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        let root = self.root.clone();
        self.settle_by(move || sync(&root)).await
    }

    async fn settle_by(
        &self,
        sync: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let n_begun_before = self.n_begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.done > n_begun_before {
            return Ok(());
        }
        if let Some(not_before) = last.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        let number = self.n_begun.fetch_add(1, Ordering::SeqCst) + 1;
        let began = Instant::now();
        let synced = tokio::task::spawn_blocking(sync).await;
        last.not_before = Some(Instant::now() + pause_after(began.elapsed()));
        synced.map_err(io::Error::other)??;
        last.done = number;
        Ok(())
    }
}

/// All that was written to the file system of `root`, by whomever.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn sync(root: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(std::fs::File::open(root)?)?)
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn sync(_: &Path) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// Nothing of the like is known.
#[cfg(not(unix))]
fn sync(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_shares_the_next_sync_and_never_one_that_had_begun() {
        let folder = Arc::new(LocalFolder::new(PathBuf::new()));
        let n_syncs = Arc::new(AtomicUsize::new(0));
        let (begun, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let settle = || {
            let (folder, n_syncs) = (Arc::clone(&folder), Arc::clone(&n_syncs));
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            let runtime = tokio::runtime::Handle::current();
            tokio::spawn(async move {
                let sync = move || {
                    n_syncs.fetch_add(1, Ordering::SeqCst);
                    begun.add_permits(1);
                    let permit = runtime.block_on(go_on.acquire());
                    permit.map_err(io::Error::other)?.forget();
                    Ok(())
                };
                folder.settle_by(sync).await
            })
        };
        let first = settle();
        begun.acquire().await.unwrap().forget();
        // These come while it is under way, which may have passed by what they wrote.
        let later: Vec<_> = (0..10).map(|_| settle()).collect();
        while Arc::strong_count(&folder) < 12 {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        go_on.add_permits(100);
        first.await.unwrap().unwrap();
        for settled in later {
            settled.await.unwrap().unwrap();
        }
        assert_eq!(n_syncs.load(Ordering::SeqCst), 2);
        settle().await.unwrap().unwrap();
        assert_eq!(n_syncs.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn what_takes_long_is_asked_for_less_often() {
        let after = |ms| pause_after(Duration::from_millis(ms)).as_millis();
        assert_eq!(
            [after(0), after(1), after(5), after(500)],
            [25, 25, 80, 200]
        );
    }

    #[tokio::test]
    async fn what_went_wrong_is_tried_by_the_next() {
        let folder = LocalFolder::new(PathBuf::new());
        let failed = folder.settle_by(|| Err(io::Error::other("no disk"))).await;
        assert_eq!(failed.unwrap_err().to_string(), "no disk");
        folder.settle_by(|| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_is_settled_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let settled = LocalFolder::new(folder.path().to_owned()).settle().await;
        settled.unwrap();
        let missing = LocalFolder::new(folder.path().join("missing"));
        assert_eq!(missing.settle().await.is_err(), cfg!(target_os = "linux"));
    }
}
