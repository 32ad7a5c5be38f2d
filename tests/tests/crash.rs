//! SIGKILL at random moments: the next run goes on where the last one was, redoes nothing that
//! was committed, and leaves the files of a run that nobody disturbed.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use gleaner_storage::layout;
use gleaner_tests::corpus::{Document, example_documents, jsonl, write_parquet};
use gleaner_tests::program::{Workspace, files, start};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const KILLS: usize = 10;
/// Tables of the job.
const TABLES: [&str; 5] = [
    "weights",
    "weights_model",
    "weights_ngrams",
    "chosen",
    "counts",
];

const JOB: &str = "
name: crash
output: out
corpus: {paths: [corpus/*.parquet]}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 300KiB
stages:
  weights: {kind: importance_weights, target: target, quality: true}
  chosen: {kind: select, by: weights.log_weight, method: resample, documents: 700, seed: 3,
           materialize: true, group_by: source}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source ORDER BY source'}
";

fn workspace(documents: &[Document]) -> Workspace {
    let workspace = Workspace::new();
    for (idx, documents) in documents.chunks(700).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, 40);
    }
    let target = documents
        .iter()
        .filter(|document| document.source == "health_medquad");
    let target: Vec<Document> = target.take(150).cloned().collect();
    workspace.write("target.jsonl", jsonl(&target));
    workspace.write("job.yaml", JOB);
    workspace
}

/// Hashes of the objects of all tables, by table and task: what is random in a name is left out.
fn contents(workspace: &Workspace, output: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut contents: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for table in TABLES {
        for (name, hash) in workspace.contents(&format!("{output}/{table}")) {
            let (task, attempt) = layout::parse_attempt(&name).expect(&name);
            assert_eq!(attempt.content().to_string(), hash[..32], "{name}");
            contents
                .entry((table.to_owned(), task.to_string()))
                .or_default()
                .push(hash);
        }
    }
    contents
}

/// Attempts of tasks that lie there, whole.
fn attempts(output: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut attempts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    if output.exists() {
        for path in files(output) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if let Some((task, _)) = layout::parse_attempt(&name) {
                attempts.entry(task.to_string()).or_default().insert(name);
            }
        }
    }
    attempts
}

#[test]
fn ten_kills_and_a_rerun_give_the_files_of_an_undisturbed_run() {
    let documents = example_documents();
    let workspace = workspace(&documents);
    let _ = workspace
        .run(&["--workers", "2", "--output", "undisturbed"])
        .expect(0);
    let expected = contents(&workspace, "undisturbed");
    let n_attempts: usize = attempts(&workspace.path().join("undisturbed"))
        .values()
        .map(BTreeSet::len)
        .sum();

    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let output = workspace.path().join("out");
    let mut n_ended = 0;
    for _ in 0..KILLS {
        let before = attempts(&output);
        // Spread over the whole job, since each run goes on where the last one was killed.
        let n_more = dice.random_range(0..=2 * n_attempts / (KILLS + 1));
        let n_before: usize = before.values().map(BTreeSet::len).sum();
        let mut child = start(workspace.path(), &["run", "job.yaml", "--workers", "2"]);
        let ended = loop {
            std::thread::sleep(Duration::from_millis(1));
            let n_now: usize = attempts(&output).values().map(BTreeSet::len).sum();
            let ended = child.try_wait().unwrap().is_some();
            if ended || n_now >= n_before + n_more {
                break ended;
            }
        };
        n_ended += usize::from(ended);
        std::thread::sleep(Duration::from_millis(dice.random_range(0..150)));
        // Already ended is as good as killed.
        let _ = child.kill();
        let _ = child.wait().unwrap();
        let after = attempts(&output);
        for (task, names) in &before {
            assert_eq!(after.get(task), Some(names), "task {task} was done again");
        }
    }
    assert!(
        n_ended < KILLS / 2,
        "{n_ended} of {KILLS} runs ended on their own"
    );
    let before = attempts(&output);
    let _ = workspace.run(&[]).expect(0);
    let after = attempts(&output);
    for (task, names) in &before {
        assert_eq!(after.get(task), Some(names), "task {task} was done again");
    }
    let found = contents(&workspace, "out");
    let different: Vec<_> = expected
        .iter()
        .filter(|(task, hashes)| found.get(task) != Some(hashes))
        .collect();
    assert!(different.is_empty(), "{different:?}");
    assert_eq!(found.len(), expected.len());
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    // Nothing is left to do.
    assert_eq!(workspace.summary(&[])["is_new"], false);
}

#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let documents = example_documents();
    let workspace = workspace(&documents);
    let child = start(workspace.path(), &["run", "job.yaml", "--workers", "1"]);
    let output = workspace.path().join("out");
    let deadline = Instant::now() + Duration::from_secs(60);
    while attempts(&output).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let interrupted = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let mut child = child;
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    let before = attempts(&output);
    let status = workspace.gleaner(&["status", "out"]).expect(0);
    assert!(status.stdout.contains("exit code 130"), "{}", status.stdout);
    let summary = workspace.summary(&[]);
    assert_eq!(summary["is_new"], true);
    let after = attempts(&output);
    assert!(
        before
            .iter()
            .all(|(task, names)| after.get(task) == Some(names))
    );
}
