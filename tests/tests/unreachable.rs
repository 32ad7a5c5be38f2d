//! A store that goes away in the middle of a run: the exit code says to try again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use gleaner_coordinator::commands::prepare;
use gleaner_coordinator::run_error::RunError;
use gleaner_storage::{Output, Stores};
use gleaner_tests::corpus::{sample_documents, write_parquet};
use gleaner_tests::hooked_store::{HookedStore, Request};
use gleaner_tests::in_process::InProcess;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};

/// Runs a job whose only stage is a query over a corpus in a store that can be read `n_reads`
/// times. Returns how it ended, and how many reads there were before the query.
async fn run(folder: &Path, name: &str, contents: &[u8], n_reads: i64) -> (Option<RunError>, i64) {
    let store = Arc::new(InMemory::new());
    let payload = PutPayload::from(contents.to_vec());
    store.put(&Key::from(name), payload).await.unwrap();
    let reads_left = Arc::new(AtomicI64::new(i64::MAX));
    let counted = Arc::clone(&reads_left);
    let dying = HookedStore::new(store, move |request| {
        if request == Request::Get && counted.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(object_store::Error::Generic {
                store: "dying",
                source: "the connection was reset".into(),
            });
        }
        Ok(())
    });
    let stores = Stores::from_env().with("memory://corpus", Arc::new(dying));
    let text = format!(
        "name: query\noutput: out/{name}-{n_reads}\ncorpus: {{paths: ['memory://corpus/{name}']}}\n\
         stages: {{texts: {{kind: query, sql: 'SELECT text FROM corpus'}}}}\n"
    );
    let job = InProcess::new(&folder.join("job.yaml"), &text, stores.clone());
    let output = Output::open(&stores, &job.checked.output).unwrap();
    let workers = prepare::expected_workers(false, Some(1));
    let inputs = prepare::load_inputs(&stores, &output, &job.checked, &job.base_dir, workers).await;
    let _ = inputs.unwrap();
    let n_before = i64::MAX - reads_left.swap(n_reads, Ordering::SeqCst);
    (job.run().await.err(), n_before)
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
