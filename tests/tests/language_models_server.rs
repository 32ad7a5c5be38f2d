//! Servers as the models of `loss_reduction`, through whole runs: what they tell is in the table,
//! is paid for once, and is selected by.

use gleaner_scripted_endpoint::losses::{log_likelihoods, tokens};
use gleaner_scripted_endpoint::{Play, PromptLosses, ScriptedServer, ServerOptions, always};
use gleaner_tests::corpus::{Document, example_documents, write_parquet};
use gleaner_tests::program::{Workspace, number};
use tokio::runtime::Runtime;

/// Every so many of the example documents.
const EVERY: usize = 200;

/// A workspace with some documents, and a job that asks the server at `url`.
fn workspace(url: &str) -> (Workspace, Vec<Document>) {
    let workspace = Workspace::new();
    let documents: Vec<Document> = example_documents().into_iter().step_by(EVERY).collect();
    write_parquet(
        &workspace.path().join("corpus/part.parquet"),
        &documents,
        10,
    );
    workspace.write(
        "job.yaml",
        format!(
            "
name: served
output: out
corpus: {{paths: [corpus/*.parquet], columns: {{id: id, text: text, source: source}}}}
endpoints: {{llm: {{url: '{url}', model: base, attempts: 1}}}}
stages:
  losses:
    kind: loss_reduction
    prior: {{endpoint: llm}}
    conditional: {{endpoint: llm, model: tuned}}
    max_tokens: 50
  best: {{kind: select, by: losses.loss_reduction, method: top_k, documents: 5}}
"
        ),
    );
    (workspace, documents)
}

fn server(runtime: &Runtime, prompt_losses: PromptLosses) -> ScriptedServer {
    let options = ServerOptions {
        prompt_losses,
        heeds_idempotency: true,
        ..ServerOptions::default()
    };
    runtime
        .block_on(ScriptedServer::start(always(Play::Answer), options))
        .unwrap()
}

#[test]
fn losses_of_a_server_are_scored_once_and_selected_by() {
    let runtime = Runtime::new().unwrap();
    let server = server(&runtime, PromptLosses::Both);
    let (workspace, documents) = workspace(&server.url());
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(
        "SELECT l.doc_id, c.text, l.n_tokens, l.truncated, l.prior_nll, l.conditional_nll, \
         l.loss_reduction FROM losses l JOIN corpus c ON c.id = l.doc_id WHERE l.eligible",
    );
    assert!(!rows.is_empty());
    for row in &rows {
        let text = row["text"].as_str().unwrap();
        // Longer texts are cut by bytes before that, which changes no token among the first.
        let all = tokens(text);
        let n_tokens = (all.len() - 1).min(50);
        assert_eq!(number(row, "n_tokens"), n_tokens as u64, "{row}");
        for (model, column) in [("base", "prior_nll"), ("tuned", "conditional_nll")] {
            let losses = &log_likelihoods(model, &all)[1..=n_tokens];
            let expected = -losses.iter().sum::<f64>() / n_tokens as f64;
            let found = row[column].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5, "{column}: {row}");
        }
    }
    assert_eq!(workspace.sql("SELECT doc_id FROM best").len(), 5);
    // A probe for each model, and each document with a text for each: not once more.
    let n_texts = documents.iter().filter(|it| !it.text.is_empty()).count();
    let n_requests = server.log().n_requests();
    assert_eq!(n_requests, 2 + 2 * n_texts);
    assert!(server.log().answered_twice().is_empty());
    // Other rows from the same replies: nothing is paid for again.
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    workspace.write(
        "job.yaml",
        job.replace("max_tokens: 50", "max_tokens: 50\n    token_losses: true"),
    );
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.log().n_requests(), n_requests);
}

#[test]
fn a_server_that_tells_no_losses_ends_the_run_with_the_reason() {
    let runtime = Runtime::new().unwrap();
    let server = server(&runtime, PromptLosses::Ignored);
    let (workspace, _) = workspace(&server.url());
    let _ = workspace
        .run(&[])
        .expect(4)
        .says("the server does not tell log-probabilities of prompts");
    assert!(!workspace.path().join("out/manifest.json").exists());
}

#[test]
fn what_servers_cannot_do_is_told_before_anything_runs() {
    let (workspace, _) = workspace("http://127.0.0.1:1/v1");
    let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let check = |change: (&str, &str), expected: &str| {
        workspace.write("job.yaml", job.replace(change.0, change.1));
        let _ = workspace
            .gleaner(&["validate", "job.yaml"])
            .expect(2)
            .says(expected);
    };
    check(
        ("max_tokens: 50", "unit: sequence"),
        "without its tokenizer they cannot be packed",
    );
    check(
        ("max_tokens: 50", "dtype: bf16"),
        "`dtype` is about models that compute here",
    );
    check(
        ("prior: {endpoint: llm}", "prior: {endpoint: other}"),
        "there is no endpoint `other`",
    );
    check(
        ("prior: {endpoint: llm}", "prior: {endpont: llm}"),
        "endpont",
    );
}
