//! Filters by id and by score read what they need: row groups and pages are left out by statistics
//! and Bloom filters, as the metrics of plans tell.

use gleaner_tests::corpus::{Document, health_documents, jsonl, sample_documents, write_parquet};
use gleaner_tests::program::{Workspace, text};

/// Files of the corpus; each is a task and a file of the table.
const FILES: usize = 4;
/// Documents of a file: several pages of the table.
const PER_FILE: usize = 10_000;

const JOB: &str = "
name: pruning
output: out
corpus: {paths: [corpus/*.parquet]}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 64KiB
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 1, fit_sample: all}
";

/// Ids in no order, so that the range of each file holds nearly all of them. The last half of the
/// last file is about health, as the target is.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    let (plain, health) = (sample_documents(50), health_documents(50));
    let beginning = |document: &Document| document.text.chars().take(120).collect::<String>();
    for file in 0..FILES {
        let documents: Vec<Document> = (0..PER_FILE)
            .map(|row| {
                let n = file * PER_FILE + row;
                let is_health = file + 1 == FILES && row >= PER_FILE / 2;
                let of = if is_health { &health } else { &plain };
                Document {
                    id: format!("{:016x}", (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                    text: beginning(&of[row % of.len()]),
                    source: "any".to_owned(),
                }
            })
            .collect();
        let path = workspace.path().join(format!("corpus/part-{file}.parquet"));
        write_parquet(&path, &documents, PER_FILE);
    }
    workspace.write("target.jsonl", jsonl(&health));
    workspace.write("job.yaml", JOB);
    let _ = workspace.run(&[]).expect(0);
    workspace
}

/// What was looked at and what was left of it, by a metric such as `a=5 total → 2 matched`.
fn metric(workspace: &Workspace, query: &str, name: &str) -> (u64, u64) {
    let rows = workspace.sql(&format!("EXPLAIN ANALYZE {query}"));
    let plan: String = rows.iter().map(|row| text(row, "plan")).collect();
    let metric = plan.split(&format!("{name}=")).nth(1);
    let metric = metric.unwrap_or_else(|| panic!("{name} is not in\n{plan}"));
    let numbers: Vec<u64> = metric
        .split(',')
        .next()
        .unwrap()
        .split_whitespace()
        .filter_map(|word| word.trim_matches(']').parse().ok())
        .collect();
    let [total, matched] = numbers[..] else {
        panic!("{metric}");
    };
    (total, matched)
}

#[test]
fn filters_by_id_and_by_score_leave_out_row_groups_and_pages() {
    let workspace = workspace();
    let files =
        workspace.sql("SELECT count(*) AS n FROM gleaner.files WHERE table_name = 'weights'");
    assert_eq!(files[0]["n"], FILES);
    let ids = workspace.sql(&format!(
        "SELECT doc_id FROM weights WHERE input_row = {} ORDER BY doc_id",
        PER_FILE / 3
    ));
    for row in &ids {
        let id = text(row, "doc_id");
        let query = format!("SELECT log_weight FROM weights WHERE doc_id = '{id}'");
        assert_eq!(workspace.sql(&query).len(), 1);
        let (n_groups, n_left) = metric(&workspace, &query, "row_groups_pruned_bloom_filter");
        // Ranges alone rule out next to nothing.
        assert!(n_groups >= FILES as u64 - 1, "{id}: {n_groups}");
        assert_eq!(n_left, 1, "{id}");
    }
    let nowhere = "SELECT log_weight FROM weights WHERE doc_id = '8000000000000000'";
    assert!(workspace.sql(nowhere).is_empty());
    let (_, n_left) = metric(&workspace, nowhere, "row_groups_pruned_bloom_filter");
    assert_eq!(n_left, 0);
    // The highest weights are in one half of one file.
    let highest = workspace.sql(&format!(
        "SELECT max(log_weight) AS w FROM weights
         WHERE input_file < 'corpus/part-{0}.parquet' OR input_row < {1}",
        FILES - 1,
        PER_FILE / 2
    ));
    let query = format!(
        "SELECT doc_id FROM weights WHERE log_weight > {}",
        highest[0]["w"]
    );
    assert!(!workspace.sql(&query).is_empty());
    let (n_groups, n_left) = metric(&workspace, &query, "row_groups_pruned_statistics");
    assert_eq!((n_groups, n_left), (FILES as u64, 1));
    let (n_pages, n_left) = metric(&workspace, &query, "page_index_pages_pruned");
    assert_eq!(n_pages, 3, "pages of {PER_FILE} rows");
    assert_eq!(n_left, 2);
}
