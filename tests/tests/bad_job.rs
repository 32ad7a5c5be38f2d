//! Bad job files: each error with its line and column, the line itself, and what to do instead.
//! Nothing is written.

use gleaner_tests::corpus::{Document, jsonl};
use gleaner_tests::program::Workspace;
use serde_json::json;

const JOB: &str = "\
name: bad-job
output: out
corpus: {paths: [corpus.jsonl]}
datasets: {target: {paths: [corpus.jsonl]}}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 1}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 1}
";

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    let document = Document {
        id: "a".to_owned(),
        text: "some text".to_owned(),
        source: "s".to_owned(),
    };
    workspace.write("corpus.jsonl", jsonl(&[document]));
    workspace
}

/// Runs the job with one text replaced by another.
#[track_caller]
fn check(workspace: &Workspace, from: &str, to: &str, says: &[&str]) {
    assert_eq!(JOB.matches(from).count(), 1, "{from}");
    workspace.write("job.yaml", JOB.replace(from, to));
    let mut ended = workspace.run(&[]).expect(2);
    for text in says {
        ended = ended.says(text);
    }
    assert!(!workspace.path().join("out").exists());
}

#[test]
fn unknown_keys_name_line_column_and_the_nearest_key() {
    let workspace = workspace();
    let check = |from: &str, to: &str, says: &[&str]| check(&workspace, from, to, says);
    check(
        "output: out",
        "outptu: out",
        &[
            "error: job.yaml:2:1: there is no key `outptu` here\n  outptu: out\n  ^^^^^^\n",
            "help: did you mean `output`?",
        ],
    );
    check(
        "min_tokens",
        "min_token",
        &[
            "job.yaml:6:55: there is no key `min_token` here",
            "did you mean `min_tokens`?",
        ],
    );
    check(
        "documents: 1",
        "docs: 1",
        &["job.yaml:7:65: there is no key `docs` here", "help: "],
    );
    check(
        "kind: select",
        "kind: slect",
        &["job.yaml:7:18: ", "slect", "did you mean `select`?"],
    );
    check(
        "target: target, ",
        "target: targt, ",
        &[
            "job.yaml:6:47: there is no dataset `targt`",
            "did you mean `target`?",
        ],
    );
    check(
        "by: weights.",
        "by: weigths.",
        &["job.yaml:7:30: ", "weigths", "did you mean `weights`?"],
    );
}

#[test]
fn wrong_units_name_the_right_ones() {
    let workspace = workspace();
    for (setting, place, message) in [
        (
            "task_bytes: 256",
            "3:13",
            "\"256\" is not a size: write a number with a unit (B, kB,",
        ),
        (
            "memory: 2 parsecs",
            "3:9",
            "\"2 parsecs\" is not a size: write a number with a unit",
        ),
        (
            "task_timeout: 15",
            "3:15",
            "\"15\" is not a duration: write a number with a unit (ms,",
        ),
        (
            "allow: {rejected_rows: -1}",
            "3:24",
            "\"-1\" is not a limit: write a count (10) or a",
        ),
        (
            "allow: {rejected_rows: 1‰}",
            "3:24",
            "is not a limit: write a count (10) or a share",
        ),
    ] {
        check(
            &workspace,
            "output: out\n",
            &format!("output: out\n{setting}\n"),
            &[&format!("error: job.yaml:{place}: "), message],
        );
    }
    check(
        &workspace,
        "documents: 1",
        "fraction: a third",
        &["job.yaml:7:75: \"a third\" is not a share: write 1/16, 0.0625 or 6.25%"],
    );
}

#[test]
fn impossible_values_name_the_possible_ones() {
    let workspace = workspace();
    let weights = |setting: &str, says: &[&str]| {
        check(&workspace, "min_tokens: 1", setting, says);
    };
    weights(
        "ngrams: 9",
        &["job.yaml:6:63: ngrams is 9, it must be 1 to 4"],
    );
    weights(
        "buckets: 0",
        &["job.yaml:6:64: buckets is 0, it must be 1 to 16777216"],
    );
    weights("hash: md5", &["job.yaml:6:61: ", "md5", "known here: "]);
    weights(
        "target_pseudo_count: -1",
        &["job.yaml:6:76: target_pseudo_count is -1"],
    );
    weights(
        "chunk_words: 0",
        &["job.yaml:6:68: a chunk of zero words holds nothing"],
    );
    let select = |setting: &str, says: &[&str]| {
        check(&workspace, "method: top_k, documents: 1", setting, says);
    };
    select(
        "method: best, documents: 1",
        &["job.yaml:7:58: ", "best", "known here: "],
    );
    select(
        "method: top_k",
        &[
            "job.yaml:7:3: there is no budget",
            "help: give one of `documents`, `tokens`, `bytes`, `fraction`",
        ],
    );
    select(
        "method: top_k, documents: 1, tokens: 5",
        &[
            "job.yaml:7:87: there are several budgets: documents, tokens",
            "help: keep exactly one",
        ],
    );
    let whole = "is not possible here, expected a whole number, 0 or more";
    select(
        "method: top_k, documents: -1",
        &["job.yaml:7:76: integer `-1` ", whole],
    );
    select(
        "method: top_k, documents: many",
        &["job.yaml:7:76: string \"many\" ", whole],
    );
    select("method: top_k, fraction: 3/2", &["job.yaml:7:75: "]);
    select(
        "method: resample, documents: 1, temperature: 0",
        &["job.yaml:7:95: temperature is 0, it must be above 0"],
    );
    check(
        &workspace,
        "output: out",
        "output: out\nmemory: 1MiB",
        &[
            "job.yaml:3:9: a slot cannot work with 1MiB of memory",
            "help: give it 64MiB or more",
        ],
    );
    check(
        &workspace,
        "name: bad-job",
        "name: bad/job",
        &["job.yaml:1:7: \"bad/job\" is not a name"],
    );
}

#[test]
fn what_is_no_job_file_says_so() {
    let workspace = workspace();
    let _ = workspace
        .gleaner(&["run", "no.yaml"])
        .expect(2)
        .says("cannot read the job file no.yaml: ")
        .says("`gleaner init DIR` writes a job file to start from");
    check(
        &workspace,
        "output: out\n",
        "",
        &["job.yaml: the key `output` is missing"],
    );
    check(
        &workspace,
        "name: bad-job",
        "name: \"bad-job",
        &["job.yaml:", "this is not YAML", "help: "],
    );
    check(
        &workspace,
        "output: out",
        "name: out",
        &["job.yaml:2:1: the key `name` stands here twice"],
    );
    check(
        &workspace,
        "[corpus.jsonl]}\ndata",
        "[]}\ndata",
        &["job.yaml:3:17: the list is empty"],
    );
}

#[test]
fn what_the_command_line_sets_is_named_as_such() {
    let workspace = workspace();
    workspace.write("job.yaml", JOB);
    for (set, says) in [
        ("memory=7", "(given by --set memory=...)"),
        (
            "stages.weights.ngrams=0",
            "ngrams is 0, it must be 1 to 4 (given by --set",
        ),
        (
            "corpus.paths.3=x",
            "--set corpus.paths.3=x: the list has 1 items, not 3",
        ),
    ] {
        let _ = workspace.run(&["--set", set]).expect(2).says(says);
    }
}

#[test]
fn programs_get_the_place_as_numbers() {
    let workspace = workspace();
    workspace.write("job.yaml", JOB.replace("min_tokens", "min_token"));
    let ended = workspace.run(&["--json"]).expect(2);
    let event = ended.events().pop().unwrap();
    assert_eq!(
        (&event["event"], &event["exit_code"]),
        (&json!("error"), &json!(2))
    );
    let detail = &event["details"][0];
    assert_eq!(
        (&detail["line"], &detail["column"]),
        (&json!(6), &json!(55))
    );
    assert_eq!(detail["help"], "did you mean `min_tokens`?");
}
