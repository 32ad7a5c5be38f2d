//! Directories that are not what they should be: each error says what, where and what to do.

use std::fs;
use std::path::Path;

use crate::common::{fixture_directory, tokenizer_json};
use gleaner_models::{LanguageModel, LoadOptions, ModelDirectory, ModelErrorKind};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

/// Opens and loads `olmo` (f32, one file) after `damage`; the error's text.
fn error_after(damage: impl FnOnce(&Path)) -> String {
    let directory = fixture_directory("olmo");
    damage(directory.path());
    let result = ModelDirectory::open(directory.path())
        .and_then(|directory| directory.load(&LoadOptions::default()));
    let error = result.expect_err("a damaged directory");
    assert_eq!(error.kind(), ModelErrorKind::Permanent);
    error.to_string()
}

fn check(damage: impl FnOnce(&Path), expect: &[&str]) {
    let error = error_after(damage);
    for part in expect {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

fn with_config(directory: &Path, changes: Value) {
    let path = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
}

/// Rewrites the tensors; `change` gets name, type, shape and bytes of each.
fn with_tensors(
    directory: &Path,
    change: impl Fn(&str, &mut Dtype, &mut Vec<usize>, &mut Vec<u8>),
) {
    let path = directory.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let changed: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let (mut dtype, mut shape) = (view.dtype(), view.shape().to_vec());
            let mut data = view.data().to_vec();
            change(&name, &mut dtype, &mut shape, &mut data);
            (name, dtype, shape, data)
        })
        .filter(|(_, _, shape, _)| !shape.is_empty())
        .collect();
    let views = changed.iter().map(|(name, dtype, shape, data)| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

const OUTPUT: &str = "model.layers.1.self_attn.o_proj.weight";

#[test]
fn missing_files() {
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        check(
            |path| fs::remove_file(path.join(name)).unwrap(),
            &["no ", name, "a model directory"],
        );
    }
    let directory = fixture_directory("olmo2");
    fs::remove_file(directory.path().join("model-00002-of-00004.safetensors")).unwrap();
    let error = ModelDirectory::open(directory.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no model-00002-of-00004.safetensors"),
        "{error}"
    );
}

#[test]
fn cut_files() {
    let cut = |n: usize| {
        move |path: &Path| {
            let path = path.join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..n.min(bytes.len() - 1)]).unwrap();
        }
    };
    check(cut(usize::MAX), &["model.safetensors", "cut?"]);
    check(cut(100), &["model.safetensors", "cut?"]);
    check(cut(5), &["5 bytes are no safetensors file"]);
    check(cut(0), &["0 bytes"]);
    let huge = |path: &Path| fs::write(path.join("model.safetensors"), [0xff; 64]).unwrap();
    check(huge, &["header", "cut?"]);
    let half = |path: &Path| fs::write(path.join("config.json"), "{\"model_type\": ").unwrap();
    check(half, &["config.json", "not a JSON object"]);
    let half = |path: &Path| fs::write(path.join("tokenizer.json"), "{}").unwrap();
    check(half, &["tokenizer.json", "no tokenizer"]);
}

#[test]
fn tensors_that_are_not_the_models() {
    let damage = |path: &Path| {
        with_tensors(path, |name, _, shape, _| {
            if name == OUTPUT {
                *shape = vec![8, 32];
            }
        });
    };
    check(damage, &[OUTPUT, "shape [8, 32], expected [16, 16]"]);
    let damage = |path: &Path| {
        with_tensors(path, |name, dtype, _, _| {
            if name == OUTPUT {
                *dtype = Dtype::I32;
            }
        });
    };
    check(damage, &[OUTPUT, "type I32 where F32, F16 or BF16"]);
    let damage = |path: &Path| {
        with_tensors(path, |name, _, shape, _| {
            if name == OUTPUT {
                shape.clear();
            }
        });
    };
    check(damage, &[OUTPUT, "not there"]);
    for (value, said) in [
        (f32::NAN, "value 17 is NaN"),
        (f32::NEG_INFINITY, "value 17 is -inf"),
    ] {
        let damage = |path: &Path| {
            with_tensors(path, |name, _, _, data| {
                if name == OUTPUT {
                    data[17 * 4..18 * 4].copy_from_slice(&value.to_le_bytes());
                }
            });
        };
        check(damage, &[OUTPUT, said, "model.safetensors"]);
    }
    check(
        |path| with_config(path, json!({"num_hidden_layers": 1})),
        &["model.layers.1", "no part"],
    );
    check(
        |path| with_config(path, json!({"vocab_size": 80})),
        &["[64, 16], expected [80, 16]"],
    );
}

#[test]
fn a_tokenizer_of_another_model() {
    let larger = |path: &Path| fs::write(path.join("tokenizer.json"), tokenizer_json(65)).unwrap();
    check(
        larger,
        &["tokenizer.json", "ids up to 64", "knows 64 tokens"],
    );
    let open = |n_tokens: usize| {
        let directory = fixture_directory("olmo");
        fs::write(
            directory.path().join("tokenizer.json"),
            tokenizer_json(n_tokens),
        )
        .unwrap();
        ModelDirectory::open(directory.path()).unwrap()
    };
    let (one, same, other) = (open(64), open(64), open(63));
    assert_eq!(
        one.tokenizer().fingerprint(),
        same.tokenizer().fingerprint()
    );
    assert_ne!(
        one.tokenizer().fingerprint(),
        other.tokenizer().fingerprint()
    );
}

#[test]
fn what_is_not_supported_is_named() {
    let refused = |changes: Value, expect: &[&str]| {
        check(
            |path| with_config(path, changes),
            &[expect, &["supported are llama, mistral"]].concat(),
        );
    };
    refused(json!({"model_type": "mamba"}), &["architecture \"mamba\""]);
    refused(
        json!({"architectures": ["OlmoForTokenClassification"]}),
        &["OlmoForTokenClassification"],
    );
    refused(
        json!({"quantization_config": {"bits": 4}}),
        &["quantization_config"],
    );
    refused(json!({"hidden_act": "xielu"}), &["hidden_act = \"xielu\""]);
    refused(
        json!({"final_logit_softcapping": 30.0}),
        &["final_logit_softcapping = 30.0"],
    );
    let rope = json!({"rope_type": "longrope", "rope_theta": 1e4});
    refused(
        json!({"rope_parameters": rope}),
        &["rope_type = \"longrope\""],
    );
    refused(
        json!({"layer_types": ["sliding_attention", "full_attention"]}),
        &["layer_types of olmo"],
    );
    check(
        |path| with_config(path, json!({"hidden_size": -1})),
        &["hidden_size", "positive integer"],
    );
    check(
        |path| with_config(path, json!({"num_key_value_heads": 3})),
        &["4 heads", "multiple of 3"],
    );
    check(
        |path| with_config(path, json!({"num_hidden_layers": 1_u64 << 40})),
        &["num_hidden_layers"],
    );
}

#[test]
fn an_end_of_sequence_token_must_be_named() {
    let directory = fixture_directory("olmo");
    with_config(directory.path(), json!({"eos_token_id": null}));
    let open = || ModelDirectory::open(directory.path()).unwrap();
    let error = open().eos_id(None).unwrap_err().to_string();
    assert!(
        error.contains("no end-of-sequence token") && error.contains("name one"),
        "{error}"
    );
    assert_eq!(open().eos_id(Some("w7")).unwrap(), 7);
    let error = open().eos_id(Some("</s>")).unwrap_err().to_string();
    assert!(error.contains("\"</s>\" is no token"), "{error}");
    let settings = r#"{"eos_token": {"content": "w5"}}"#;
    fs::write(directory.path().join("tokenizer_config.json"), settings).unwrap();
    assert_eq!(open().eos_id(None).unwrap(), 5);
    fs::write(
        directory.path().join("generation_config.json"),
        r#"{"eos_token_id": [3, 4]}"#,
    )
    .unwrap();
    assert_eq!(open().eos_id(None).unwrap(), 3);
}

#[test]
fn more_memory_than_allowed() {
    let directory = fixture_directory("olmo");
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let mut options = LoadOptions::default();
    let need = directory.memory(&options).unwrap();
    options.memory_bytes_max = Some(need.bytes(1));
    assert!(directory.load(&options).is_ok());
    options.memory_bytes_max = Some(need.bytes(1) - 1);
    let error = directory.load(&options).unwrap_err();
    assert_eq!(error.kind(), ModelErrorKind::Memory);
    assert!(
        error.to_string().contains(&need.bytes(1).to_string()),
        "{error}"
    );
}

/// Finite weights whose products overflow: said at the position, and of its sequence only.
#[test]
fn losses_that_are_not_finite_stay_where_they_arose() {
    let directory = fixture_directory("olmo");
    with_tensors(directory.path(), |name, _, _, data| {
        if name == "model.embed_tokens.weight" {
            // Token 9.
            for value in data[9 * 64..10 * 64].as_chunks_mut::<4>().0 {
                *value = f32::MAX.to_le_bytes();
            }
        }
    });
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let model = directory.load(&LoadOptions::default()).unwrap();
    let losses = model.losses(&[&[1, 2, 9, 3], &[1, 2, 3]]).unwrap();
    assert!(
        losses[0][..2].iter().all(|loss| loss.is_finite()),
        "{losses:?}"
    );
    assert!(losses[1].iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(!losses[0][2].is_finite(), "{losses:?}");
}
