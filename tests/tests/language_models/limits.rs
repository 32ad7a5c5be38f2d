//! Documents, weights and texts that cannot be scored, and how much memory scoring takes.

use std::fs;

use gleaner_tests::corpus::{Document, jsonl};
use gleaner_tests::memory::peak;
use gleaner_tests::program::{Workspace, number, text};
use serde_json::json;

use super::{JOB, golden, workspace};

const ONE: &str = "
name: one
output: out
corpus: {paths: [corpus/*.jsonl]}
allow: {rejected_rows: 50%}
stages: {losses: {kind: loss_reduction, prior: models/llama_prior}}
";

fn document(id: &str, text: impl Into<String>) -> Document {
    Document {
        id: id.to_owned(),
        text: text.into(),
        source: "none".to_owned(),
    }
}

#[test]
fn a_text_that_cannot_be_tokenized_is_rejected_with_its_place() {
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    // It knows three words, and none for others.
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {
            "type": "WordLevel", "vocab": {"end": 0, "alpha": 1, "beta": 2}, "unk_token": "unknown",
        },
    });
    workspace.write("models/llama_prior/tokenizer.json", tokenizer.to_string());
    let documents = [
        document("first", "alpha beta alpha"),
        document("second", "alpha gamma"),
        document("third", "beta"),
    ];
    workspace.write("corpus/docs.jsonl", jsonl(&documents));
    workspace.write("job.yaml", ONE);
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace
        .sql("SELECT doc_id, status, reason, n_tokens, input_row FROM losses ORDER BY input_row");
    let status: Vec<String> = rows.iter().map(|row| text(row, "status")).collect();
    assert_eq!(status, ["ok", "rejected", "ok"]);
    assert_eq!(number(&rows[1], "input_row"), 1);
    let reason = text(&rows[1], "reason");
    assert!(reason.contains("cannot be tokenized"), "{reason}");
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn weights_that_are_no_numbers_are_told_of_by_the_name_of_their_model() {
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    let path = workspace
        .path()
        .join("models/llama_prior/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    // The first value of the first tensor: not a number in any type.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..12 + header].fill(0xff);
    fs::write(&path, bytes).unwrap();
    workspace.write("job.yaml", ONE);
    let ended = workspace.run(&[]).expect(3);
    let ended = ended.says("the model prior: tensor").says("is NaN");
    assert!(!ended.stderr.contains("directories"), "{}", ended.stderr);
}

#[test]
fn a_model_that_training_further_did_not_better_is_told_of() {
    let job = JOB.replace(
        "dataset: target, tokens: 8192",
        "dataset: target, tokens: 4096, learning_rate: 1.0e-30",
    );
    let workspace = workspace(&job);
    let ended = workspace.run(&[]).expect(0);
    let _ = ended.says("never lowered the held-out loss");
}

#[cfg(target_os = "linux")]
#[test]
fn documents_of_ten_megabytes_do_not_outgrow_a_small_slot() {
    const MEMORY: u64 = 128 << 20;
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    fs::remove_file(workspace.path().join("corpus/docs.jsonl")).unwrap();
    let sentence = |n: usize| {
        format!(
            "the {n}th patient of {} was given aspirin; ",
            n * 7919 % 997
        )
    };
    let long: String = (0..250_000).map(sentence).collect();
    assert!(long.len() > 10_000_000);
    let documents = (0..3).map(|n| document(&format!("long-{n}"), &long[n..]));
    let documents: Vec<Document> = documents.collect();
    workspace.write("corpus/long.jsonl", jsonl(&documents));
    workspace.write("short.jsonl", jsonl(&[document("short", &long[..1000])]));
    workspace.write("job.yaml", ONE.replace("50%", "100%"));
    let run = |arguments: &[&str]| {
        let usual = [
            "run",
            "job.yaml",
            "--workers",
            "1",
            "--set",
            "memory=128MiB",
        ];
        peak(workspace.path(), &[&usual, arguments].concat())
    };
    let usual = run(&["--set", "corpus.paths=short.jsonl", "--output", "short"]);
    let check = |output: &str, arguments: &[&str]| {
        let peak = run(&[arguments, &["--output", output]].concat());
        println!(
            "{output}: {} MiB, {} MiB with little to read",
            peak >> 20,
            usual >> 20
        );
        assert!(
            peak - usual < MEMORY,
            "{output}: {} MiB more",
            (peak - usual) >> 20
        );
    };
    // Their beginnings are all that is looked at.
    check("cut", &["--set", "stages.losses.max_tokens=200"]);
    let rows = workspace.sql_of("cut", "SELECT status, truncated, n_tokens FROM losses");
    let expected = json!({"status": "ok", "truncated": true, "n_tokens": 200});
    assert_eq!(rows, [expected.clone(), expected.clone(), expected]);
    // As a whole their losses do not fit.
    check("whole", &[]);
    let rows = workspace.sql_of("whole", "SELECT status, reason FROM losses");
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_eq!(text(&row, "status"), "rejected");
        let reason = text(&row, "reason");
        assert!(
            reason.contains("set `max_tokens` or raise `memory`"),
            "{reason}"
        );
    }
}
