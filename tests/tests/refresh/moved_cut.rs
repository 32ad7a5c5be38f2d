//! A selection that is decided anew writes the objects whose rows are others, and no more.

use std::collections::BTreeSet;

use super::*;

const FILES: usize = 8;

/// Jobs over weights of two targets: how rows are chosen, and of what.
const SELECTS: [(&str, &str); 3] = [
    ("target: target", "method: top_k, documents: 40"),
    (
        "target: target",
        "method: resample, temperature: 20, seed: 3, tokens: 3000, group_by: source",
    ),
    (
        "target: [target, other], targets: separate",
        "method: resample, temperature: 20, documents: 40",
    ),
];

fn job((weights, select): (&str, &str)) -> String {
    JOB.replace(
        "{target: {paths: [target.jsonl]}}",
        "{target: {paths: [target.jsonl]}, other: {paths: [other.jsonl]}}",
    )
    .replace("target: target", weights)
    .replace("method: top_k, documents: 25", select)
}

/// The same job with another budget.
fn with_budget(job: &str, factor: f64) -> String {
    let mut job = job.to_owned();
    for (unit, n) in [("documents: ", 40.0), ("tokens: ", 3000.0)] {
        job = job.replace(
            &format!("{unit}{n}"),
            &format!("{unit}{}", (n * factor) as u64),
        );
    }
    job
}

/// Tasks of the selection with the hashes of their objects' bytes.
fn objects_of(workspace: &Workspace, output: &str) -> BTreeSet<String> {
    let sql = "SELECT task, checksum FROM gleaner.files WHERE table_name = 'chosen'";
    let rows = workspace.sql_of(output, sql);
    rows.iter()
        .map(|row| format!("{} {}", row["task"], row["checksum"]))
        .collect()
}

/// Rows that are chosen of each file, without their texts.
fn chosen_of(workspace: &Workspace) -> Vec<Vec<Value>> {
    let sql = "SELECT input_file, input_row, key FROM chosen ORDER BY input_file, input_row";
    let mut chosen = vec![Vec::new(); FILES];
    for row in workspace.sql(sql) {
        let name = row["input_file"].as_str().unwrap();
        let number = name
            .trim_start_matches("corpus/part-")
            .trim_end_matches(".parquet");
        // A file that came later is none of those that are compared.
        if let Some(of_file) = chosen.get_mut(number.parse::<usize>().unwrap()) {
            of_file.push(row);
        }
    }
    chosen
}

fn n_moved(before: &[Vec<Value>], after: &[Vec<Value>]) -> usize {
    before
        .iter()
        .zip(after)
        .filter(|(before, after)| before != after)
        .count()
}

#[test]
fn only_objects_whose_rows_are_others_are_written() {
    let (workspace, _) = workspace(FILES);
    workspace.write("other.jsonl", jsonl(&sample_documents(20)));
    for select in SELECTS {
        let job = job(select);
        let _ = fs::remove_dir_all(output(&workspace));
        let mut before: Option<(BTreeSet<String>, Vec<Vec<Value>>)> = None;
        let (mut n_kept, mut n_written) = (0, 0);
        for (factor, workers) in [(1.0, "1"), (1.05, "4"), (3.0, "2"), (1.0, "3")] {
            workspace.write("job.yaml", with_budget(&job, factor));
            let _ = workspace.run(&["--accept", "--workers", workers]).expect(0);
            let (objects, rows) = (objects_of(&workspace, "out"), chosen_of(&workspace));
            // As a run that was decided so at once gives it, byte by byte.
            let _ = fs::remove_dir_all(workspace.path().join("whole"));
            let _ = workspace.run(&["--output", "whole"]).expect(0);
            assert_eq!(
                objects,
                objects_of(&workspace, "whole"),
                "{select:?} {factor}"
            );
            if let Some((objects_before, rows_before)) = &before {
                let written = objects.difference(objects_before).count();
                assert_eq!(written, n_moved(rows_before, &rows), "{select:?} {factor}");
                n_kept += FILES - written;
                n_written += written;
            }
            before = Some((objects, rows));
        }
        let _ = workspace.gleaner(&["verify", "out"]).expect(0);
        assert!(
            n_kept > 0 && n_written > 0,
            "{select:?}: {n_kept} {n_written}"
        );
    }
}

/// What reads the selection is not done again either, where its rows are the same.
#[test]
fn a_file_more_moves_the_cut_and_few_objects() {
    let (workspace, documents) = workspace(FILES);
    let _ = workspace.run(&[]).expect(0);
    let before = (objects_of(&workspace, "out"), chosen_of(&workspace));
    // Some of its documents are better than any.
    let mut more = part(&documents, FILES)[..PER_FILE - 3].to_vec();
    more.extend(health_documents(3));
    write_file(&workspace, FILES, &more);
    let _ = workspace.run(&["--accept"]).expect(0);
    let after = (objects_of(&workspace, "out"), chosen_of(&workspace));
    let n_moved = n_moved(&before.1, &after.1);
    assert!(n_moved > 0, "the cut has not moved");
    assert!(n_moved < FILES, "the cut has moved over rows of every file");
    assert_eq!(after.0.difference(&before.0).count(), n_moved + 1);
}

/// What the cuts of earlier versions came to is of no use to anybody.
#[test]
fn results_of_earlier_cuts_are_removed() {
    let (workspace, documents) = workspace(3);
    let n_results = || {
        let folder = output(&workspace).join("_gleaner/reduces/chosen/effect-0");
        files(&folder).len()
    };
    for idx in 0..3 {
        write_file(&workspace, 3 + idx, part(&documents, 3 + idx));
        let _ = workspace.run(&["--accept"]).expect(0);
        assert_eq!(n_results(), idx + 1);
    }
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    assert_eq!(n_results(), 1);
    let summary = workspace.summary(&[]);
    assert_eq!(summary["is_new"], false);
    assert_eq!((n_results(), n_new(&summary, "chosen")), (1, 0));
}
