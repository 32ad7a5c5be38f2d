//! How the program starts a newcomer, explains itself, and refuses what it does not understand.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use gleaner_tests::program::{Workspace, files, gleaner, repository, text};
use gleaner_tests::small;
use serde_json::{Value, json};

const COMMANDS: [&str; 14] = [
    "run",
    "plan",
    "validate",
    "status",
    "sql",
    "report",
    "diff",
    "explain",
    "export",
    "verify",
    "gc",
    "init",
    "schema",
    "completions",
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn init_writes_a_job_that_runs() {
    let workspace = Workspace::new();
    let report = workspace.gleaner(&["init", "new/job", "--json"]).expect(0);
    let report = report.events().remove(0);
    let written: BTreeSet<_> = files(&workspace.path().join("new/job"))
        .into_iter()
        .collect();
    let told = report["files"].as_array().unwrap().iter();
    let told = told.map(|file| workspace.path().join(file.as_str().unwrap()));
    assert_eq!(written, told.collect());
    assert!(written.len() >= 3);
    workspace.write("new/job/data/target.jsonl", "mine");
    let _ = workspace
        .gleaner(&["init", "new/job"])
        .expect(2)
        .says("exists already");
    let mine = fs::read_to_string(workspace.path().join("new/job/data/target.jsonl")).unwrap();
    assert_eq!(mine, "mine");
    fs::remove_dir_all(workspace.path().join("new")).unwrap();
    let _ = workspace.gleaner(&["init", "new/job"]).expect(0);

    let _ = workspace.gleaner(&["run", "new/job/job.yaml"]).expect(0);
    let output = "new/job/output";
    let rows = workspace.sql_of(
        output,
        "SELECT (SELECT count(*) FROM chosen) AS chosen, (SELECT count(*) FROM weights) AS weights",
    );
    let corpus = fs::read_to_string(workspace.path().join("new/job/data/corpus.jsonl")).unwrap();
    assert_eq!(
        rows,
        [json!({"chosen": 8, "weights": corpus.lines().count()})]
    );
    let _ = workspace.gleaner(&["verify", output]).expect(0);
}

#[test]
fn the_schema_is_the_one_that_is_checked_in() {
    let ended = gleaner(here(), &["schema"]).expect(0);
    let schema: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert!(
        text(&schema, "$schema").contains("json-schema.org"),
        "{schema}"
    );
    let properties = schema["properties"].as_object().unwrap();
    for key in [
        "name",
        "output",
        "corpus",
        "datasets",
        "task_bytes",
        "memory",
        "allow",
        "stages",
    ] {
        assert!(properties.contains_key(key), "{key}");
    }
    for kind in ["importance_weights", "select", "query"] {
        assert!(ended.stdout.contains(&format!("\"{kind}\"")), "{kind}");
    }
    let path = repository().join("schemas/job.schema.json");
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == ended.stdout,
        "schemas/job.schema.json is not what the program prints; regenerate it:\n  cargo run \
         --locked --bin gleaner -- schema > schemas/job.schema.json"
    );
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = gleaner(here(), &["completions", shell]).expect(0).stdout;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let _ = gleaner(here(), &["completions", "tcsh"])
        .expect(2)
        .says("zsh");
}

#[test]
fn every_command_explains_itself() {
    let help = gleaner(here(), &["--help"]).expect(0).stdout;
    for command in COMMANDS {
        let summary = help.lines().find_map(|line| {
            let (name, summary) = line.trim_start().split_once(' ')?;
            (name == command).then(|| summary.trim().to_owned())
        });
        let summary = summary.unwrap_or_else(|| panic!("{command} is not in\n{help}"));
        let own = gleaner(here(), &[command, "--help"]).expect(0).stdout;
        let first = own.lines().next().unwrap();
        assert!(
            first.starts_with(&summary) && first.contains(' '),
            "{command}: {own}"
        );
        assert!(own.contains(&format!("Usage: gleaner {command}")), "{own}");
        let (_, example) = own.split_once("Example:").unwrap();
        assert!(example.contains(&format!("gleaner {command}")), "{example}");
    }
}

#[test]
fn wrong_usage_ends_with_two() {
    let (workspace, _) = small::workspace();
    let wrong: [(&[&str], &str); 9] = [
        (&[], "Usage"),
        (&["rum", "job.yaml"], "run"),
        (&["run"], "JOB"),
        (&["run", "job.yaml", "--worker", "3"], "--workers"),
        (&["run", "job.yaml", "--workers", "0"], "--workers 1"),
        (&["run", "job.yaml", "--set", "x"], "path=value"),
        (&["sql", "out", "SELECT 1"], "no published version"),
        (&["verify", "out"], "no published version"),
        (
            &["export", "out", "chosen", "--format", "beer", "--to", "x"],
            "jsonl",
        ),
    ];
    for (arguments, expected) in wrong {
        let _ = workspace.gleaner(arguments).expect(2).says(expected);
    }
    assert!(!workspace.path().join("out").exists());
}
