//! Two runs of one job side by side: when the last of them has ended, nothing is left of what
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;

use gleaner_storage::layout;
use gleaner_tests::corpus::{health_documents, jsonl, sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, files, start};
use serde_json::Value;

const JOB: &str = "\
name: two
output: out
corpus: {paths: ['corpus/*']}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 20KiB
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 20}
  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 40, materialize: true}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source'}
";
/// Pairs of runs. In each the two race for the same tasks; which attempts lose differs.
const ROUNDS: usize = 4;

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    for (idx, documents) in sample_documents(240).chunks(30).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, 10);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write("job.yaml", JOB);
    workspace
}

/// Objects of the tables, as the manifest names them.
fn named(workspace: &Workspace, output: &str) -> BTreeSet<String> {
    let manifest = std::fs::read(workspace.path().join(output).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let tables = manifest["tables"].as_object().unwrap().values();
    let files = tables.flat_map(|table| table["files"].as_array().unwrap());
    files
        .map(|file| file["path"].as_str().unwrap().to_owned())
        .collect()
}

/// Objects of the tables that are there; and tasks of inner phases with more than one attempt.
fn stored(workspace: &Workspace, output: &str) -> (BTreeSet<String>, Vec<String>) {
    let folder = workspace.path().join(output);
    let (mut tables, mut inner) = (BTreeSet::new(), BTreeMap::<String, usize>::new());
    for path in files(&folder) {
        let path = path.strip_prefix(&folder).unwrap().display().to_string();
        let name = path.rsplit('/').next().unwrap();
        let Some((task, _)) = layout::parse_attempt(name) else {
            continue;
        };
        if path.starts_with(layout::PRIVATE) {
            *inner.entry(task.to_string()).or_default() += 1;
        } else {
            tables.insert(path);
        }
    }
    inner.retain(|_, n| *n > 1);
    (tables, inner.into_keys().collect())
}

#[test]
fn the_last_of_two_runs_removes_what_lost() {
    let workspace = workspace();
    for round in 0..ROUNDS {
        let output = format!("out-{round}");
        let arguments = ["run", "job.yaml", "--workers", "2", "--output", &output];
        let runs: Vec<Child> = (0..2)
            .map(|_| start(workspace.path(), &arguments))
            .collect();
        for mut run in runs {
            assert!(run.wait().unwrap().success());
        }
        let (tables, doubled) = stored(&workspace, &output);
        assert_eq!(tables, named(&workspace, &output), "round {round}");
        assert_eq!(doubled, Vec::<String>::new(), "round {round}");
        let _ = workspace.gleaner(&["verify", &output]).expect(0);
        // And so it stays.
        let again = workspace.summary(&["--output", &output]);
        assert_eq!(again["is_new"], false);
        assert_eq!(stored(&workspace, &output).0, tables);
    }
}
