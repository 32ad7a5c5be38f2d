//! What was paid for is not paid for again.

use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, always};
use gleaner_tests::corpus::Document;

use super::*;

/// Longest text that is given to a prompt, in characters.
const CHARS: usize = 900;

struct Server {
    server: ScriptedServer,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let server = ScriptedServer::start(always(Play::Answer), ServerOptions::default());
        Self {
            server: runtime.block_on(server).unwrap(),
            _runtime: runtime,
        }
    }

    fn n_requests(&self) -> usize {
        self.server.log().n_requests()
    }
}

fn job(server: &Server) -> String {
    format!(
        "\
name: paid
output: out
corpus: {{paths: ['corpus/*']}}
datasets: {{target: {{paths: [target.jsonl]}}}}
task_bytes: 1KiB
allow: {{rejected_rows: 100%}}
endpoints: {{llm: {{url: \"{}\", model: any}}}}
stages:
  weights: {{kind: importance_weights, target: target, min_tokens: 5}}
  queries: {{kind: synthetic_queries, endpoint: llm}}
",
        server.server.url()
    )
}

/// A few short documents for each file.
fn short(documents: &[Document], idx: usize) -> Vec<Document> {
    let mut documents = part(documents, idx)[..4].to_vec();
    for document in &mut documents {
        document.text = document.text.chars().take(CHARS).collect();
    }
    documents
}

#[test]
fn only_new_documents_are_asked_about() {
    let server = Server::start();
    let (workspace, documents) = workspace(3);
    for idx in 0..3 {
        write_file(&workspace, idx, &short(&documents, idx));
    }
    workspace.write("job.yaml", job(&server));
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.n_requests(), 12);
    // Nothing has changed; a file was added; one was written again as it was; one is gone.
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.n_requests(), 12);
    write_file(&workspace, 3, &short(&documents, 3));
    let summary = workspace.summary(&[]);
    assert_eq!(server.n_requests(), 16);
    assert!(number(&stage(&summary, "queries")["reuse"], "n_reused") > 0);
    write_file(&workspace, 1, &short(&documents, 1));
    let _ = workspace.run(&[]).expect(0);
    remove_file(&workspace, 2);
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.n_requests(), 16);
    let n = workspace.sql("SELECT count(DISTINCT doc_id) AS n FROM queries");
    assert_eq!(number(&n[0], "n"), 12);
}

/// Before money is spent, what is known by then is compared.
#[test]
fn a_refusal_comes_before_the_bill() {
    let server = Server::start();
    let (workspace, documents) = workspace(3);
    for idx in 0..3 {
        write_file(&workspace, idx, &short(&documents, idx));
    }
    workspace.write("job.yaml", job(&server));
    let _ = workspace.run(&[]).expect(0);
    let n_before = server.n_requests();
    for idx in 0..3 {
        let mut longer = short(&documents, 3 + idx);
        for document in &mut longer {
            document.text = format!("{0} {0} {0}", document.text);
        }
        write_file(&workspace, idx, &longer);
    }
    for _ in 0..2 {
        let ended = workspace.run(&["--json"]).expect(5);
        let found = crossed(&ended);
        assert!(
            found
                .iter()
                .any(|(stage, figure, _)| stage == "weights" && figure == "mean_length")
        );
        assert_eq!(server.n_requests(), n_before);
    }
    let _ = workspace.run(&["--accept"]).expect(0);
    assert_eq!(server.n_requests(), n_before + 12);
}
