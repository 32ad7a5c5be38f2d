use serde_json::json;

use super::*;
use crate::testing::job;

fn message(params: &str) -> String {
    let job = job(&format!("  t: {{kind: train_language_model, {params}}}\n"));
    let checked = TrainLanguageModelKind.check(&job, "t");
    checked.map(drop).unwrap_err().message
}

#[test]
fn what_cannot_be_trained_is_said() {
    for (params, expected) in [
        ("seed: 1", "there is nothing to train"),
        ("size: 1m, from: a", "not both"),
        ("size: 3m", "there is no size \"3m\""),
        ("size: 1m, dataset: none", "there is no dataset `none`"),
        ("size: 1m, dataset: one, input: corpus", "not on both"),
        ("size: 1m, input: x", "there is no stage `x`"),
        ("size: 1m, tokens: 5, epochs: 1", "keep one"),
        ("size: 1m, tokens: 0", "nothing would be trained on"),
        ("size: 1m, epochs: 0", "nothing would be trained on"),
        ("size: 1m, vocabulary: 100", "258 to 131072"),
        ("size: 1m, learning_rate: 2", "above 0, below 1"),
        ("size: 1m, held_out: 100%", "nothing would be left"),
        ("from: a, vocabulary: 300", "keeps its vocabulary"),
        ("size: 1m, frozen_layers: 1", "no layers that could stay"),
    ] {
        let found = message(params);
        assert!(found.contains(expected), "{params}: {found}");
    }
}

#[test]
fn one_epoch_over_a_dataset_reads_all_of_it_and_tokens_a_sample() {
    let bytes = |params: &str| {
        let job = job(&format!("  t: {{kind: train_language_model, {params}}}\n"));
        let stage = TrainLanguageModelKind.check(&job, "t").unwrap();
        match stage.outlook().remove(0).input {
            PhaseInput::Documents { sample, .. } => sample.unwrap().bytes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bytes("size: 1m, tokens: 1000"), 1000 * BYTES_PER_TOKEN);
    assert_eq!(bytes("from: a, dataset: one"), DATASET_BYTES_MAX);
    assert_eq!(bytes("size: 1m, epochs: 2"), DATASET_BYTES_MAX);
    let default = bytes("size: 1m");
    assert!(
        default > 1000 * BYTES_PER_TOKEN && default < DATASET_BYTES_MAX,
        "{default}"
    );
}

#[test]
fn a_model_is_not_trained_again_unless_something_changed() {
    let stage = |params: &str| {
        let job = job(&format!("  t: {{kind: train_language_model, {params}}}\n"));
        TrainLanguageModelKind.check(&job, "t").unwrap()
    };
    let trained_with = |params: &str| {
        let job = job(&format!("  t: {{kind: train_language_model, {params}}}\n"));
        let params = TrainParams::of(&job, "t").unwrap();
        json!({
            "params": TrainParams { refit: false, ..params },
            "dataset": null, "text": "text", "start": null,
        })
    };
    let version = json!({
        "format": 1, "number": 3, "job": "test", "job_file": {}, "run": "0000000000000001",
        "published_at": "2026-01-01T00:00:00Z", "gleaner_version": "0", "stage_order": ["t"],
        "stages": {"t": {
            "kind": KIND, "code_version": 1, "params": {}, "tables": ["t"],
            "lanes": {"rows_in": 0, "ok": 0, "ineligible": 0, "rejected": 0, "failed": 0},
            "quarantined": [], "facts": {TRAINED_WITH: trained_with("size: 1m"), MODEL: {}},
        }},
        "tables": {"t": {
            "schema": arrow::datatypes::Schema::empty(), "files": [], "rows": 0, "bytes": 0,
            "since_version": 2, "since": "2026-01-01T00:00:00Z",
        }},
        "corpus": [],
    });
    let published = serde_json::from_value(version).unwrap();
    let next = |params: &str| {
        let step = stage(params).next(&Completed {
            maps: &BTreeMap::new(),
            reduces: &BTreeMap::new(),
            published: Some(&published),
            others: &BTreeMap::new(),
            stages: &BTreeMap::new(),
            models: &BTreeMap::new(),
            corpus_schema: &Arc::new(arrow::datatypes::Schema::empty()),
        });
        step.unwrap()
    };
    match next("size: 1m") {
        Step::Done(outcome) => assert!(outcome.notes[0].contains("by version 2"), "{outcome:?}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(next("size: 1m, refit: true"), Step::Map(_)));
    assert!(matches!(next("size: 1m, seed: 2"), Step::Map(_)));
}
