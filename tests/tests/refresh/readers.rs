//! A hundred readers while versions are published: each sees one version or another, never a mixture.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;
use gleaner_coordinator::sql::Session;
use gleaner_schemas::Version;
use gleaner_storage::{Output, Stores, layout};
use gleaner_tests::in_process::InProcess;
use tempfile::TempDir;

use super::*;

const READERS: usize = 100;

/// Three tables, each of the number of the corpus that they were made of; the last from another one.
const JOB: &str = "\
name: tiny
output: out
corpus: {paths: [corpus.jsonl]}
stages:
  a: {kind: query, sql: 'SELECT CAST(text AS BIGINT) AS n FROM corpus'}
  b: {kind: query, sql: 'SELECT CAST(text AS BIGINT) AS n, id FROM corpus'}
  c: {kind: query, sql: 'SELECT a.n, b.id FROM a JOIN b ON a.n = b.n'}
";

/// Publishes a version of corpus `n`, as a run does.
async fn publish(folder: &TempDir, stores: &Stores, n: u64) -> bool {
    let corpus = folder.path().join("new.jsonl");
    fs::write(&corpus, format!("{{\"id\": \"{n}\", \"text\": \"{n}\"}}\n")).unwrap();
    fs::rename(corpus, folder.path().join("corpus.jsonl")).unwrap();
    let job = InProcess::new(&folder.path().join("job.yaml"), JOB, stores.clone());
    let ended = job.run().await;
    ended.unwrap().published.is_new
}

/// The number that all tables of a version tell.
async fn read(stores: &Stores, output: &Output, version: &Version) -> u64 {
    let session = Session::open(stores, output, version).await.unwrap();
    let sql = "SELECT n FROM a UNION ALL SELECT n FROM b UNION ALL SELECT n FROM c UNION ALL SELECT \
               CAST(id AS BIGINT) FROM c";
    let batches = session.query(sql).await.unwrap();
    let mut numbers = Vec::new();
    for batch in &batches {
        numbers.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
    }
    let number = version.number;
    assert_eq!(numbers.len(), 4, "version {number}");
    assert!(
        numbers.iter().all(|n| *n == numbers[0]),
        "version {number} is a mixture: {numbers:?}"
    );
    u64::try_from(numbers[0]).unwrap()
}

async fn keep_reading(
    stores: Stores,
    output: Output,
    idx: usize,
    last: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> u64 {
    let mut newest = 0;
    let mut n_read = 0;
    while !over.load(Ordering::Relaxed) {
        // What was published before the look is the least that it may see.
        let least = last.load(Ordering::SeqCst);
        // Half of them read the copy, which may be a little older.
        let version = if idx.is_multiple_of(2) {
            output.latest_version().await.unwrap()
        } else {
            output.get_json(layout::MANIFEST, "copy").await.unwrap()
        };
        let Some(version) = version else {
            tokio::task::yield_now().await;
            continue;
        };
        let n = read(&stores, &output, &version).await;
        assert_eq!(n, version.number, "reader {idx}");
        assert!(
            n >= newest && n >= least,
            "reader {idx} went back from {newest}, {least} to {n}"
        );
        newest = n;
        n_read += 1;
    }
    n_read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_see_one_version_or_another_and_never_a_mixture() {
    let n_versions: u64 = match std::env::var_os("GLEANER_LONG_TESTS") {
        Some(_) => 1000,
        None => 25,
    };
    let folder = tempfile::tempdir().unwrap();
    let stores = Stores::from_env();
    let uri = format!(
        "file://{}/out",
        folder.path().canonicalize().unwrap().display()
    );
    let output = Output::open(&stores, &uri).unwrap();
    let (last, over) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let readers: Vec<_> = (0..READERS)
        .map(|idx| {
            tokio::spawn(keep_reading(
                stores.clone(),
                output.clone(),
                idx,
                Arc::clone(&last),
                Arc::clone(&over),
            ))
        })
        .collect();
    for n in 1..=n_versions {
        assert!(publish(&folder, &stores, n).await, "version {n}");
        last.store(n, Ordering::SeqCst);
    }
    over.store(true, Ordering::Relaxed);
    let mut n_read = 0;
    for reader in readers {
        n_read += reader.await.unwrap();
    }
    assert!(n_read > n_versions, "{n_read} reads");
}
