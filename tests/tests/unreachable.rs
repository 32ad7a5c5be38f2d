//! A store that goes away in the middle of a run: the exit code says to try again.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use gleaner_coordinator::commands::coordinate::{Orders, coordinate};
use gleaner_coordinator::commands::prepare::{self, JobArguments};
use gleaner_coordinator::driver::Environment;
use gleaner_coordinator::progress::Silent;
use gleaner_coordinator::run_error::RunError;
use gleaner_queue::MemoryQueue;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores};
use gleaner_tests::corpus::{sample_documents, write_parquet};
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::shutdown::Shutdown;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// A store that can be read this many times.
#[derive(Debug)]
struct DyingStore {
    store: InMemory,
    reads_left: AtomicI64,
}

impl fmt::Display for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dying")
    }
}

#[async_trait]
impl ObjectStore for DyingStore {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        if self.reads_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(object_store::Error::Generic {
                store: "dying",
                source: "the connection was reset".into(),
            });
        }
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

/// Runs a job whose only stage is a query over a corpus in a store that can be read `n_reads`
/// times. Returns how it ended, and how many reads there were before the query.
async fn run(folder: &Path, name: &str, contents: &[u8], n_reads: i64) -> (Option<RunError>, i64) {
    let store = InMemory::new();
    let payload = PutPayload::from(contents.to_vec());
    store.put(&Key::from(name), payload).await.unwrap();
    let store = Arc::new(DyingStore {
        store,
        reads_left: AtomicI64::new(i64::MAX),
    });
    let stores = Stores::from_env().with("memory://corpus", Arc::clone(&store) as _);
    let arguments = JobArguments {
        path: folder.join("job.yaml"),
        text: Some(format!(
            "name: query\noutput: out/{name}-{n_reads}\ncorpus: {{paths: ['memory://corpus/{name}']}}\n\
             stages: {{texts: {{kind: query, sql: 'SELECT text FROM corpus'}}}}\n"
        )),
        ..JobArguments::default()
    };
    let (checked, base_dir) = prepare::read_job(&arguments).unwrap();
    let output = Output::open(&stores, &checked.output).unwrap();
    let workers = prepare::expected_workers(false, None);
    let inputs = prepare::load_inputs(&stores, &output, &checked, &base_dir, workers).await;
    let _ = inputs.unwrap();
    let n_before = i64::MAX - store.reads_left.swap(n_reads, Ordering::SeqCst);
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
    let ended = coordinate(&checked, &environment, &io, orders).await;
    (ended.err(), n_before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_store_goes_away_is_to_be_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let parquet = folder.path().join("corpus.parquet");
    write_parquet(&parquet, &sample_documents(300), 100);
    let files = [
        ("a.parquet", std::fs::read(&parquet).unwrap()),
        (
            "a.jsonl",
            b"{\"text\": \"one\"}\n{\"text\": \"two\"}\n".to_vec(),
        ),
    ];
    for (name, contents) in files {
        let mut n_reads = 0;
        loop {
            let (error, n_before) = run(folder.path(), name, &contents, n_reads).await;
            let Some(error) = error else {
                assert!(n_reads > n_before, "{name}: the query reads nothing");
                break;
            };
            assert_eq!(error.exit_code(), 4, "{name}, {n_reads} reads: {error}");
            assert!(
                error.to_string().contains("connection was reset"),
                "{error}"
            );
            n_reads += 1;
        }
    }
}
