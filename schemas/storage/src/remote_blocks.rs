//! Blocks of an object in a store, fetched ahead of whoever reads them.
//!
//! 1. Bytes are fetched in blocks of [`BLOCK_BYTES`]. Those that were used last are kept, since
//!    columns are read side by side, each from its own place.
//! 2. A reader says which ranges it will read. While it works on a block, the next one of these
//!    ranges is on its way: a store that takes its time then costs little of the reader's.
//! 3. Nothing is fetched ahead that nobody said would be read.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::fetch::fetch;

/// Bytes that are fetched at a time.
pub(crate) const BLOCK_BYTES: u64 = 4 << 20;
/// Blocks that are kept after they were used.
const KEPT_MAX: usize = 4;
/// Blocks that are on their way before they are needed.
const AHEAD_MAX: usize = 2;

/// An object, in blocks.
#[derive(Debug)]
pub(crate) struct RemoteBlocks {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    etag: Option<String>,
    handle: Handle,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that was used last is the last.
    kept: Vec<(u64, Bytes)>,
    ahead: Vec<Ahead>,
    /// What will be read, in blocks.
    expected: Vec<Range<u64>>,
}

/// A block on its way; one that is not needed any more is left.
#[derive(Debug)]
struct Ahead {
    idx: u64,
    fetching: JoinHandle<object_store::Result<Bytes>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

impl RemoteBlocks {
    /// The object of `bytes` at `path`, in the version that has `etag`.
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        path: Path,
        bytes: u64,
        etag: Option<String>,
        handle: Handle,
    ) -> Self {
        Self {
            store,
            path,
            bytes,
            etag,
            handle,
            state: Mutex::default(),
        }
    }

    /// Says which bytes will be read from now on, instead of what was said before.
    pub(crate) fn expect(&self, ranges: impl IntoIterator<Item = Range<u64>>) {
        let blocks = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(|range| range.start / BLOCK_BYTES..(range.end - 1) / BLOCK_BYTES + 1);
        self.lock().expected = blocks.collect();
    }

    /// A block; shorter than others at the end of the object.
    pub(crate) async fn get(&self, idx: u64) -> object_store::Result<Bytes> {
        let fetching = {
            let mut state = self.lock();
            let found = match state.use_kept(idx) {
                Some(block) => Ok(block),
                None => Err(state.take_ahead(idx).unwrap_or_else(|| self.begin(idx))),
            };
            if state.is_wanted(idx + 1) && (idx + 1).saturating_mul(BLOCK_BYTES) < self.bytes {
                if state.ahead.len() == AHEAD_MAX {
                    state.ahead.remove(0);
                }
                let ahead = self.begin(idx + 1);
                state.ahead.push(ahead);
            }
            match found {
                Ok(block) => return Ok(block),
                Err(fetching) => fetching,
            }
        };
        let bytes = fetching.end().await?;
        self.lock().keep(idx, bytes.clone());
        Ok(bytes)
    }

    fn begin(&self, idx: u64) -> Ahead {
        let start = idx * BLOCK_BYTES;
        let options = GetOptions {
            range: Some(GetRange::Bounded(
                start..(start + BLOCK_BYTES).min(self.bytes),
            )),
            if_match: self.etag.clone(),
            ..GetOptions::default()
        };
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        Ahead {
            idx,
            fetching: self
                .handle
                .spawn(async move { fetch(store.as_ref(), &path, options).await }),
        }
    }

    /// Nothing that holds the lock can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn use_kept(&mut self, idx: u64) -> Option<Bytes> {
        let at = self.kept.iter().position(|(known, _)| *known == idx)?;
        let block = self.kept.remove(at);
        let bytes = block.1.clone();
        self.kept.push(block);
        Some(bytes)
    }

    fn keep(&mut self, idx: u64, bytes: Bytes) {
        if self.use_kept(idx).is_some() {
            return;
        }
        if self.kept.len() == KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push((idx, bytes));
    }

    fn take_ahead(&mut self, idx: u64) -> Option<Ahead> {
        let at = self.ahead.iter().position(|ahead| ahead.idx == idx)?;
        Some(self.ahead.remove(at))
    }

    /// Whether a block will be needed and nothing is known of it.
    fn is_wanted(&self, idx: u64) -> bool {
        self.expected.iter().any(|range| range.contains(&idx))
            && self.kept.iter().all(|(known, _)| *known != idx)
            && self.ahead.iter().all(|ahead| ahead.idx != idx)
    }
}

impl Ahead {
    async fn end(mut self) -> object_store::Result<Bytes> {
        let ended = (&mut self.fetching).await;
        ended.unwrap_or_else(|error| {
            Err(object_store::Error::Generic {
                store: "reader",
                source: Box::new(error),
            })
        })
    }
}

#[cfg(test)]
mod tests;
