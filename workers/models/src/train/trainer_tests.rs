//! Whole trainings of small models on little text.

use std::path::Path;

use super::*;
use crate::{
    CausalModel, LanguageModel as _, LoadOptions, ModelDirectory, Part, Slot, WeightType,
    losses_together,
};

const WORDS: [&str; 12] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
    "lambda", "mu",
];

/// Sentences that a small model learns: each word is followed by the one after it.
fn texts(n: usize) -> Vec<String> {
    (0..n)
        .map(|i| {
            let words: Vec<&str> = (0..30).map(|j| WORDS[(i + j) % WORDS.len()]).collect();
            format!("{i} {}", words.join(" "))
        })
        .collect()
}

fn start() -> Start {
    let tokenizer = TrainedTokenizer::from_texts(texts(200), 300).expect("tokenizer");
    Start::scratch(Size::M1, &tokenizer, 1).expect("start")
}

fn data(start: &Start, n: usize, held_out_share: f64) -> TrainingData {
    let mut documents = Documents::new(start.eos_id());
    for text in texts(n) {
        documents.push(&start.tokenizer().encode(&text).expect("encoded"));
    }
    documents.split(held_out_share, 10_000, 1).expect("split")
}

fn config() -> TrainingConfig {
    TrainingConfig {
        context: 32,
        sequences_per_step: 6,
        length: Length::Steps(12),
        evaluate_every: 5,
        lanes: 4,
        ..TrainingConfig::scratch(Size::M1)
    }
}

fn run(mut trainer: Trainer) -> (TrainedModel, Vec<StepReport>) {
    let mut reports = Vec::new();
    while let Some(report) = trainer.step().expect("step") {
        reports.push(report);
    }
    (trainer.finish().expect("finished"), reports)
}

fn train(config: TrainingConfig) -> (TrainedModel, Vec<StepReport>) {
    let start = start();
    let data = data(&start, 200, 0.1);
    run(Trainer::new(config, data, start).expect("trainer"))
}

fn in_pool<T: Send>(n_threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build();
    pool.expect("pool").install(work)
}

#[test]
fn a_small_text_is_learned_by_heart() {
    // What is left is the number that every text begins with.
    let (model, reports) = train(TrainingConfig {
        length: Length::Steps(100),
        patience: None,
        ..config()
    });
    let (first, last) = (&reports[0], &reports[reports.len() - 1]);
    assert!(first.loss > 5.0, "{first:?}");
    assert!(last.loss < 0.5, "{last:?}");
    assert!(
        model.held_out_loss().expect("measured") < 0.5,
        "{:?}",
        model.held_out_loss()
    );
    assert_eq!(last.n_tokens, 100 * 6 * 32);
}

#[test]
fn the_same_inputs_give_the_same_bytes_for_any_number_of_threads() {
    let one = in_pool(1, || train(config()));
    let three = in_pool(3, || train(config()));
    assert_eq!(one.1, three.1);
    assert_eq!(one.0.files(), three.0.files());
    let other = train(TrainingConfig {
        seed: 1,
        ..config()
    });
    assert_ne!(one.0.files(), other.0.files());
}

#[test]
fn a_resumed_training_ends_as_one_that_was_never_interrupted() {
    let (expected, reports) = train(config());
    for n_steps_before in [0, 3, 5, 11] {
        let new = || {
            let start = start();
            (config(), data(&start, 200, 0.1), start)
        };
        let (settings, text, from) = new();
        let mut killed = Trainer::new(settings, text, from).expect("trainer");
        for _ in 0..n_steps_before {
            killed.step().expect("step");
        }
        let checkpoint = killed.checkpoint(0).expect("checkpoint");
        drop(killed);
        let (settings, text, from) = new();
        let resumed = Trainer::resume(settings, text, from, &checkpoint).expect("resumed");
        assert_eq!(resumed.n_steps_done(), n_steps_before as u64);
        let (model, rest) = run(resumed);
        assert_eq!(rest, reports[n_steps_before..]);
        assert_eq!(model.files(), expected.files());
    }
}

#[test]
fn a_checkpoint_of_another_training_or_damaged_is_refused() {
    let from = start();
    let text = data(&from, 200, 0.1);
    let trainer = Trainer::new(config(), text.clone(), from).expect("trainer");
    let checkpoint = trainer.checkpoint(0).expect("checkpoint");
    let check = |config, text, bytes: &[u8], expected: &str| {
        let error = Trainer::resume(config, text, start(), bytes).expect_err("refused");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        TrainingConfig {
            seed: 9,
            ..config()
        },
        text.clone(),
        &checkpoint,
        "other settings",
    );
    check(
        config(),
        data(&start(), 199, 0.1),
        &checkpoint,
        "other text",
    );
    let cut = &checkpoint[..checkpoint.len() - 9];
    check(config(), text.clone(), cut, "checksum");
    check(config(), text.clone(), b"short", "too short");
    check(config(), text, &[0; 100], "does not begin");
}

#[test]
fn training_ends_when_the_held_out_loss_has_not_fallen() {
    // Learned by heart on few documents at a rate that makes the held-out loss rise again.
    let from = start();
    let text = data(&from, 40, 0.3);
    let settings = TrainingConfig {
        length: Length::Steps(400),
        evaluate_every: 4,
        patience: Some(2),
        learning_rate: 3e-2,
        ..config()
    };
    let (model, reports) = run(Trainer::new(settings, text, from).expect("trainer"));
    let last = reports.last().expect("a step");
    assert!(last.stopped_early && last.step < 400, "{last:?}");
    assert_eq!(model.n_steps(), last.step);
    assert_eq!(
        model.best_step(),
        last.step - 8,
        "the weights of the best measurement"
    );
    let measured = reports.iter().filter_map(|report| report.held_out_loss);
    assert_eq!(model.held_out_loss(), measured.reduce(f64::min));
}

#[test]
fn one_epoch_takes_every_sequence_once() {
    let (_, reports) = train(TrainingConfig {
        length: Length::Epochs(1),
        ..config()
    });
    let from = start();
    let n_sequences = (data(&from, 200, 0.1).n_tokens() - 1) / 32;
    assert_eq!(reports.len() as u64, n_sequences.div_ceil(6));
    assert_eq!(
        reports.last().map(|report| report.n_tokens),
        Some(n_sequences * 32)
    );
}

#[test]
fn bad_input_is_refused() {
    let refused = |config: TrainingConfig, n: usize| {
        let from = start();
        let text = data(&from, n, 0.0);
        Trainer::new(config, text, from).expect_err("refused")
    };
    let error = refused(config(), 3);
    assert!(
        matches!(
            error,
            TrainError::TooFewTokens {
                needed_tokens: 193,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(
        TrainingConfig {
            context: 4096,
            ..config()
        },
        200,
    );
    assert!(error.to_string().contains("128 positions"), "{error}");
    for (settings, name) in [
        (
            TrainingConfig {
                learning_rate: f64::NAN,
                ..config()
            },
            "learning rate",
        ),
        (
            TrainingConfig {
                learning_rate: -1.0,
                ..config()
            },
            "learning rate",
        ),
        (
            TrainingConfig {
                sequences_per_step: 0,
                ..config()
            },
            "sequences per step",
        ),
        (
            TrainingConfig {
                length: Length::Steps(0),
                ..config()
            },
            "length",
        ),
        (
            TrainingConfig {
                warmup_share: 2.0,
                ..config()
            },
            "warm-up",
        ),
        (
            TrainingConfig {
                context: 0,
                ..config()
            },
            "context",
        ),
    ] {
        let error = refused(settings, 200);
        assert!(error.to_string().contains(name), "{error}");
    }
    let from = start();
    let mut documents = Documents::new(0);
    documents.push(&[5_000; 500]);
    let text = documents.split(0.0, 0, 0).expect("split");
    let error = Trainer::new(config(), text, from).expect_err("refused");
    assert!(
        matches!(error, TrainError::Token { id: 5_000, .. }),
        "{error}"
    );
}

#[test]
fn an_absurd_learning_rate_is_an_error_with_its_step() {
    let from = start();
    let text = data(&from, 200, 0.1);
    let settings = TrainingConfig {
        learning_rate: 1e30,
        warmup_share: 0.0,
        ..config()
    };
    let mut trainer = Trainer::new(settings, text, from).expect("trainer");
    let error = loop {
        match trainer.step() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("training ended"),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, TrainError::NotFinite { step: 2, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("lower the learning rate"),
        "{error}"
    );
}

#[test]
fn a_model_is_written_read_and_continued_with_its_tokenizer() {
    let folder = tempfile::tempdir().expect("folder");
    let (prior, _) = train(config());
    prior.write(folder.path()).expect("written");
    let directory = ModelDirectory::open(folder.path()).expect("opened");
    assert_eq!(directory.eos_id(None).expect("named"), 0);
    let from = Start::directory(folder.path(), None).expect("start");
    let text = data(&from, 100, 0.1);
    let settings = TrainingConfig {
        context: 32,
        frozen_layers: 0,
        ..TrainingConfig::continued(from.architecture())
    };
    let trainer = Trainer::new(settings, text, from).expect("trainer");
    let before = trainer.best_held_out_loss().expect("measured");
    let (conditional, _) = run(trainer);
    assert!(conditional.held_out_loss().expect("measured") < before);
    let file = |model: &TrainedModel, name: &str| {
        model
            .files()
            .iter()
            .find(|file| file.0 == name)
            .expect(name)
            .1
            .clone()
    };
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert_eq!(file(&prior, name), file(&conditional, name), "{name}");
    }
    assert_ne!(
        file(&prior, "model.safetensors"),
        file(&conditional, "model.safetensors")
    );
    assert!(Start::directory(Path::new("/nowhere"), None).is_err());
}

/// What is frozen stays as it is to the last bit, so that both models compute it once.
#[test]
fn frozen_layers_stay_and_are_shared() {
    let (prior_at, conditional_at) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let (prior, _) = train(config());
    prior.write(prior_at.path()).expect("written");
    let from = || Start::directory(prior_at.path(), None).expect("start");
    let settings = |frozen_layers| TrainingConfig {
        context: 32,
        frozen_layers,
        ..TrainingConfig::continued(from().architecture())
    };
    let trainer = |settings| {
        let from = from();
        let text = data(&from, 100, 0.1);
        Trainer::new(settings, text, from)
    };
    let new = trainer(settings(2)).expect("trainer");
    let before = new.best_held_out_loss().expect("measured");
    let (conditional, _) = run(new);
    assert!(conditional.held_out_loss().expect("measured") < before);
    conditional.write(conditional_at.path()).expect("written");
    let open = |at: &tempfile::TempDir| ModelDirectory::open(at.path()).expect("opened");
    let (one, other) = (open(&prior_at), open(&conditional_at));
    assert!(one.architecture().tied_head && !other.architecture().tied_head);
    for slot in one.architecture().slots() {
        let is_same = one.read(&slot).expect("read") == other.read(&slot).expect("read");
        let is_frozen = slot.layer.is_some_and(|layer| layer < 2) || slot.part == Part::Embedding;
        assert_eq!(is_same, is_frozen, "{slot:?}");
    }
    let slots = other.architecture().slots();
    let head = slots.iter().find(|slot| slot.part == Part::Head);
    let embedding = slots.iter().find(|slot| slot.part == Part::Embedding);
    let read = |slot: Option<&Slot>| other.read(slot.expect("a slot")).expect("read");
    assert_ne!(read(head), read(embedding));

    let text = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu 17 beta";
    let ids = one.tokenizer().encode(text).expect("encoded");
    let sequences: Vec<&[u32]> = vec![&ids, &ids[2..9], &ids[1..2], &[], &ids[3..]];
    for weights in [WeightType::F32, WeightType::Bf16] {
        let load = |directory: &ModelDirectory| {
            let options = LoadOptions {
                weights,
                ..LoadOptions::default()
            };
            directory.load(&options).expect("loaded")
        };
        let models = [load(&one), load(&other), load(&one), load(&other)];
        assert_eq!(models[0].n_layers_shared_with(&models[1]), 2);
        assert_eq!(models[0].n_layers_shared_with(&models[2]), 3);
        let models: Vec<&CausalModel> = models.iter().collect();
        let together = losses_together(&models, &sequences).expect("losses");
        for (model, losses) in models.iter().zip(&together) {
            assert_eq!(losses, &model.losses(&sequences).expect("losses"));
        }
        assert_ne!(together[0], together[1]);
    }

    let refused = trainer(settings(3)).expect_err("nothing would be trained");
    assert!(refused.to_string().contains("frozen layers"), "{refused}");
}

/// Families whose names of heads and positions differ: with a head of its own a model is written, opened
/// and gone on with as any other.
#[test]
fn a_tied_head_of_any_family_becomes_one_of_its_own() {
    let at = tempfile::tempdir().expect("folder");
    train(config()).0.write(at.path()).expect("written");
    for family in [
        r#""model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32, "n_inner": 48, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5"#,
        r#""model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32, "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rotary_pct": 0.5, "rotary_emb_base": 10000, "use_parallel_residual": true"#,
    ] {
        let vocab_size = start().architecture().vocab_size;
        let described = format!(
            r#"{{{family}, "vocab_size": {vocab_size}, "eos_token_id": 0, "initializer_range": 0.02, "tie_word_embeddings": true}}"#
        );
        let new = || {
            let from = Start::new_weights(described.as_bytes(), at.path(), 3).expect("start");
            assert!(from.architecture().tied_head);
            let settings = TrainingConfig {
                frozen_layers: 1,
                ..config()
            };
            (settings, data(&from, 200, 0.1), from)
        };
        let (settings, text, from) = new();
        let embedding = from.weights[..32 * vocab_size].to_vec();
        let (expected, _) = run(Trainer::new(settings, text, from).expect("trainer"));

        let (settings, text, from) = new();
        let mut killed = Trainer::new(settings, text, from).expect("trainer");
        for _ in 0..7 {
            killed.step().expect("step");
        }
        let checkpoint = killed.checkpoint(0).expect("checkpoint");
        let (settings, text, from) = new();
        let resumed = Trainer::resume(settings, text, from, &checkpoint).expect("resumed");
        assert_eq!(run(resumed).0.files(), expected.files());

        let written = tempfile::tempdir().expect("folder");
        expected.write(written.path()).expect("written");
        let directory = ModelDirectory::open(written.path()).expect("opened");
        assert!(!directory.architecture().tied_head);
        let read = |part: Part| {
            let slots = directory.architecture().slots();
            let slot = slots.iter().find(|slot| slot.part == part);
            directory.read(slot.expect("a slot")).expect("read")
        };
        assert!(read(Part::Embedding) == embedding);
        assert!(read(Part::Head) != embedding);
        let model = directory.load(&LoadOptions::default()).expect("loaded");
        let losses = model.losses(&[&[1, 2, 3]]).expect("losses");
        assert!(losses[0].iter().all(|loss| loss.is_finite()));
    }
}

#[test]
fn the_memory_of_training_is_stated() {
    let from = start();
    let bytes = config()
        .bytes_to_train(from.architecture(), 2)
        .expect("a figure");
    let n_parameters = from.architecture().n_parameters();
    assert!(
        bytes > n_parameters * 4 * 8 && bytes < n_parameters * 4 * 8 + (40 << 20),
        "{bytes}"
    );
}
