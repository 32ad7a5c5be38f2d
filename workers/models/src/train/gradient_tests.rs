//! Losses and gradients of every family against candle's plain operators.

use std::path::Path;

use super::forward::{Batch, Workspace};
use super::kernels::loss::UNSCORED;
use super::network::Network;
use super::plain;
use super::random::Random;
use crate::{Architecture, Part};

const LLAMA: &str = r#""model_type": "llama", "hidden_act": "silu", "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}"#;

fn check(parts: &str) {
    let config = format!(
        r#"{{"vocab_size": 37, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 160, "initializer_range": 0.2,
        "tie_word_embeddings": false, {parts}}}"#
    );
    let architecture =
        Architecture::from_config(config.as_bytes(), Path::new("config.json")).expect("config");
    // Longer than a block of attention, with more rows than a block of the head.
    let length = 70;
    let network = Network::new(&architecture, length, 0).expect("network");
    let mut random = Random::new(5, "test");
    let mut parameters = network.places.initial(&architecture, 1);
    for value in &mut parameters {
        *value += random.normal(0.1);
    }
    let mut id = || random.below(37) as u32;
    let inputs: Vec<u32> = (0..2 * length).map(|_| id()).collect();
    let mut targets: Vec<u32> = (0..2 * length).map(|_| id()).collect();
    targets[3] = UNSCORED;
    let batch = Batch {
        length,
        inputs: &inputs,
        targets: &targets,
    };

    let (expected_loss, expected) =
        plain::loss_and_gradient(&network, &parameters, batch).expect("candle");
    let mut workspace = Workspace::default();
    let mut gradient = vec![0.0; parameters.len()];
    let losses = workspace.losses_and_gradient(&network, &parameters, batch, 1.0, &mut gradient);
    let loss: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
    assert!(
        (loss - expected_loss).abs() / 140.0 < 1e-6,
        "{loss} {expected_loss} for {parts}"
    );
    for (slot, place) in network.places.slots() {
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let size = norm(&mut expected[place.clone()].iter().copied());
        let pairs = expected[place.clone()].iter().zip(&gradient[place.clone()]);
        let apart = norm(&mut pairs.map(|(a, b)| a - f64::from(*b)));
        // The gradient of keys' bias is 0 in exact numbers.
        assert!(
            apart <= 2e-5 * size + 1e-4,
            "{slot:?}: {apart} of {size} for {parts}"
        );
    }
    let again = workspace.losses(&network, &parameters, batch);
    assert_eq!(again.iter().map(|&loss| f64::from(loss)).sum::<f64>(), loss);
    if !architecture.tied_head {
        check_frozen(&architecture, &parameters, batch, &gradient);
    }
}

/// With a frozen layer the gradient is the same, but for what is not trained.
fn check_frozen(
    architecture: &Architecture,
    parameters: &[f32],
    batch: Batch<'_>,
    expected: &[f32],
) {
    let network = Network::new(architecture, batch.length, 1).expect("network");
    let mut gradient = vec![0.0; parameters.len()];
    let mut workspace = Workspace::default();
    let _ = workspace.losses_and_gradient(&network, parameters, batch, 1.0, &mut gradient);
    for (slot, place) in network.places.slots() {
        let is_frozen =
            slot.layer == Some(0) || matches!(slot.part, Part::Embedding | Part::PositionEmbedding);
        let found = &gradient[place.clone()];
        match is_frozen {
            true => assert!(found.iter().all(|&g| g == 0.0), "{slot:?}"),
            false => assert_eq!(found, &expected[place.clone()], "{slot:?}"),
        }
    }
}

#[test]
fn gradients_are_those_of_plain_operators() {
    check(LLAMA);
    check(
        r#""model_type": "mistral", "hidden_act": "silu", "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "sliding_window": 9, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "qwen2", "hidden_act": "silu", "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "qwen3", "hidden_act": "silu", "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "olmo", "hidden_act": "silu", "num_key_value_heads": 4, "clip_qkv": 0.7, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "olmo2", "hidden_act": "silu", "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "smollm3", "hidden_act": "silu", "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 10000.0"#,
    );
    check(
        r#""model_type": "gpt_neox", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.5, "rotary_emb_base": 10000, "use_parallel_residual": true"#,
    );
    check(
        r#""model_type": "gpt_neox", "hidden_act": "relu", "layer_norm_eps": 1e-5, "rotary_pct": 1.0, "rotary_emb_base": 10000, "use_parallel_residual": false"#,
    );
    check(
        r#""model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 160, "n_inner": 24, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5"#,
    );
}
