//! Stages as Delta tables: what the log says is the version, whoever writes it, and however often.
//!
//! `tests/ecosystem/check_delta.py` reads such tables by programs of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::SystemTime;

use gleaner_tests::corpus::{sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, files, number, start, text};
use gleaner_tests::small::{self, FILES, PER_FILE};
use serde_json::{Value, json};

const TABLES: [&str; 3] = ["weights", "chosen", "counts"];
const ARGUMENTS: [&str; 6] = [
    "--set",
    "stages.weights.publish=delta",
    "--set",
    "stages.chosen.publish=delta",
    "--set",
    "stages.counts.publish=delta",
];

fn run(workspace: &Workspace) -> Value {
    workspace.summary(&ARGUMENTS)
}

/// The log of a table, applied as its format says and as no line of the program under test does.
#[derive(Debug, Default, PartialEq)]
struct Table {
    files: BTreeMap<String, Value>,
    columns: Vec<String>,
    /// Versions of the output, in the order in which they were committed.
    versions: Vec<u64>,
}

fn table(workspace: &Workspace, name: &str) -> Table {
    let mut table = Table::default();
    for (idx, path) in commits(workspace, name).iter().enumerate() {
        assert!(path.ends_with(&format!("/{idx:020}.json")), "{path}");
        let commit = fs::read_to_string(workspace.path().join(path)).unwrap();
        for line in commit.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if let Some(metadata) = line.get("metaData") {
                let schema = text(metadata, "schemaString");
                let schema: Value = serde_json::from_str(&schema).unwrap();
                let fields = schema["fields"].as_array().unwrap();
                table.columns = fields.iter().map(|field| text(field, "name")).collect();
            }
            if let Some(remove) = line.get("remove") {
                assert!(
                    table.files.remove(&text(remove, "path")).is_some(),
                    "{remove}"
                );
            }
            if let Some(add) = line.get("add") {
                let before = table.files.insert(text(add, "path"), add.clone());
                assert_eq!(before, None, "{path}");
            }
            if let Some(txn) = line.get("txn") {
                table.versions.push(number(txn, "version"));
            }
        }
    }
    table
}

/// Commits of a table, from the first to the last.
fn commits(workspace: &Workspace, table: &str) -> Vec<String> {
    let folder = workspace.path().join(format!("out/{table}/_delta_log"));
    let paths = files(&folder).into_iter();
    let paths = paths.map(|path| {
        path.strip_prefix(workspace.path())
            .unwrap()
            .display()
            .to_string()
    });
    let paths: BTreeSet<String> = paths.collect();
    paths.into_iter().collect()
}

/// Every object of the output, and when it was written.
fn stored(workspace: &Workspace) -> BTreeMap<PathBuf, SystemTime> {
    let paths = files(&workspace.path().join("out")).into_iter();
    let times = paths.map(|path| {
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        (path, written)
    });
    times.collect()
}

fn manifest(workspace: &Workspace) -> Value {
    let bytes = fs::read(workspace.path().join("out/manifest.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// All tables are those of the newest version.
fn check(workspace: &Workspace) -> u64 {
    let manifest = manifest(workspace);
    for name in TABLES {
        let table = table(workspace, name);
        let published = &manifest["tables"][name];
        let expected: BTreeMap<String, (u64, u64)> = published["files"]
            .as_array()
            .unwrap()
            .iter()
            .map(|file| {
                let path = text(file, "path")
                    .strip_prefix(&format!("{name}/"))
                    .unwrap()
                    .to_owned();
                (path, (number(file, "bytes"), number(file, "rows")))
            })
            .collect();
        let found: BTreeMap<String, (u64, u64)> = table
            .files
            .iter()
            .map(|(path, add)| {
                let stats: Value = serde_json::from_str(&text(add, "stats")).unwrap();
                (
                    path.clone(),
                    (number(add, "size"), number(&stats, "numRecords")),
                )
            })
            .collect();
        assert_eq!(found, expected, "{name}");
        assert_eq!(table.versions.last(), manifest["number"].as_u64().as_ref());
        // Each version once, and none after a later one.
        assert!(
            table.versions.is_sorted_by(|a, b| a < b),
            "{:?}",
            table.versions
        );
        let fields = published["schema"]["fields"].as_array().unwrap().iter();
        let columns: Vec<String> = fields
            .filter(|field| field["data_type"] != "UInt64")
            .map(|field| text(field, "name"))
            .collect();
        assert_eq!(table.columns, columns, "{name}");
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    manifest["number"].as_u64().unwrap()
}

fn add_file(workspace: &Workspace, idx: usize) {
    let documents = sample_documents((FILES + 1 + idx) * PER_FILE);
    let path = workspace.path().join(format!("corpus/more-{idx}.parquet"));
    write_parquet(&path, &documents[(FILES + idx) * PER_FILE..], PER_FILE);
}

#[test]
fn every_version_is_one_commit_and_no_work_writes_nothing() {
    let (workspace, _) = small::workspace();
    let ended = workspace.run(&ARGUMENTS).expect(0);
    // What cannot be in the table is told.
    let _ = ended.says("input_row (UInt64)");
    assert_eq!(check(&workspace), 1);
    assert_eq!(commits(&workspace, "chosen").len(), 1);

    let before = stored(&workspace);
    assert_eq!(run(&workspace)["is_new"], false);
    assert_eq!(stored(&workspace), before);

    add_file(&workspace, 0);
    assert_eq!(run(&workspace)["is_new"], true);
    assert_eq!(check(&workspace), 2);
    fs::remove_file(workspace.path().join("corpus/part-0.parquet")).unwrap();
    assert_eq!(run(&workspace)["is_new"], true);
    assert_eq!(check(&workspace), 3);
    assert_eq!(table(&workspace, "weights").versions, [1, 2, 3]);
    // Files that stay are not named again.
    let last = commits(&workspace, "weights").pop().unwrap();
    let last = fs::read_to_string(workspace.path().join(last)).unwrap();
    assert_eq!(last.matches("\"add\"").count(), 0, "{last}");
    assert_eq!(last.matches("\"remove\"").count(), 1, "{last}");

    // Older versions go, and the tables stay what they are.
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    assert_eq!(check(&workspace), 3);
    for name in TABLES {
        for path in table(&workspace, name).files.keys() {
            assert!(workspace.path().join("out").join(name).join(path).exists());
        }
    }
    assert_eq!(run(&workspace)["is_new"], false);
    for command in [
        &["status", "out"][..],
        &["report", "out"],
        &["explain", "out", small::SHORT],
    ] {
        let _ = workspace.gleaner(command).expect(0);
    }
    assert_eq!(
        workspace.sql("SELECT count(*) AS n FROM chosen")[0]["n"],
        small::CHOSEN
    );
}

/// A run that was killed when it had published, before it committed to the tables.
#[test]
fn the_next_run_makes_up_for_a_commit_that_is_missing() {
    let (workspace, _) = small::workspace();
    let _ = run(&workspace);
    add_file(&workspace, 0);
    let _ = run(&workspace);
    let whole = table(&workspace, "chosen");
    let last = commits(&workspace, "chosen").pop().unwrap();
    fs::remove_file(workspace.path().join(&last)).unwrap();
    let verified = workspace.gleaner(&["verify", "out"]).expect(1);
    let difference = "chosen/_delta_log: is at version 1 of the output, not at version 2";
    assert!(verified.stdout.contains(difference), "{}", verified.stdout);
    assert_eq!(run(&workspace)["is_new"], false);
    assert_eq!(table(&workspace, "chosen"), whole);
    // The whole log of another one, and a version that nobody committed.
    fs::remove_dir_all(workspace.path().join("out/counts/_delta_log")).unwrap();
    fs::remove_file(workspace.path().join(&last)).unwrap();
    add_file(&workspace, 1);
    let _ = run(&workspace);
    assert_eq!(table(&workspace, "chosen").versions, [1, 3]);
    assert_eq!(table(&workspace, "counts").versions, [3]);
    assert_eq!(check(&workspace), 3);
}

#[test]
fn the_key_takes_effect_with_a_version_of_its_own() {
    let (workspace, _) = small::workspace();
    assert_eq!(workspace.summary(&[])["version"], 1);
    assert!(!workspace.path().join("out/chosen/_delta_log").exists());
    assert_eq!(run(&workspace)["version"], 2);
    assert_eq!(check(&workspace), 2);
    // Without it the table stays where it was, and `verify` tells of what is left.
    assert_eq!(workspace.summary(&[])["version"], 3);
    assert_eq!(table(&workspace, "chosen").versions, [2]);
    let verified = workspace.gleaner(&["verify", "out"]).expect(0);
    let warning = "not named by any version: chosen/_delta_log/";
    assert!(verified.stdout.contains(warning), "{}", verified.stdout);
}

#[test]
fn runs_side_by_side_commit_each_version_once() {
    let (workspace, _) = small::workspace();
    let arguments = [&["run", "job.yaml", "--workers", "2"], &ARGUMENTS[..]].concat();
    for round in 0..3 {
        add_file(&workspace, round);
        let runs: Vec<Child> = (0..3)
            .map(|_| start(workspace.path(), &arguments))
            .collect();
        for mut run in runs {
            assert!(run.wait().unwrap().success());
        }
        let _ = check(&workspace);
    }
}

#[test]
fn a_table_that_others_have_changed_is_left_alone() {
    let (workspace, _) = small::workspace();
    let _ = run(&workspace);
    let protocol = json!({"protocol": {
        "minReaderVersion": 3, "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"],
    }});
    let foreign = format!("out/chosen/_delta_log/{:020}.json", 1);
    workspace.write(&foreign, protocol.to_string());
    add_file(&workspace, 0);
    let _ = workspace
        .run(&ARGUMENTS)
        .expect(2)
        .says("version 2 is published, but its Delta table chosen is not up to date")
        .says("deletionVectors")
        .says("chosen/_delta_log");
    assert_eq!(manifest(&workspace)["number"], 2);
    // As the error says.
    fs::remove_dir_all(workspace.path().join("out/chosen/_delta_log")).unwrap();
    assert_eq!(run(&workspace)["is_new"], false);
    assert_eq!(check(&workspace), 2);
}

#[test]
fn what_else_is_asked_for_is_refused_at_its_place() {
    let (workspace, _) = small::workspace();
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let job = job.replace("kind: select,", "kind: select, publish: iceberg,");
    workspace.write("job.yaml", job);
    let _ = workspace
        .gleaner(&["validate", "job.yaml"])
        .expect(2)
        .says("`iceberg` is not possible here")
        .says("known here: delta");
}
