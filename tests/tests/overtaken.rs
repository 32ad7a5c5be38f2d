//! A run that another one overtakes, at every moment at which that can happen.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gleaner_storage::{Output, Stores};
use gleaner_tests::hooked_store::HookedStore;
use gleaner_tests::in_process::InProcess;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};

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

/// A file appears and another run publishes, at once.
fn overtake(store: &Arc<InMemory>) {
    let store = Arc::clone(store);
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(async {
            add(&store, "c").await;
            assert!(run(Arc::clone(&store) as _).await.is_some());
        });
    });
}

/// A whole run. The number of its version, if it published one.
async fn run(store: Arc<dyn ObjectStore>) -> Option<u64> {
    let stores = Stores::from_env().with("memory://m", store);
    let report = InProcess::new(Path::new("job.yaml"), JOB, stores)
        .run()
        .await;
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
        let n_requests = Arc::new(AtomicU64::new(0));
        let (counted, below) = (Arc::clone(&n_requests), Arc::clone(&store));
        let overtaking = HookedStore::new(Arc::clone(&store), move |_| {
            if counted.fetch_add(1, Ordering::SeqCst) == at {
                overtake(&below);
            }
            Ok(())
        });
        let _published = run(Arc::new(overtaking)).await;
        if n_requests.load(Ordering::SeqCst) <= at {
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
