//! What goes wrong, decided by a seed, and a store that does as it pleases.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use gleaner_storage::layout;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::mutant::Mutant;

/// The dice of a simulation.
#[derive(Debug)]
pub(super) struct Faults {
    dice: Mutex<StdRng>,
    is_calm: AtomicBool,
    /// How often an operation fails.
    share: f64,
    /// Whether coordinators with different plans come late upon each other's tasks, of which there
    /// are two attempts more often than not.
    pub(super) is_race: bool,
    n_faults: AtomicU64,
    n_kills: AtomicU64,
    pub(super) mutant: Option<Mutant>,
    violations: Mutex<Vec<String>>,
}

impl Faults {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        Self {
            mutant,
            violations: Mutex::default(),
            share: [0.0, 0.02, 0.1, 0.25][dice.random_range(0..4)],
            is_race: dice.random_bool(0.25),
            dice: Mutex::new(dice),
            is_calm: AtomicBool::new(false),
            n_faults: AtomicU64::new(0),
            n_kills: AtomicU64::new(0),
        }
    }

    /// No more faults from here on.
    pub(super) fn stop(&self) {
        self.is_calm.store(true, Ordering::SeqCst);
    }

    pub(super) fn pick(&self, range: Range<u64>) -> u64 {
        self.dice.lock().unwrap().random_range(range)
    }

    /// A time in milliseconds, short ones more often.
    pub(super) fn time(&self, range: Range<u64>) -> Duration {
        let mut dice = self.dice.lock().unwrap();
        let longest = dice.random_range(range.clone());
        Duration::from_millis(dice.random_range(range.start..=longest))
    }

    /// Whether an event happens that has this share of all.
    pub(super) fn happens(&self, share: f64) -> bool {
        let happens = !self.is_calm.load(Ordering::SeqCst)
            && share > 0.0
            && self.dice.lock().unwrap().random_bool(share);
        if happens {
            self.n_faults.fetch_add(1, Ordering::SeqCst);
        }
        happens
    }

    pub(super) fn fails(&self) -> bool {
        self.happens(self.share / 2.0)
    }

    /// Something happened that never may.
    pub(super) fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// What happened that never may.
    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub(super) fn count_kill(&self) {
        self.n_kills.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn n_faults(&self) -> u64 {
        self.n_faults.load(Ordering::SeqCst)
    }

    pub(super) fn n_kills(&self) -> u64 {
        self.n_kills.load(Ordering::SeqCst)
    }
}

/// When objects were written, in virtual time: the store in memory knows only the real one.
#[derive(Debug)]
pub(super) struct StoreClock {
    started: Instant,
    written: Mutex<HashMap<Path, DateTime<Utc>>>,
}

impl StoreClock {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            written: Mutex::default(),
        }
    }

    fn wrote(&self, location: &Path) {
        let now = DateTime::UNIX_EPOCH + self.started.elapsed();
        self.written.lock().unwrap().insert(location.clone(), now);
    }

    fn told(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.last_modified = self.written.lock().unwrap()[&meta.location];
        meta
    }
}

/// A store that fails before it does something, or after, and takes its time.
#[derive(Debug)]
pub(super) struct FaultyStore {
    pub(super) store: Arc<InMemory>,
    pub(super) faults: Arc<Faults>,
    pub(super) clock: Arc<StoreClock>,
    /// Every request but listings takes this many times as long: a process that others overtake
    /// between its look and what it makes of it.
    pub(super) slowness: u32,
    /// Versions that this process takes for others'; see [`Mutant::LostUnread`].
    pub(super) lost: Mutex<BTreeSet<Path>>,
}

/// Whether objects at the path never change once they exist (invariant 1).
fn is_immutable(path: &str) -> bool {
    let folders = ["plans", "manifests", "splits", "versions", "inner"];
    layout::parse_attempt(path).is_some()
        || folders
            .iter()
            .any(|folder| path.contains(&format!("{}/{folder}/", layout::PRIVATE)))
}

fn broken() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "the connection was reset".into(),
    }
}

impl FaultyStore {
    async fn wait(&self) -> Result<()> {
        tokio::time::sleep(self.faults.time(1..200) * self.slowness).await;
        if self.faults.fails() {
            Err(broken())
        } else {
            Ok(())
        }
    }

    /// A version as whoever does not read it thinks it is.
    async fn as_of_another(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let bytes = self.store.get(location).await?.bytes().await?;
        let mut version: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        version["job"] = "another".into();
        let imagined = InMemory::new();
        let payload = version.to_string().into();
        imagined.put(location, payload).await?;
        imagined.get_opts(location, options).await
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.wait().await?;
        let is_create = options.mode == PutMode::Create;
        let is_manifest = location.as_ref().contains(layout::MANIFESTS);
        if self.faults.mutant == Some(Mutant::ManifestOverwritten) && is_manifest {
            options.mode = PutMode::Overwrite;
        }
        let before = match self.store.get(location).await {
            Ok(before) => Some(before.bytes().await?),
            Err(_) => None,
        };
        let bytes = Bytes::from(payload.clone());
        let mut result = self.store.put_opts(location, payload, options).await;
        if result.is_ok() {
            self.clock.wrote(location);
            if is_immutable(location.as_ref()) && before.is_some_and(|before| before != bytes) {
                self.faults.violated(format!("{location} was changed"));
            }
        }
        if self.faults.fails() {
            // The answer is lost. Clients of real stores may ask again on their own, and find what
            // they have put themselves.
            let asks_again = is_create && result.is_ok() && self.faults.pick(0..2) == 0;
            result = Err(match asks_again {
                true => object_store::Error::AlreadyExists {
                    path: location.to_string(),
                    source: "it was put a moment ago".into(),
                },
                false => broken(),
            });
        }
        let is_version = location.as_ref().contains(layout::VERSIONS);
        let exists = matches!(result, Err(object_store::Error::AlreadyExists { .. }));
        if self.faults.mutant == Some(Mutant::LostUnread) && is_version && exists {
            self.lost.lock().unwrap().insert(location.clone());
        }
        result
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.wait().await?;
        if self.lost.lock().unwrap().contains(location) {
            return self.as_of_another(location, options).await;
        }
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if self.faults.fails() {
            return futures::stream::once(async { Err(broken()) }).boxed();
        }
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, faults) = (Arc::clone(&self.store), Arc::clone(&self.faults));
        let clock = Arc::clone(&self.clock);
        let prefix = prefix.cloned();
        let listed = async move {
            tokio::time::sleep(faults.time(1..400)).await;
            if faults.fails() {
                return Err(broken());
            }
            let listed: Vec<ObjectMeta> = store.list(prefix.as_ref()).try_collect().await?;
            let listed = listed.into_iter().map(move |meta| Ok(clock.told(meta)));
            Ok(futures::stream::iter(listed))
        };
        futures::stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.wait().await?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
