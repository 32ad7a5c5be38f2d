//! Trained models are read by transformers, which gives the same token ids and losses.
//!
//! Needs a Python with torch and transformers: `GLEANER_PYTHON`, or `python3`.

use std::path::{Path, PathBuf};
use std::process::Command;

use gleaner_models::train::{
    Documents, Length, Size, Start, TrainedTokenizer, Trainer, TrainingConfig,
};
use gleaner_models::{LanguageModel, LoadOptions, ModelDirectory};
use serde_json::{Value, json};

fn python() -> Option<String> {
    let python = std::env::var("GLEANER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python)
        .args(["-c", "import torch, transformers"])
        .output();
    output
        .is_ok_and(|output| output.status.success())
        .then_some(python)
}

fn texts() -> Vec<String> {
    let words = [
        "one",
        "two",
        "three",
        " déjà",
        "\n",
        "x = y + 1",
        "<|endoftext|>",
        "日本語",
    ];
    (0..120)
        .map(|i| {
            (0..40)
                .map(|j| words[(i * 7 + j * (i + 3)) % 8])
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

/// Whether a model's tokenizer is one that its family has: transformers puts the family's own rules
/// into the place of others (qwen2), which is nothing that training did.
#[derive(Clone, Copy, PartialEq)]
enum Own {
    Yes,
    No,
}

/// Trains a few steps, writes the model, and what transformers should find in it.
fn train(start: Start, folder: &Path, tokenizer: Own) -> PathBuf {
    let context = 64;
    let mut documents = Documents::new(start.eos_id());
    let encode = |text: &String| start.tokenizer().encode(text).expect("encoded");
    let texts: Vec<String> = texts().into_iter().take(30).collect();
    let ids: Vec<Vec<u32>> = texts.iter().map(encode).collect();
    for ids in &ids {
        documents.push(ids);
    }
    let config = TrainingConfig {
        context,
        sequences_per_step: 4,
        length: Length::Steps(8),
        ..TrainingConfig::continued(start.architecture())
    };
    let eos_id = start.eos_id();
    let data = documents.split(0.1, 1000, 0).expect("split");
    let mut trainer = Trainer::new(config, data, start).expect("trainer");
    while trainer.step().expect("step").is_some() {}
    trainer
        .finish()
        .expect("finished")
        .write(folder)
        .expect("written");

    let sequences: Vec<Vec<u32>> = ids
        .iter()
        .map(|ids| [eos_id].iter().chain(ids).copied().take(context).collect())
        .collect();
    let directory = ModelDirectory::open(folder).expect("opened");
    let model = directory.load(&LoadOptions::default()).expect("loaded");
    let documents: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    let losses = model.losses(&documents).expect("losses");
    let n_compared = if tokenizer == Own::Yes {
        texts.len()
    } else {
        0
    };
    let (texts, ids) = (&texts[..n_compared], &ids[..n_compared]);
    let check = json!({
        "folder": folder, "texts": texts, "ids": ids, "sequences": sequences, "losses": losses,
    });
    let path = folder.join("check.json");
    std::fs::write(&path, check.to_string()).expect("written");
    path
}

/// A model of a family with new weights, and the tokenizer of another.
fn given(folder: &Path, tokenizer: &Path, config: &str) -> Start {
    std::fs::create_dir_all(folder).expect("folder");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.join(name)).expect("copied");
    }
    let mut config: Value = serde_json::from_str(config).expect("JSON");
    let map = config.as_object_mut().expect("an object");
    for (key, value) in [
        ("vocab_size", json!(400)),
        ("hidden_size", json!(32)),
        ("intermediate_size", json!(48)),
        ("num_hidden_layers", json!(2)),
        ("num_attention_heads", json!(4)),
        ("max_position_embeddings", json!(64)),
        ("initializer_range", json!(0.2)),
        ("eos_token_id", json!(0)),
        ("bos_token_id", json!(0)),
    ] {
        map.entry(key).or_insert(value);
    }
    Start::new_weights(config.to_string().as_bytes(), folder, 3).expect("start")
}

#[test]
fn trained_models_load_in_transformers_with_the_same_losses() {
    let Some(python) = python() else {
        println!("SKIPPED: no Python with torch and transformers (GLEANER_PYTHON names another)");
        return;
    };
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let tokenizer = TrainedTokenizer::from_texts(texts(), 400).expect("tokenizer");
    let start = Start::scratch(Size::M1, &tokenizer, 0).expect("start");
    let mut checks = vec![train(start, &at("scratch"), Own::Yes)];
    let again = Start::directory(&at("scratch"), None).expect("opened");
    checks.push(train(again, &at("continued"), Own::Yes));
    let tokenizer = at("scratch");
    for (name, config) in [
        (
            "llama",
            r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}"#,
        ),
        (
            "mistral",
            r#"{"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}"#,
        ),
        (
            "qwen2",
            r#"{"model_type": "qwen2", "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": true}"#,
        ),
        (
            "qwen3",
            r#"{"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": true}"#,
        ),
        (
            "olmo",
            r#"{"model_type": "olmo", "num_key_value_heads": 4, "clip_qkv": 0.5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "hidden_act": "silu", "tie_word_embeddings": false}"#,
        ),
        (
            "olmo2",
            r#"{"model_type": "olmo2", "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": false}"#,
        ),
        (
            "gpt2",
            r#"{"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}"#,
        ),
        (
            "gpt_neox",
            r#"{"model_type": "gpt_neox", "hidden_act": "gelu", "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": true, "layer_norm_eps": 1e-5, "tie_word_embeddings": false}"#,
        ),
    ] {
        let start = given(&at(&format!("new_{name}")), &tokenizer, config);
        checks.push(train(start, &at(name), Own::No));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/check_trained.py");
    let output = Command::new(python)
        .arg(script)
        .args(&checks)
        .output()
        .expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
}
