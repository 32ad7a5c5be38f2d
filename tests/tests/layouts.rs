//! Files, row groups and tasks are how a corpus lies there; the rows that come out are the same.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StringViewBuilder};
use gleaner_tests::corpus::{
    health_documents, jsonl, sample_documents, write_columns, write_parquet,
};
use gleaner_tests::program::{Workspace, number, text};
use serde_json::{Value, json};

/// A workspace whose job reads `paths`, without any file of the corpus.
fn workspace(paths: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write(
        "job.yaml",
        format!(
            "name: layouts\noutput: out\ncorpus: {{paths: {paths}}}\ndatasets: {{target: {{paths: \
             [target.jsonl]}}}}\nstages:\n  weights: {{kind: importance_weights, target: target, \
             min_tokens: 20}}\n"
        ),
    );
    workspace
}

#[test]
fn paths_are_globs_folders_and_files() {
    let documents = sample_documents(60);
    let workspace = workspace("[none]");
    let files = [
        "in/a.jsonl",
        "in/b.parquet",
        "in/c/a.jsonl",
        "in/c/d/e.parquet",
        "in/_hidden/f.jsonl",
        "in/.g.jsonl",
    ];
    for (file, documents) in files.iter().zip(documents.chunks(10)) {
        if file.ends_with("jsonl") {
            workspace.write(file, jsonl(documents));
        } else {
            write_parquet(&workspace.path().join(file), documents, 4);
        }
    }
    workspace.write("in/readme.txt", "not a corpus");
    let cases: [(&str, &[usize]); 9] = [
        ("[in/*.jsonl]", &[0]),
        ("[in/*.jsonl, in/*.parquet]", &[0, 1]),
        ("[in/**/*.jsonl]", &[0, 2]),
        ("['in/**/*.{jsonl,parquet}']", &[0, 1, 2, 3]),
        ("[in]", &[0, 1, 2, 3]),
        ("[in/c/]", &[2, 3]),
        ("[in/*/?.jsonl]", &[2]),
        ("in/b.parquet", &[1]),
        // Whoever spells it means it; what two patterns match is read once.
        (
            "[in/_hidden/*, in/a.jsonl, ./in/a.jsonl, 'in/[ab].*']",
            &[0, 1, 4],
        ),
    ];
    for (idx, (paths, expected)) in cases.into_iter().enumerate() {
        let (set, output) = (format!("corpus.paths={paths}"), format!("out-{idx}"));
        let _ = workspace
            .run(&["--set", &set, "--output", &output])
            .expect(0);
        let rows = workspace.sql_of(
            &output,
            "SELECT input_file, count(*) AS n, min(doc_id) AS first FROM weights GROUP BY 1",
        );
        let found: BTreeSet<_> = rows
            .iter()
            .map(|row| {
                (
                    text(row, "input_file"),
                    number(row, "n"),
                    text(row, "first"),
                )
            })
            .collect();
        let row = |&idx: &usize| {
            let ids = documents[10 * idx..10 * idx + 10]
                .iter()
                .map(|it| it.id.clone());
            (files[idx].to_owned(), 10, ids.min().unwrap())
        };
        assert_eq!(found, expected.iter().map(row).collect(), "{paths}");
    }
    let _ = workspace
        .run(&["--set", "corpus.paths=[in/*.jsonl.gz]"])
        .expect(2)
        .says("in/*.jsonl.gz");
}

#[test]
fn small_files_share_tasks_and_a_large_one_has_many() {
    let documents = sample_documents(300);
    let workspace = workspace("[small/*]");
    for (idx, documents) in documents.chunks(2).enumerate() {
        let path = workspace.path().join(format!("small/{idx:03}.parquet"));
        write_parquet(&path, documents, 2);
    }
    write_parquet(&workspace.path().join("large.parquet"), &documents, 5);
    let shape = "SELECT rows_in, array_length(inputs) AS n_inputs, inputs FROM gleaner.tasks";
    let sum = |tasks: &[Value]| {
        tasks
            .iter()
            .map(|task| number(task, "rows_in"))
            .sum::<u64>()
    };

    let _ = workspace.run(&["--set", "task_bytes=1GiB"]).expect(0);
    let tasks = workspace.sql(shape);
    assert_eq!(sum(&tasks), 300);
    assert!(tasks.iter().any(|task| number(task, "n_inputs") > 1));
    let inputs = || {
        tasks
            .iter()
            .flat_map(|task| task["inputs"].as_array().unwrap())
    };
    assert_eq!(inputs().count(), 150, "a file was read twice");
    assert_eq!(
        inputs()
            .map(Value::to_string)
            .collect::<BTreeSet<_>>()
            .len(),
        150
    );

    let arguments = [
        "--set",
        "corpus.paths=large.parquet",
        "--set",
        "task_bytes=20KiB",
    ];
    let _ = workspace
        .run(&[&arguments[..], &["--output", "large"]].concat())
        .expect(0);
    let tasks = workspace.sql_of("large", shape);
    assert_eq!(sum(&tasks), 300);
    let n_bytes: usize = documents.iter().map(|document| document.text.len()).sum();
    let n_min = n_bytes / (20 << 10);
    assert!(n_min > 10 && tasks.len() >= n_min, "{} tasks", tasks.len());
    assert!(
        tasks
            .iter()
            .all(|task| task["inputs"] == json!(["large.parquet"]))
    );
    let rows = workspace.sql_of("large", "SELECT input_row, doc_id FROM weights ORDER BY 1");
    assert_eq!(rows.len(), documents.len());
    for (idx, row) in rows.iter().enumerate() {
        assert_eq!(
            (number(row, "input_row"), &row["doc_id"]),
            (idx as u64, &json!(documents[idx].id))
        );
    }
}

/// Writes a Parquet file with one row group of `n` texts of `text_bytes` each, all different. In
/// this process they overlap in one buffer.
fn write_row_group(workspace: &Workspace, name: &str, n: u32, text_bytes: u32) {
    const STEP: u32 = 7;
    let mut words = String::new();
    for idx in 0_u32.. {
        let _ = write!(
            words,
            "the {}th patient was given aspirin daily; ",
            idx % 997
        );
        if words.len() > (n * STEP + text_bytes) as usize {
            break;
        }
    }
    let mut texts = StringViewBuilder::new();
    let block = texts.append_block(words.into_bytes().into());
    for row in 0..n {
        texts
            .try_append_view(block, STEP * row, text_bytes)
            .unwrap();
    }
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts.finish()) as ArrayRef)]);
    write_columns(&workspace.path().join(name), &batch.unwrap(), n as usize);
}

/// The most memory that a run with one worker ever had, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(workspace: &Workspace, arguments: &[&str]) -> u64 {
    let arguments = [&["run", "job.yaml", "--workers", "1"], arguments].concat();
    gleaner_tests::memory::peak(workspace.path(), &arguments)
}

#[cfg(target_os = "linux")]
#[test]
fn a_row_group_larger_than_the_memory_is_streamed() {
    const MEMORY: u64 = 64 << 20;
    const TEXT_BYTES: u32 = 50_000;
    const ROWS: u32 = (3 * MEMORY / TEXT_BYTES as u64) as u32;
    let workspace = workspace("large.parquet");
    write_row_group(&workspace, "large.parquet", ROWS, TEXT_BYTES);
    write_row_group(&workspace, "small.parquet", 10, TEXT_BYTES);
    let usual = peak_memory(
        &workspace,
        &[
            "--set",
            "corpus.paths=small.parquet",
            "--set",
            "memory=64MiB",
            "--output",
            "small",
        ],
    );
    let peak = peak_memory(&workspace, &["--set", "memory=64MiB"]);
    println!(
        "{} MiB, {} MiB with little to read",
        peak >> 20,
        usual >> 20
    );
    assert!(peak - usual < MEMORY, "{} MiB more", (peak - usual) >> 20);

    let tasks = workspace.sql("SELECT rows_in, ok FROM gleaner.tasks");
    assert_eq!(tasks, [json!({"rows_in": ROWS, "ok": ROWS})]);
    let rows = workspace.sql(
        "SELECT count(*) AS n, count(DISTINCT input_row) AS n_rows, max(input_row) AS last, \
         sum(n_bytes) AS n_bytes FROM weights",
    );
    let n_bytes = u64::from(ROWS) * u64::from(TEXT_BYTES);
    let expected = json!({"n": ROWS, "n_rows": ROWS, "last": ROWS - 1, "n_bytes": n_bytes});
    assert_eq!(rows, [expected]);
    let rows = workspace.sql(&format!(
        "SELECT w.log_weight, importance_weight(c.text, 'weights') AS again, w.n_tokens, \
         cardinality(ngram_tokens(c.text)) AS n FROM weights w JOIN corpus c ON c.input_row = \
         w.input_row WHERE c.input_row IN (0, {}, {})",
        ROWS / 2,
        ROWS - 1
    ));
    assert_eq!(rows.len(), 3);
    for row in rows {
        assert_eq!(
            (&row["log_weight"], &row["n_tokens"]),
            (&row["again"], &row["n"])
        );
    }
}

/// Slots of two workers, a corpus of fifty times the budget of one (of both, in the long tests) whose
/// rows are nearly all in one row group, and a model that is fitted on it.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_below_the_budgets_of_the_slots_on_a_corpus_of_fifty() {
    const MEMORY: u64 = 64 << 20;
    const SLOTS: u64 = 2;
    const ON_TOP: u64 = 300 << 20;
    const TEXT_BYTES: u32 = 50_000;
    let is_long = std::env::var_os("GLEANER_LONG_TESTS").is_some();
    let bytes = if is_long { 100 * MEMORY } else { 50 * MEMORY };
    let rows = (bytes / u64::from(TEXT_BYTES)) as u32;
    let workspace = workspace("[corpus/*]");
    write_row_group(&workspace, "corpus/huge.parquet", rows, TEXT_BYTES);
    for idx in 0..4 {
        write_row_group(
            &workspace,
            &format!("corpus/{idx}.parquet"),
            200,
            TEXT_BYTES,
        );
    }
    let mut arguments = vec!["run", "job.yaml", "--workers", "2", "--set", "memory=64MiB"];
    if !is_long {
        // A fit reads less: row groups by a hash, until there are enough.
        arguments.extend(["--set", "stages.weights.buckets=100"]);
    }
    let peak = gleaner_tests::memory::peak(workspace.path(), &arguments);
    println!("{} MiB for {} MiB of text", peak >> 20, bytes >> 20);
    assert!(peak < MEMORY * SLOTS + ON_TOP, "{} MiB", peak >> 20);
    let counts =
        workspace.sql("SELECT count(*) AS n, count(DISTINCT input_file) AS files FROM weights");
    assert_eq!(counts, [json!({"n": rows + 800, "files": 5})]);
}

/// What is known of a row group before it is read is a few bytes, and row groups are no tasks.
#[cfg(target_os = "linux")]
#[test]
fn very_many_row_groups_are_planned_within_bounds() {
    const ROW_GROUPS: usize = 50_000;
    // More than 32,767 in one file no reader of this ecosystem takes.
    const FILES: usize = 2;
    const ON_TOP: u64 = 200 << 20;
    let workspace = workspace("[many]");
    let texts: StringArray = (0..ROW_GROUPS)
        .map(|row| Some(format!("the patient {row} was given aspirin daily")))
        .collect();
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    for idx in 0..FILES {
        let rows = batch.slice(idx * ROW_GROUPS / FILES, ROW_GROUPS / FILES);
        let path = workspace.path().join(format!("many/{idx}.parquet"));
        write_columns(&path, &rows, 1);
    }
    write_columns(&workspace.path().join("few.parquet"), &batch, ROW_GROUPS);
    let plan = |more: &[&str]| {
        let arguments = [&["plan", "job.yaml"], more].concat();
        let peak = gleaner_tests::memory::peak(workspace.path(), &arguments);
        let json = [&arguments[..], &["--json"]].concat();
        let report = workspace.gleaner(&json).expect(0).events().remove(0);
        (peak, report)
    };
    let (usual, _) = plan(&["--set", "corpus.paths=[few.parquet]"]);
    let (peak, report) = plan(&[]);
    println!("{} MiB, {} MiB with one row group", peak >> 20, usual >> 20);
    assert!(peak - usual < ON_TOP, "{} MiB more", (peak - usual) >> 20);
    assert_eq!(report["inputs"][0]["n_rows"], ROW_GROUPS);
    // The target is counted; each file at most is a task that counts, and one that scores.
    let n_tasks = number(&report["stages"][0], "n_tasks");
    assert!((3..=5).contains(&n_tasks), "{n_tasks}");
    let (_, report) = plan(&["--set", "task_bytes=64KiB"]);
    let n_tasks = number(&report["stages"][0], "n_tasks");
    assert!((20..400).contains(&n_tasks), "{n_tasks}");
}
