//! Measures, among the long tests, what a refresh costs of which one file in 10,000 is news.

use std::time::Instant;

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

#[test]
fn one_file_of_very_many_costs_its_tasks() {
    let n_files = match std::env::var_os("GLEANER_LONG_TESTS") {
        Some(_) => 10_000,
        None => 200,
    };
    let workspace = Workspace::new();
    let documents = sample_documents(1000);
    let write = |idx: usize, first: usize| {
        let path = workspace.path().join(format!("corpus/{idx:05}.parquet"));
        let some: Vec<Document> = (0..DOCUMENTS)
            .map(|n| {
                let mut document = documents[(first + n) % documents.len()].clone();
                // Ids decide among equal scores, and the noise of a document.
                document.id = format!("{idx}-{first}-{n}");
                document
            })
            .collect();
        write_parquet(&path, &some, DOCUMENTS);
    };
    for idx in 0..n_files {
        write(idx, idx * 7);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write("job.yaml", JOB);
    let (wall, processor, full) = measured(&workspace);
    let n_tasks = number(&stage(&full, "weights")["reuse"], "n_tasks");
    assert!(n_tasks > n_files as u64, "{n_tasks}");
    println!("{n_files} files: {wall:.1} s on the wall, {processor:.1} s of the processor");
    for idx in [n_files / 3, n_files / 2] {
        write(idx, idx + 500);
        let (wall_again, processor_again, summary) = measured(&workspace);
        let n_new_chosen = n_new(&summary, "chosen");
        println!(
            "one touched: {wall_again:.1} s on the wall ({:.1} %), {processor_again:.1} s of the \
             processor ({:.1} %), {n_new_chosen} new tasks of the selection",
            100.0 * wall_again / wall,
            100.0 * processor_again / processor
        );
        assert_eq!(n_new(&summary, "weights"), 1);
        // Its own tasks, and those of files over whose rows the cut has moved.
        assert!(n_new_chosen < n_files as u64 / 5, "{n_new_chosen}");
    }
    let (wall_again, processor_again, summary) = measured(&workspace);
    println!("nothing touched: {wall_again:.1} s on the wall, {processor_again:.1} s");
    assert_eq!(
        (n_new(&summary, "weights"), n_new(&summary, "chosen")),
        (0, 0)
    );
}
