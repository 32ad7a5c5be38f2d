//! The dataset card of a version: what its header tells loaders, what its text tells people, and
//! that it comes after the version and never in its way.

use std::collections::BTreeSet;
use std::fs;

use gleaner_schemas::Version;
use gleaner_schemas::job::read_yaml;
use gleaner_tests::program::Workspace;
use gleaner_tests::small::{self, CHOSEN};
use serde_json::{Value, json};

const CARD: &str = "
card:
  title: 'A small set: \"quoted\"'
  description: Chosen for the tests.
  license: [cc-by-4.0, odc-by]
  language: en
  tags: [health]
";

fn read(workspace: &Workspace, name: &str) -> String {
    fs::read_to_string(workspace.path().join("out").join(name)).unwrap()
}

fn job(workspace: &Workspace) -> String {
    fs::read_to_string(workspace.path().join("job.yaml")).unwrap()
}

fn header(card: &str) -> Value {
    let rest = card.strip_prefix("---\n").unwrap();
    let (header, _) = rest.split_once("\n---\n").unwrap();
    read_yaml(header).unwrap()
}

fn manifest(workspace: &Workspace) -> Version {
    serde_json::from_str(&read(workspace, "manifest.json")).unwrap()
}

/// The card's rows of a table: cells without space around them.
fn rows<'a>(card: &'a str, first: &str) -> Vec<Vec<&'a str>> {
    let cells = |line: &'a str| -> Vec<&'a str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    };
    let rows = card.lines().filter(|line| line.starts_with('|')).map(cells);
    rows.filter(|cells| cells[0] == first).collect()
}

#[test]
fn the_card_of_a_version_tells_loaders_and_people_what_there_is() {
    let (workspace, _) = small::workspace();
    let corpus = "corpus: {paths: ['corpus/*'], license: cc0-1.0}";
    let text = job(&workspace).replace("corpus: {paths: ['corpus/*']}", corpus) + CARD;
    workspace.write("job.yaml", text);
    let _ = workspace.run(&[]).expect(0);
    let card = read(&workspace, "README.md");
    assert_eq!(card, read(&workspace, "_gleaner/cards/1.md"));
    let header = header(&card);
    assert_eq!(header["pretty_name"], "A small set: \"quoted\"");
    assert_eq!(header["license"], json!(["cc-by-4.0", "odc-by"]));
    assert_eq!(header["language"], json!(["en"]));
    assert_eq!(header["tags"], json!(["gleaner", "health"]));
    assert_eq!(header["size_categories"], json!(["n<1K"]));
    // Loaders get the files of this version, table by table.
    let version = manifest(&workspace);
    let configs = header["configs"].as_array().unwrap();
    let named: BTreeSet<&str> = configs
        .iter()
        .map(|config| config["config_name"].as_str().unwrap())
        .collect();
    let tables: BTreeSet<&str> = version.tables.keys().map(String::as_str).collect();
    assert_eq!(named, tables);
    for config in configs {
        let name = config["config_name"].as_str().unwrap();
        let paths = config["data_files"][0]["path"].as_array().unwrap();
        let files = version.tables[name].files.iter();
        let expected: Vec<&str> = files.map(|file| file.path.as_str()).collect();
        assert_eq!(json!(paths), json!(expected), "{name}");
        assert_eq!(config["default"] == true, name == "chosen", "{name}");
    }
    let chosen = &rows(&card, "`chosen`")[0];
    assert_eq!(chosen[1..3], ["select", &CHOSEN.to_string()]);
    // Every number is the one that SQL gives.
    let sources = workspace.sql("SELECT source, count(*) AS n FROM chosen GROUP BY source");
    for row in &sources {
        let name = row["source"].as_str().unwrap().replace('_', "\\_");
        let counted = rows(&card, &name);
        assert_eq!(counted, [[name.as_str(), &row["n"].to_string()]], "{card}");
    }
    for part in [
        "cc0-1.0",
        "`top_k`",
        "a budget of 25 documents",
        "`weights.log_weight`",
    ] {
        assert!(card.contains(part), "{part}\n{card}");
    }
    let lanes = version.stages["weights"].lanes;
    let counted = rows(&card, "`weights`").pop().unwrap();
    assert_eq!(counted[1], lanes.rows_in.to_string());
    assert_eq!(counted[4], lanes.rejected.to_string());
}

#[test]
fn cards_are_the_same_for_the_same_version_and_one_is_missed_by_nobody() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let first = read(&workspace, "README.md");
    let out = workspace.path().join("out");
    // Nothing new, nothing written: the file is the one that was there.
    let written = |name: &str| fs::metadata(out.join(name)).unwrap().modified().unwrap();
    let before = (written("README.md"), written("_gleaner/cards/1.md"));
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(
        (written("README.md"), written("_gleaner/cards/1.md")),
        before
    );
    // A run was killed between publication and card.
    fs::remove_file(out.join("README.md")).unwrap();
    fs::remove_file(out.join("_gleaner/cards/1.md")).unwrap();
    let _ = workspace.run(&["--workers", "1"]).expect(0);
    assert_eq!(read(&workspace, "README.md"), first);
    assert_eq!(read(&workspace, "_gleaner/cards/1.md"), first);
    let _ = workspace
        .run(&["--set", "stages.chosen.documents=30"])
        .expect(0);
    let second = read(&workspace, "README.md");
    assert_ne!(second, first);
    assert_eq!(second, read(&workspace, "_gleaner/cards/2.md"));
    assert_eq!(read(&workspace, "_gleaner/cards/1.md"), first);
    assert_eq!(rows(&second, "`chosen`")[0][2], "30");
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    assert!(!out.join("_gleaner/cards/1.md").exists());
    assert_eq!(read(&workspace, "README.md"), second);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn a_card_that_cannot_be_written_keeps_nobody_from_publishing() {
    let (workspace, _) = small::workspace();
    // A folder where the card goes.
    workspace.write("out/_gleaner/cards/1.md/file", "");
    let ended = workspace.run(&[]).expect(0);
    assert!(
        ended.stderr.contains("cannot write the dataset card"),
        "{ended:?}"
    );
    assert_eq!(manifest(&workspace).number, 1);
    // A README of somebody else.
    fs::remove_dir_all(workspace.path().join("out/_gleaner/cards")).unwrap();
    workspace.write("out/README.md", "Mine.");
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(read(&workspace, "README.md"), "Mine.");
    assert!(read(&workspace, "_gleaner/cards/1.md").starts_with("---\n"));
}

#[test]
fn licences_of_documents_are_counted_where_the_corpus_tells_them() {
    let workspace = Workspace::new();
    let words = "a patient was given the medicine and felt better on the next day of treatment ";
    let line = |id: usize| {
        let license = ["cc-by-4.0", "mit|x"][usize::from(id.is_multiple_of(3))];
        json!({"id": id.to_string(), "text": words.repeat(3), "license": license}).to_string()
    };
    let lines: Vec<String> = (0..9).map(line).collect();
    workspace.write("corpus.jsonl", lines.join("\n"));
    workspace.write("target.jsonl", json!({"text": words.repeat(9)}).to_string());
    workspace.write(
        "job.yaml",
        "
name: licences
output: out
corpus: {paths: corpus.jsonl}
datasets: {target: {paths: target.jsonl}}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 5}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 9, materialize: true}
",
    );
    let _ = workspace.run(&[]).expect(0);
    let card = read(&workspace, "README.md");
    assert!(
        card.contains("| cc-by-4.0 | 6 |\n| mit\\|x | 3 |"),
        "{card}"
    );
    assert!(header(&card).get("license").is_none(), "{card}");
}
