//! A model of the worker's own and a server's as the pair of `loss_reduction`, through a whole run:
//! both see the same tokens, what each computes is in the table, and the server is asked once.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use gleaner_models::Tokenizer;
use gleaner_scripted_endpoint::{Play, Request, Script, ScriptedServer, ServerOptions};
use gleaner_tests::corpus::{Document, example_documents, write_parquet};
use gleaner_tests::program::{Workspace, number, text};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Every so many of the example documents.
const EVERY: usize = 250;
const MAX_TOKENS: usize = 40;
const EOS: &str = "<|endoftext|>";

/// The reference models, which have one tokenizer.
fn write_model(workspace: &Workspace, model: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/color");
    let folder = workspace.path().join("models").join(model);
    fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data.join(model).join(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("tokenizer.json"), tokenizer_json()).unwrap();
}

fn tokenizer_json() -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/color/tokenizer.json.zst");
    zstd::decode_all(fs::File::open(data).unwrap()).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(&tokenizer_json(), Path::new("tokenizer.json")).unwrap()
}

/// What the server's model makes of a token behind another.
fn log_likelihood(before: u32, token: u32) -> f64 {
    -f64::from((before.wrapping_mul(31).wrapping_add(token.wrapping_mul(17))) % 6000) / 1000.0
}

/// A server whose model has the tokens of `tokenizer`, in the form of vLLM.
fn server(runtime: &Runtime, tokenizer: Tokenizer) -> ScriptedServer {
    let script: Script = Arc::new(move |request: &Request| {
        let prompt = request.body["prompt"].as_str().unwrap();
        let ids = tokenizer.encode_with_control_tokens(prompt).unwrap();
        let mut told = vec![Value::Null];
        for pair in ids.windows(2) {
            let candidate = json!({ "logprob": log_likelihood(pair[0], pair[1]), "rank": 1,
                                    "decoded_token": tokenizer.decode(&pair[1..]).unwrap() });
            let mut place = json!({});
            place[pair[1].to_string()] = candidate;
            told.push(place);
        }
        let choice = json!({ "text": "x", "finish_reason": "length", "prompt_logprobs": told });
        let usage = json!({ "prompt_tokens": ids.len(), "completion_tokens": 1 });
        let body = json!({ "choices": [choice], "usage": usage });
        Play::Body(body.to_string().into_bytes())
    });
    let options = ServerOptions::default();
    runtime
        .block_on(ScriptedServer::start(script, options))
        .unwrap()
}

fn job(url: &str, prior: &str, conditional: &str) -> String {
    format!(
        "
name: both
output: out
corpus: {{paths: [corpus/*.parquet], columns: {{id: id, text: text, source: source}}}}
endpoints: {{llm: {{url: '{url}', model: tuned, attempts: 1}}}}
stages:
  losses:
    kind: loss_reduction
    prior: {prior}
    conditional: {conditional}
    max_tokens: {MAX_TOKENS}
    eos: '{EOS}'
    token_losses: true
  best: {{kind: select, by: losses.loss_reduction, method: top_k, documents: 5}}
"
    )
}

const ROWS: &str = "SELECT doc_id, status, n_tokens, truncated, prior_nll, conditional_nll, \
                    loss_reduction FROM losses ORDER BY doc_id";

#[test]
fn a_local_prior_and_a_conditional_model_of_a_server() {
    let runtime = Runtime::new().unwrap();
    let server = server(&runtime, tokenizer());
    let workspace = Workspace::new();
    let documents: Vec<Document> = example_documents().into_iter().step_by(EVERY).collect();
    let path = workspace.path().join("corpus/part.parquet");
    write_parquet(&path, &documents, 10);
    write_model(&workspace, "llama_prior");
    let prior = "models/llama_prior";
    workspace.write("job.yaml", job(&server.url(), prior, "{endpoint: llm}"));
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    let plan = plan.events().remove(0);
    let _ = workspace.run(&["--workers", "2"]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);

    // A text once; and first whether the server tells losses, and takes the token in front as one.
    let n_texts = documents.iter().filter(|it| !it.text.is_empty()).count();
    let n_requests = server.log().n_requests();
    assert_eq!(n_requests, n_texts + 2);
    assert!(server.log().answered_twice().is_empty());
    let asked = &plan["stages"][0]["requests"][0];
    assert_eq!(number(asked, "calls"), n_requests as u64, "{plan}");

    let rows = workspace.sql(ROWS);
    assert_eq!(rows.len(), documents.len());
    let n_ok = rows.iter().filter(|row| row["status"] == "ok").count();
    assert_eq!(n_ok, n_texts, "{rows:?}");
    let tokenizer = tokenizer();
    let eos = tokenizer.id_of(EOS).unwrap();
    let texts: std::collections::BTreeMap<&str, &str> = documents
        .iter()
        .map(|it| (it.id.as_str(), it.text.as_str()))
        .collect();
    for row in rows.iter().filter(|row| row["status"] == "ok") {
        let mut ids = vec![eos];
        ids.extend(
            tokenizer
                .encode(texts[text(row, "doc_id").as_str()])
                .unwrap(),
        );
        let is_cut = ids.len() > MAX_TOKENS + 1;
        ids.truncate(MAX_TOKENS + 1);
        let n_tokens = ids.len() - 1;
        assert_eq!(number(row, "n_tokens"), n_tokens as u64, "{row}");
        assert_eq!(row["truncated"], is_cut, "{row}");
        let sum: f64 = ids.windows(2).map(|it| log_likelihood(it[0], it[1])).sum();
        let of = |column: &str| row[column].as_f64().unwrap();
        let expected = -sum / n_tokens as f64;
        assert!((of("conditional_nll") - expected).abs() < 1e-5, "{row}");
        let reduction = of("prior_nll") - of("conditional_nll");
        assert!((of("loss_reduction") - reduction).abs() < 1e-9, "{row}");
    }
    assert_eq!(workspace.sql("SELECT doc_id FROM best").len(), 5);
    assert_eq!(workspace.summary(&[])["is_new"], false);
    assert_eq!(server.log().n_requests(), n_requests);

    // The worker's own model gives what it gives beside one of its own kind.
    workspace.write("job.yaml", job(&server.url(), prior, prior));
    let _ = workspace.run(&[]).expect(0);
    let alone = workspace.sql(ROWS);
    for (both, alone) in rows.iter().zip(&alone) {
        assert_eq!(both["doc_id"], alone["doc_id"]);
        assert_eq!(both["n_tokens"], alone["n_tokens"], "{both} {alone}");
        let prior = |row: &Value| row["prior_nll"].as_f64().unwrap_or(0.0);
        assert!((prior(both) - prior(alone)).abs() < 1e-5, "{both} {alone}");
    }
    assert_eq!(server.log().n_requests(), n_requests);
}

/// Another tokenizer than the worker's: rows are rejected with the place where it shows, and nothing
/// is compared that cannot be.
#[test]
fn a_server_with_other_tokens_is_not_compared_with() {
    let runtime = Runtime::new().unwrap();
    let script: Script = Arc::new(|request: &Request| {
        // A token for each byte.
        let prompt = request.body["prompt"].as_str().unwrap();
        let after_eos = prompt.strip_prefix(EOS);
        let n_tokens = after_eos.map_or(prompt.len(), |rest| rest.len() + 1);
        let told: Vec<Value> = (0..n_tokens)
            .map(|idx| match idx {
                0 => Value::Null,
                _ => json!({ "7": { "logprob": -1.0, "rank": 1 } }),
            })
            .collect();
        let choice = json!({ "text": "x", "prompt_logprobs": told });
        Play::Body(json!({ "choices": [choice] }).to_string().into_bytes())
    });
    let options = ServerOptions::default();
    let server = runtime
        .block_on(ScriptedServer::start(script, options))
        .unwrap();
    let workspace = Workspace::new();
    let documents: Vec<Document> = example_documents().into_iter().take(4).collect();
    let path = workspace.path().join("corpus/part.parquet");
    write_parquet(&path, &documents, 10);
    write_model(&workspace, "llama_prior");
    let text_of_job = job(&server.url(), "models/llama_prior", "{endpoint: llm}");
    let allowed = format!("allow: {{rejected_rows: 100%}}{text_of_job}");
    let allowed = allowed
        .split("  best:")
        .next()
        .unwrap()
        .replace("max_tokens: 40", "max_tokens: 4000");
    workspace.write("job.yaml", allowed);
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql("SELECT status, reason, loss_reduction FROM losses");
    assert_eq!(rows.len(), documents.len());
    for row in rows {
        assert_eq!(row["status"], "rejected", "{row}");
        assert!(row["loss_reduction"].is_null(), "{row}");
        let reason = text(&row, "reason");
        assert!(reason.contains("they have different tokenizers"), "{row}");
    }
}
