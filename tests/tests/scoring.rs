//! What importance weights say of each document, against other ways to the same values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use gleaner_tests::corpus::{Document, health_documents, jsonl, sample_documents, write_columns};
use gleaner_tests::program::{Opened, Workspace, number, repository, text};
use serde_json::{Value, json};

/// A workspace with a corpus and two targets.
fn workspace(documents: &[Document], weights: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("corpus.jsonl", jsonl(documents));
    workspace.write("health.jsonl", jsonl(&health_documents(20)));
    let of_peps = |document: &Document| document.source == "python_peps";
    let mut peps = sample_documents(1000);
    peps.retain(of_peps);
    assert!(peps.len() > 15);
    workspace.write("peps.jsonl", jsonl(&peps));
    write_job(&workspace, weights);
    workspace
}

fn write_job(workspace: &Workspace, weights: &str) {
    workspace.write(
        "job.yaml",
        format!(
            "name: scoring\noutput: out\ncorpus: {{paths: corpus.jsonl}}\ndatasets:\n  health: \
             {{paths: health.jsonl}}\n  peps: {{paths: peps.jsonl}}\n  both: {{paths: \
             [peps.jsonl, health.jsonl]}}\nstages:\n  weights: {{kind: importance_weights, \
             {weights}}}\n"
        ),
    );
}

/// Bits of a column of weights by document; `None` is null.
fn bits(workspace: &Workspace, output: &str, column: &str) -> BTreeMap<String, Option<u64>> {
    let opened = Opened::new(&workspace.path().join(output));
    let rows = opened.query(&format!("SELECT doc_id, {column} FROM weights"));
    let ids = arrow::compute::cast(rows.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
    let values = rows.column(1).as_primitive::<Float64Type>();
    let ids = ids
        .as_string::<i32>()
        .iter()
        .map(|id| id.unwrap().to_owned());
    ids.zip(values.iter().map(|weight| weight.map(f64::to_bits)))
        .collect()
}

/// Writes the same texts, some of them null, as `corpus.<ending>`.
fn write_texts(workspace: &Workspace, ending: &str, texts: &[Option<String>]) -> String {
    let name = format!("corpus.{ending}");
    if ending == "jsonl" {
        let lines = texts.iter().enumerate().map(|(idx, text)| match text {
            // One null is spelled out, one is a key that is not there.
            None if idx % 2 == 0 => "{}\n".to_owned(),
            text => format!("{}\n", json!({"text": text})),
        });
        workspace.write(&name, lines.collect::<String>());
    } else {
        let texts = Arc::new(texts.iter().cloned().collect::<StringArray>()) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
        write_columns(&workspace.path().join(&name), &batch, 16);
    }
    name
}

#[test]
fn every_row_is_in_one_lane() {
    const MIN_TOKENS: usize = 30;
    let mut texts: Vec<Option<String>> = sample_documents(80)
        .into_iter()
        .map(|document| Some(document.text))
        .collect();
    let word = |n| Some("word ".repeat(n));
    let odd = [None, None, word(0), Some(" \n\t ".to_owned()), word(1)];
    for (idx, text) in odd.into_iter().enumerate() {
        texts.insert(7 * idx + 3, text);
    }
    texts.extend([word(MIN_TOKENS - 1), word(MIN_TOKENS), None]);
    let weights = format!("target: health, min_tokens: {MIN_TOKENS}");
    let workspace = workspace(&[], &weights);
    for ending in ["jsonl", "parquet"] {
        let name = write_texts(&workspace, ending, &texts);
        let set = format!("corpus.paths={name}");
        let arguments = ["--set", &set, "--output", ending];
        // By default, a share of one in a hundred may be rejected.
        let _ = workspace.run(&arguments).expect(3).says("rejected");
        let arguments = [&arguments[..], &["--set", "allow.rejected_rows=3"]].concat();
        let summary = workspace.summary(&arguments);

        let rows = workspace.sql_of(
            ending,
            "SELECT w.input_row, w.status, w.reason, w.eligible, w.n_tokens, w.log_weight, \
             cardinality(ngram_tokens(c.text)) AS tokens FROM weights w JOIN corpus c ON \
             c.input_row = w.input_row ORDER BY w.input_row",
        );
        assert_eq!(rows.len(), texts.len());
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (row, text) in rows.iter().zip(&texts) {
            let n_tokens = row["tokens"].as_u64().unwrap_or(0);
            let lane = match text {
                None => "rejected",
                Some(_) if n_tokens < MIN_TOKENS as u64 => "ineligible",
                Some(_) => "ok",
            };
            *counts.entry(lane).or_default() += 1;
            assert_eq!(row["status"], lane, "{row}");
            assert_eq!(row["eligible"], lane == "ok", "{row}");
            assert_eq!(row["reason"].is_null(), lane == "ok", "{row}");
            assert_eq!(row["log_weight"].is_null(), text.is_none(), "{row}");
            assert_eq!(number(row, "n_tokens"), n_tokens, "{row}");
        }
        assert_eq!(counts["rejected"], 3);
        assert!(counts["ineligible"] >= 4 && counts["ok"] > 50, "{counts:?}");
        let lanes = &summary["stages"][0]["lanes"];
        assert_eq!(number(lanes, "rows_in"), texts.len() as u64);
        for (lane, count) in &counts {
            assert_eq!(number(lanes, lane), *count);
            let sql = format!(
                "SELECT sum({lane}) AS n FROM gleaner.tasks UNION ALL SELECT {lane} FROM \
                 gleaner.stages UNION ALL SELECT count(*) FROM weights WHERE status = '{lane}'"
            );
            let sums = workspace.sql_of(ending, &sql);
            assert!(
                sums.iter().all(|row| number(row, "n") == *count),
                "{lane}: {sums:?}"
            );
        }
        let _ = workspace.gleaner(&["verify", ending]).expect(0);
    }
    let of = |output: &str| {
        let rows = workspace.sql_of(output, "SELECT * EXCEPT (doc_id, input_file) FROM weights");
        rows.iter().map(Value::to_string).collect::<BTreeSet<_>>()
    };
    assert_eq!(of("jsonl"), of("parquet"));
}

#[test]
fn chunks_are_scored_like_documents_of_their_own() {
    const WORDS: usize = 40;
    let mut documents = sample_documents(40);
    documents[7].text = "   ".to_owned();
    documents[9].text = "Größe  zählt — 10 µm\u{a0}or 7 ångström.  ".repeat(12);
    let workspace = workspace(
        &documents,
        "target: health, min_tokens: 10, chunk_words: 40",
    );
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(
        "SELECT doc_id, input_row, chunk_start, chunk_end, n_bytes FROM weights ORDER BY \
         input_row, chunk_start",
    );
    // As documents with the ids of the chunks, cut in another way.
    let mut chunks = Vec::new();
    for document in &documents {
        let words: Vec<&str> = document.text.split_whitespace().collect();
        let mut from = 0;
        let mut parts: Vec<&str> = words
            .chunks(WORDS)
            .map(|words| {
                let place = |word: &str, from| from + document.text[from..].find(word).unwrap();
                let start = place(words[0], from);
                from = words
                    .iter()
                    .fold(start, |from, word| place(word, from) + word.len());
                &document.text[start..from]
            })
            .collect();
        if parts.is_empty() {
            parts.push("");
        }
        chunks.extend(parts.into_iter().enumerate().map(|(idx, part)| Document {
            id: format!("{}#{idx}", document.id),
            text: part.to_owned(),
            source: document.source.clone(),
        }));
    }
    assert!(chunks.len() > 2 * documents.len());
    assert_eq!(rows.len(), chunks.len());
    for (row, chunk) in rows.iter().zip(&chunks) {
        assert_eq!(row["doc_id"], chunk.id);
        let document = &documents[number(row, "input_row") as usize];
        let (start, end) = (number(row, "chunk_start"), number(row, "chunk_end"));
        assert_eq!(&document.text[start as usize..end as usize], chunk.text);
        assert_eq!(number(row, "n_bytes"), chunk.text.len() as u64);
    }
    // The same model gives each chunk the weight that it has as a document.
    workspace.write("chunks.jsonl", jsonl(&chunks));
    let set = "corpus.paths=chunks.jsonl";
    write_job(&workspace, "model: out/weights, min_tokens: 10");
    let _ = workspace
        .run(&["--set", set, "--output", "again"])
        .expect(0);
    assert_eq!(
        bits(&workspace, "out", "log_weight"),
        bits(&workspace, "again", "log_weight")
    );
    let lanes = "SELECT status, count(*) AS n FROM weights GROUP BY status ORDER BY status";
    assert_eq!(workspace.sql(lanes), workspace.sql_of("again", lanes));
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn several_targets_are_one_or_each_its_own() {
    let workspace = workspace(&sample_documents(120), "target: health");
    let run = |output: &str, weights: &str| {
        write_job(&workspace, weights);
        let _ = workspace.run(&["--output", output]).expect(0);
    };
    run("health", "target: health");
    run("peps", "target: peps");
    run("both", "target: both");
    run("pooled", "target: [health, peps]");
    run("separate", "target: [health, peps], targets: separate");
    let weights = |output: &str| bits(&workspace, output, "log_weight");
    assert_ne!(weights("health"), weights("peps"));
    // Counted together is the same as one dataset with the files of both.
    assert_eq!(weights("pooled"), weights("both"));
    for target in ["health", "peps"] {
        let column = format!("log_weight_{target}");
        assert_eq!(bits(&workspace, "separate", &column), weights(target));
        let per_token = format!("log_weight_per_token_{target}");
        let of_one = bits(&workspace, target, "log_weight_per_token");
        assert_eq!(bits(&workspace, "separate", &per_token), of_one);
    }
    // The counts of a model are those of its targets.
    let sums = |output: &str, columns: &str| {
        let sql = format!("SELECT {columns} FROM weights_model");
        workspace.sql_of(output, &sql).remove(0)
    };
    let sum = "sum(target_count) AS target, sum(raw_count) AS raw";
    let (health, peps) = (sums("health", sum), sums("peps", sum));
    let pooled = sums("pooled", sum);
    assert_eq!(
        number(&pooled, "target"),
        number(&health, "target") + number(&peps, "target")
    );
    assert_eq!(
        (&pooled["raw"], &pooled["raw"]),
        (&health["raw"], &peps["raw"])
    );
    let separate = sums(
        "separate",
        "sum(target_count_health) AS health, sum(target_count_peps) AS peps, sum(raw_count) AS raw",
    );
    assert_eq!(separate["health"], health["target"]);
    assert_eq!(separate["peps"], peps["target"]);
    assert_eq!(separate["raw"], health["raw"]);
    // Every token starts a 1-gram, every token but a document's last a 2-gram.
    let tokens = workspace.sql_of(
        "health",
        "SELECT sum(2 * n - 1) AS n FROM (SELECT cardinality(ngram_tokens(text)) AS n FROM corpus)",
    );
    assert_eq!(health["raw"], tokens[0]["n"]);
}

#[test]
fn quality_columns_are_shares_of_tokens() {
    let mut documents = sample_documents(60);
    documents[3].text = "7 8 9 10 the the . , ! the".to_owned();
    documents[4].text = String::new();
    let weights = "target: health, min_tokens: 1, quality: true";
    let workspace = workspace(&documents, weights);
    let _ = workspace.run(&[]).expect(0);
    let stop_words = repository().join("workers/algorithms/src/stop_words.txt");
    let stop_words = fs::read_to_string(stop_words).unwrap();
    let stop_words: BTreeSet<&str> = stop_words.split_whitespace().collect();
    let rows = workspace.sql(
        "SELECT w.doc_id, w.repeating, w.informative, w.numeric, ngram_tokens(c.text) AS tokens \
         FROM weights w JOIN corpus c ON c.id = w.doc_id",
    );
    assert_eq!(rows.len(), documents.len());
    for row in &rows {
        let tokens: Vec<&str> = row["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token.as_str().unwrap())
            .collect();
        if tokens.is_empty() {
            assert_eq!(row["doc_id"], documents[4].id);
            assert!(
                row["repeating"].is_null() && row["numeric"].is_null(),
                "{row}"
            );
            continue;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        tokens
            .iter()
            .for_each(|token| *counts.entry(token).or_default() += 1);
        let count = |is_one: &dyn Fn(&str) -> bool| tokens.iter().filter(|it| is_one(it)).count();
        let informative = count(&|token| {
            token.contains(|c: char| c.is_alphanumeric()) && !stop_words.contains(token)
        });
        let digits = count(&|token| token.len() == 1 && token.as_bytes()[0].is_ascii_digit());
        let shares = [
            ("repeating", *counts.values().max().unwrap()),
            ("informative", informative),
            ("numeric", tokens.len() - digits),
        ];
        for (name, count) in shares {
            let (found, expected) = (
                row[name].as_f64().unwrap(),
                count as f64 / tokens.len() as f64,
            );
            assert!(
                (found - expected).abs() < 1e-6,
                "{name} of {}",
                text(row, "doc_id")
            );
        }
    }
}
