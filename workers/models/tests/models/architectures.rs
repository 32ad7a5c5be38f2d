//! Tiny random models of every family against transformers (`make_fixtures.py`).

use std::fs;
use std::path::Path;

use crate::common::{fixture_directory, numbers};
use gleaner_models::{
    DeviceModel, LanguageModel, LoadOptions, ModelDirectory, Slot, WeightType, check_device,
};
use serde_json::Value;

fn reference() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/losses.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn losses_of_all_families() {
    let reference = reference();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(reference["sequences"].clone()).unwrap();
    let sequences: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
    for (name, expect) in reference["losses"].as_object().unwrap() {
        let directory = fixture_directory(name);
        let directory = ModelDirectory::open(directory.path()).unwrap();
        let model = directory.load(&LoadOptions::default()).unwrap();
        let losses = model.losses(&sequences).unwrap();
        let mut worst = 0.0_f64;
        for (losses, expect) in losses.iter().zip(expect.as_array().unwrap()) {
            let expect = numbers(expect);
            assert_eq!(losses.len(), expect.len(), "{name}");
            for (token, (loss, expect)) in losses.iter().zip(expect).enumerate() {
                let difference = (f64::from(*loss) - expect).abs();
                assert!(
                    difference < 1e-4,
                    "{name}, token {token}: {loss}, not {expect}"
                );
                worst = worst.max(difference);
            }
        }
        println!("{name}: at most {worst:.1e} nats from transformers in double precision");
    }
}

/// What is read from a directory and written back is what its files hold.
#[test]
fn tensors_are_written_as_they_were_read() {
    for name in [
        "qwen2",
        "olmo2",
        "gpt2_scaled",
        "gpt_neox_sequential",
        "llama_llama3",
    ] {
        let directory = fixture_directory(name);
        let opened = ModelDirectory::open(directory.path()).unwrap();
        let architecture = opened.architecture();
        let tensors = architecture
            .stored_tensors(|slot: &Slot| opened.read(slot))
            .unwrap();
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|(tensor, bytes)| {
            let shape = tensor.shape.clone();
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes);
            (tensor.name.clone(), view.unwrap())
        });
        let file = safetensors::serialize(views, None).unwrap();
        let copy = fixture_directory(name);
        let _ = fs::remove_file(copy.path().join("model.safetensors.index.json"));
        fs::write(copy.path().join("model.safetensors"), file).unwrap();
        let copy = ModelDirectory::open(copy.path()).unwrap();
        for slot in architecture.slots() {
            assert_eq!(
                opened.read(&slot).unwrap(),
                copy.read(&slot).unwrap(),
                "{name} {slot:?}"
            );
        }
    }
}

/// The same by candle's operators: an implementation of its own.
#[test]
fn losses_of_all_families_on_a_device() {
    let reference = reference();
    let sequences: Vec<Vec<u32>> = serde_json::from_value(reference["sequences"].clone()).unwrap();
    let mut batch: Vec<&[u32]> = sequences.iter().rev().map(Vec::as_slice).collect();
    batch.push(&[]);
    for (name, expect) in reference["losses"].as_object().unwrap() {
        let directory = fixture_directory(name);
        let directory = ModelDirectory::open(directory.path()).unwrap();
        let model = DeviceModel::load(&directory, "cpu", WeightType::F32).unwrap();
        let losses = model.losses(&batch).unwrap();
        for (losses, expect) in losses.iter().rev().skip(1).zip(expect.as_array().unwrap()) {
            let expect = numbers(expect);
            assert_eq!(losses.len(), expect.len(), "{name}");
            for (token, (loss, expect)) in losses.iter().zip(expect).enumerate() {
                let difference = (f64::from(*loss) - expect).abs();
                assert!(
                    difference < 1e-4,
                    "{name}, token {token}: {loss}, not {expect}"
                );
            }
        }
    }
}

#[test]
fn devices_that_are_not_there() {
    assert!(check_device("cpu").is_ok());
    let error = check_device("tpu").unwrap_err().to_string();
    assert_eq!(
        error,
        "no device is called \"tpu\": there are cpu and cuda:N"
    );
    let error = check_device("cuda:4096").unwrap_err().to_string();
    assert!(error.starts_with("device: cuda:4096: "), "{error}");
}
