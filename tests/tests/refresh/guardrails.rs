//! What differs too much from the last version is not published, unless the user says so.

use gleaner_tests::corpus::{Document, jsonl};
use gleaner_tests::program::Workspace;

use super::*;

/// Nothing was published; what a second try finds is there; `--accept` publishes.
fn is_refused(workspace: &Workspace, arguments: &[&str]) -> Vec<(String, String, String)> {
    let before = versions(workspace);
    let manifest = workspace.contents("out")["manifest.json"].clone();
    let arguments = [arguments, &["--json"]].concat();
    let found = crossed(&workspace.run(&arguments));
    assert_eq!(versions(workspace), before);
    assert_eq!(workspace.contents("out")["manifest.json"], manifest);
    let computed = objects(workspace);
    let again = workspace.run(&arguments);
    assert_eq!(crossed(&again), found);
    assert_eq!(
        objects(workspace),
        computed,
        "a second try computed something"
    );
    assert!(again.stderr.contains("--accept"), "{}", again.stderr);
    let accepted = [&arguments[..], &["--accept"]].concat();
    let ended = workspace.run(&accepted).expect(0);
    let summary = ended.events().pop().unwrap();
    assert_eq!(summary["is_new"], true);
    for stage in summary["stages"].as_array().unwrap() {
        assert_eq!(
            stage["reuse"]["n_tasks"], stage["reuse"]["n_reused"],
            "{stage}"
        );
    }
    assert_eq!(versions(workspace).len(), before.len() + 1);
    let in_sql = workspace.sql(
        "SELECT stage, figure, detail FROM gleaner.guardrails WHERE is_crossed AND beyond = 'stop'",
    );
    assert_eq!(in_sql.len(), found.len(), "{in_sql:?}");
    // Accepted once, it is the state that the next run is compared with.
    let _ = workspace.run(&[]).expect(0);
    found
}

fn names(found: &[(String, String, String)]) -> Vec<String> {
    found
        .iter()
        .map(|(stage, figure, of)| format!("{stage} {figure} {of}").trim().to_owned())
        .collect()
}

/// Somebody wants all of it gone: the version that says so has the tables, without rows.
#[test]
fn a_corpus_that_is_to_be_empty_is_published_without_documents() {
    let (workspace, documents) = workspace(4);
    let _ = workspace.run(&["--accept"]).expect(0);
    for idx in 0..4 {
        remove_file(&workspace, idx);
    }
    let _ = workspace.run(&[]).expect(5).says("corpus");
    let summary = workspace.summary(&["--accept"]);
    assert_eq!(
        (&summary["version"], &summary["is_new"]),
        (&2.into(), &true.into())
    );
    for table in ["weights", "chosen", "counts"] {
        let rows = workspace.sql(&format!("SELECT count(*) AS n FROM {table}"));
        assert_eq!(number(&rows[0], "n"), 0, "{table}");
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    let _ = workspace.gleaner(&["report", "out"]).expect(0);
    let _ = workspace.gleaner(&["status", "out"]).expect(0);
    let gone = workspace.gleaner(&["diff", "out", "1", "2"]).expect(0);
    assert!(gone.stdout.contains("120"), "{}", gone.stdout);
    // That is how it is now: nobody has to accept it again.
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(versions(&workspace), [1, 2]);
    // What comes later is weighed by the model that was fitted before.
    let model = |version: &str| {
        let sql = "SELECT * FROM weights_model ORDER BY bucket";
        let ended =
            workspace.gleaner(&["sql", "out", sql, "--version", version, "--format", "json"]);
        ended.expect(0).events()
    };
    write_file(&workspace, 0, part(&documents, 0));
    let summary = workspace.summary(&[]);
    assert_eq!(summary["version"], 3);
    assert_eq!(stage(&summary, "weights")["rows"], PER_FILE);
    assert_eq!(model("3"), model("1"));
    // Without a version there is nothing to be emptied.
    remove_file(&workspace, 0);
    let other = ["--output", "other", "--accept"];
    let _ = workspace.run(&other).expect(2).says("corpus/*");
}

#[test]
fn a_corpus_emptied_by_accident_is_not_published() {
    let (workspace, documents) = workspace(4);
    let _ = workspace.run(&[]).expect(0);
    // All files are there, and hold nothing.
    for idx in 0..4 {
        write_file(&workspace, idx, &[]);
    }
    let ended = workspace.run(&["--json"]).expect(5);
    assert_eq!(names(&crossed(&ended)), ["weights rows"]);
    let plain = workspace.run(&[]).expect(5);
    for expected in [
        "nothing was published",
        "version 1",
        "weights",
        "rows",
        "120",
        "--accept",
    ] {
        assert!(
            plain.stderr.contains(expected),
            "{expected}\n{}",
            plain.stderr
        );
    }
    // All are gone.
    for idx in 0..4 {
        remove_file(&workspace, idx);
    }
    let ended = workspace.run(&["--json"]).expect(5);
    assert_eq!(names(&crossed(&ended)), ["corpus_files"]);
    assert_eq!(versions(&workspace), [1]);
    // Most are gone: somebody may want that.
    write_file(&workspace, 0, part(&documents, 0));
    let found = names(&is_refused(&workspace, &[]));
    assert!(found.contains(&"weights rows".to_owned()), "{found:?}");
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn a_corpus_without_one_of_four_files_is() {
    let (workspace, _) = workspace(4);
    let _ = workspace.run(&[]).expect(0);
    remove_file(&workspace, 0);
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(versions(&workspace), [1, 2]);
    let checks = workspace.sql(
        "SELECT before, now, least, is_crossed FROM gleaner.guardrails WHERE stage = 'weights' AND \
         figure = 'rows'",
    );
    let expected = serde_json::json!(
        [{"before": 120.0, "now": 90.0, "least": 60.0, "is_crossed": false}]
    );
    assert_eq!(Value::from(checks), expected);
}

/// Each figure, by a change that moves it and hardly any other.
#[test]
fn every_figure_has_a_guardrail() {
    let change = |change: &dyn Fn(usize, &mut Document)| {
        let (workspace, documents) = workspace(4);
        let _ = workspace.run(&[]).expect(0);
        for file in 0..4 {
            let mut changed = part(&documents, file).to_vec();
            for (idx, document) in changed.iter_mut().enumerate() {
                change(idx, document);
            }
            workspace.write(&format!("corpus/part-{file:03}.jsonl"), jsonl(&changed));
            remove_file(&workspace, file);
        }
        workspace
    };
    let only = |workspace: &Workspace, bound: &str| {
        let off = [
            "rows_lost",
            "rejected_rise",
            "null_rise",
            "length_change",
            "score_shift",
        ];
        let off = off.map(|name| format!("guardrails.{name}=off"));
        let bound = format!("guardrails.{bound}");
        let mut arguments = Vec::new();
        for setting in off.iter().chain([&bound]) {
            arguments.extend(["--set", setting.as_str()]);
        }
        names(&is_refused(workspace, &arguments))
    };
    let double = |_: usize, document: &mut Document| {
        document.text = format!("{0} {0}", document.text);
    };
    let found = only(&change(&double), "length_change=40%");
    assert!(
        found.contains(&"weights mean_length n_bytes".to_owned()),
        "{found:?}"
    );

    let found = only(&change(&double), "score_shift=0.1");
    assert!(
        found.contains(&"weights mean_score log_weight".to_owned()),
        "{found:?}"
    );

    let rename = |idx: usize, document: &mut Document| {
        if idx.is_multiple_of(2) {
            document.source = "elsewhere".to_owned();
        }
    };
    let found = only(&change(&rename), "source_shift=10%");
    assert!(
        found.contains(&"chosen source_share elsewhere".to_owned()),
        "{found:?}"
    );

    let workspace = change(&|_, _| {});
    let text = fs::read_to_string(workspace.path().join("corpus/part-002.jsonl")).unwrap();
    let without = text.replace("\"source\":", "\"former_source\":");
    assert_ne!(text, without);
    workspace.write("corpus/part-002.jsonl", without);
    let found = only(&workspace, "null_rise=20%");
    assert!(
        found.contains(&"weights null_share source".to_owned()),
        "{found:?}"
    );

    let workspace = change(&|_, _| {});
    let broken = text.lines().enumerate().map(|(idx, line)| match idx % 2 {
        0 => format!("{line}\n"),
        _ => "{\"id\": \"x\", \"text\": null, \"source\": null}\n".to_owned(),
    });
    workspace.write("corpus/part-002.jsonl", broken.collect::<String>());
    workspace.write("job.yaml", format!("{JOB}allow: {{rejected_rows: 50%}}\n"));
    assert_eq!(
        only(&workspace, "rejected_rise=10%"),
        ["weights rejected_share", "chosen rejected_share"]
    );

    let (workspace, documents) = super::workspace(2);
    let _ = workspace.run(&[]).expect(0);
    for idx in 2..4 {
        write_file(&workspace, idx, part(&documents, idx));
    }
    let found = only(&workspace, "rows_gained=1/2");
    assert!(found.contains(&"weights rows".to_owned()), "{found:?}");
}

/// Who edits the job file asks for another result.
#[test]
fn what_the_job_file_asks_for_is_no_accident() {
    let (workspace, _) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace
        .run(&["--set", "stages.chosen.documents=3"])
        .expect(0);
    let _ = workspace
        .run(&["--set", "stages.weights.min_tokens=150"])
        .expect(0);
    let _ = workspace
        .run(&["--set", "stages.weights.refit=true"])
        .expect(0);
    assert_eq!(versions(&workspace), [1, 2, 3, 4]);
    // Another filter of the corpus may be one.
    let _ = workspace
        .run(&["--set", "corpus.where=source = 'nothing'"])
        .expect(5)
        .says("weights");
    let _ = workspace
        .run(&[
            "--set",
            "corpus.where=source = 'nothing'",
            "--set",
            "guardrails.rows_lost=off",
        ])
        .expect(0);
}

#[test]
fn bounds_that_are_none_are_refused_with_their_place() {
    let (workspace, _) = workspace(1);
    workspace.write(
        "job.yaml",
        format!("{JOB}guardrails: {{rows_lost: much}}\n"),
    );
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("job.yaml:10")
        .says("`off`");
    workspace.write("job.yaml", format!("{JOB}guardrails: {{row_lost: off}}\n"));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("did you mean `rows_lost`?");
    workspace.write(
        "job.yaml",
        format!("{JOB}guardrails: {{rows_lost: false, drift: {{action: stop}}}}\n"),
    );
    let _ = workspace.run(&[]).expect(0);
}
