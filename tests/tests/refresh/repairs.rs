//! Objects that somebody removed from a published version.

use std::path::PathBuf;

use super::*;

fn published_files(workspace: &Workspace, table: &str) -> Vec<PathBuf> {
    let query =
        format!("SELECT path FROM gleaner.files WHERE table_name = '{table}' ORDER BY path");
    let files = workspace.sql(&query);
    files
        .iter()
        .map(|file| output(workspace).join(file["path"].as_str().unwrap()))
        .collect()
}

const TABLES: [&str; 5] = [
    "weights",
    "weights_model",
    "weights_ngrams",
    "chosen",
    "counts",
];

#[test]
fn a_run_puts_back_what_was_removed_or_cut_short() {
    let (workspace, _) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    let all = TABLES.map(|table| rows(&workspace, "out", table_order(table)));
    let published = tree(&output(&workspace)).into_keys();
    let published: Vec<String> = published.filter(|path| !path.contains("/runs/")).collect();
    for table in TABLES {
        let files = published_files(&workspace, table);
        let intact = fs::read(&files[0]).unwrap();
        for is_removed in [true, false] {
            if is_removed {
                fs::remove_file(&files[0]).unwrap();
            } else {
                fs::write(&files[0], &intact[..intact.len() / 2]).unwrap();
            }
            let named = workspace.gleaner(&["verify", "out"]).expect(1).stdout;
            let name = files[0].file_name().unwrap().to_str().unwrap();
            assert!(named.contains(name), "{table}: {named}");
            let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
            let plan = plan.events().remove(0);
            let is_open = |stage: &Value| stage["state"] != "reused";
            assert!(
                plan["stages"].as_array().unwrap().iter().any(is_open),
                "{table}"
            );

            let summary = workspace.summary(&[]);
            assert_eq!(
                summary["version"], 1,
                "{table}: the same version is whole again"
            );
            assert_eq!(fs::read(&files[0]).unwrap(), intact, "{table}");
            let report = workspace.gleaner(&["verify", "out", "--json"]).expect(0);
            let report = report.events().remove(0);
            assert_eq!(report["zombies"], serde_json::json!([]), "{table}");
        }
    }
    let left = tree(&output(&workspace)).into_keys();
    let left: Vec<String> = left.filter(|path| !path.contains("/runs/")).collect();
    let unknown: Vec<&String> = left
        .iter()
        .filter(|path| !published.contains(path))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(
        all,
        TABLES.map(|table| rows(&workspace, "out", table_order(table)))
    );
}

/// The name of a table that [`rows`] can order.
fn table_order(table: &str) -> &str {
    match table {
        "weights_model" => "weights_ngrams",
        other => other,
    }
}

/// Every object of a table at once, while the corpus has changed.
#[test]
fn all_of_a_table_comes_back_beside_what_is_new() {
    let (workspace, documents) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    for file in published_files(&workspace, "weights") {
        fs::remove_file(file).unwrap();
    }
    write_file(&workspace, 3, part(&documents, 3));
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    assert_eq!(versions(&workspace), [1, 2]);
    let n = workspace.sql("SELECT count(*) AS n FROM weights");
    assert_eq!(number(&n[0], "n"), 4 * PER_FILE as u64);
}

/// A fit over another corpus would be another model under the same name.
#[test]
fn a_frozen_model_that_cannot_come_back_is_not_replaced_in_silence() {
    let (workspace, documents) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    let model = published_files(&workspace, "weights_model").remove(0);
    let intact = fs::read(&model).unwrap();
    fs::remove_file(&model).unwrap();
    write_file(&workspace, 3, part(&documents, 3));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("the model of stage weights is gone")
        .says("refit=true");
    assert_eq!(versions(&workspace), [1]);
    fs::write(&model, intact).unwrap();
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}
