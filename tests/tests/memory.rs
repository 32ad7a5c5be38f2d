//! Tasks whose results are larger than a worker's memory: they are split smaller, and what cannot
//! be split is set aside with its cause, while all others go on.

use gleaner_tests::corpus::{example_documents, health_documents, jsonl, write_parquet};
use gleaner_tests::program::{Workspace, number, text};

/// A row for every two words, with eight weights each: the results are larger than the texts.
const JOB: &str = "
name: memory
output: out
corpus: {paths: [corpus/*.parquet]}
datasets:
  a: {paths: [target-0.jsonl]}
  b: {paths: [target-1.jsonl]}
  c: {paths: [target-2.jsonl]}
  d: {paths: [target-3.jsonl]}
task_bytes: 64MiB
memory: 64MiB
allow: {quarantined_tasks: 1}
stages:
  words: {kind: importance_weights, target: [a, b, c, d], targets: separate, min_tokens: 1,
          chunk_words: 2}
";

#[test]
fn a_task_that_is_too_large_is_split_and_then_set_aside() {
    let workspace = Workspace::new();
    let documents = example_documents();
    let path = |name: &str| workspace.path().join(format!("corpus/{name}.parquet"));
    let n_large = documents.len() / 2;
    write_parquet(
        &path("many-row-groups"),
        &documents[..n_large],
        n_large / 16,
    );
    write_parquet(
        &path("one-row-group"),
        &documents[n_large..],
        documents.len(),
    );
    write_parquet(&path("small"), &documents[..20], 20);
    for (idx, target) in health_documents(80).chunks(20).enumerate() {
        workspace.write(&format!("target-{idx}.jsonl"), jsonl(target));
    }
    workspace.write("job.yaml", JOB);
    let summary = workspace.summary(&["--workers", "2"]);
    assert_eq!(summary["is_new"], true);
    let tasks = workspace.sql(
        "SELECT status, inputs[1] AS file, failure, failure_kind, rows_in FROM gleaner.tasks ORDER \
         BY file, rows_in",
    );
    let of = |file: &str| {
        let is_of = |row: &&serde_json::Value| text(row, "file").ends_with(file);
        tasks.iter().filter(is_of).collect::<Vec<_>>()
    };
    let pieces = of("many-row-groups.parquet");
    assert!(pieces.len() > 1, "{tasks:#?}");
    assert!(pieces.iter().all(|row| row["status"] == "ok"), "{tasks:#?}");
    let set_aside = of("one-row-group.parquet");
    assert_eq!(set_aside.len(), 1);
    assert_eq!(set_aside[0]["status"], "quarantined");
    assert_eq!(set_aside[0]["failure_kind"], "memory");
    let failure = text(set_aside[0], "failure");
    assert!(
        failure.contains("memory budget") && failure.contains("task_bytes"),
        "{failure}"
    );
    assert_eq!(of("small.parquet").len(), 1);
    // Every row of the files that were read is in one piece, once.
    let rows = workspace.sql(
        "SELECT input_file, count(DISTINCT input_row) AS n FROM words GROUP BY input_file ORDER BY \
         input_file",
    );
    assert_eq!(number(&rows[0], "n"), n_large as u64);
    assert_eq!(number(&rows[1], "n"), 20);
    // The next run knows of the split: nothing large is tried again but what was set aside.
    let again = workspace.summary(&["--workers", "2"]);
    assert_eq!(again["is_new"], false);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}
