//! A small job with a bit of everything, for tests of commands.

use crate::corpus::{Document, health_documents, jsonl, sample_documents, write_parquet};
use crate::program::Workspace;

/// Id of a document whose text is null.
pub const NULL: &str = "null";
/// Id of a document that is too short.
pub const SHORT: &str = "it's \"short\", really";
/// Rows that [`workspace`]'s selection chooses.
pub const CHOSEN: usize = 25;
/// Files of the corpus; each is a task.
pub const FILES: usize = 4;
/// Documents of each file but the last, which has [`NULL`] and [`SHORT`] too.
pub const PER_FILE: usize = 30;

/// A job and its inputs; the output will be `out`. Also the documents, in the order of the files.
#[must_use]
pub fn workspace() -> (Workspace, Vec<Document>) {
    let workspace = Workspace::new();
    let mut documents = sample_documents(FILES * PER_FILE);
    let (parquet, lines) = documents.split_at((FILES - 1) * PER_FILE);
    for (idx, documents) in parquet.chunks(PER_FILE).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, PER_FILE);
    }
    let short = Document {
        id: SHORT.to_owned(),
        text: "Too short, isn't it?".to_owned(),
        source: "a, \"b\"\nc".to_owned(),
    };
    let mut lines = jsonl(lines) + &jsonl(std::slice::from_ref(&short));
    lines += &format!("{{\"id\": \"{NULL}\", \"text\": null, \"source\": null}}\n");
    workspace.write("corpus/rest.jsonl", lines);
    documents.push(short);
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write("job.yaml", JOB);
    (workspace, documents)
}

/// Few bytes per task: no file shares a task with another, no row group with the next.
const JOB: &str = "\
name: small
output: out
corpus: {paths: ['corpus/*']}
datasets:
  target: {paths: [target.jsonl]}
task_bytes: 20KiB
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 20}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 25, materialize: true}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source ORDER BY source'}
";
