//! A job over a few dozen documents and nothing special, for tests of what can go wrong.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use serde_json::Value;

use crate::corpus::{Document, jsonl, write_parquet};
use crate::program::Workspace;
use crate::servers::fake_s3::FakeS3;

/// Weights of a corpus towards a target, and the ten best documents. Lines are counted from the
/// name on.
pub const JOB: &str = "\
name: plain
output: out
corpus: {paths: [corpus/*.parquet]}
datasets: {target: {paths: [target.jsonl]}}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 1}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 10}
";

/// Documents of a file.
pub const PER_FILE: usize = 12;

const WORDS: [&str; 12] = [
    "acid", "bone", "cell", "drug", "edge", "fire", "gold", "hill", "iron", "jazz", "king", "lamp",
];

/// A document of 31 words; its number is one of them, so that no two are alike.
#[must_use]
pub fn document(i: usize) -> Document {
    let word = |j: usize| WORDS[(i * i + (i + 3) * j + j * j / 2) % WORDS.len()];
    let words: Vec<&str> = (0..30).map(word).collect();
    Document {
        id: format!("doc-{i:03}"),
        text: format!("{} {i}", words.join(" ")),
        source: format!("source-{}", i % 2),
    }
}

/// The first documents.
#[must_use]
pub fn documents(n: usize) -> Vec<Document> {
    (0..n).map(document).collect()
}

/// [`JOB`], its target, and a corpus of some files with [`PER_FILE`] documents each, in groups of
/// four.
#[must_use]
pub fn workspace(n_files: usize) -> Workspace {
    let workspace = Workspace::new();
    for idx in 0..n_files {
        write_part(&workspace, idx);
    }
    workspace.write("target.jsonl", jsonl(&documents(6)));
    workspace.write("job.yaml", JOB);
    workspace
}

/// [`workspace`], but the corpus is three files in a bucket.
///
/// # Panics
///
/// If a file cannot be read.
#[must_use]
pub fn workspace_with_corpus_in(store: &FakeS3, bucket: &str) -> Workspace {
    const N_FILES: usize = 3;
    let local = workspace(N_FILES);
    for idx in 0..N_FILES {
        let bytes = std::fs::read(part(&local, idx)).unwrap();
        store.put(bucket, &format!("corpus/part-{idx}.parquet"), bytes);
    }
    let workspace = workspace(0);
    let uri = format!("s3://{bucket}/corpus/*.parquet");
    workspace.write("job.yaml", JOB.replace("corpus/*.parquet", &uri));
    workspace
}

/// A file of the corpus.
#[must_use]
pub fn part(workspace: &Workspace, idx: usize) -> PathBuf {
    workspace
        .path()
        .join(format!("corpus/part-{idx:02}.parquet"))
}

/// Writes a file of the corpus as it should be.
pub fn write_part(workspace: &Workspace, idx: usize) {
    let documents: Vec<Document> = (PER_FILE * idx..PER_FILE * (idx + 1))
        .map(document)
        .collect();
    write_parquet(&part(workspace, idx), &documents, 4);
}

/// Nullable columns by name.
///
/// # Panics
///
/// If they have different lengths.
#[must_use]
pub fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .unwrap()
}

/// A column of texts.
#[must_use]
pub fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Where the rows of a stage went, by a summary.
#[must_use]
pub fn lanes(summary: &Value, stage_idx: usize) -> &Value {
    &summary["stages"][stage_idx]["lanes"]
}

/// Counts of rows by status, and of weights that are no numbers.
#[must_use]
pub fn statuses(workspace: &Workspace) -> Value {
    let rows = workspace.sql(
        "SELECT count(*) AS n, count(*) FILTER (WHERE status = 'ok') AS ok, \
         count(*) FILTER (WHERE status = 'rejected') AS rejected, \
         count(*) FILTER (WHERE log_weight = 'NaN'::double) AS nan FROM weights",
    );
    rows[0].clone()
}
