//! A refresh does what changed asks for, and nothing else.

use std::collections::BTreeSet;

use gleaner_tests::corpus::{jsonl, write_parquet};
use gleaner_tests::program::{Workspace, number};
use serde_json::Value;

use super::*;

/// A second run that finds nothing to do leaves no trace.
fn leaves_no_trace(workspace: &Workspace) -> Value {
    let before = tree(&output(workspace));
    let summary = workspace.summary(&[]);
    assert_eq!(summary["is_new"], false);
    for stage in summary["stages"].as_array().unwrap() {
        let reuse = &stage["reuse"];
        assert_eq!(reuse["n_tasks"], reuse["n_reused"], "{stage}");
        assert_eq!(stage["work"]["bytes"], 0, "{stage}");
    }
    let after = tree(&output(workspace));
    assert_eq!(before, after);
    summary
}

#[test]
fn without_a_change_no_task_runs_and_nothing_is_written() {
    let (workspace, documents) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    let summary = leaves_no_trace(&workspace);
    assert!(number(&stage(&summary, "weights")["reuse"], "n_tasks") > 0);
    // Also once the model is frozen, and after what is not needed was removed.
    write_file(&workspace, 3, part(&documents, 3));
    let _ = workspace.run(&[]).expect(0);
    let _ = leaves_no_trace(&workspace);
    let _ = workspace.gleaner(&["gc", "out", "--keep", "1"]).expect(0);
    let _ = workspace.run(&[]).expect(0);
    let _ = leaves_no_trace(&workspace);
    let ended = workspace.run(&[]).expect(0);
    assert!(ended.stdout.contains("nothing to do"), "{}", ended.stdout);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

/// Small files share tasks: one that is touched costs the task that it is in.
#[test]
fn a_touched_file_among_many_costs_its_task() {
    const FILES: usize = 150;
    let workspace = Workspace::new();
    let documents = sample_documents(2 * FILES);
    let write = |idx: usize, documents: &[Document]| {
        let path = workspace.path().join(format!("corpus/{idx:04}.parquet"));
        write_parquet(&path, documents, 10);
    };
    for idx in 0..FILES {
        write(idx, &documents[2 * idx..2 * idx + 2]);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write(
        "job.yaml",
        JOB.replace("task_bytes: 20KiB", "task_bytes: 1MiB"),
    );
    let first = workspace.summary(&[]);
    let n_tasks = number(&stage(&first, "weights")["reuse"], "n_tasks");
    assert!(n_tasks > 20, "{n_tasks}");
    let before: BTreeSet<String> = objects(&workspace).into_iter().collect();

    write(70, &documents[0..2]);
    let second = workspace.summary(&[]);
    assert_eq!(second["version"], 2);
    assert_eq!(n_new(&second, "weights"), 1);
    let after: BTreeSet<String> = objects(&workspace).into_iter().collect();
    let is_score = |path: &&String| path.contains("/out/weights/");
    assert_eq!(after.difference(&before).filter(is_score).count(), 1);

    // What is gone from the corpus is gone from the version.
    fs::remove_file(workspace.path().join("corpus/0071.parquet")).unwrap();
    let _ = workspace.run(&[]).expect(0);
    let named =
        "SELECT count(*) AS n FROM gleaner.files WHERE array_has(inputs, 'corpus/0071.parquet')";
    assert_eq!(number(&workspace.sql(named)[0], "n"), 0);
    let there = "SELECT count(*) AS n FROM weights WHERE input_file = 'corpus/0071.parquet'";
    assert_eq!(number(&workspace.sql(there)[0], "n"), 0);
    let all = "SELECT count(*) AS n FROM weights";
    assert_eq!(number(&workspace.sql(all)[0], "n"), 2 * (FILES as u64 - 1));
}

/// What is chosen is what a first run over the same corpus chooses by the same model.
#[test]
fn selections_are_decided_anew_over_old_and_new_scores() {
    let (workspace, documents) = workspace(4);
    let _ = workspace.run(&[]).expect(0);
    let with_model = JOB
        .replace("name: nightly\noutput: out", "name: whole\noutput: whole")
        .replace("target: target, min", "model: out/weights, min");
    workspace.write("whole.yaml", with_model);
    let changes: [&dyn Fn(); 3] = [
        &|| write_file(&workspace, 4, part(&documents, 4)),
        &|| write_file(&workspace, 1, part(&documents, 5)),
        &|| remove_file(&workspace, 2),
    ];
    let mut chosen = BTreeSet::new();
    for change in changes {
        change();
        let _ = workspace.run(&[]).expect(0);
        let _ = fs::remove_dir_all(workspace.path().join("whole"));
        let _ = workspace.gleaner(&["run", "whole.yaml"]).expect(0);
        for table in ["weights", "chosen", "counts", "weights_ngrams"] {
            assert_eq!(
                rows(&workspace, "out", table),
                rows(&workspace, "whole", table),
                "{table}"
            );
        }
        chosen.insert(format!("{:?}", rows(&workspace, "out", "chosen")));
    }
    assert_eq!(chosen.len(), 3, "each change changes the selection");
}
