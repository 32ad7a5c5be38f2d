//! A run does what is missing and nothing else; what it computes depends on the job, the corpus
//! and the model only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Float64Type;
use gleaner_storage::layout;
use gleaner_tests::corpus::{Document, example_documents, jsonl, write_parquet};
use gleaner_tests::program::{Opened, Workspace, files};
use serde_json::Value;

/// Documents of one file.
const PER_FILE: usize = 40;

/// Documents for `n_files` files, of several sources.
fn documents(n_files: usize) -> Vec<Document> {
    let all = example_documents();
    let step = all.len() / (n_files * PER_FILE);
    let some = all.into_iter().step_by(step).take(n_files * PER_FILE);
    some.collect()
}

fn job(paths: &str, weights: &str, further: &str) -> String {
    format!(
        "name: incremental\noutput: out\ncorpus: {{paths: {paths}}}\ndatasets: {{target: {{paths: \
         [target.jsonl]}}}}\ntask_bytes: 20KiB\nstages:\n  weights: {{kind: importance_weights, \
         target: target, min_tokens: 20{weights}}}\n{further}"
    )
}

/// A workspace with a file for each part of the documents. Each is one row group and larger than
/// a quarter of `task_bytes`, so it is one task.
fn workspace(documents: &[Document]) -> Workspace {
    let workspace = Workspace::new();
    for (idx, documents) in documents.chunks(PER_FILE).enumerate() {
        write_file(&workspace, idx, documents);
    }
    let target = documents
        .iter()
        .filter(|document| document.source.starts_with("health"));
    let target: Vec<Document> = target.take(10).cloned().collect();
    assert_eq!(target.len(), 10);
    workspace.write("target.jsonl", jsonl(&target));
    workspace.write("job.yaml", job("[corpus/*]", "", ""));
    workspace
}

fn write_file(workspace: &Workspace, idx: usize, documents: &[Document]) {
    let n_bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    assert!(n_bytes > 10_000, "part {idx} is too small to be a task");
    let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
    write_parquet(&path, documents, PER_FILE);
}

/// Names of all attempts below a folder of the output, with the path of their folder.
fn attempts(workspace: &Workspace, folder: &str) -> BTreeSet<String> {
    let folder = workspace.path().join(folder);
    if !folder.exists() {
        return BTreeSet::new();
    }
    let names = files(&folder).into_iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        layout::parse_attempt(&name).is_some()
    });
    names.map(|path| path.display().to_string()).collect()
}

/// Everything below a folder, with modification times.
fn tree(workspace: &Workspace, folder: &str) -> BTreeMap<String, std::time::SystemTime> {
    files(&workspace.path().join(folder))
        .into_iter()
        .map(|path| {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            (path.display().to_string(), modified)
        })
        .collect()
}

fn stage<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let stages = summary["stages"].as_array().unwrap();
    stages.iter().find(|stage| stage["name"] == name).unwrap()
}

fn note(summary: &Value, name: &str) -> String {
    let notes = stage(summary, name)["notes"].as_array().unwrap();
    let notes: Vec<&str> = notes.iter().map(|note| note.as_str().unwrap()).collect();
    notes.join("\n")
}

/// Bits of the weight of each document, by a column that identifies it.
fn weights(workspace: &Workspace, output: &str, key: &str) -> BTreeMap<String, u64> {
    let opened = Opened::new(&workspace.path().join(output));
    let rows = opened.query(&format!("SELECT {key}, log_weight FROM weights"));
    bits(&rows)
}

fn bits(rows: &RecordBatch) -> BTreeMap<String, u64> {
    let keys = arrow::compute::cast(rows.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
    let keys = keys.as_string::<i32>();
    let values = rows.column(1).as_primitive::<Float64Type>();
    (0..rows.num_rows())
        .map(|row| (keys.value(row).to_owned(), values.value(row).to_bits()))
        .collect()
}

fn model(workspace: &Workspace, output: &str) -> BTreeMap<String, u64> {
    let opened = Opened::new(&workspace.path().join(output));
    bits(&opened.query("SELECT bucket, log_ratio FROM weights_model"))
}

#[test]
fn an_unchanged_corpus_costs_nothing_and_the_run_says_so() {
    let workspace = workspace(&documents(3));
    let further = "  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 30}\n  \
                   counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY \
                   source ORDER BY source'}\n";
    workspace.write("job.yaml", job("[corpus/*]", "", further));
    let first = workspace.summary(&[]);
    assert_eq!(
        (&first["is_new"], &first["version"]),
        (&true.into(), &1.into())
    );
    let reuse = &stage(&first, "weights")["reuse"];
    // Three files are counted and scored, the target is counted.
    assert_eq!(
        (&reuse["n_tasks"], &reuse["n_reused"]),
        (&7.into(), &0.into())
    );
    let is_result = |path: &String| !path.contains("/runs/") && !path.ends_with("manifest.json");
    let before: BTreeMap<_, _> = tree(&workspace, "out")
        .into_iter()
        .filter(|(path, _)| is_result(path))
        .collect();

    let second = workspace.summary(&[]);
    assert_eq!(
        (&second["is_new"], &second["version"]),
        (&false.into(), &1.into())
    );
    for stage in second["stages"].as_array().unwrap() {
        let (reuse, work) = (&stage["reuse"], &stage["work"]);
        assert_eq!(reuse["n_tasks"], reuse["n_reused"], "{stage}");
        assert_eq!(work["bytes"], 0, "{stage}");
    }
    let plan = workspace.gleaner(&["plan", "job.yaml", "--json"]).expect(0);
    for stage in plan.events()[0]["stages"].as_array().unwrap() {
        assert_eq!(stage["state"], "reused", "{stage}");
    }
    let ended = workspace.run(&[]).expect(0);
    assert!(ended.stdout.contains("nothing to do"), "{}", ended.stdout);
    let mut after = tree(&workspace, "out");
    after.retain(|path, _| is_result(path));
    assert_eq!(before, after);
}

#[test]
fn an_added_changed_or_deleted_file_costs_its_own_tasks() {
    let documents = documents(5);
    let workspace = workspace(&documents[..3 * PER_FILE]);
    // A threshold does not depend on what else is in the corpus.
    let further =
        "  chosen: {kind: select, by: weights.log_weight, method: threshold, threshold: -200}\n";
    workspace.write("job.yaml", job("[corpus/*]", "", further));
    let _ = workspace.summary(&[]);
    let inner = attempts(&workspace, "out/_gleaner/inner/weights");
    let fitted = model(&workspace, "out");
    let old = weights(&workspace, "out", "doc_id");
    assert_eq!(old.len(), 3 * PER_FILE);

    let parts: Vec<&[Document]> = documents.chunks(PER_FILE).collect();
    let changed: Vec<Document> = parts[1].iter().rev().skip(3).cloned().collect();
    // What happens, how many tasks of the scores it costs, and which documents are there then.
    type Change<'a> = (&'a str, usize, Vec<&'a [Document]>);
    let changes: [Change<'_>; 4] = [
        ("add", 1, vec![parts[0], parts[1], parts[2], parts[3]]),
        ("change", 1, vec![parts[0], &changed, parts[2], parts[3]]),
        ("delete", 0, vec![&changed, parts[2], parts[3]]),
        ("all three", 2, vec![parts[0], &changed, parts[4]]),
    ];
    for (version, (change, n_tasks, expected)) in (2..).zip(changes) {
        match change {
            "add" => write_file(&workspace, 3, parts[3]),
            "change" => write_file(&workspace, 1, &changed),
            "delete" => fs::remove_file(workspace.path().join("corpus/part-0.parquet")).unwrap(),
            _ => {
                fs::remove_file(workspace.path().join("corpus/part-2.parquet")).unwrap();
                write_file(&workspace, 3, parts[4]);
                write_file(&workspace, 7, parts[0]);
            }
        }
        let before = attempts(&workspace, "out/weights");
        let chosen_before = attempts(&workspace, "out/chosen");
        let summary = workspace.summary(&[]);
        assert_eq!(summary["version"], version, "{change}");
        let after = attempts(&workspace, "out/weights");
        assert!(before.is_subset(&after), "{change}");
        assert_eq!(after.len() - before.len(), n_tasks, "{change}");
        let chosen_after = attempts(&workspace, "out/chosen");
        assert_eq!(
            chosen_after.len() - chosen_before.len(),
            n_tasks,
            "{change}"
        );
        let reuse = &stage(&summary, "weights")["reuse"];
        assert_eq!(reuse["n_tasks"], expected.len(), "{change}");
        assert_eq!(reuse["n_reused"], expected.len() - n_tasks, "{change}");
        let found = weights(&workspace, "out", "doc_id");
        let ids = expected.iter().flat_map(|part| part.iter());
        let ids: BTreeSet<&str> = ids.map(|document| document.id.as_str()).collect();
        assert_eq!(
            found.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            ids
        );
        // By the frozen model, old documents keep their weights.
        let is_same = |(id, weight): (&String, &u64)| old.get(id).is_none_or(|old| old == weight);
        assert!(found.iter().all(is_same), "{change}");
        let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    }
    assert_eq!(attempts(&workspace, "out/_gleaner/inner/weights"), inner);
    assert_eq!(model(&workspace, "out"), fitted);
}

#[test]
fn the_first_model_stays_frozen_until_a_refit() {
    let documents = documents(4);
    let workspace = workspace(&documents[..2 * PER_FILE]);
    let _ = workspace.summary(&[]);
    let first = model(&workspace, "out");
    let published = workspace.sql("SELECT since FROM gleaner.stages");
    write_file(&workspace, 2, &documents[2 * PER_FILE..3 * PER_FILE]);
    for version in [2, 2] {
        let summary = workspace.summary(&[]);
        assert_eq!(summary["version"], version);
        let note = note(&summary, "weights");
        let since = &published[0]["since"].as_str().unwrap()[.."2000-01-01".len()];
        assert!(
            note.contains("version 1") && note.contains("frozen"),
            "{note}"
        );
        assert!(note.contains(since), "how old is it? {note}");
        let ended = workspace.run(&[]).expect(0);
        assert!(ended.stdout.contains(&note), "{}", ended.stdout);
    }
    assert_eq!(model(&workspace, "out"), first);

    // A fit anew is that of an output that knows no earlier one.
    let refit = ["--set", "stages.weights.refit=true"];
    let summary = workspace.summary(&refit);
    assert_eq!(summary["version"], 3);
    let told = note(&summary, "weights");
    assert!(
        told.contains("fitted anew") && told.contains("version 1"),
        "{told}"
    );
    let _ = workspace.summary(&["--output", "fresh"]);
    let second = model(&workspace, "out");
    assert_ne!(second, first);
    assert_eq!(second, model(&workspace, "fresh"));
    assert_eq!(
        weights(&workspace, "out", "doc_id"),
        weights(&workspace, "fresh", "doc_id")
    );
    assert_eq!(workspace.summary(&refit)["is_new"], false);

    // From then on, the second model is the frozen one.
    write_file(&workspace, 3, &documents[3 * PER_FILE..]);
    let told = note(&workspace.summary(&[]), "weights");
    assert!(
        told.contains("version 3") && told.contains("frozen"),
        "{told}"
    );
    assert_eq!(model(&workspace, "out"), second);

    // A model of other features cannot be the same: it is fitted, and the run says why.
    let told = note(
        &workspace.summary(&["--set", "stages.weights.ngrams=1"]),
        "weights",
    );
    assert!(
        told.contains("fitted anew") && told.contains("ngrams"),
        "{told}"
    );
    assert_ne!(model(&workspace, "out"), second);
}

/// What could not be counted would be missing from the model for ever.
#[test]
fn a_model_of_partial_counts_is_fitted_anew_as_soon_as_all_can_be_counted() {
    let documents = documents(3);
    let workspace = workspace(&documents);
    workspace.write("corpus/part-2.parquet", "no columns");
    let allow = ["--set", "allow.quarantined_tasks=9"];
    for version in [1, 1] {
        assert_eq!(workspace.summary(&allow)["version"], version);
    }
    let partial = model(&workspace, "out");
    // While it is broken, more files do not wait for it.
    write_file(&workspace, 3, &documents[..PER_FILE]);
    assert_eq!(workspace.summary(&allow)["version"], 2);
    fs::remove_file(workspace.path().join("corpus/part-3.parquet")).unwrap();

    write_file(&workspace, 2, &documents[2 * PER_FILE..]);
    let summary = workspace.summary(&[]);
    let fitted = model(&workspace, "out");
    assert_ne!(fitted, partial, "{summary}");
    let _ = workspace.summary(&["--output", "fresh"]);
    assert_eq!(fitted, model(&workspace, "fresh"));
    assert_eq!(
        weights(&workspace, "out", "doc_id"),
        weights(&workspace, "fresh", "doc_id")
    );
    // This one is whole, so it is frozen.
    write_file(&workspace, 3, &documents[..PER_FILE]);
    let told = note(&workspace.summary(&[]), "weights");
    assert!(told.contains("frozen"), "{told}");
    assert_eq!(model(&workspace, "out"), fitted);
}

#[test]
fn the_model_of_another_job_scores_new_data_by_the_old_estimate() {
    let documents = documents(4);
    let workspace = workspace(&documents[..2 * PER_FILE]);
    let _ = workspace.summary(&[]);
    // The same texts under other ids, among others.
    let others: Vec<Document> = documents[PER_FILE..]
        .iter()
        .rev()
        .map(|document| Document {
            id: format!("new {}", document.id),
            ..document.clone()
        })
        .collect();
    workspace.write("others.jsonl", jsonl(&others));
    workspace.write(
        "other.yaml",
        "name: other\noutput: scored\ncorpus: {paths: [others.jsonl]}\nstages:\n  weights: {kind: \
         importance_weights, model: out/weights, min_tokens: 20}\n",
    );
    let ended = workspace
        .gleaner(&["run", "other.yaml", "--json"])
        .expect(0);
    let told = note(ended.events().last().unwrap(), "weights");
    assert!(
        told.contains("out/weights") && told.contains("nothing was fitted"),
        "{told}"
    );
    let (old, new) = (
        weights(&workspace, "out", "doc_id"),
        weights(&workspace, "scored", "doc_id"),
    );
    assert_eq!(new.len(), others.len());
    let mut n_shared = 0;
    for (id, weight) in &old {
        if let Some(found) = new.get(&format!("new {id}")) {
            assert_eq!(found, weight, "{id}");
            n_shared += 1;
        }
    }
    assert_eq!(n_shared, PER_FILE);
    assert_eq!(model(&workspace, "scored"), model(&workspace, "out"));
    let counted = attempts(&workspace, "scored/_gleaner/inner");
    assert!(counted.is_empty(), "{counted:?}");

    // The old output may move on; this one has a copy of what it used.
    let _ = workspace.summary(&["--set", "stages.weights.ngrams=1"]);
    let _ = workspace.gleaner(&["verify", "scored"]).expect(0);
    assert_eq!(weights(&workspace, "scored", "doc_id"), new);

    // Features that contradict the model are refused.
    let _ = workspace
        .gleaner(&[
            "run",
            "other.yaml",
            "--set",
            "stages.weights.buckets=77",
            "--output",
            "x",
        ])
        .expect(2)
        .says("buckets");
}

/// Rows hold names of files as the job gives them, and rows of later stages point to files by them.
#[test]
fn files_that_the_job_names_otherwise_give_rows_that_name_them_so() {
    let workspace = workspace(&documents(2));
    let further = "  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 9, \
                   materialize: true}\n  sources: {kind: query, sql: 'SELECT input_file FROM \
                   corpus'}\n";
    workspace.write("job.yaml", job("[corpus/*]", "", further));
    let _ = workspace.run(&[]).expect(0);
    let folder = workspace.path().display().to_string();
    let absolute = format!("['{folder}/corpus/*']");
    workspace.write("job.yaml", job(&absolute, "", further));
    let _ = workspace.run(&[]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    for table in ["weights", "chosen", "sources"] {
        let rows = workspace.sql(&format!("SELECT DISTINCT input_file FROM {table}"));
        assert!(!rows.is_empty(), "{table}");
        for row in rows {
            let name = row["input_file"].as_str().unwrap();
            assert!(name.starts_with(&folder), "{table}: {name}");
        }
    }
}

#[test]
fn rows_do_not_depend_on_tasks_workers_or_the_order_of_files() {
    let workspace = workspace(&documents(4));
    let path = |idx: usize| format!("corpus/part-{idx}.parquet");
    let listed = |order: [usize; 4]| format!("[{}]", order.map(path).join(", "));
    let runs = [
        ("a", "[corpus/*]".to_owned(), "20KiB", "2"),
        ("b", listed([3, 1, 0, 2]), "1GiB", "1"),
        ("c", listed([2, 3, 1, 0]), "5KiB", "7"),
    ];
    let mut expected = None;
    for (output, paths, task_bytes, workers) in runs {
        let name = format!("{output}.yaml");
        workspace.write(&name, job(&paths, ", quality: true", ""));
        let task_bytes = format!("task_bytes={task_bytes}");
        let arguments = ["run", &name, "--workers", workers, "--output", output];
        let arguments = [&arguments[..], &["--set", &task_bytes]].concat();
        let _ = workspace.gleaner(&arguments).expect(0);
        let rows = workspace.sql_of(output, "SELECT * FROM weights ORDER BY doc_id");
        assert_eq!(rows.len(), 4 * PER_FILE);
        let found = (
            rows,
            weights(&workspace, output, "doc_id"),
            model(&workspace, output),
        );
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert!(*expected == found, "{output}"),
        }
    }
}

#[test]
fn an_output_belongs_to_one_job_whatever_its_stages() {
    let workspace = workspace(&documents(2));
    let _ = workspace.summary(&[]);
    let before = tree(&workspace, "out");
    let _ = workspace
        .run(&["--set", "name=another"])
        .expect(2)
        .says("holds the output of another job, \"incremental\"");
    assert_eq!(before, tree(&workspace, "out"));

    // The same job may change: what it publishes then is the next version.
    let scored = attempts(&workspace, "out/weights");
    let chosen = "  chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 9}\n";
    workspace.write("job.yaml", job("[corpus/*]", "", chosen));
    let summary = workspace.summary(&[]);
    assert_eq!(summary["version"], 2);
    assert_eq!(
        attempts(&workspace, "out/weights"),
        scored,
        "a later stage is no reason"
    );
    let summary = workspace.summary(&["--set", "stages.chosen.documents=4"]);
    assert_eq!(summary["version"], 3);
    assert_eq!(attempts(&workspace, "out/weights"), scored);
    assert_eq!(stage(&summary, "chosen")["rows"], 4);
    // Other parameters of the scores are other tasks; the model does not depend on these.
    let summary = workspace.summary(&["--set", "stages.weights.min_tokens=150"]);
    assert_eq!(summary["version"], 4);
    assert!(note(&summary, "weights").contains("frozen"));
    assert_eq!(attempts(&workspace, "out/weights").len(), 2 * scored.len());
    // Back to an earlier job: all of it is there.
    let summary = workspace.summary(&["--set", "stages.chosen.documents=4"]);
    assert_eq!(summary["version"], 5);
    for stage in summary["stages"].as_array().unwrap() {
        assert_eq!(
            stage["reuse"]["n_tasks"], stage["reuse"]["n_reused"],
            "{stage}"
        );
    }
}
