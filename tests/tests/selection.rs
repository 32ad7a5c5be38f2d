//! A selection is a function of job, seed, corpus and model: of nothing else.

use std::collections::BTreeSet;

use gleaner_tests::corpus::{Document, example_documents, jsonl, write_parquet};
use gleaner_tests::program::Workspace;
use proptest::prelude::*;
use serde_json::Value;

fn job(select: &str, more: &str) -> String {
    format!(
        "name: selection\noutput: out\ncorpus: {{paths: ['corpus/*']}}\ndatasets:\n  target: \
         {{paths: [target.jsonl]}}\n  other: {{paths: [other.jsonl]}}\n{more}stages:\n  weights: \
         {{kind: importance_weights, target: target, min_tokens: 20, fit_sample: all}}\n  \
         chosen: {{kind: select, by: weights.log_weight, {select}}}\n"
    )
}

fn of_source(documents: &[Document], source: &str, n: usize) -> String {
    let some = documents
        .iter()
        .filter(|document| document.source == source)
        .take(n);
    jsonl(&some.cloned().collect::<Vec<_>>())
}

/// A workspace with some documents as the corpus, in files of `per_file`.
fn workspace(documents: &[Document], per_file: usize, rows_per_group: usize) -> Workspace {
    let workspace = Workspace::new();
    for (idx, documents) in documents.chunks(per_file).enumerate() {
        let path = workspace
            .path()
            .join(format!("corpus/part-{idx:03}.parquet"));
        write_parquet(&path, documents, rows_per_group);
    }
    let all = example_documents();
    workspace.write("target.jsonl", of_source(&all, "health_medquad", 100));
    workspace.write("other.jsonl", of_source(&all, "python_peps", 40));
    workspace
}

fn chosen(workspace: &Workspace) -> Vec<(String, f64)> {
    let rows = workspace.sql("SELECT doc_id, key FROM chosen ORDER BY doc_id");
    rows.iter()
        .map(|row| (text(row, "doc_id"), row["key"].as_f64().unwrap()))
        .collect()
}

fn text(row: &Value, key: &str) -> String {
    row[key].as_str().unwrap().to_owned()
}

fn number(row: &Value, key: &str) -> u64 {
    row[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} of {row}"))
}

#[test]
fn it_is_the_same_for_any_workers_splits_orders_and_file_layouts() {
    let mut documents = example_documents();
    documents.truncate(1500);
    let select = "method: resample, temperature: 50, documents: 300, seed: 11, materialize: true";
    let mut expected: Option<Vec<(String, f64)>> = None;
    let layouts = [
        (1500, 1500, "1", "256MiB", false),
        (1500, 20, "16", "50KiB", false),
        (97, 10, "3", "200KiB", true),
        (300, 300, "2", "10MiB", true),
    ];
    for (per_file, rows_per_group, workers, task_bytes, is_reversed) in layouts {
        let mut documents = documents.clone();
        if is_reversed {
            documents.reverse();
        }
        let workspace = workspace(&documents, per_file, rows_per_group);
        workspace.write("job.yaml", job(select, ""));
        let task_bytes = format!("task_bytes={task_bytes}");
        let _ = workspace
            .run(&["--workers", workers, "--set", &task_bytes])
            .expect(0);
        let found = chosen(&workspace);
        assert_eq!(found.len(), 300);
        match &expected {
            None => expected = Some(found),
            Some(expected) => assert_eq!(*expected, found, "{per_file} {task_bytes}"),
        }
        let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    }
    // Another seed chooses others.
    let workspace = workspace(&documents, 1500, 100);
    workspace.write("job.yaml", job(&select.replace("seed: 11", "seed: 12"), ""));
    let _ = workspace.run(&[]).expect(0);
    let other: BTreeSet<String> = chosen(&workspace).into_iter().map(|it| it.0).collect();
    let first: BTreeSet<String> = expected.unwrap().into_iter().map(|it| it.0).collect();
    assert!(first.intersection(&other).count() < 290);
}

/// Ids stand in the corpus, so that files may be called anything and come in any order.
#[test]
fn names_and_order_of_files_workers_and_tasks_say_nothing() {
    let documents: Vec<Document> = example_documents().into_iter().take(960).collect();
    let select = "method: resample, temperature: 50, tokens: 60000, seed: 3, materialize: true, \
                  group_by: source";
    let names = [
        ["a", "b", "c", "d", "e", "f", "g", "h"],
        ["g", "0", "zz", "A", "m-1", "part", "c", "x y"],
    ];
    let mut expected: Option<Vec<Value>> = None;
    for names in names {
        let workspace = workspace(&documents[..1], 1, 1);
        std::fs::remove_dir_all(workspace.path().join("corpus")).unwrap();
        for (name, documents) in names.iter().zip(documents.chunks(120)) {
            let path = workspace.path().join(format!("corpus/{name}.parquet"));
            write_parquet(&path, documents, 15);
        }
        workspace.write("job.yaml", job(select, ""));
        for (workers, task_bytes) in [
            ("1", "256MiB"),
            ("8", "256MiB"),
            ("1", "40KiB"),
            ("8", "40KiB"),
        ] {
            let output = format!("out-{workers}-{task_bytes}");
            let set = format!("task_bytes={task_bytes}");
            let arguments = ["--workers", workers, "--set", &set, "--output", &output];
            let _ = workspace.run(&arguments).expect(0);
            let rows = workspace.sql_of(
                &output,
                "SELECT doc_id, score, key, source, md5(text) AS text FROM chosen ORDER BY doc_id",
            );
            assert!(rows.len() > 50, "{}", rows.len());
            match &expected {
                None => expected = Some(rows),
                Some(expected) => assert_eq!(*expected, rows, "{names:?} {output}"),
            }
        }
    }
}

#[test]
fn budgets_take_the_longest_prefix_that_fits_and_ties_go_by_id() {
    let mut documents: Vec<Document> = example_documents().into_iter().take(400).collect();
    // Copies under other ids have equal scores: the lower ids are chosen.
    let copies: Vec<Document> = documents
        .iter()
        .take(50)
        .map(|document| Document {
            id: format!("copy of {}", document.id),
            ..document.clone()
        })
        .collect();
    documents.extend(copies);
    let workspace = workspace(&documents, 150, 30);
    let ranked = |order: &str| {
        format!(
            "SELECT doc_id, n_tokens, n_bytes FROM weights WHERE eligible ORDER BY log_weight \
             {order}, doc_id"
        )
    };
    let budgets = [
        ("top_k", "documents", "77", "DESC"),
        ("bottom_k", "documents", "33", "ASC"),
        ("top_k", "tokens", "40000", "DESC"),
        ("bottom_k", "bytes", "123456", "ASC"),
        ("top_k", "fraction", "1/7", "DESC"),
        ("top_k", "documents", "0", "DESC"),
    ];
    for (method, unit, budget, order) in budgets {
        let select = format!("method: {method}, {unit}: {budget}");
        workspace.write("job.yaml", job(&select, ""));
        let _ = workspace.run(&[]).expect(0);
        let rows = workspace.sql(&ranked(order));
        let budget = match budget.parse() {
            Ok(budget) => budget,
            Err(_) => rows.len() as u64 / 7,
        };
        let mut left = budget;
        let mut expected = BTreeSet::new();
        for row in &rows {
            let cost = match unit {
                "tokens" => number(row, "n_tokens"),
                "bytes" => number(row, "n_bytes"),
                _ => 1,
            };
            let Some(rest) = left.checked_sub(cost) else {
                break;
            };
            left = rest;
            expected.insert(text(row, "doc_id"));
        }
        let found: BTreeSet<String> = chosen(&workspace).into_iter().map(|it| it.0).collect();
        assert_eq!(found, expected, "{select}");
    }
}

#[test]
fn a_threshold_takes_all_scores_from_it_on() {
    let documents: Vec<Document> = example_documents().into_iter().take(300).collect();
    let workspace = workspace(&documents, 100, 50);
    workspace.write("job.yaml", job("method: threshold, threshold: -100.5", ""));
    let _ = workspace.run(&[]).expect(0);
    let counts = workspace.sql(
        "SELECT (SELECT count(*) FROM weights WHERE eligible AND log_weight >= -100.5) AS a, \
         (SELECT count(*) FROM chosen) AS b, (SELECT min(score) FROM chosen) AS low",
    );
    assert_eq!(counts[0]["a"], counts[0]["b"]);
    assert!(number(&counts[0], "a") > 0);
    assert!(counts[0]["low"].as_f64().unwrap() >= -100.5);
}

#[test]
fn a_budget_above_all_takes_all_and_says_so() {
    let documents: Vec<Document> = example_documents().into_iter().take(200).collect();
    let workspace = workspace(&documents, 100, 50);
    workspace.write("job.yaml", job("method: resample, documents: 100000", ""));
    let ended = workspace.run(&[]).expect(0);
    let eligible = workspace.sql("SELECT count(*) AS n FROM weights WHERE eligible");
    assert_eq!(chosen(&workspace).len() as u64, number(&eligible[0], "n"));
    assert!(
        ended.stdout.contains("everything is taken"),
        "{}",
        ended.stdout
    );
}

#[test]
fn several_targets_are_served_in_order_from_what_is_left() {
    let documents: Vec<Document> = example_documents().into_iter().take(900).collect();
    let workspace = workspace(&documents, 300, 60);
    let job = job(
        "method: top_k, documents: 101, proportions: {target: 70%, other: 30%}",
        "",
    );
    let job = job.replace(
        "target: target,",
        "target: [target, other], targets: separate,",
    );
    workspace.write("job.yaml", job);
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql("SELECT doc_id, target FROM chosen");
    let of = |target: &str| -> BTreeSet<String> {
        let rows = rows.iter().filter(|row| row["target"] == target);
        rows.map(|row| text(row, "doc_id")).collect()
    };
    let (first, second) = (of("target"), of("other"));
    assert_eq!((first.len(), second.len()), (70, 31));
    assert!(first.is_disjoint(&second));
    let ranked = |target: &str| -> Vec<String> {
        let rows = workspace.sql(&format!(
            "SELECT doc_id FROM weights WHERE eligible ORDER BY log_weight_{target} DESC, doc_id"
        ));
        rows.iter().map(|row| text(row, "doc_id")).collect()
    };
    let expected: BTreeSet<String> = ranked("target").into_iter().take(70).collect();
    assert_eq!(first, expected);
    let rest = ranked("other").into_iter().filter(|id| !first.contains(id));
    assert_eq!(second, rest.take(31).collect());
}

#[test]
fn quotas_hold_for_each_group() {
    let documents: Vec<Document> = example_documents().into_iter().take(1500).collect();
    let workspace = workspace(&documents, 500, 60);
    let by_source = "SELECT source, count(*) AS n FROM chosen GROUP BY source ORDER BY source";
    let quotas = "method: top_k, documents: 60, group_by: source, quotas: {fiction: 40, \
                  health_medquad: 25%}";
    workspace.write("job.yaml", job(quotas, ""));
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(by_source);
    let found: Vec<_> = rows
        .iter()
        .map(|row| (text(row, "source"), number(row, "n")))
        .collect();
    assert_eq!(
        found,
        [
            ("fiction".to_owned(), 40),
            ("health_medquad".to_owned(), 15)
        ]
    );
    // Proportional quotas reproduce the shares of the eligible rows, to within one row.
    let quotas = "method: resample, documents: 200, group_by: source, quotas: proportional";
    workspace.write("job.yaml", job(quotas, ""));
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(
        "SELECT e.source, e.n AS eligible, coalesce(c.n, 0) AS chosen, sum(e.n) OVER () AS total \
         FROM (SELECT source, count(*) AS n FROM weights WHERE eligible GROUP BY source) e \
         LEFT JOIN (SELECT source, count(*) AS n FROM chosen GROUP BY source) c \
         ON c.source = e.source",
    );
    assert!(rows.len() > 5);
    for row in &rows {
        let share = number(row, "eligible") as f64 / number(row, "total") as f64;
        let chosen = number(row, "chosen") as f64;
        assert!((chosen - 200.0 * share).abs() <= 1.0, "{row}");
    }
}

/// The share of the reference's right answers, on its own corpus.
#[test]
fn the_share_of_target_domain_documents_is_that_of_the_reference() {
    let examples = gleaner_tests::program::repository().join("examples/data");
    let workspace = Workspace::new();
    workspace.write(
        "job.yaml",
        format!(
            "name: oracle\noutput: out\ncorpus: {{paths: ['{0}/corpus/*.parquet']}}\ndatasets: \
             {{target: {{paths: ['{0}/biomedical/train.jsonl.zst']}}}}\nstages:\n  weights: \
             {{kind: importance_weights, target: target, hash: sha256, fit_sample: all}}\n  \
             chosen: {{kind: select, by: weights.log_weight, method: top_k, documents: 500}}\n",
            examples.display()
        ),
    );
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(
        "SELECT count(*) AS n FROM chosen WHERE source IN ('science_plos', 'oastm_medicine', \
         'oastm_biology', 'health_medquad')",
    );
    // Of the reference's 500 highest weights, 80 % are right answers (examples/data/README.md).
    assert_eq!((number(&rows[0], "n") as f64 / 5.0).round(), 80.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn any_budget_gives_exactly_that_many(documents in 1_u64..180, seed in 0_u64..1000) {
        let all: Vec<Document> = example_documents().into_iter().take(200).collect();
        let workspace = workspace(&all, 70, 25);
        let select = format!("method: resample, temperature: 1000, documents: {documents}, seed: {seed}");
        workspace.write("job.yaml", job(&select, ""));
        let _ = workspace.run(&[]).expect(0);
        let eligible = workspace.sql("SELECT count(*) AS n FROM weights WHERE eligible");
        let expected = documents.min(number(&eligible[0], "n"));
        prop_assert_eq!(chosen(&workspace).len() as u64, expected);
    }
}
