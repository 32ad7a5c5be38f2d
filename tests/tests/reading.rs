//! Corpora come in many formats and types; what is read of a document depends on none of these.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use gleaner_tests::corpus::{Document, health_documents, jsonl, sample_documents, write_columns};
use gleaner_tests::program::{Workspace, number, text};
use serde_json::json;

/// A workspace whose job reads `paths`, without any file of the corpus.
fn workspace(paths: &str) -> Workspace {
    let workspace = Workspace::new();
    workspace.write("target.jsonl", jsonl(&health_documents(20)));
    workspace.write(
        "job.yaml",
        format!(
            "name: reading\noutput: out\ncorpus: {{paths: {paths}}}\ndatasets: {{target: {{paths: \
             [target.jsonl]}}}}\ntask_bytes: 40KiB\nstages:\n  weights: {{kind: \
             importance_weights, target: target, min_tokens: 20}}\n"
        ),
    );
    workspace
}

fn gzip(text: &str) -> Vec<u8> {
    // Two members, as `cat a.gz b.gz` leaves them.
    let middle = text.len() / 2;
    let middle = middle + text[middle..].find('\n').unwrap() + 1;
    let mut bytes = Vec::new();
    for part in [&text[..middle], &text[middle..]] {
        let mut encoder = flate2::write::GzEncoder::new(&mut bytes, flate2::Compression::fast());
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    bytes
}

fn columns(documents: &[Document], text_type: &DataType) -> RecordBatch {
    let column = |of: fn(&Document) -> &str| -> ArrayRef {
        let texts = StringArray::from_iter_values(documents.iter().map(of));
        cast(&texts, text_type).unwrap()
    };
    RecordBatch::try_from_iter([
        ("id", column(|document| &document.id)),
        ("text", column(|document| &document.text)),
        ("source", column(|document| &document.source)),
    ])
    .unwrap()
}

#[test]
fn every_format_and_every_type_of_text_gives_the_same_rows() {
    let documents = sample_documents(150);
    let workspace = workspace("[none]");
    let lines = jsonl(&documents);
    workspace.write("lines.jsonl", &lines);
    workspace.write("gzip.jsonl.gz", gzip(&lines));
    workspace.write(
        "zstd.jsonl.zst",
        zstd::encode_all(lines.as_bytes(), 3).unwrap(),
    );
    let dictionary = |key| DataType::Dictionary(Box::new(key), Box::new(DataType::Utf8));
    let types = [
        ("string", DataType::Utf8),
        ("large_string", DataType::LargeUtf8),
        ("string_view", DataType::Utf8View),
        ("dictionary", dictionary(DataType::Int32)),
        ("small_dictionary", dictionary(DataType::UInt8)),
    ];
    for (name, text_type) in &types {
        let path = workspace.path().join(format!("{name}.parquet"));
        write_columns(&path, &columns(&documents, text_type), 40);
    }
    let files = ["lines.jsonl", "gzip.jsonl.gz", "zstd.jsonl.zst"].map(str::to_owned);
    let parquet = types.iter().map(|(name, _)| format!("{name}.parquet"));
    let mut expected = None;
    for (idx, file) in files.into_iter().chain(parquet).enumerate() {
        let (paths, output) = (format!("corpus.paths=[{file}]"), format!("out-{idx}"));
        let _ = workspace
            .run(&["--set", &paths, "--output", &output])
            .expect(0);
        let rows = workspace.sql_of(
            &output,
            "SELECT * EXCEPT (input_file), input_file IS NOT NULL AS has_file FROM weights ORDER \
             BY input_row",
        );
        for (row, document) in rows.iter().zip(&documents) {
            let found = (&row["doc_id"], &row["source"], number(row, "n_bytes"));
            let n_bytes = document.text.len() as u64;
            let of_document = (&json!(document.id), &json!(document.source), n_bytes);
            assert_eq!(found, of_document, "{file}");
            assert!(row["log_weight"].is_f64(), "{file}");
        }
        match &expected {
            None => expected = Some(rows),
            Some(expected) => assert!(*expected == rows, "{file}"),
        }
    }
    assert_eq!(expected.unwrap().len(), documents.len());
}

#[test]
fn integers_are_ids_and_sources_too() {
    let documents = sample_documents(30);
    let workspace = workspace("[none]");
    let numbers = || Int64Array::from_iter_values(1000..1000 + documents.len() as i64);
    let texts = StringArray::from_iter_values(documents.iter().map(|document| &document.text));
    let batch = RecordBatch::try_from_iter([
        ("id", Arc::new(numbers()) as ArrayRef),
        ("text", Arc::new(texts) as ArrayRef),
        ("source", Arc::new(numbers()) as ArrayRef),
    ]);
    write_columns(&workspace.path().join("a.parquet"), &batch.unwrap(), 7);
    let lines = documents.iter().zip(1000..).map(|(document, number)| {
        let line = json!({"id": number, "text": document.text, "source": number});
        format!("{line}\n")
    });
    workspace.write("a.jsonl", lines.collect::<String>());
    let mut expected = None;
    for (file, output) in [("a.parquet", "a"), ("a.jsonl", "b")] {
        let paths = format!("corpus.paths=[{file}]");
        let _ = workspace
            .run(&["--set", &paths, "--output", output])
            .expect(0);
        let rows = workspace.sql_of(
            output,
            "SELECT doc_id, source, log_weight FROM weights ORDER BY 1",
        );
        for (row, number) in rows.iter().zip(1000..) {
            assert_eq!(row["doc_id"], number.to_string(), "{file}");
            assert_eq!(row["source"], number.to_string(), "{file}");
        }
        match &expected {
            None => expected = Some(rows),
            Some(expected) => assert_eq!(*expected, rows),
        }
    }
}

/// A document with further columns; `None` is null.
type Tagged = (Document, Option<&'static str>, Option<i64>);

fn tagged(n: usize) -> Vec<Tagged> {
    let languages = [Some("en"), Some("de"), None, Some("fr"), Some("en")];
    let documents = sample_documents(n).into_iter().enumerate();
    let tag = |(idx, document)| {
        let year = (idx % 7 != 3).then_some(1980 + idx as i64 % 40);
        (document, languages[idx % languages.len()], year)
    };
    documents.map(tag).collect()
}

#[test]
fn a_predicate_leaves_out_what_sql_leaves_out_and_counts_it() {
    let tagged = tagged(120);
    let workspace = workspace("[a.parquet, b.jsonl]");
    let (first, second) = tagged.split_at(70);
    let documents: Vec<Document> = first
        .iter()
        .map(|(document, ..)| document.clone())
        .collect();
    let of_documents = columns(&documents, &DataType::Utf8);
    let batch = RecordBatch::try_from_iter([
        ("text", Arc::clone(of_documents.column(1))),
        (
            "lang",
            Arc::new(first.iter().map(|it| it.1).collect::<StringArray>()) as ArrayRef,
        ),
        (
            "year",
            Arc::new(first.iter().map(|it| it.2).collect::<Int64Array>()) as ArrayRef,
        ),
    ]);
    write_columns(&workspace.path().join("a.parquet"), &batch.unwrap(), 9);
    let lines = second.iter().map(|(document, lang, year)| {
        format!(
            "{}\n",
            json!({"text": document.text, "lang": lang, "year": year})
        )
    });
    workspace.write("b.jsonl", lines.collect::<String>());

    type Keep = fn(&Tagged) -> bool;
    let predicates: [(&str, Keep); 5] = [
        ("lang = 'en'", |it| it.1 == Some("en")),
        ("year >= 2000 AND lang <> 'de'", |it| {
            it.2.is_some_and(|year| year >= 2000) && it.1.is_some_and(|lang| lang != "de")
        }),
        ("year IS NULL OR lang IS NULL", |it| {
            it.2.is_none() || it.1.is_none()
        }),
        ("lang IN ('fr', 'de') OR year BETWEEN 1985 AND 1990", |it| {
            matches!(it.1, Some("fr" | "de")) || matches!(it.2, Some(1985..=1990))
        }),
        ("octet_length(text) > 900 AND NOT year % 2 = 0", |it| {
            it.0.text.len() > 900 && it.2.is_some_and(|year| year % 2 != 0)
        }),
    ];
    for (predicate, keep) in predicates {
        let set = format!("corpus.where={predicate}");
        let summary = workspace.summary(&["--set", &set]);
        // Rows keep their numbers in the files, whatever is left out before them.
        let expected: BTreeSet<String> = tagged
            .iter()
            .enumerate()
            .filter(|(_, it)| keep(it))
            .map(|(row, _)| match row {
                0..70 => format!("a.parquet#{row}"),
                _ => format!("b.jsonl#{}", row - 70),
            })
            .collect();
        assert!((5..100).contains(&expected.len()), "{predicate}");
        let rows = workspace.sql("SELECT doc_id, n_bytes, input_file, input_row FROM weights");
        let found: BTreeSet<String> = rows.iter().map(|row| text(row, "doc_id")).collect();
        assert_eq!(found, expected, "{predicate}");
        for row in &rows {
            let place = format!("{}#{}", text(row, "input_file"), row["input_row"]);
            assert_eq!(row["doc_id"], place);
            let idx = number(row, "input_row") as usize;
            let idx = if row["input_file"] == "b.jsonl" {
                idx + 70
            } else {
                idx
            };
            assert_eq!(number(row, "n_bytes"), tagged[idx].0.text.len() as u64);
        }
        // All rows of the corpus are in SQL, also those that were left out.
        let counted = workspace.sql(&format!(
            "SELECT count(*) AS n FROM corpus c WHERE {predicate} UNION ALL SELECT count(*) FROM \
             corpus c JOIN weights w ON c.input_file = w.input_file AND c.input_row = w.input_row \
             WHERE {predicate}"
        ));
        assert!(
            counted
                .iter()
                .all(|row| number(row, "n") == expected.len() as u64)
        );
        let lanes = &summary["stages"][0]["lanes"];
        assert_eq!(
            number(lanes, "rows_in"),
            expected.len() as u64,
            "{predicate}"
        );
        assert_eq!(
            number(lanes, "ok") + number(lanes, "ineligible"),
            expected.len() as u64
        );
        assert_eq!(
            number(lanes, "excluded"),
            (tagged.len() - expected.len()) as u64
        );
        let sums = workspace
            .sql("SELECT sum(rows_in) AS rows_in, sum(excluded) AS excluded FROM gleaner.tasks");
        assert_eq!(sums[0]["rows_in"], lanes["rows_in"]);
        assert_eq!(sums[0]["excluded"], lanes["excluded"]);
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn missing_ids_are_places() {
    let documents = sample_documents(60);
    let workspace = workspace("[in/part.parquet, in/lines.jsonl]");
    let of_documents = columns(&documents, &DataType::Utf8);
    let id = |row: usize| (!row.is_multiple_of(3)).then(|| documents[row].id.clone());
    let ids: StringArray = (0..40).map(id).collect();
    let texts = of_documents.column(1).slice(0, 40);
    let batch = RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("text", texts)]);
    write_columns(
        &workspace.path().join("in/part.parquet"),
        &batch.unwrap(),
        6,
    );
    let lines = (40..60).map(|row| match id(row) {
        Some(id) => format!("{}\n", json!({"id": id, "text": documents[row].text})),
        // A blank line is no row.
        None => format!("\n{}\n", json!({"text": documents[row].text})),
    });
    workspace.write("in/lines.jsonl", lines.collect::<String>());
    let _ = workspace.run(&["--set", "task_bytes=5KiB"]).expect(0);
    let place = |row: usize| match row {
        0..40 => format!("in/part.parquet#{row}"),
        _ => format!("in/lines.jsonl#{}", row - 40),
    };
    let expected: BTreeMap<String, u64> = (0..60)
        .map(|row| {
            (
                id(row).unwrap_or_else(|| place(row)),
                documents[row].text.len() as u64,
            )
        })
        .collect();
    let rows = workspace.sql("SELECT doc_id, n_bytes FROM weights");
    let found = rows
        .iter()
        .map(|row| (text(row, "doc_id"), number(row, "n_bytes")));
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn a_file_of_lines_may_lack_ids_and_sources() {
    let documents = sample_documents(20);
    let workspace = workspace("['in/*']");
    let (with, without) = documents.split_at(10);
    workspace.write("in/with.jsonl", jsonl(with));
    let lines = without
        .iter()
        .map(|it| format!("{}\n", json!({"text": it.text})));
    workspace.write("in/without.jsonl", lines.collect::<String>());
    let job = fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
    let chosen = "  chosen: {kind: select, by: weights.log_weight, method: bottom_k, fraction: 1, \
                  materialize: true}\n";
    workspace.write("job.yaml", job + chosen);
    let _ = workspace.run(&[]).expect(0);
    let of_with = with.iter().map(|it| (it.id.clone(), json!(it.source)));
    let of_without = (0..10).map(|row| (format!("in/without.jsonl#{row}"), json!(null)));
    let expected: BTreeMap<_, _> = of_with.chain(of_without).collect();
    for table in ["weights", "chosen"] {
        let rows = workspace.sql(&format!("SELECT doc_id, source FROM {table}"));
        let found = rows
            .iter()
            .map(|row| (text(row, "doc_id"), row["source"].clone()));
        let found: BTreeMap<_, _> = found.collect();
        assert!(
            found
                .iter()
                .all(|(id, source)| expected.get(id) == Some(source)),
            "{found:?}"
        );
        assert!(table == "chosen" || found.len() == expected.len());
    }
    // A Parquet file says what it has: a column that is missing there is a mistake.
    let texts = columns(with, &DataType::Utf8).project(&[1]).unwrap();
    write_columns(&workspace.path().join("in/texts.parquet"), &texts, 10);
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("the id column \"id\" is missing");
    // So is a column that no file has.
    fs::remove_file(workspace.path().join("in/texts.parquet")).unwrap();
    let _ = workspace
        .run(&["--set", "corpus.columns.source=origin"])
        .expect(2)
        .says("the source column \"origin\" is missing");
}
