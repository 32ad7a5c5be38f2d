//! Documents that nothing can be said about, or more than was asked: each row comes out with its
//! reason, and where a method has no answer, that is an error and never a number.

use gleaner_tests::corpus::{write_columns, write_parquet};
use gleaner_tests::plain_job::{
    self, JOB, batch, documents, lanes, part, statuses, texts, workspace,
};
use gleaner_tests::program::{Workspace, number};
use serde_json::{Value, json};

#[test]
fn a_null_text_is_a_rejected_row_with_its_reason() {
    let workspace = workspace(1);
    let columns = [
        ("id", texts(&[Some("a"), Some("b"), None])),
        ("text", texts(&[None, Some("gold iron"), None])),
        ("source", texts(&[None; 3])),
    ];
    write_columns(&part(&workspace, 1), &batch(columns), 4);
    let lines = "{\"id\": \"c\", \"text\": null, \"source\": \"x\"}\n{\"id\": \"d\"}\nno json\n[1]\n\
                 {\"id\": \"e\", \"text\": \"king\"}\n{\"id\": \"f\", \"text\": 7}\n";
    workspace.write("corpus/part-02.jsonl", lines);
    workspace.write("job.yaml", JOB.replace("*.parquet", "*"));
    let _ = workspace
        .run(&[])
        .expect(3)
        .says("stage weights: 7 of 21 rows were rejected, the job allows 1%")
        .says("the column `reason`")
        .says("mend the corpus or the prompt, exclude these rows (`corpus: {where: ...}`), or raise `allow:");
    let summary = workspace.summary(&["--set", "allow.rejected_rows=7"]);
    let lanes = lanes(&summary, 0);
    assert_eq!(
        (&lanes["rows_in"], &lanes["ok"], &lanes["rejected"]),
        (&json!(21), &json!(14), &json!(7))
    );
    assert_eq!(
        statuses(&workspace),
        json!({"n": 21, "ok": 14, "rejected": 7, "nan": 0})
    );
    let rows = workspace.sql(
        "SELECT doc_id, reason, log_weight, eligible FROM weights WHERE status = 'rejected' \
         ORDER BY input_file, input_row",
    );
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["doc_id"].as_str().unwrap(),
                row["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let null = "the text is null";
    assert_eq!(
        found[..4],
        [
            ("a", null),
            ("corpus/part-01.parquet#2", null),
            ("c", null),
            ("d", null),
        ]
    );
    assert!(
        found[4].1.starts_with("the line is not JSON: "),
        "{found:?}"
    );
    assert_eq!(found[5].1, "the line is not a JSON object");
    assert_eq!(found[6], ("f", "the value of \"text\" is not a text"));
    assert!(
        rows.iter()
            .all(|row| row["log_weight"].is_null() && row["eligible"] == false)
    );
    let chosen = workspace.sql("SELECT count(*) AS n FROM chosen WHERE doc_id IN ('a', 'c', 'd')");
    assert_eq!(chosen[0]["n"], 0);
}

/// Targets without a token are found before anything runs (`bad_datasets`).
#[test]
fn a_corpus_with_nothing_to_learn_from_is_an_error() {
    let workspace = workspace(1);
    let columns = [("id", texts(&[Some("a")])), ("text", texts(&[Some(" ")]))];
    write_columns(&part(&workspace, 0), &batch(columns), 4);
    // A pseudo-count would make a number of it, of no meaning.
    for more in ["0.0", "0.5"] {
        let set = format!("stages.weights.target_pseudo_count={more}");
        let _ = workspace
            .run(&["--set", &set])
            .expect(2)
            .says("the corpus has no usable token; are `paths`");
    }
    assert!(!workspace.path().join("out/manifest.json").exists());
}

#[test]
fn ids_that_occur_twice_are_told_and_kept() {
    let workspace = workspace(2);
    let mut documents = documents(24);
    for (idx, id) in [(3, "twin"), (5, "twin"), (9, "triplet")] {
        documents[idx].id = id.to_owned();
    }
    // In another file, with the text of another row.
    for (idx, id) in [(17, "triplet"), (20, "triplet")] {
        documents[idx].id = id.to_owned();
        documents[idx].text = documents[9].text.clone();
    }
    let select = |order: &[usize]| {
        for (part_idx, idx) in order.iter().enumerate() {
            write_parquet(
                &part(&workspace, part_idx),
                &documents[12 * idx..12 * idx + 12],
                4,
            );
        }
        let summary = workspace.summary(&["--set", "stages.chosen.documents=12"]);
        let notes = summary["stages"][0]["notes"].to_string();
        assert!(
            notes.contains(
                "2 ids occur more than once, in 5 rows, for example \\\"triplet\\\"; all rows are \
                 kept; tell them apart by input_file and input_row, or give the corpus other ids"
            ),
            "{summary}"
        );
        assert_eq!(
            statuses(&workspace),
            json!({"n": 24, "ok": 24, "rejected": 0, "nan": 0})
        );
        workspace.sql("SELECT doc_id, score FROM chosen ORDER BY score DESC, doc_id")
    };
    let chosen = select(&[0, 1]);
    assert_eq!(chosen.len(), 12);
    // Which file a row is in says nothing about which ids are chosen.
    assert_eq!(select(&[1, 0]), chosen);
    let unique = plain_job::workspace(1);
    assert_eq!(unique.summary(&[])["stages"][0]["notes"], json!([]));
}

#[test]
fn a_budget_above_the_corpus_takes_all_and_says_so() {
    let workspace = workspace(1);
    let budgets = [
        ("top_k", "documents: 1000000"),
        ("resample", "tokens: 1000000"),
        ("bottom_k", "bytes: 1GiB"),
    ];
    for (method, budget) in budgets {
        let select = format!("method: {method}, {budget}");
        let job = JOB.replace("method: top_k, documents: 10", &select);
        workspace.write("job.yaml", job);
        let summary = workspace.summary(&[]);
        let chosen = lanes(&summary, 1);
        assert_eq!(
            (&chosen["rows_in"], &chosen["ok"]),
            (&json!(12), &json!(12))
        );
        let notes = summary["stages"][1]["notes"].to_string();
        let (unit, _) = budget.split_once(':').unwrap();
        assert!(
            notes.contains("everything is taken") && notes.contains(unit),
            "{notes}"
        );
    }
}

#[test]
fn lines_that_where_cannot_look_at_are_rejected_and_their_file_goes_on() {
    let workspace = Workspace::new();
    let text = "the patients were given aspirin daily ".repeat(20);
    let good = |idx: usize| {
        let lang = if idx.is_multiple_of(3) { "de" } else { "en" };
        format!(
            "{}\n",
            json!({ "text": format!("{text}{idx}"), "lang": lang })
        )
    };
    let mut lines: Vec<u8> = (0..30).flat_map(|idx| good(idx).into_bytes()).collect();
    lines.extend_from_slice(b"5\n{\"text\":\"x\",\"lang\":\"en\xff\"}\n{\"text\":\"\\ud800\"}\n");
    workspace.write("corpus.jsonl", &lines);
    workspace.write("target.jsonl", good(1));
    workspace.write(
        "job.yaml",
        "name: lines\noutput: out\ncorpus: {paths: [corpus.jsonl], where: \"lang = 'en'\"}\n\
         datasets: {target: {paths: [target.jsonl]}}\nallow: {rejected_rows: 50%}\n\
         stages: {weights: {kind: importance_weights, target: target}}\n",
    );
    let summary = workspace.summary(&[]);
    let lanes = &summary["stages"][0]["lanes"];
    assert_eq!(lanes["ok"], 20);
    assert_eq!(lanes["rejected"], 3);
    assert_eq!(lanes["excluded"], 10);
    // To open a pipe would wait for ever.
    let pipe = workspace.path().join("pipe.jsonl");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        for paths in [
            "corpus.paths=[pip*.jsonl]",
            "corpus.paths=[pipe.jsonl]",
            "datasets.target.paths=[pipe.jsonl]",
        ] {
            let _ = workspace.run(&["--set", paths]).expect(2).says(
                "\"pipe.jsonl\" is not a path or URI that can be read: it is not a regular file",
            );
        }
    }
    // What is too large depends on the memory, so with another budget it is decided anew.
    let again = workspace.summary(&["--set", "memory=1GiB"]);
    assert_eq!(again["stages"][0]["reuse"]["n_reused"], 0);
}

/// Neither the first line nor a later one decides alone what type a column has.
#[test]
fn lines_of_other_types_do_not_end_their_file() {
    let workspace = Workspace::new();
    let text = "the patients were given aspirin daily ".repeat(20);
    let line = |text: Value, lang: Value| format!("{}\n", json!({ "text": text, "lang": lang }));
    let good = |idx: usize| line(json!(format!("{text}{idx}")), json!("en"));
    let mut lines = line(json!(format!("{text} odd")), json!({ "code": "en" }));
    lines.extend((0..10).map(good));
    lines.push_str(&line(json!({ "en": text }), json!("en")));
    // Beyond the lines that columns are inferred from.
    lines.extend((10..1200).map(good));
    lines.push_str(&line(
        json!(format!("{text} late")),
        json!({ "code": "en" }),
    ));
    workspace.write("corpus.jsonl", &lines);
    workspace.write("target.jsonl", good(1));
    workspace.write(
        "job.yaml",
        "name: lines\noutput: out\ncorpus: {paths: [corpus.jsonl]}\n\
         datasets: {target: {paths: [target.jsonl]}}\n\
         stages:\n  weights: {kind: importance_weights, target: target}\n  \
         chosen: {kind: select, by: weights.log_weight, method: top_k, documents: 2000, \
         materialize: true}\n",
    );
    let summary = workspace.summary(&[]);
    assert_eq!(lanes(&summary, 0)["ok"], 1202);
    assert_eq!(lanes(&summary, 0)["rejected"], 1);
    let rejected = workspace.sql("SELECT input_row, reason FROM weights WHERE status = 'rejected'");
    assert_eq!(
        rejected,
        [json!({"input_row": 11, "reason": "the value of \"text\" is not a text"})]
    );
    let chosen = "SELECT count(*) AS n, count(lang) AS n_lang FROM chosen";
    assert_eq!(workspace.sql(chosen), [json!({"n": 1202, "n_lang": 1200})]);
    let corpus = "SELECT count(*) AS n, count(lang) AS n_lang, count(text) AS n_text FROM corpus";
    assert_eq!(
        workspace.sql(corpus),
        [json!({"n": 1203, "n_lang": 1201, "n_text": 1202})]
    );
    // Where the column is needed, its lines are rejected, each with its reason.
    let _ = workspace.summary(&["--set", "corpus.where=lang = 'en'"]);
    let rejected = workspace
        .sql("SELECT input_row, reason FROM weights WHERE status = 'rejected' ORDER BY input_row");
    let rows: Vec<_> = rejected
        .iter()
        .map(|row| number(row, "input_row"))
        .collect();
    assert_eq!(rows, [0, 11, 1202]);
    assert!(
        rejected.iter().all(|row| !row["reason"].is_null()),
        "{rejected:?}"
    );
}
