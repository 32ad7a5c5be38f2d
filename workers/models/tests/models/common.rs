//! Models of the repository, put together as directories.

use std::fs;
use std::path::{Path, PathBuf};

use gleaner_models::{CausalModel, LoadOptions, ModelDirectory};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const CONTEXT: usize = 128;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/data/color")
        .join(path)
}

pub(crate) fn unpacked(name: &str) -> Vec<u8> {
    zstd::decode_all(&fs::read(data(name)).unwrap()[..]).unwrap()
}

/// A directory with a model of the golden set; all share one tokenizer.
pub(crate) fn model_directory(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(data(name).join(file), directory.path().join(file)).unwrap();
    }
    let settings = directory.path().join("tokenizer_config.json");
    fs::copy(data("tokenizer_config.json"), settings).unwrap();
    fs::write(
        directory.path().join("tokenizer.json"),
        unpacked("tokenizer.json.zst"),
    )
    .unwrap();
    directory
}

pub(crate) fn load(name: &str, options: &LoadOptions) -> CausalModel {
    let directory = model_directory(name);
    let directory = ModelDirectory::open(directory.path()).unwrap();
    directory.load(options).unwrap()
}

pub(crate) fn golden() -> Value {
    serde_json::from_slice(&unpacked("golden.json.zst")).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// The ids of all documents of the golden set.
pub(crate) fn documents(golden: &Value) -> Vec<Vec<u32>> {
    let documents = golden["doc_token_ids"].as_array().unwrap();
    let ids = |ids: &Value| {
        ids.as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect()
    };
    documents.iter().map(ids).collect()
}

/// A tokenizer of `n_tokens` words.
pub(crate) fn tokenizer_json(n_tokens: usize) -> String {
    let words: serde_json::Map<String, Value> = (0..n_tokens)
        .map(|id| (format!("w{id}"), Value::from(id)))
        .collect();
    let model = serde_json::json!({"type": "WordLevel", "vocab": words, "unk_token": "w1"});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": model,
    });
    tokenizer.to_string()
}

/// A directory with a model of `tests/fixtures`.
pub(crate) fn fixture_directory(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for file in fs::read_dir(fixtures.join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), directory.path().join(file.file_name())).unwrap();
    }
    fs::write(directory.path().join("tokenizer.json"), tokenizer_json(64)).unwrap();
    directory
}
