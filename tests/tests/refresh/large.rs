//! Measures, among the long tests, what a refresh costs of which one file in 10,000 is news.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use gleaner_tests::corpus::write_columns;

use super::*;

const DOCUMENTS: usize = 20;
const JOB: &str = "\
name: nightly
output: out
corpus: {paths: ['corpus/*']}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 20KiB
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 20}
  chosen: {kind: select, by: weights.log_weight, method: resample, fraction: 1/10, materialize: true}
";

/// Time on the wall and of the processor, in seconds, and the summary.
fn measured(workspace: &Workspace) -> (f64, f64, Value) {
    let (began, before) = (Instant::now(), children_seconds());
    let summary = workspace.summary(&[]);
    let wall = began.elapsed().as_secs_f64();
    (wall, children_seconds() - before, summary)
}

/// User and system time of the programs that this process has waited for.
fn children_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks: Vec<&str> = fields.split_whitespace().collect();
    let (user, system): (f64, f64) = (ticks[13].parse().unwrap(), ticks[14].parse().unwrap());
    (user + system) / 100.0
}

/// Twenty documents that are long enough for a file of realistic size, if that is asked for.
fn write_documents(workspace: &Workspace, idx: usize, documents: &[Document], copies: usize) {
    let path = workspace.path().join(format!("corpus/{idx:05}.parquet"));
    let some: Vec<Document> = (0..DOCUMENTS)
        .map(|n| {
            let document = &documents[(idx * 7 + n) % documents.len()];
            Document {
                // Ids decide among equal scores, and the noise of a document.
                id: format!("{idx}-{n}"),
                text: vec![document.text.as_str(); copies].join("\n"),
                ..document.clone()
            }
        })
        .collect();
    write_parquet(&path, &some, DOCUMENTS);
}

fn corpus_file(workspace: &Workspace, idx: usize) -> std::path::PathBuf {
    workspace.path().join(format!("corpus/{idx:05}.parquet"))
}

/// Puts other bytes in a file without a trace: whoever opens it fails.
fn blind(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    put_in_place(path, &vec![0; bytes.len()]);
    bytes
}

/// Writes a file over, which stays the same to whoever looks at place, size and time.
fn put_in_place(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all(bytes).unwrap();
    file.set_modified(modified).unwrap();
}

/// What a refresh did, stage by stage: each phase has one task for the file that was touched.
fn assert_one_task_of_each_phase(summary: &Value) {
    let n_tasks = |name: &str| number(&stage(summary, name)["reuse"], "n_tasks");
    assert_eq!(n_new(summary, "weights"), 1);
    assert_eq!(n_tasks("chosen") % n_tasks("weights"), 0);
    let n_phases = n_tasks("chosen") / n_tasks("weights");
    assert_eq!(n_new(summary, "chosen"), n_phases);
}

fn assert_nothing_is_done(workspace: &Workspace) {
    let before = tree(&output(workspace));
    let (wall, processor, summary) = measured(workspace);
    println!("nothing touched: {wall:.2} s on the wall, {processor:.2} s of the processor");
    assert_eq!(
        (n_new(&summary, "weights"), n_new(&summary, "chosen")),
        (0, 0)
    );
    assert_eq!(summary["is_new"], false);
    assert_eq!(before, tree(&output(workspace)));
}

/// Only the file that was touched is opened, and only its tasks run.
#[test]
fn one_file_of_many_is_the_only_one_that_is_opened() {
    const FILES: usize = 120;
    let workspace = Workspace::new();
    let documents = sample_documents(500);
    for idx in 0..FILES {
        write_documents(&workspace, idx, &documents, 1);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write("job.yaml", JOB);
    let full = workspace.summary(&[]);
    // Counted, and scored; and the target.
    assert_eq!(n_new(&full, "weights"), 2 * FILES as u64 + 1);
    let tables = ["weights", "chosen"];
    let before = tables.map(|table| rows(&workspace, "out", table));
    let paths: Vec<_> = (0..FILES).map(|idx| corpus_file(&workspace, idx)).collect();
    let seen: Vec<Vec<u8>> = paths.iter().map(|path| blind(path)).collect();
    assert_nothing_is_done(&workspace);
    for idx in [33, 77] {
        // The same again, at another time.
        fs::write(&paths[idx], &seen[idx]).unwrap();
        let summary = workspace.summary(&[]);
        assert_eq!(summary["is_new"], true);
        assert_one_task_of_each_phase(&summary);
        assert_nothing_is_done(&workspace);
    }
    // What is decided is what was.
    for (path, bytes) in paths.iter().zip(&seen) {
        put_in_place(path, bytes);
    }
    assert_eq!(tables.map(|table| rows(&workspace, "out", table)), before);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    // What is known is known of one version of a file: one of another schema is seen.
    let changed = corpus_file(&workspace, 50);
    let column: ArrayRef = Arc::new(StringArray::from(vec!["no text here"; 3]));
    let batch = RecordBatch::try_from_iter([("title", column)]).unwrap();
    write_columns(&changed, &batch, 3);
    let ended = workspace.run(&[]).expect(2);
    assert!(
        ended.stderr.contains("\"text\" is missing"),
        "{}",
        ended.stderr
    );
    fs::write(&changed, &seen[50]).unwrap();
    // And it is no more than a help: without it, or damaged, files are looked at.
    let footers = output(&workspace).join("_gleaner/footers.json");
    for damaged in [None, Some("{}"), Some("no JSON")] {
        match damaged {
            None => fs::remove_file(&footers).unwrap(),
            Some(text) => fs::write(&footers, text).unwrap(),
        }
        let summary = workspace.summary(&[]);
        assert!(n_new(&summary, "weights") < 2, "{summary}");
    }
    assert_eq!(tables.map(|table| rows(&workspace, "out", table)), before);
    for path in &paths {
        blind(path);
    }
    let ended = workspace.run(&[]);
    assert_ne!(ended.code, Some(0), "files are opened: {}", ended.stdout);
}

/// The measurement, among the long tests with as many files as a large corpus has. Each file is a task, or
/// files share tasks as they do if a job says nothing of it.
#[test]
fn one_file_of_very_many_costs_its_tasks() {
    let (n_files, copies) = match std::env::var_os("GLEANER_LONG_TESTS") {
        Some(_) => (10_000, 2),
        None => (100, 1),
    };
    let workspace = Workspace::new();
    let documents = sample_documents(1000);
    for idx in 0..n_files {
        write_documents(&workspace, idx, &documents, copies);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    for task_bytes in ["task_bytes: 20KiB\n", ""] {
        let job = JOB.replace("task_bytes: 20KiB\n", task_bytes);
        workspace.write("job.yaml", job);
        let _ = fs::remove_dir_all(output(&workspace));
        let (wall, processor, full) = measured(&workspace);
        let n_tasks = number(&stage(&full, "weights")["reuse"], "n_tasks");
        println!(
            "{n_files} files, {n_tasks} tasks of the weights: {wall:.1} s on the wall, {processor:.1} s of \
             the processor"
        );
        for idx in [n_files / 3, n_files / 2] {
            let path = corpus_file(&workspace, idx);
            fs::write(&path, fs::read(&path).unwrap()).unwrap();
            let (wall_again, processor_again, summary) = measured(&workspace);
            println!(
                "one touched: {wall_again:.2} s on the wall ({:.1} %), {processor_again:.2} s of the \
                 processor ({:.1} %)",
                100.0 * wall_again / wall,
                100.0 * processor_again / processor
            );
            assert_one_task_of_each_phase(&summary);
        }
        assert_nothing_is_done(&workspace);
        // Other documents: also tasks of files over whose rows the cut has moved.
        write_documents(&workspace, n_files / 4, &documents[500..], copies);
        let (wall_again, _, summary) = measured(&workspace);
        let n_new_chosen = n_new(&summary, "chosen");
        println!(
            "one replaced: {wall_again:.2} s on the wall ({:.1} %), {n_new_chosen} new tasks of the \
             selection",
            100.0 * wall_again / wall
        );
        assert_eq!(n_new(&summary, "weights"), 1);
        assert!(n_new_chosen < n_tasks, "{n_new_chosen}");
    }
}
