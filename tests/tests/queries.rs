//! What can be asked of an output: SQL, explanations, exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::process::Command;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use gleaner_tests::corpus::Document;
use gleaner_tests::program::{Workspace, files, number, program, text};
use gleaner_tests::small::{self, CHOSEN, FILES, NULL, SHORT};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

fn finished() -> (Workspace, Vec<Document>) {
    let (workspace, documents) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    (workspace, documents)
}

/// Standard output of `gleaner sql out`, byte by byte.
fn sql_as(workspace: &Workspace, query: &str, format: &str) -> Vec<u8> {
    let arguments = ["sql", "out", query, "--format", format];
    let mut command = Command::new(program());
    let output = command
        .args(arguments)
        .current_dir(workspace.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn read_parquet(bytes: Vec<u8>) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column = cast(batch.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
    let column = column.as_string::<i32>();
    column.iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn rows_are_the_same_in_all_formats() {
    let (workspace, documents) = finished();
    let query = "SELECT id, source, length(text) AS n, nullif(source, 'fiction') AS other FROM \
                 corpus WHERE text IS NOT NULL ORDER BY id";
    let mut expected: Vec<(&str, &str, usize, Option<&str>)> = documents
        .iter()
        .map(|document| {
            let other = Some(document.source.as_str()).filter(|it| *it != "fiction");
            let n_chars = document.text.chars().count();
            (
                document.id.as_str(),
                document.source.as_str(),
                n_chars,
                other,
            )
        })
        .collect();
    expected.sort_unstable();
    assert!(expected.iter().any(|row| row.3.is_none()));

    let rows = workspace.sql(query);
    let as_json = |row: &(&str, &str, usize, Option<&str>)| json!({"id": row.0, "source": row.1, "n": row.2, "other": row.3});
    assert_eq!(rows, expected.iter().map(as_json).collect::<Vec<_>>());

    let field = |text: &str| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let csv = String::from_utf8(sql_as(&workspace, query, "csv")).unwrap();
    let mut lines = vec!["id,source,n,other\r\n".to_owned()];
    lines.extend(expected.iter().map(|row| {
        let other = row.3.map(field).unwrap_or_default();
        format!("{},{},{},{other}\r\n", field(row.0), field(row.1), row.2)
    }));
    assert_eq!(csv, lines.concat());

    let batch = read_parquet(sql_as(&workspace, query, "parquet"));
    assert_eq!(batch.num_rows(), expected.len());
    let others: Vec<_> = expected
        .iter()
        .map(|row| row.3.map(str::to_owned))
        .collect();
    assert_eq!(texts(&batch, "other"), others);
    let lengths = cast(batch.column_by_name("n").unwrap(), &DataType::Int64).unwrap();
    let lengths = lengths.as_primitive::<Int64Type>().values().iter();
    assert!(
        lengths.eq(expected
            .iter()
            .map(|row| row.2 as i64)
            .collect::<Vec<_>>()
            .iter())
    );

    let table = String::from_utf8(sql_as(&workspace, query, "table")).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines.len(),
        expected.len() + 2,
        "a header, a rule, a line for each row"
    );
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["id", "source", "n", "other"]
    );
    for (line, row) in lines[2..].iter().zip(&expected) {
        assert!(
            line.starts_with(row.0) && line.contains(&row.2.to_string()),
            "{line}"
        );
    }
    // Nothing that SQL says changes an output; what is wrong is said.
    let wrong = [
        ("SELEC 1", "SQL"),
        ("SELECT * FROM weihgts", "did you mean weights"),
        ("SELECT log_wieght FROM weights", "log_weight"),
        ("DROP TABLE weights", "only queries"),
        (
            "SELECT importance_weight('x', 'chosen')",
            "stages with a model: weights",
        ),
    ];
    for (query, expected) in wrong {
        let _ = workspace
            .gleaner(&["sql", "out", query])
            .expect(2)
            .says(expected);
    }
}

#[test]
fn functions_score_and_split_any_text() {
    let (workspace, documents) = finished();
    let query = "SELECT w.doc_id, w.log_weight, importance_weight(c.text, 'weights') AS again, \
                 w.n_tokens, cardinality(ngram_tokens(c.text)) AS n, c.source, w.source AS \
                 of_weights FROM weights w JOIN corpus c ON c.id = w.doc_id";
    let batch = read_parquet(sql_as(&workspace, query, "parquet"));
    assert_eq!(batch.num_rows(), documents.len() + 1);
    let bits = |name: &str| -> Vec<Option<u64>> {
        let column = batch
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Float64Type>();
        column
            .iter()
            .map(|weight| weight.map(f64::to_bits))
            .collect()
    };
    assert_eq!(bits("log_weight"), bits("again"));
    assert_eq!(bits("again").iter().flatten().count(), documents.len());
    assert_eq!(texts(&batch, "source"), texts(&batch, "of_weights"));
    let n_tokens = texts(&batch, "n_tokens")
        .into_iter()
        .zip(texts(&batch, "n"));
    let is_same = |(stored, counted): (Option<String>, Option<String>)| {
        stored == counted || (stored.as_deref(), counted) == (Some("0"), None)
    };
    assert!(n_tokens.into_iter().all(is_same));
    let rows = workspace.sql(
        "SELECT ngram_tokens('Hello, World''s 2nd\tÉTÉ…') AS tokens, ngram_tokens(NULL) AS nothing, \
         importance_weight(NULL, 'weights') AS null_weight, importance_weight('', 'weights') AS \
         empty",
    );
    let tokens = json!(["hello", ",", "world", "'", "s", "2nd", "été", "…"]);
    let expected = json!({"tokens": tokens, "nothing": null, "null_weight": null, "empty": 0.0});
    assert_eq!(rows, [expected]);

    // With several models, one has to be named.
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let job = job.replace("output: out", "output: two").replace(
        "target: target,",
        "target: [target, other], targets: separate, proportions: {target: 50%, other: 50%},",
    );
    let job = job.replace("stages:", "  other: {paths: [corpus/rest.jsonl]}\nstages:");
    // One text of the second target is null.
    let job = job
        .replace("task_bytes: 20KiB\n  other", "  other")
        .replace("name: small", "name: two\nallow: {rejected_rows: 10%}");
    workspace.write("two.yaml", job);
    let _ = workspace
        .gleaner(&["run", "two.yaml", "--set", "task_bytes=20KiB"])
        .expect(0);
    let query = "SELECT count(*) AS n FROM weights w JOIN corpus c ON c.id = w.doc_id WHERE \
                 w.log_weight_other = importance_weight(c.text, 'weights', 'other') AND \
                 w.log_weight_target = importance_weight(c.text, 'weights', 'target')";
    assert_eq!(
        workspace.sql_of("two", query),
        [json!({"n": documents.len()})]
    );
    let _ = workspace
        .gleaner(&["sql", "two", "SELECT importance_weight('x', 'weights')"])
        .expect(2)
        .says("other, target");
}

#[test]
fn system_tables_describe_what_is_there() {
    let (workspace, documents) = finished();
    let out = workspace.path().join("out");
    let listed = workspace.sql("SELECT * FROM gleaner.files");
    let tables = [
        "weights",
        "weights_model",
        "weights_ngrams",
        "chosen",
        "counts",
    ];
    for table in tables {
        let of_table = listed.iter().filter(|row| row["table_name"] == table);
        let found: BTreeSet<String> = of_table.map(|row| text(row, "path")).collect();
        let there = workspace.contents(&format!("out/{table}"));
        let there: BTreeSet<String> = there.keys().map(|name| format!("{table}/{name}")).collect();
        assert_eq!(found, there);
    }
    for row in &listed {
        let bytes = fs::read(out.join(text(row, "path"))).unwrap();
        assert_eq!(number(row, "bytes"), bytes.len() as u64);
        let checksum = blake3::hash(&bytes).to_hex().to_string();
        assert!(checksum.starts_with(&text(row, "checksum")), "{row}");
        assert_eq!(number(row, "rows"), read_parquet(bytes).num_rows() as u64);
    }
    let n_rows = documents.len() as u64 + 1;
    let stages = workspace.sql("SELECT * FROM gleaner.stages ORDER BY position");
    let names: Vec<_> = stages
        .iter()
        .map(|row| (text(row, "stage"), text(row, "kind")))
        .collect();
    let expected = [
        ("weights", "importance_weights"),
        ("chosen", "select"),
        ("counts", "query"),
    ];
    assert_eq!(
        names,
        expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()))
    );
    assert_eq!(
        (number(&stages[0], "rows"), number(&stages[0], "rejected")),
        (n_rows, 1)
    );
    let params: Value = serde_json::from_str(&text(&stages[0], "params")).unwrap();
    assert_eq!(
        (&params["min_tokens"], &params["buckets"]),
        (&json!(20), &json!(10000))
    );
    assert_eq!(number(&stages[1], "ok"), CHOSEN as u64);
    assert_eq!(number(&stages[1], "n_files"), FILES as u64);
    let tasks = workspace.sql(
        "SELECT stage, count(*) AS n, sum(rows_in) AS rows_in, sum(ok) + sum(ineligible) + \
         sum(rejected) + sum(failed) AS out, count(DISTINCT task) AS n_distinct FROM gleaner.tasks \
         WHERE stage <> 'counts' GROUP BY stage ORDER BY stage",
    );
    for (row, stage) in tasks.iter().zip(["chosen", "weights"]) {
        assert_eq!(row["stage"], stage);
        assert_eq!(
            (number(row, "n"), number(row, "n_distinct")),
            (FILES as u64, FILES as u64)
        );
        assert_eq!(row["rows_in"], row["out"]);
    }
    assert_eq!(number(&tasks[1], "rows_in"), n_rows);
    // What the worker told of its attempts.
    let told = workspace.sql(
        "SELECT count(*) AS n, count(worker) AS n_told, sum(attempts) AS attempts, min(seconds) >= 0 \
         AS is_timed, min(bytes_in) AS bytes_in, min(worker_peak_memory_bytes) AS memory FROM \
         gleaner.tasks WHERE stage <> 'counts'",
    );
    let told = &told[0];
    let n_tasks = 2 * FILES as u64;
    assert_eq!(
        (number(told, "n"), number(told, "n_told")),
        (n_tasks, n_tasks)
    );
    assert!(number(told, "attempts") >= n_tasks, "{told}");
    assert_eq!(told["is_timed"], true);
    assert!(
        number(told, "bytes_in") > 0 && number(told, "memory") > 1 << 20,
        "{told}"
    );
}

#[test]
fn what_workers_recorded_of_attempts_is_shown_until_it_is_lost() {
    let (workspace, _) = finished();
    let query = "SELECT stage, attempts, worker, started_at, seconds, bytes_in, \
                 worker_peak_memory_bytes AS peak FROM gleaner.tasks WHERE stage <> 'counts'";
    let tasks = workspace.sql(query);
    assert_eq!(tasks.len(), 2 * FILES);
    let workers: BTreeSet<String> = tasks.iter().map(|row| text(row, "worker")).collect();
    assert_eq!(workers.len(), 1, "{workers:?}");
    for row in &tasks {
        assert_eq!(number(row, "attempts"), 1);
        assert!(row["seconds"].as_f64().unwrap() > 0.0, "{row}");
        assert!(text(row, "started_at").ends_with('Z'), "{row}");
        assert!(number(row, "bytes_in") > 0, "{row}");
        #[cfg(target_os = "linux")]
        assert!(number(row, "peak") > 1 << 20, "{row}");
    }
    // A run that reuses everything changes nothing; the records of the first are still there.
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(workspace.sql(query).len(), tasks.len());
    assert_eq!(number(&workspace.sql(query)[0], "attempts"), 1);
    // They are no part of the version: what is lost, or cannot be read, is null.
    let runs = workspace.path().join("out/_gleaner/runs");
    let is_record = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "jsonl");
    let records: Vec<_> = files(&runs).into_iter().filter(is_record).collect();
    assert!(!records.is_empty());
    for path in &records {
        fs::write(path, b"\xff{not JSON\n{\"format\": 2}\n").unwrap();
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    for row in workspace.sql(query) {
        for column in ["attempts", "worker", "seconds", "bytes_in", "peak"] {
            assert!(row[column].is_null(), "{row}");
        }
    }
}

#[test]
fn a_document_is_explained_stage_by_stage() {
    let (workspace, documents) = finished();
    let ranked = workspace.sql(
        "SELECT doc_id, log_weight FROM weights WHERE eligible ORDER BY log_weight DESC, doc_id",
    );
    let (first, last) = (text(&ranked[0], "doc_id"), text(&ranked[CHOSEN], "doc_id"));
    let explain = |id: &str| {
        let ended = workspace
            .gleaner(&["explain", "out", id, "--json"])
            .expect(0);
        ended.events().remove(0)
    };
    let lanes = |explanation: &Value| -> BTreeMap<String, String> {
        let stages = explanation["stages"].as_array().unwrap().iter();
        stages
            .map(|stage| (text(stage, "stage"), text(stage, "lane")))
            .collect()
    };
    let expected = |weights: &str, chosen: &str| {
        let lanes = [("weights", weights), ("chosen", chosen)];
        lanes
            .map(|(stage, lane)| (stage.to_owned(), lane.to_owned()))
            .into()
    };
    let chosen = explain(&first);
    assert_eq!(lanes(&chosen), expected("ok", "chosen"));
    assert_eq!(
        chosen["stages"][0]["rows"][0]["log_weight"],
        ranked[0]["log_weight"]
    );
    let document = documents
        .iter()
        .position(|document| document.id == first)
        .unwrap();
    let place = match document / small::PER_FILE {
        file if file + 1 < FILES => format!("corpus/part-{file}.parquet"),
        _ => "corpus/rest.jsonl".to_owned(),
    };
    let row = document % small::PER_FILE;
    assert_eq!(chosen["place"], json!([place, row]));
    // The first that was not chosen is told by how much.
    let not_chosen = explain(&last);
    assert_eq!(lanes(&not_chosen), expected("ok", "not chosen"));
    let reason = text(&not_chosen["stages"][1], "reason");
    for row in [&ranked[CHOSEN], &ranked[CHOSEN - 1]] {
        let key = format!("{:.6}", row["log_weight"].as_f64().unwrap());
        assert!(reason.contains(&key), "{key}: {reason}");
    }
    let rejected = explain(NULL);
    assert_eq!(lanes(&rejected), expected("rejected", "not chosen"));
    assert!(text(&rejected["stages"][0], "reason").contains("null"));
    let short = explain(SHORT);
    assert_eq!(lanes(&short), expected("ineligible", "not chosen"));
    assert!(text(&short["stages"][0], "reason").contains("20 tokens"));
    let human = workspace
        .gleaner(&["explain", "out", &last])
        .expect(0)
        .stdout;
    assert!(
        human.contains("not chosen") && human.contains(&reason),
        "{human}"
    );
    let _ = workspace
        .gleaner(&["explain", "out", "nobody"])
        .expect(2)
        .says("nobody");
}

#[test]
fn exports_have_every_row_and_column() {
    let (workspace, _) = finished();
    let expected: Vec<Value> = workspace.sql("SELECT * FROM chosen ORDER BY doc_id");
    assert_eq!(expected.len(), CHOSEN);
    let by_id = |mut rows: Vec<Value>| {
        rows.sort_by_key(|row| text(row, "doc_id"));
        rows
    };
    let path = |name: &str| workspace.path().join("exports").join(name);
    fs::create_dir(workspace.path().join("exports")).unwrap();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"] {
        let format = if name.ends_with("parquet") {
            "parquet"
        } else {
            "jsonl"
        };
        let to = format!("exports/{name}");
        let arguments = [
            "export", "out", "chosen", "--format", format, "--to", &to, "--json",
        ];
        let report = workspace.gleaner(&arguments).expect(0).events().remove(0);
        assert_eq!(number(&report, "rows"), CHOSEN as u64, "{name}");
        assert_eq!(
            number(&report, "bytes"),
            path(name).metadata().unwrap().len(),
            "{name}"
        );
        let mut file = File::open(path(name)).unwrap();
        if format == "parquet" {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            let batch = read_parquet(bytes);
            let fields = batch.schema();
            let names: BTreeSet<&str> = fields
                .fields()
                .iter()
                .map(|it| it.name().as_str())
                .collect();
            let keys = expected[0].as_object().unwrap().keys().map(String::as_str);
            assert_eq!(names, keys.collect());
            for name in ["doc_id", "text", "input_file"] {
                let mut found: Vec<_> = texts(&batch, name).into_iter().flatten().collect();
                let mut expected: Vec<_> = expected.iter().map(|row| text(row, name)).collect();
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected);
            }
            continue;
        }
        let mut lines = String::new();
        let _ = match name {
            "a.jsonl.gz" => flate2::read::GzDecoder::new(file)
                .read_to_string(&mut lines)
                .unwrap(),
            "a.jsonl.zst" => zstd::Decoder::new(file)
                .unwrap()
                .read_to_string(&mut lines)
                .unwrap(),
            _ => file.read_to_string(&mut lines).unwrap(),
        };
        let rows = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        assert!(by_id(rows.collect()) == expected, "{name}");
    }
    // Trainers read it again: an export is a corpus.
    let job = "name: again\noutput: again\ncorpus: {paths: [exports/a.jsonl.zst], columns: {id: \
               doc_id}}\nstages:\n  weights: {kind: importance_weights, model: out/weights}\n";
    workspace.write("again.yaml", job);
    let _ = workspace.gleaner(&["run", "again.yaml"]).expect(0);
    let scores = |output, column| {
        let rows = workspace.sql_of(
            output,
            &format!(
                "SELECT doc_id, {column} AS w FROM {}",
                if output == "out" { "chosen" } else { "weights" }
            ),
        );
        rows.iter()
            .map(|row| (text(row, "doc_id"), row["w"].to_string()))
            .collect()
    };
    let found: BTreeMap<String, String> = scores("again", "log_weight");
    assert_eq!(found, scores("out", "score"));
    let wrong: [(&[&str], &str); 3] = [
        (&["nothing", "--format", "jsonl", "--to", "x"], "chosen"),
        (
            &["chosen", "--format", "parquet", "--to", "x.gz"],
            "x.parquet",
        ),
        (
            &["chosen", "--format", "jsonl", "--to", "folder/"],
            "x.jsonl",
        ),
    ];
    for (arguments, expected) in wrong {
        let arguments = [&["export", "out"], arguments].concat();
        let _ = workspace.gleaner(&arguments).expect(2).says(expected);
    }
}
