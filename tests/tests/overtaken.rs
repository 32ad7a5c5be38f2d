//! A run that another one overtakes, at every moment at which that can happen.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use gleaner_coordinator::commands::coordinate::{Orders, coordinate};
use gleaner_coordinator::commands::prepare::{self, JobArguments};
use gleaner_coordinator::driver::Environment;
use gleaner_coordinator::progress::Silent;
use gleaner_queue::MemoryQueue;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores};
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::shutdown::Shutdown;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const JOB: &str = "\
name: overtaken
output: memory://m/out
corpus: {paths: ['memory://m/corpus/*.jsonl']}
stages: {texts: {kind: query, sql: 'SELECT text FROM corpus ORDER BY text'}}
";

async fn add(store: &InMemory, name: &str) {
    let path = Key::from(format!("corpus/{name}.jsonl"));
    let line = format!("{{\"text\": \"{name}\"}}\n");
    store.put(&path, line.into()).await.unwrap();
}

/// A store in which a file appears and another run publishes, before the nth request.
#[derive(Debug)]
struct Overtaking {
    store: Arc<InMemory>,
    n_requests: AtomicU64,
    at: u64,
}

impl Overtaking {
    fn request(&self) {
        if self.n_requests.fetch_add(1, Ordering::SeqCst) != self.at {
            return;
        }
        let store = Arc::clone(&self.store);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                add(&store, "c").await;
                assert!(run(Arc::clone(&store) as _).await.is_some());
            });
        });
    }
}

impl fmt::Display for Overtaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("overtaking")
    }
}

#[async_trait]
impl ObjectStore for Overtaking {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.request();
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.request();
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.request();
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        self.request();
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.request();
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.request();
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// A whole run. The number of its version, if it published one.
async fn run(store: Arc<dyn ObjectStore>) -> Option<u64> {
    let stores = Stores::from_env().with("memory://m", store);
    let arguments = JobArguments {
        path: Path::new("job.yaml").to_owned(),
        text: Some(JOB.to_owned()),
        ..JobArguments::default()
    };
    let (checked, base_dir) = prepare::read_job(&arguments).unwrap();
    let workers = prepare::expected_workers(false, None);
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let environment = Environment {
        stores,
        queue: Arc::new(MemoryQueue::new()),
        task_ended: Arc::default(),
        trouble: Arc::default(),
        n_slots: 1,
        patience: std::time::Duration::from_secs(60),
        entropy: Arc::new(SystemEntropy),
        progress: Arc::new(Silent),
        shutdown: Shutdown::new(),
    };
    let orders = Orders {
        base_dir: &base_dir,
        workers,
        accept: false,
    };
    let report = coordinate(&checked, &environment, &io, orders).await;
    let published = report.unwrap().published;
    published.is_new.then_some(published.version.number)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_corpus_never_takes_the_place_of_a_newer_one() {
    for at in 0.. {
        let store = Arc::new(InMemory::new());
        add(&store, "a").await;
        assert_eq!(run(Arc::clone(&store) as _).await, Some(1));
        add(&store, "b").await;
        let overtaking = Arc::new(Overtaking {
            store: Arc::clone(&store),
            n_requests: AtomicU64::new(0),
            at,
        });
        let _published = run(Arc::clone(&overtaking) as _).await;
        if overtaking.n_requests.load(Ordering::SeqCst) <= at {
            assert!(at > 20, "a run asks the store for {at} things");
            break;
        }
        let stores = Stores::from_env().with("memory://m", store);
        let output = Output::open(&stores, "memory://m/out").unwrap();
        let newest = output.latest_version().await.unwrap().unwrap();
        assert_eq!(newest.corpus.len(), 3, "before request {at}: {newest:?}");
        assert_eq!(newest.tables["texts"].rows, 3);
        let copy = output.get("manifest.json").await.unwrap().unwrap();
        let key = gleaner_storage::layout::version(newest.number);
        assert_eq!(output.get(&key).await.unwrap().unwrap(), copy);
    }
}
