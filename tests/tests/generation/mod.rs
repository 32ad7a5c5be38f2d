//! Queries and graded documents from a language-model server, through the program: against one
//! that is as it should be, that breaks in each way that servers do, and while the program dies.
//!
//! The server runs in this process ([`Server`]), so that tests see what it was asked and what it
//! charged.
#![cfg(unix)]

mod budget;
mod costs;
mod documents;
mod embeddings;
mod examples;
mod exports;
mod judges;
mod kills;
mod local;
mod plans;
mod real_server;
mod report;
mod requests;
mod scale;
mod secrets;
mod servers;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gleaner_scripted_endpoint::{Log, Play, Request, Script, ScriptedServer, ServerOptions};
use gleaner_tests::corpus::{Document, sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, number};
use serde_json::Value;

/// Longest text of a document that tests give to a prompt, in characters.
const DOCUMENT_CHARS: usize = 1200;
/// Documents of a row group, the smallest part of a corpus that a task can be.
const ROWS_PER_GROUP: usize = 4;

/// Both stages with what they are given at least.
const BOTH: &str = "
  queries: {kind: synthetic_queries, endpoint: llm}
  graded: {kind: graded_documents, input: queries, endpoint: llm}
";

/// Queries alone.
const QUERIES: &str = "
  queries: {kind: synthetic_queries, endpoint: llm}
";

/// What a worker process is told to do tasks of these stages: to ask servers, and to compute.
const FOR_BOTH: [&str; 2] = ["--resources", "cpu,network"];

/// A server that runs until it is dropped.
struct Server {
    server: ScriptedServer,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(script: Script, options: ServerOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime
            .block_on(ScriptedServer::start(script, options))
            .unwrap();
        Self {
            server,
            _runtime: runtime,
        }
    }

    fn playing(script: Script) -> Self {
        Self::start(script, ServerOptions::default())
    }

    fn answering() -> Self {
        Self::playing(gleaner_scripted_endpoint::always(Play::Answer))
    }

    fn url(&self) -> String {
        self.server.url()
    }

    fn log(&self) -> &Log {
        self.server.log()
    }

    fn n_requests(&self) -> u64 {
        self.log().n_requests() as u64
    }

    /// Tokens of all answers.
    fn n_tokens(&self) -> u64 {
        let answers = self.log().all();
        let tokens = answers
            .iter()
            .map(|answer| answer.prompt_tokens + answer.completion_tokens);
        tokens.sum()
    }
}

/// A job over `corpus/*.parquet`. `endpoint` are further keys of the endpoint, `stages` those of
/// the stages.
fn job(url: &str, endpoint: &str, stages: &str) -> String {
    format!(
        "
name: generation
output: out
corpus: {{paths: [corpus/*.parquet]}}
allow: {{rejected_rows: 100%}}
endpoints:
  llm: {{url: \"{url}\", model: any, {endpoint}}}
stages:{stages}"
    )
}

/// Different documents of many sources, none of them long.
fn documents(n: usize) -> Vec<Document> {
    let mut documents = sample_documents(n);
    for document in &mut documents {
        document.text = document.text.chars().take(DOCUMENT_CHARS).collect();
    }
    documents
}

fn workspace_of(documents: &[Document]) -> Workspace {
    let workspace = Workspace::new();
    let path = workspace.path().join("corpus/part-0.parquet");
    write_parquet(&path, documents, ROWS_PER_GROUP);
    workspace
}

/// A corpus of so many documents, and a job over it.
fn workspace(n: usize, job: &str) -> Workspace {
    let workspace = workspace_of(&documents(n));
    workspace.write("job.yaml", job);
    workspace
}

/// A word that stands in a document, so that a script knows what is asked about it.
const MARK: &str = "zzmarkedzz";

/// `n` documents, and one more whose text has [`MARK`].
fn with_marked(n: usize) -> Vec<Document> {
    let mut documents = documents(n);
    documents.push(Document {
        id: "marked".to_owned(),
        text: format!("The {MARK} bridge over the river was opened in the spring of 1905."),
        source: "marked".to_owned(),
    });
    documents
}

/// Plays for what is asked about the marked document, with the number of such requests before;
/// answers everything else.
fn for_marked(play: impl Fn(&Request, usize) -> Play + Send + Sync + 'static) -> Script {
    let n_before = AtomicUsize::new(0);
    Arc::new(move |request: &Request| {
        if request.body.to_string().contains(MARK) {
            play(request, n_before.fetch_add(1, Ordering::Relaxed))
        } else {
            Play::Answer
        }
    })
}

/// The columns of a table whose values do not depend on how the job was cut into tasks.
const SAME_QUERIES: &str = "query_id, doc_id, source, query, label, grade, status, reason, flags, lane, model, prompt_id, \
     sample, prompt_tokens, completion_tokens, attempts, input_file, input_row";
const SAME_GRADED: &str = "query_id, doc_id, query, source_doc_id, label, grade, text, status, \
                           reason, flags, lane, model, prompt_id, sample, prompt_tokens, \
                           completion_tokens, attempts";

/// The rows of both stages, in an order of their own.
fn rows(workspace: &Workspace, output: &str) -> [Vec<Value>; 2] {
    [
        workspace.sql_of(
            output,
            &format!("SELECT {SAME_QUERIES} FROM queries ORDER BY doc_id, query_id"),
        ),
        workspace.sql_of(
            output,
            &format!("SELECT {SAME_GRADED} FROM graded ORDER BY query_id, doc_id"),
        ),
    ]
}

/// Rows of a table by their status.
fn statuses(workspace: &Workspace, table: &str) -> BTreeMap<String, u64> {
    let query = format!("SELECT status, count(*) AS n FROM {table} GROUP BY status");
    let rows = workspace.sql(&query);
    rows.iter()
        .map(|row| {
            (
                gleaner_tests::program::text(row, "status"),
                number(row, "n"),
            )
        })
        .collect()
}

fn count(workspace: &Workspace, from: &str) -> u64 {
    let rows = workspace.sql(&format!("SELECT count(*) AS n FROM {from}"));
    number(&rows[0], "n")
}
