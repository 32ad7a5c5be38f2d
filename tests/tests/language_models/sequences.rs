//! Sequences that are packed across documents: the same however tasks are cut.

use gleaner_tests::program::{Workspace, number, text};
use serde_json::Value;

use gleaner_tests::corpus::{Document, example_documents, write_parquet};

use super::{JOB, golden, rows, workspace};

#[test]
fn sequences_are_packed_and_can_be_selected() {
    let job = JOB.replace(
        "max_tokens: 100}",
        "unit: sequence, context: 32, token_losses: true}",
    );
    let job = job.replace(", materialize: true", "");
    let workspace = workspace(&job);
    let _ = workspace.run(&[]).expect(0);
    let found = workspace.sql(
        "SELECT count(*) AS n, count(DISTINCT sequence_id) AS n_ids,
                sum(CASE WHEN status = 'ok' THEN n_tokens END) AS n_tokens,
                sum(CASE WHEN status = 'ok' THEN 1 END) AS n_ok,
                sum(CASE WHEN status = 'ok' THEN cardinality(token_nll_prior) END) AS n_losses
         FROM losses",
    );
    let n_ok = number(&found[0], "n_ok");
    assert_eq!(number(&found[0], "n"), number(&found[0], "n_ids"));
    assert_eq!(number(&found[0], "n_tokens"), 31 * n_ok);
    assert_eq!(number(&found[0], "n_losses"), 31 * n_ok);
    // Every document stands in the spans of some row.
    let covered = workspace.sql(
        "SELECT count(DISTINCT span['doc_id']) AS n FROM (SELECT unnest(spans) AS span FROM losses)",
    );
    assert_eq!(number(&covered[0], "n"), rows(&workspace));
    assert_eq!(
        number(&workspace.sql("SELECT count(*) AS n FROM best")[0], "n"),
        20
    );
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

const PACKED: &str = "
name: packed
output: out
corpus: {paths: [corpus/*.parquet], columns: {id: id, text: text, source: source}}
stages:
  losses: {kind: loss_reduction, prior: models/llama_prior, conditional: models/llama_cond,
           unit: sequence, context: 32, max_tokens: 120}
";

#[test]
fn sequences_do_not_depend_on_how_tasks_are_cut() {
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    let documents: Vec<Document> = example_documents().into_iter().step_by(50).collect();
    for (idx, documents) in documents.chunks(40).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, 12);
    }
    workspace.write("job.yaml", PACKED);
    let mut found: Vec<(u64, Vec<Value>)> = Vec::new();
    for task_bytes in ["1KiB", "64KiB", "256MiB"] {
        let set = format!("task_bytes={task_bytes}");
        let _ = workspace
            .run(&["--output", task_bytes, "--set", &set])
            .expect(0);
        let rows = workspace.sql_of(task_bytes, "SELECT * FROM losses ORDER BY sequence_id");
        let tasks = workspace.sql_of(task_bytes, "SELECT count(*) AS n FROM gleaner.tasks");
        found.push((number(&tasks[0], "n"), rows));
        let _ = workspace.gleaner(&["verify", task_bytes]).expect(0);
    }
    let n_tasks: Vec<u64> = found.iter().map(|(n_tasks, _)| *n_tasks).collect();
    assert!(n_tasks[0] > n_tasks[2], "{n_tasks:?}");
    assert!(found[0].1.len() > 100);
    assert!(found[0].1 == found[1].1 && found[1].1 == found[2].1);
    // Lanes count documents.
    let lanes = workspace.sql_of(
        "64KiB",
        "SELECT sum(rows_in) AS n, sum(ok) AS n_ok FROM gleaner.tasks",
    );
    assert_eq!(number(&lanes[0], "n"), documents.len() as u64);
    assert!(number(&lanes[0], "n_ok") > 0);
    // A document is found in the sequences that hold parts of it.
    let id = &documents[3].id;
    let explained = workspace
        .gleaner(&["explain", "64KiB", id, "--json"])
        .expect(0);
    let explained: Value = serde_json::from_str(&explained.stdout).unwrap();
    let stage = &explained["stages"][0];
    assert_eq!(text(stage, "lane"), "ok");
    let parts = stage["rows"].as_array().unwrap();
    let n_tokens: u64 = parts
        .iter()
        .map(|part| number(part, "n_tokens_of_document"))
        .sum();
    assert!(!parts.is_empty() && n_tokens > 1, "{explained:#}");
    let _ = workspace
        .gleaner(&["explain", "64KiB", "no such document"])
        .expect(2);
}
