//! A model directory instead of a server: workers serve it to themselves.

use std::fs;
use std::path::Path;

use gleaner_tests::program::{Workspace, text};
use serde_json::{Value, json};

use super::{count, job, workspace};

const DOCUMENTS: usize = 6;

/// Queries and graded documents that are short, so that a test does not take long.
const STAGES: &str = "
  queries: {kind: synthetic_queries, endpoint: llm, sampling: {max_tokens: 400}}
  graded: {kind: graded_documents, input: queries, endpoint: llm, sampling: {max_tokens: 900}}
";

/// Writes a model of a few thousand parameters, with a context that prompts fit into. It has never
/// seen a prompt: whatever sense there is in its answers is in their form.
fn write_model(workspace: &Workspace, name: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/color");
    let folder = workspace.path().join(name);
    fs::create_dir_all(&folder).unwrap();
    let config = fs::read(data.join("llama_prior/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["max_position_embeddings"] = json!(8192);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = "model.safetensors";
    fs::copy(data.join("llama_prior").join(weights), folder.join(weights)).unwrap();
    let tokenizer = fs::File::open(data.join("tokenizer.json.zst")).unwrap();
    let tokenizer = zstd::decode_all(tokenizer).unwrap();
    fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}

#[test]
fn a_model_directory_answers_as_a_server_would() {
    let workspace = workspace(DOCUMENTS, &job("models/tiny", "", STAGES));
    write_model(&workspace, "models/tiny");
    let valid = workspace.gleaner(&["validate", "job.yaml"]).expect(0);
    assert!(
        valid.stdout.contains("has no chat template"),
        "{}",
        valid.stdout
    );
    assert_eq!(workspace.summary(&[])["is_new"], true);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    // Whatever the model says, each answer has a query for each grade.
    let whole = "(SELECT doc_id FROM queries GROUP BY doc_id HAVING count(DISTINCT grade) = 4)";
    assert_eq!(count(&workspace, whole), DOCUMENTS as u64);
    let reasons = workspace
        .sql("SELECT DISTINCT coalesce(reason, '') AS reason FROM queries WHERE status = 'failed'");
    assert!(reasons.is_empty(), "{reasons:?}");
    let models = workspace.sql("SELECT DISTINCT model FROM queries");
    assert_eq!(models.len(), 1);
    assert_eq!(text(&models[0], "model"), "any");
    // What was answered is not asked again.
    assert_eq!(workspace.summary(&[])["is_new"], false);
}

#[test]
fn a_directory_without_a_model_is_told() {
    let workspace = workspace(2, &job("models/none", "", STAGES));
    let _ = workspace
        .gleaner(&["validate", "job.yaml"])
        .expect(2)
        .says("endpoint llm")
        .says("models/none");
    let _ = workspace.run(&[]).expect(4).says("models/none");
    // A scheme that was forgotten is no directory.
    workspace.write("job.yaml", job("localhost:8000/v1", "", STAGES));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("is not the URL of a server");
}
