//! A job that runs again and again over a corpus that changes: what it does anew, what it refuses to
//! publish, and what becomes of it when something is in its way.

mod drift;
mod guardrails;
mod in_the_way;
mod large;
mod moved_cut;
mod paid;
mod readers;
mod repairs;
mod unchanged;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use gleaner_tests::corpus::{Document, health_documents, jsonl, sample_documents, write_parquet};
use gleaner_tests::program::{Ended, Workspace, files, number};
use serde_json::Value;

/// Documents of a file of the corpus; with `task_bytes` of the job each file is a task.
const PER_FILE: usize = 30;

const JOB: &str = "\
name: nightly
output: out
corpus: {paths: ['corpus/*']}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 20KiB
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 20}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 25, materialize: true}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source ORDER BY source'}
";

/// A job over `n_files` files, and documents for twice as many.
fn workspace(n_files: usize) -> (Workspace, Vec<Document>) {
    let workspace = Workspace::new();
    let documents = sample_documents(2 * n_files * PER_FILE);
    for idx in 0..n_files {
        write_file(&workspace, idx, part(&documents, idx));
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write("job.yaml", JOB);
    (workspace, documents)
}

fn part(documents: &[Document], idx: usize) -> &[Document] {
    &documents[idx * PER_FILE..(idx + 1) * PER_FILE]
}

fn write_file(workspace: &Workspace, idx: usize, documents: &[Document]) {
    let path = workspace
        .path()
        .join(format!("corpus/part-{idx:03}.parquet"));
    write_parquet(&path, documents, PER_FILE);
}

fn remove_file(workspace: &Workspace, idx: usize) {
    let path = workspace
        .path()
        .join(format!("corpus/part-{idx:03}.parquet"));
    fs::remove_file(path).unwrap();
}

/// Everything below a folder: names, sizes, times of the last change.
fn tree(path: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    files(path)
        .into_iter()
        .map(|path| {
            let meta = fs::metadata(&path).unwrap();
            let facts = (meta.len(), meta.modified().unwrap());
            (path.display().to_string(), facts)
        })
        .collect()
}

fn output(workspace: &Workspace) -> std::path::PathBuf {
    workspace.path().join("out")
}

/// Numbers of the published versions.
fn versions(workspace: &Workspace) -> Vec<u64> {
    let names = files(&output(workspace).join("_gleaner/versions"));
    let mut numbers: Vec<u64> = names
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Objects of all tables.
fn objects(workspace: &Workspace) -> Vec<String> {
    let all = tree(&output(workspace)).into_keys();
    all.filter(|path| path.ends_with(".parquet")).collect()
}

fn stage<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let stages = summary["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["name"] == name).unwrap()
}

/// Tasks of a stage that a run did not find done.
fn n_new(summary: &Value, name: &str) -> u64 {
    let reuse = &stage(summary, name)["reuse"];
    number(reuse, "n_tasks") - number(reuse, "n_reused")
}

/// Rows of a stage in an order of their own, without what tells how they were cut.
fn rows(workspace: &Workspace, output: &str, table: &str) -> Vec<Value> {
    let order = match table {
        "counts" => "source",
        "weights_ngrams" => "bucket",
        _ => "input_file, input_row",
    };
    workspace.sql_of(output, &format!("SELECT * FROM {table} ORDER BY {order}"))
}

/// The figures of a refusal that are beyond their bounds: stage, figure, and column or source.
fn crossed(ended: &Ended) -> Vec<(String, String, String)> {
    let error = ended.events().pop().unwrap();
    assert_eq!(error["exit_code"], 5, "{error}");
    let checks = error["details"].as_array().unwrap().iter();
    let crossed = checks.filter(|it| it["is_crossed"] == true && it["beyond"] == "stop");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    crossed
        .map(|check| {
            (
                text(check, "stage"),
                text(check, "figure"),
                text(check, "of"),
            )
        })
        .collect()
}
