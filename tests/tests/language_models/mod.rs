//! Language models through whole runs: trained, scored, selected by; interrupted, and over a broker.

mod before;
mod limits;
mod sequences;

use std::collections::BTreeMap;
use std::fs;

use gleaner_tests::corpus::{Document, example_documents, jsonl, write_parquet};
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::program::{Workspace, files, number, repository, start, text};
use gleaner_tests::servers::rabbitmq::RabbitMq;
use serde_json::Value;

/// Small enough to be trained within seconds, also by tests that run beside others.
const JOB: &str = "
name: color
output: out
corpus: {paths: [corpus/*.parquet], columns: {id: id, text: text, source: source}}
datasets: {target: {paths: [target.jsonl]}}
stages:
  prior: {kind: train_language_model, size: 1m, vocabulary: 300, tokens: 16384, held_out: 10%}
  conditional: {kind: train_language_model, from: prior, dataset: target, tokens: 8192, held_out: 10%}
  losses: {kind: loss_reduction, prior: prior, conditional: conditional, max_tokens: 100}
  best: {kind: select, by: losses.loss_reduction, method: top_k, documents: 20, materialize: true}
  easy: {kind: select, by: losses.prior_nll, method: bottom_k, documents: 20}
";

/// Every so many of the example documents.
const EVERY: usize = 30;

fn workspace(job: &str) -> Workspace {
    let workspace = Workspace::new();
    let documents = example_documents();
    let corpus: Vec<Document> = documents.iter().step_by(EVERY).cloned().collect();
    for (idx, documents) in corpus.chunks(50).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, 25);
    }
    let target = documents
        .iter()
        .filter(|document| document.source == "health_medquad");
    let target: Vec<Document> = target.take(100).cloned().collect();
    workspace.write("target.jsonl", jsonl(&target));
    workspace.write("job.yaml", job);
    workspace
}

fn rows(workspace: &Workspace) -> u64 {
    number(&workspace.sql("SELECT count(*) AS n FROM corpus")[0], "n")
}

#[test]
fn models_are_trained_and_documents_scored_and_selected_by_their_losses() {
    let workspace = workspace(JOB);
    let summary = workspace.summary(&[]);
    let stage = |name: &str| -> Value {
        let stages = summary["stages"].as_array().unwrap();
        stages
            .iter()
            .find(|stage| stage["name"] == name)
            .unwrap()
            .clone()
    };
    for name in ["prior", "conditional"] {
        let training = &stage(name)["training"];
        let (first, last) = (&training["first_held_out_loss"], &training["held_out_loss"]);
        assert!(
            first.as_f64().unwrap() > last.as_f64().unwrap(),
            "{name}: {training}"
        );
        // The table is the log: the start and every step.
        let log = workspace.sql(&format!("SELECT * FROM {name} ORDER BY step"));
        assert_eq!(log.len() as u64, number(training, "n_steps") + 1);
        let folder = workspace.path().join("out").join(text(training, "folder"));
        for file in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ] {
            assert!(folder.join(file).is_file(), "{name}: {file}");
        }
    }
    let n_rows = rows(&workspace);
    let losses = workspace.sql(
        "SELECT count(*) AS n, sum(CASE WHEN status = 'ok' THEN 1 ELSE 0 END) AS n_ok,
                max(abs(loss_reduction - (prior_nll - conditional_nll))) AS error,
                max(abs(perplexity - exp(prior_nll))) AS off, max(n_tokens) AS longest,
                sum(CASE WHEN truncated THEN 1 ELSE 0 END) AS n_cut
         FROM losses",
    );
    assert_eq!(number(&losses[0], "n"), n_rows);
    assert_eq!(number(&losses[0], "n_ok"), n_rows);
    assert!(losses[0]["error"].as_f64().unwrap() < 1e-12, "{losses:?}");
    assert!(losses[0]["off"].as_f64().unwrap() < 1e-9, "{losses:?}");
    assert_eq!(number(&losses[0], "longest"), 100);
    assert!(number(&losses[0], "n_cut") > 0);
    // What was chosen are the highest, and carries the text.
    let chosen = workspace.sql(
        "SELECT count(*) AS n, min(score) AS lowest, min(length(text)) AS shortest,
                (SELECT loss_reduction FROM losses ORDER BY loss_reduction DESC LIMIT 1 OFFSET 19)
                  AS expected
         FROM best",
    );
    assert_eq!(number(&chosen[0], "n"), 20);
    assert_eq!(chosen[0]["lowest"], chosen[0]["expected"]);
    assert!(number(&chosen[0], "shortest") > 0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    // What the version names stays, models too.
    let _ = workspace.gleaner(&["gc", "out"]).expect(0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    // The models stay as they are, and nothing is computed twice.
    let unchanged = workspace.summary(&[]);
    assert_eq!(unchanged["is_new"], false, "{unchanged}");
    // What somebody removed of a model is there again.
    let folder = text(&stage("prior")["training"], "folder").to_owned();
    for name in ["model.safetensors", "tokenizer.json"] {
        let file = workspace.path().join("out").join(&folder).join(name);
        let intact = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(workspace.summary(&[])["is_new"], false);
        assert!(fs::read(&file).unwrap() == intact, "{name}");
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    let documents = example_documents();
    let more: Vec<Document> = documents.iter().skip(1).step_by(200).cloned().collect();
    write_parquet(&workspace.path().join("corpus/part-x.parquet"), &more, 25);
    let again = workspace.summary(&[]);
    let stages = again["stages"].as_array().unwrap();
    let of = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap();
    let notes = of("prior")["notes"].to_string();
    assert!(notes.contains("stays frozen"), "{notes}");
    let reuse = &of("losses")["reuse"];
    assert!(number(reuse, "n_reused") > 0, "{reuse}");
    assert_eq!(
        number(reuse, "n_tasks") - number(reuse, "n_reused"),
        1,
        "{reuse}"
    );
}

#[test]
fn a_run_that_is_killed_while_it_trains_comes_to_the_same_bytes() {
    let workspace = workspace(JOB);
    let _ = workspace.run(&["--output", "undisturbed"]).expect(0);
    let trains = workspace.path().join("out/_gleaner/plans/prior/train");
    let mut child = start(workspace.path(), &["run", "job.yaml"]);
    while !trains.is_dir() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it trained"
        );
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let _ = workspace.run(&[]).expect(0);
    for table in ["prior", "conditional", "losses", "best"] {
        let hashes = |output: &str| {
            let contents = workspace.contents(&format!("{output}/{table}"));
            let mut hashes: Vec<String> = contents.into_values().collect();
            hashes.sort();
            hashes
        };
        assert_eq!(hashes("out"), hashes("undisturbed"), "{table}");
    }
}

/// The reference's models of the golden set, in a directory of their own.
fn golden(workspace: &Workspace) -> BTreeMap<String, f64> {
    let data = repository().join("tests/data/color");
    let tokenizer = zstd::decode_all(fs::File::open(data.join("tokenizer.json.zst")).unwrap());
    let tokenizer = tokenizer.unwrap();
    for model in ["llama_prior", "llama_cond", "gpt2_prior"] {
        for file in ["config.json", "model.safetensors"] {
            let bytes = fs::read(data.join(model).join(file)).unwrap();
            workspace.write(&format!("models/{model}/{file}"), bytes);
        }
        workspace.write(&format!("models/{model}/tokenizer.json"), &tokenizer);
        let config = fs::read(data.join("tokenizer_config.json")).unwrap();
        workspace.write(&format!("models/{model}/tokenizer_config.json"), config);
    }
    let documents = zstd::decode_all(fs::File::open(data.join("docs.jsonl.zst")).unwrap()).unwrap();
    workspace.write("corpus/docs.jsonl", &documents);
    let golden = zstd::decode_all(fs::File::open(data.join("golden.json.zst")).unwrap()).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let lines = String::from_utf8(documents).unwrap();
    let ids = lines.lines().map(|line| {
        let document: Value = serde_json::from_str(line).unwrap();
        document["id"].to_string().trim_matches('"').to_owned()
    });
    let reductions = golden["selection"]["llama"]["doc_reduction_per_token"]
        .as_array()
        .unwrap();
    ids.zip(reductions.iter().map(|value| value.as_f64().unwrap()))
        .collect()
}

const GOLDEN: &str = "
name: golden
output: out
corpus: {paths: [corpus/*.jsonl]}
stages:
  losses: {kind: loss_reduction, prior: models/llama_prior, conditional: models/llama_cond,
           models: {other: models/gpt2_prior}}
  best: {kind: select, by: losses.loss_reduction, method: top_k, fraction: 1/8}
";

#[test]
fn directories_of_models_give_the_losses_of_the_reference() {
    let workspace = Workspace::new();
    let expected = golden(&workspace);
    workspace.write("job.yaml", GOLDEN);
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql("SELECT doc_id, status, loss_reduction, other_nll FROM losses");
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let id = text(&row, "doc_id");
        match row["status"].as_str().unwrap() {
            "ok" => {
                let found = row["loss_reduction"].as_f64().unwrap();
                assert!(
                    (found - expected[&id]).abs() < 2e-5,
                    "{id}: {found} {}",
                    expected[&id]
                );
                assert!(row["other_nll"].as_f64().unwrap() > 0.0);
            }
            // A document without a token has nothing to be judged by.
            status => assert_eq!((status, expected[&id]), ("ineligible", 0.0), "{id}"),
        }
    }
}

/// Equal models: every reduction is exactly 0, so that the ids decide who is among the highest.
const EQUAL: &str = "
name: equal
output: out
corpus: {paths: [corpus/*.jsonl]}
datasets: {target: {paths: [target.jsonl]}}
stages:
  weights: {kind: importance_weights, target: target, min_tokens: 1}
  losses: {kind: loss_reduction, prior: models/llama_prior, conditional: models/llama_prior}
";

#[test]
fn equal_scores_are_ordered_by_their_ids() {
    let workspace = Workspace::new();
    let _ = golden(&workspace);
    let target: Vec<Document> = example_documents().into_iter().take(50).collect();
    workspace.write("target.jsonl", jsonl(&target));
    workspace.write("job.yaml", EQUAL);
    let summary = workspace.summary(&[]);
    let zero = workspace.sql("SELECT count(*) AS n FROM losses WHERE loss_reduction <> 0");
    assert_eq!(number(&zero[0], "n"), 0);
    let both = "losses l JOIN weights w ON w.doc_id = l.doc_id WHERE l.eligible AND w.eligible";
    let n = number(
        &workspace.sql(&format!("SELECT count(*) AS n FROM {both}"))[0],
        "n",
    );
    let k = n / 10;
    let expected = workspace.sql(&format!(
        "SELECT count(*) AS n FROM (SELECT l.doc_id FROM {both} ORDER BY l.doc_id LIMIT {k}) a JOIN \
         (SELECT l.doc_id FROM {both} ORDER BY w.log_weight / w.n_tokens DESC, l.doc_id LIMIT {k}) b \
         ON a.doc_id = b.doc_id"
    ));
    let stages = summary["stages"].as_array().unwrap();
    let losses = stages.iter().find(|it| it["name"] == "losses").unwrap();
    let agreement = &losses["losses"]["agreement"][0];
    let share = number(&expected[0], "n") as f64 / k as f64;
    assert!(k > 10 && share < 0.7, "{k} {share}");
    assert_eq!(agreement["overlap"].as_f64(), Some(share), "{agreement}");
}

#[test]
fn two_workers_one_of_which_is_killed_come_to_the_same_selection() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let job = Job::of(workspace(JOB));
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    let plans = job.workspace.path().join("out/_gleaner/plans");
    cluster.await_that("nothing is trained", SOON, || {
        plans.is_dir()
            && files(&plans)
                .iter()
                .any(|it| it.display().to_string().contains("/train/"))
    });
    cluster.start_worker(2, &[]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    cluster.kill_worker(1);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
}
