//! Encoders against the vectors of transformers, and directories that are none.

use std::fs;
use std::path::{Path, PathBuf};

use gleaner_models::encoder::{Pooling, TextEncoder, cosine};
use serde_json::Value;

/// Largest difference of a component of a vector of length 1.
const DIFFERENCE_MAX: f32 = 5e-6;

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoder")
}

/// A copy that a test may change.
fn copy() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "vocab.txt"] {
        fs::copy(reference().join(name), directory.path().join(name)).unwrap();
    }
    directory
}

fn write(directory: &Path, name: &str, contents: &str) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

fn check(encoder: &TextEncoder, key: &str) {
    let expected = fs::read(reference().join("expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_slice(&expected).unwrap();
    let texts: Vec<&str> = expected
        .iter()
        .map(|it| it["text"].as_str().unwrap())
        .collect();
    let found = encoder.embed_batch(&texts).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        let vector: Vec<f32> = serde_json::from_value(expected[key].clone()).unwrap();
        assert_eq!(found.len(), vector.len());
        for (a, b) in found.iter().zip(&vector) {
            assert!(
                (a - b).abs() < DIFFERENCE_MAX,
                "{} {a} {b}",
                expected["text"]
            );
        }
        assert!((cosine(found, found) - 1.0).abs() < 1e-5);
    }
    // The order, the case and the punctuation are seen or not, as the tokenizer has it.
    assert!(cosine(&found[0], &found[4]) < 0.999);
}

#[test]
fn vectors_are_those_of_transformers() {
    let encoder = TextEncoder::open(&reference()).unwrap();
    assert_eq!(encoder.config().pooling, Pooling::Mean);
    check(&encoder, "mean");
}

#[test]
fn sentence_transformers_say_how_tokens_are_pooled() {
    let directory = copy();
    let pooling = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    write(directory.path(), "1_Pooling/config.json", pooling);
    let modules = r#"[{"type": "sentence_transformers.models.Transformer"},
                      {"type": "sentence_transformers.models.Pooling"}]"#;
    write(directory.path(), "modules.json", modules);
    check(&TextEncoder::open(directory.path()).unwrap(), "cls");
    // Texts are cut where they say.
    write(
        directory.path(),
        "sentence_bert_config.json",
        r#"{"max_seq_length": 6}"#,
    );
    let encoder = TextEncoder::open(directory.path()).unwrap();
    let (long, cut) = ("the cat sat on the mat", "the cat sat on");
    assert_eq!(encoder.embed(long).unwrap(), encoder.embed(cut).unwrap());
}

#[test]
fn what_is_no_encoder_is_refused() {
    let refused = |name: &str, contents: Option<&str>, words: &str| {
        let directory = copy();
        match contents {
            Some(contents) => write(directory.path(), name, contents),
            None => fs::remove_file(directory.path().join(name)).unwrap(),
        }
        let error = TextEncoder::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
    };
    let config = fs::read_to_string(reference().join("config.json")).unwrap();
    let changed = |key: &str, value: Value| {
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        config.to_string()
    };
    refused("config.json", None, "no config.json");
    refused("vocab.txt", None, "vocab.txt");
    refused("model.safetensors", None, "model.safetensors");
    refused("config.json", Some("{"), "not JSON");
    refused(
        "config.json",
        Some(&changed("model_type", "llama".into())),
        "llama",
    );
    refused(
        "config.json",
        Some(&changed("hidden_act", "tanh".into())),
        "tanh",
    );
    refused(
        "config.json",
        Some(&changed("num_attention_heads", 5.into())),
        "no multiple",
    );
    refused(
        "config.json",
        Some(&changed("intermediate_size", 81.into())),
        "intermediate.dense",
    );
    refused(
        "config.json",
        Some(&changed("vocab_size", 20.into())),
        "does not belong",
    );
    refused("vocab.txt", Some("a\n[UNK]\n"), "[CLS]");
    refused("model.safetensors", Some("cut"), "no safetensors");
    let dense = r#"[{"type": "sentence_transformers.models.Dense"}]"#;
    refused("modules.json", Some(dense), "Dense");
    let max = r#"{"pooling_mode_max_tokens": true}"#;
    refused(
        "1_Pooling/config.json",
        Some(max),
        "pooling_mode_max_tokens",
    );
}

/// With a real model: `GLEANER_TEST_ENCODER` names its directory.
#[test]
fn a_real_model_knows_what_means_the_same() {
    let Some(directory) = std::env::var_os("GLEANER_TEST_ENCODER") else {
        return;
    };
    let encoder = TextEncoder::open(Path::new(&directory)).unwrap();
    let of = |text: &str| encoder.embed(text).unwrap();
    let query = of("how do volcanoes erupt");
    let near = cosine(
        &query,
        &of("Magma rises through the crust and bursts out as lava."),
    );
    let far = cosine(
        &query,
        &of("The parliament passed a law on the taxation of tea."),
    );
    println!("{near} {far}, {:?}", &query[..4]);
    assert!(near > far + 0.2, "{near} {far}");
}
