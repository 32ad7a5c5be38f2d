//! Losses, selections and token ids of the golden set (`tests/data/color/README.md`).

use crate::common::{CONTEXT, documents, golden, load, model_directory, numbers, unpacked};
use gleaner_models::windows::{Packer, document_windows, loss_reduction};
use gleaner_models::{CausalModel, LanguageModel, LoadOptions, ModelDirectory, WeightType};
use serde_json::Value;

const MODELS: [&str; 5] = [
    "llama_prior",
    "llama_cond",
    "gpt2_prior",
    "gpt2_cond",
    "neox_prior",
];

/// Sums in f64 of the losses of each group of sequences.
fn sums(model: &CausalModel, groups: &[Vec<Vec<u32>>]) -> Vec<f64> {
    let flat: Vec<&[u32]> = groups.iter().flatten().map(Vec::as_slice).collect();
    let mut losses = model.losses(&flat).unwrap().into_iter();
    let mut sum = |group: &Vec<Vec<u32>>| {
        let of_group = losses.by_ref().take(group.len()).flatten();
        of_group.map(f64::from).sum::<f64>()
    };
    groups.iter().map(&mut sum).collect()
}

fn packed(golden: &Value) -> Vec<Vec<Vec<u32>>> {
    let mut packer = Packer::new(0, CONTEXT);
    let documents = documents(golden);
    let full = documents
        .iter()
        .enumerate()
        .flat_map(|(n, ids)| packer.push(n as u64, ids));
    full.map(|sequence| vec![sequence.ids]).collect()
}

/// Means per token within `close`.
fn check_means(what: &str, sums: &[f64], expect: &[f64], counts: &[f64], close: f64) {
    assert_eq!(sums.len(), expect.len(), "{what}");
    let mut worst = 0.0_f64;
    for (place, ((sum, expect), count)) in sums.iter().zip(expect).zip(counts).enumerate() {
        let difference = (sum - expect).abs() / count.max(1.0);
        assert!(
            difference <= close,
            "{what} {place}: {sum}, not {expect} ({count} tokens)"
        );
        worst = worst.max(difference);
    }
    println!("{what}: at most {worst:.1e} nats per token from the reference");
}

#[test]
fn losses_of_all_models_and_units() {
    let golden = golden();
    let documents = documents(&golden);
    let packed = packed(&golden);
    let plain: Vec<Vec<Vec<u32>>> = documents
        .iter()
        .map(|ids| ids.chunks(CONTEXT).map(<[u32]>::to_vec).collect())
        .collect();
    let eos: Vec<Vec<Vec<u32>>> = documents
        .iter()
        .map(|ids| document_windows(0, ids, CONTEXT).collect())
        .collect();
    let packed_counts = vec![127.0; packed.len()];
    for name in MODELS {
        let model = load(name, &LoadOptions::default());
        let check = |unit: &str, groups: &[Vec<Vec<u32>>], counts: &[f64]| {
            let expect = numbers(&golden[unit][name]);
            check_means(
                &format!("{name} {unit}"),
                &sums(&model, groups),
                &expect,
                counts,
                2e-5,
            );
        };
        check("packed", &packed, &packed_counts);
        check("docs_plain", &plain, &numbers(&golden["docs_plain_count"]));
        check("docs_eos", &eos, &numbers(&golden["docs_eos_count"]));
        for (row, expect) in golden["token_level"][name].as_object().unwrap() {
            let row: usize = row.parse().unwrap();
            let losses = model.losses(&[&packed[row][0]]).unwrap().remove(0);
            let expect = numbers(expect);
            assert_eq!(losses.len(), expect.len());
            for (token, (loss, expect)) in losses.iter().zip(expect).enumerate() {
                let difference = (f64::from(*loss) - expect).abs();
                assert!(
                    difference <= 1e-4,
                    "{name} {row} {token}: {loss}, not {expect}"
                );
            }
        }
    }
}

#[test]
fn selections_are_equal_at_each_tau() {
    let golden = golden();
    let packed = packed(&golden);
    let sequences: Vec<&[u32]> = packed.iter().map(|group| &group[0][..]).collect();
    for family in ["llama", "gpt2"] {
        let losses = |which: &str| {
            let model = load(&format!("{family}_{which}"), &LoadOptions::default());
            model.losses(&sequences).unwrap()
        };
        let (prior, conditional) = (losses("prior"), losses("cond"));
        let reductions: Vec<f64> = prior
            .iter()
            .zip(&conditional)
            .map(|(prior, cond)| loss_reduction(prior, cond).unwrap().unwrap().loss_reduction)
            .collect();
        let expect = numbers(&golden["selection"][family]["reduction"]);
        let worst = reductions
            .iter()
            .zip(expect)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst < 2e-5, "{family}: {worst}");
        let mut best: Vec<usize> = (0..reductions.len()).collect();
        best.sort_by(|&a, &b| reductions[b].total_cmp(&reductions[a]).then(a.cmp(&b)));
        for (tau, expect) in golden["selection"][family]["selected"].as_object().unwrap() {
            let mut selected = best[..best.len() / tau.parse::<usize>().unwrap()].to_vec();
            selected.sort_unstable();
            let expect: Vec<usize> = expect
                .as_array()
                .unwrap()
                .iter()
                .map(|n| n.as_u64().unwrap() as usize)
                .collect();
            assert_eq!(selected, expect, "{family}, tau {tau}");
        }
    }
}

#[test]
fn token_ids_of_all_documents() {
    let golden = golden();
    let directory = model_directory("llama_prior");
    let directory = ModelDirectory::open(directory.path()).unwrap();
    assert_eq!(directory.eos_id(None).unwrap(), 0);
    assert_eq!(directory.eos_id(Some("<|padding|>")).unwrap(), 1);
    let lines = String::from_utf8(unpacked("docs.jsonl.zst")).unwrap();
    let text = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        row["text"].as_str().unwrap().to_owned()
    };
    let texts: Vec<String> = lines.lines().map(text).collect();
    let ids = directory.tokenizer().encode_batch(&texts).unwrap();
    assert_eq!(ids, documents(&golden));
}

/// bfloat16 moves single sequences, and the mean hardly.
#[test]
fn halves_are_near_on_average() {
    let golden = golden();
    let packed = packed(&golden);
    let expect = numbers(&golden["packed"]["llama_prior"]);
    let check = |weights: WeightType, single: f64, mean: f64| {
        let options = LoadOptions {
            weights,
            ..LoadOptions::default()
        };
        let sums = sums(&load("llama_prior", &options), &packed);
        let differences: Vec<f64> = sums
            .iter()
            .zip(&expect)
            .map(|(a, b)| (a - b) / 127.0)
            .collect();
        let worst = differences
            .iter()
            .fold(0.0_f64, |worst, d| worst.max(d.abs()));
        let bias = differences.iter().sum::<f64>() / differences.len() as f64;
        println!("{weights:?}: single sequences up to {worst:.1e}, mean {bias:.1e} nats per token");
        assert!(
            worst < single && bias.abs() < mean,
            "{weights:?}: {worst} {bias}"
        );
    };
    check(WeightType::Bf16, 0.03, 0.003);
    check(WeightType::F16, 0.003, 3e-4);
}
