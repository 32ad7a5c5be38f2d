//! What must not change a loss, and documents at the limits.

use std::num::NonZero;
use std::sync::LazyLock;

use crate::common::{documents, fixture_directory, golden, load, model_directory, unpacked};
use gleaner_models::windows::{document_windows, loss_reduction};
use gleaner_models::{
    CausalModel, LanguageModel, LoadOptions, ModelDirectory, WeightType, losses_together,
};
use proptest::prelude::*;

static IDS: LazyLock<Vec<Vec<u32>>> = LazyLock::new(|| documents(&golden()));
static MODELS: LazyLock<Vec<CausalModel>> = LazyLock::new(|| {
    let options = |n_threads: usize| LoadOptions {
        n_threads: NonZero::new(n_threads),
        ..LoadOptions::default()
    };
    ["llama_prior", "gpt2_prior", "neox_prior"]
        .into_iter()
        .flat_map(|name| [load(name, &options(1)), load(name, &options(3))])
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn company_order_and_threads_change_nothing(
        picks in prop::collection::vec((0..200_usize, 0..60_usize, 0..129_usize), 1..12),
        family in 0..3_usize,
    ) {
        let pick = |&(document, start, n): &(usize, usize, usize)| {
            let ids: &[u32] = &IDS[document];
            let start = start.min(ids.len());
            &ids[start..ids.len().min(start + n)]
        };
        let batch: Vec<&[u32]> = picks.iter().map(pick).collect();
        let reversed: Vec<&[u32]> = batch.iter().rev().copied().collect();
        let (one, three) = (&MODELS[2 * family], &MODELS[2 * family + 1]);
        let together = one.losses(&batch).unwrap();
        let mut turned = three.losses(&reversed).unwrap();
        turned.reverse();
        for ((ids, losses), turned) in batch.iter().zip(&together).zip(&turned) {
            let alone = &three.losses(&[ids]).unwrap()[0];
            prop_assert_eq!(losses.len(), ids.len().saturating_sub(1));
            for (loss, other) in losses.iter().zip(alone).chain(losses.iter().zip(turned)) {
                prop_assert!((loss - other).abs() <= 1e-5, "{} {}", loss, other);
            }
        }
    }
}

#[test]
fn equal_models_reduce_nothing() {
    for weights in [WeightType::F32, WeightType::Bf16, WeightType::F16] {
        let options = LoadOptions {
            weights,
            ..LoadOptions::default()
        };
        let (one, other) = (load("llama_prior", &options), load("llama_prior", &options));
        let windows: Vec<Vec<u32>> = IDS[..40]
            .iter()
            .flat_map(|ids| document_windows(0, ids, 128))
            .collect();
        let windows: Vec<&[u32]> = windows.iter().map(Vec::as_slice).collect();
        let losses = losses_together(&[&one, &other], &windows).unwrap();
        assert_eq!(losses[0], losses[1]);
        for (prior, conditional) in losses[0].iter().zip(&losses[1]) {
            let reduction = loss_reduction(prior, conditional).unwrap().unwrap();
            assert_eq!(
                (reduction.loss_reduction, reduction.win_fraction),
                (0.0, 0.0)
            );
        }
        // Together they are computed once; apart they come to the same.
        assert_eq!(losses[0], one.losses(&windows).unwrap());
        assert_eq!(losses[1], other.losses(&windows).unwrap());
    }
}

#[test]
fn special_tokens_in_text_are_text() {
    let directory = model_directory("llama_prior");
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let tokenizer = directory.tokenizer();
    let ids = tokenizer.encode("a<|endoftext|>b <|padding|>").unwrap();
    assert!(
        ids.len() > 8 && !ids.contains(&0) && !ids.contains(&1),
        "{ids:?}"
    );
    assert!(tokenizer.encode("").unwrap().is_empty());
}

#[test]
fn documents_at_the_limits() {
    let directory = model_directory("gpt2_prior");
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let model = directory.load(&LoadOptions::default()).unwrap();
    let losses = model.losses(&[&[], &[5], &[0, 5]]).unwrap();
    let lengths: Vec<usize> = losses.iter().map(Vec::len).collect();
    assert_eq!(lengths, [0, 0, 1]);
    assert_eq!(model.losses(&[]).unwrap(), Vec::<Vec<f32>>::new());

    let too_long = vec![1; 129];
    let error = model.losses(&[&[1, 2], &too_long]).unwrap_err().to_string();
    assert_eq!(error, "sequence 1 has 129 tokens, the context is 128");
    let error = model.losses(&[&[1, 2048]]).unwrap_err().to_string();
    assert_eq!(error, "sequence 0 has token 2048, the model knows 2048");
}

/// A text is tokenized piece by piece: what the tokenizer makes of the whole at once is the same.
#[test]
fn pieces_of_a_long_text_give_the_ids_of_the_whole() {
    let text = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["text"].as_str().unwrap().to_owned()
    };
    let lines = String::from_utf8(unpacked("docs.jsonl.zst")).unwrap();
    let texts: Vec<String> = lines.lines().map(text).collect();
    let text = texts.join(" \n").repeat(4) + &"-".repeat(100_000) + &texts[..40].concat();
    assert!(text.len() > 400_000, "{}", text.len());
    let directory = model_directory("llama_prior");
    let path = directory.path().join("tokenizer.json");
    let mut whole = tokenizers::Tokenizer::from_file(path).unwrap();
    whole.set_encode_special_tokens(true);
    let whole = whole.encode_fast(text.as_str(), false).unwrap();
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let ids = directory.tokenizer().encode(&text).unwrap();
    assert!(ids == whole.get_ids(), "{} {}", ids.len(), whole.len());
    let some = directory.tokenizer().encode_up_to(&text, 50_000).unwrap();
    assert!(some.is_cut && some.ids == ids[..50_000]);
    let all = directory.tokenizer().encode_up_to(&text, ids.len());
    assert!(!all.unwrap().is_cut);
}

/// Ten megabytes in one document: tokenized in pieces, scored window by window.
#[test]
fn a_document_of_ten_megabytes() {
    let directory = model_directory("gpt2_prior");
    let directory = ModelDirectory::open(directory.path()).unwrap();
    let sentence = "fn main() { println!(\"It was the best of times, {}\"); } // 0123456789\n";
    let text = sentence.repeat(10_000_000 / sentence.len() + 1);
    let ids = directory.tokenizer().encode(&text).unwrap();
    let windows: Vec<Vec<u32>> = document_windows(0, &ids, 128).collect();
    assert_eq!(
        windows.iter().map(|window| window.len() - 1).sum::<usize>(),
        ids.len()
    );
    // One in a hundred is enough of the forward pass for a test.
    let some: Vec<&[u32]> = windows.iter().step_by(100).map(Vec::as_slice).collect();
    let model = directory.load(&LoadOptions::default()).unwrap();
    let losses = model.losses(&some).unwrap();
    assert!(losses.iter().flatten().all(|loss| loss.is_finite()));
}

/// Each family with what it does of its own: windows, norms of heads, parallel layers, positions.
#[test]
fn a_text_that_grows_is_predicted_as_one_that_is_there() {
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut n_models = 0;
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".json") {
            continue;
        }
        n_models += 1;
        let directory = fixture_directory(&name);
        let model = ModelDirectory::open(directory.path()).unwrap();
        let model = model.load(&LoadOptions::default()).unwrap();
        let ids: Vec<u32> = (0..40).map(|i| (i * i + 3 * i) % 64).collect();
        let expected = &model.losses(&[&ids]).unwrap()[0];
        // In parts of different lengths, then token by token.
        let mut text = model.begin();
        let mut n_compared = 0;
        for part in [0..1, 1..9, 9..10, 10..30]
            .into_iter()
            .chain((30..39).map(|i| i..i + 1))
        {
            let end = part.end;
            let logits = text.extend(&ids[part]).unwrap();
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            let loss = sum.ln() + f64::from(most - logits[ids[end] as usize]);
            assert!(
                (loss - f64::from(expected[end - 1])).abs() <= 1e-4,
                "{name} {end}"
            );
            n_compared += 1;
        }
        assert_eq!((n_compared, text.n_tokens()), (13, 39));
        assert!(text.extend(&[64]).is_err(), "{name}");
        assert!(text.extend(&vec![1; model.context()]).is_err(), "{name}");
    }
    assert_eq!(n_models, 12);
}
