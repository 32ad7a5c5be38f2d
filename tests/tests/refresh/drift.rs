//! A frozen model beside a corpus that moves away from it.

use gleaner_tests::corpus::{Document, jsonl};
use gleaner_tests::program::number;

use super::*;

/// Many buckets, so that what is new falls into those that were empty.
fn workspace(n_files: usize) -> (Workspace, Vec<Document>) {
    let (workspace, documents) = super::workspace(n_files);
    let job = JOB.replace("min_tokens: 20", "min_tokens: 20, buckets: 60000");
    workspace.write("job.yaml", job);
    (workspace, documents)
}

fn drift(workspace: &Workspace) -> Value {
    workspace.sql("SELECT * FROM gleaner.drift").remove(0)
}

fn float(row: &Value, key: &str) -> f64 {
    row[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} of {row}"))
}

/// Texts that share no word with the corpus.
fn strange(n: usize) -> Vec<Document> {
    (0..n)
        .map(|idx| {
            let words = (0..120).map(|word| format!("qq{}zz{}", (idx + word) % 40, word % 7));
            Document {
                id: format!("strange-{idx}"),
                text: words.collect::<Vec<_>>().join(" "),
                source: "strange".to_owned(),
            }
        })
        .collect()
}

#[test]
fn the_same_corpus_has_not_drifted() {
    let (workspace, _) = workspace(3);
    let summary = workspace.summary(&[]);
    let found = drift(&workspace);
    assert!(float(&found, "kl") < 1e-12, "{found}");
    assert_eq!(float(&found, "unseen_share"), 0.0);
    assert_eq!(float(&found, "shift"), 0.0);
    assert_eq!(number(&found, "fitted_by_version"), 1);
    assert_eq!(stage(&summary, "weights")["drift"]["kl"], found["kl"]);
    let ended = workspace.run(&[]).expect(0);
    assert!(
        ended.stdout.contains("since the fit: KL 0.0000"),
        "{}",
        ended.stdout
    );
    assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
}

/// Counts that were carried from version to version are those of a fit over the same corpus, and so is
/// the divergence.
#[test]
fn counts_are_those_of_todays_corpus_however_it_came_about() {
    let (workspace, documents) = workspace(6);
    let _ = workspace.run(&[]).expect(0);
    let at_fit = drift(&workspace);
    let changes: [&dyn Fn(); 4] = [
        &|| write_file(&workspace, 6, part(&documents, 6)),
        &|| write_file(&workspace, 1, part(&documents, 7)),
        &|| remove_file(&workspace, 0),
        &|| write_file(&workspace, 8, &strange(20)),
    ];
    for (idx, change) in changes.iter().enumerate() {
        change();
        let _ = workspace.run(&[]).expect(0);
        let fresh = format!("fresh-{idx}");
        let _ = workspace.run(&["--output", &fresh]).expect(0);
        let mut counted = workspace.sql_of(
            &fresh,
            "SELECT bucket, raw_count AS count FROM weights_model WHERE raw_count > 0 ORDER BY bucket",
        );
        assert_eq!(rows(&workspace, "out", "weights_ngrams"), counted, "{idx}");
        counted.clear();
        let kl = "WITH both AS (SELECT n.count AS p, m.raw_count AS q FROM weights_model m JOIN \
                  weights_ngrams n ON n.bucket = m.bucket WHERE m.raw_count > 0), sums AS (SELECT \
                  sum(p) AS np, (SELECT sum(raw_count) FROM weights_model) AS nq FROM both) SELECT \
                  sum(p / CAST(np AS DOUBLE) * ln((p / CAST(np AS DOUBLE)) / (q / CAST(nq AS \
                  DOUBLE)))) AS kl FROM both CROSS JOIN sums";
        let found = drift(&workspace);
        let expected = float(&workspace.sql(kl)[0], "kl");
        assert!(
            (float(&found, "kl") - expected).abs() < 1e-9,
            "{found} {expected}"
        );
        let unseen = "SELECT (SELECT sum(n.count) FROM weights_ngrams n JOIN weights_model m ON \
                      m.bucket = n.bucket WHERE m.raw_count = 0) / CAST((SELECT sum(count) FROM \
                      weights_ngrams) AS DOUBLE) AS share";
        let expected = workspace.sql(unseen)[0]["share"].as_f64().unwrap_or(0.0);
        assert!(
            (float(&found, "unseen_share") - expected).abs() < 1e-12,
            "{found}"
        );
        let mean = "SELECT avg(log_weight_per_token) AS mean FROM weights WHERE eligible";
        let mean = float(&workspace.sql(mean)[0], "mean");
        assert!(
            (float(&found, "mean_now") - mean).abs() < 1e-6,
            "{found} {mean}"
        );
        let shift = (mean - float(&at_fit, "mean_now")) / float(&at_fit, "deviation_at_fit");
        assert!(
            (float(&found, "shift") - shift).abs() < 1e-3,
            "{found} {shift}"
        );
        assert_eq!(number(&found, "fitted_by_version"), 1);
    }
    let last = drift(&workspace);
    assert!(
        float(&last, "unseen_share") > 0.02 && float(&last, "kl") > 0.02,
        "{last}"
    );
}

#[test]
fn a_corpus_that_has_drifted_is_told_of_or_not_published() {
    let (workspace, _) = workspace(3);
    let _ = workspace.run(&[]).expect(0);
    workspace.write("corpus/strange.jsonl", jsonl(&strange(60)));
    let stop = ["--set", "guardrails.drift.action=stop"];
    let ended = workspace.run(&[&stop[..], &["--json"]].concat());
    let found = crossed(&ended);
    assert!(
        found
            .iter()
            .any(|(stage, figure, _)| stage == "weights" && figure == "drift_unseen"),
        "{found:?}"
    );
    assert_eq!(versions(&workspace), [1]);
    // By default it is a warning, as long as it lasts.
    for version in [2, 2] {
        let ended = workspace.run(&[]).expect(0).says("warning: weights: drift");
        assert!(ended.stdout.contains("warning:"), "{}", ended.stdout);
        assert_eq!(versions(&workspace).len(), version);
    }
    let off = ["kl", "unseen", "score_shift"].map(|it| format!("guardrails.drift.{it}=off"));
    let mut arguments = stop.to_vec();
    for setting in &off {
        arguments.extend(["--set", setting]);
    }
    let ended = workspace.run(&arguments).expect(0);
    assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
    // A fit over today's corpus is where it starts again.
    let _ = workspace
        .run(&[&stop[..], &["--set", "stages.weights.refit=true"]].concat())
        .expect(0);
    let found = drift(&workspace);
    assert!(
        float(&found, "kl") < 1e-12 && float(&found, "shift") == 0.0,
        "{found}"
    );
    assert_eq!(number(&found, "fitted_by_version"), 3);
}
