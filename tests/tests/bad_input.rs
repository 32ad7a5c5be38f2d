//! Files that are missing, broken, of the wrong shape or changing: each ends with a message that
//! names the place and the remedy, and whatever else there is comes out.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use gleaner_tests::corpus::{Document, write_columns};
use gleaner_tests::plain_job::{
    JOB, PER_FILE, batch, documents, lanes, part, statuses, texts, workspace, write_part,
};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use serde_json::json;

/// Overwrites the data of a column in a row group, and leaves the footer as it is.
fn corrupt(path: &Path, row_group: usize, column: usize) {
    let mut bytes = fs::read(path).unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
    let (start, length) = reader
        .metadata()
        .row_group(row_group)
        .column(column)
        .byte_range();
    bytes[start as usize..(start + length) as usize].fill(0xff);
    fs::write(path, bytes).unwrap();
}

#[test]
fn no_file_matches() {
    let workspace = workspace(1);
    let looked = workspace.path().canonicalize().unwrap();
    workspace.write("job.yaml", JOB.replace("corpus/*", "corpse/*"));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("job.yaml:3:17: no file matches corpse/*.parquet")
        .says(&format!("looked in {}/corpse", looked.display()))
        .says("help: relative paths start from the folder of the job file");
    workspace.write("job.yaml", JOB.replace("[target.jsonl]", "[goal.jsonl]"));
    for command in ["run", "plan", "validate"] {
        let _ = workspace
            .gleaner(&[command, "job.yaml"])
            .expect(2)
            .says("job.yaml:4:28: no file matches goal.jsonl");
    }
    workspace.write("corpus/notes.txt", "x");
    workspace.write("job.yaml", JOB.replace("corpus/*.parquet", "corpus/*"));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("corpus/notes.txt has no known ending: expected .parquet, .jsonl");
}

/// Nobody is asked: a web server could not tell.
#[test]
fn patterns_and_folders_over_http_are_refused_with_what_to_do() {
    let workspace = workspace(1);
    for (path, what) in [
        ("http://127.0.0.1:9/c/*.parquet", "is a pattern"),
        ("https://127.0.0.1:9/c/part-{0,1}.parquet", "is a pattern"),
        ("https://127.0.0.1:9/c/", "is a folder"),
    ] {
        let job = JOB.replace("[target.jsonl]", &format!("['{path}']"));
        workspace.write("job.yaml", job);
        for command in ["run", "plan", "validate"] {
            let _ = workspace
                .gleaner(&[command, "job.yaml"])
                .expect(2)
                .says(&format!(
                    "job.yaml:4:28: {path} {what}, and over HTTP nothing can be listed: name each \
                     file by its whole URL, one entry of `paths` each"
                ))
                .says("help: patterns work on local disks and on s3://, gs:// and az://");
        }
    }
}

/// Garbage, and files of which the end or all is missing.
#[test]
fn files_that_are_no_parquet_are_quarantined_and_the_rest_goes_on() {
    let workspace = workspace(2);
    let whole = fs::read(part(&workspace, 0)).unwrap();
    workspace.write("corpus/part-02.parquet", "these are no columns at all");
    workspace.write("corpus/part-03.parquet", &whole[..whole.len() / 2]);
    workspace.write("corpus/part-04.parquet", "");
    let _ = workspace
        .run(&[])
        .expect(3)
        .says("corpus/part-02.parquet is not a valid Parquet file")
        .says("corpus/part-03.parquet is not a valid Parquet file")
        .says("corpus/part-04.parquet is not a valid Parquet file: it has 0 bytes")
        .says("3 of 5 tasks were quarantined, the job allows 0")
        .says("mend or remove these files and run the job again")
        .says("`allow: {quarantined_tasks: 3}`");
    assert!(!workspace.path().join("out/manifest.json").exists());

    let summary = workspace.summary(&["--set", "allow.quarantined_tasks=3"]);
    assert_eq!(lanes(&summary, 0)["ok"], 24);
    assert_eq!(summary["unreadable"].as_object().unwrap().len(), 3);
    let failures = workspace.sql(
        "SELECT DISTINCT inputs[1] AS file, failure FROM gleaner.tasks \
         WHERE status = 'quarantined' ORDER BY 1",
    );
    assert_eq!(failures.len(), 3, "{failures:?}");
    assert_eq!(failures[0]["file"], "corpus/part-02.parquet");
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);

    // Mended, they come out as well, and what was done is not done again.
    for idx in 2..5 {
        write_part(&workspace, idx);
    }
    let summary = workspace.summary(&[]);
    assert_eq!(lanes(&summary, 0)["ok"], 60);
    assert_eq!(
        statuses(&workspace),
        json!({"n": 60, "ok": 60, "rejected": 0, "nan": 0})
    );
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn a_corpus_without_any_readable_file_is_an_error_of_the_job() {
    let workspace = workspace(0);
    workspace.write("corpus/part-00.parquet", "no");
    let _ = workspace
        .run(&["--set", "allow.quarantined_tasks=9"])
        .expect(2)
        .says("job.yaml:3:17: none of the 1 files can be read")
        .says("corpus/part-00.parquet is not a valid Parquet file")
        .says("help: are they complete, and are they what their names say?");
}

#[test]
fn a_corrupt_page_costs_its_task_alone() {
    let workspace = workspace(3);
    let whole = fs::read(part(&workspace, 1)).unwrap();
    // Of the three groups, the second: the text.
    corrupt(&part(&workspace, 1), 1, 1);
    let _ = workspace
        .run(&[])
        .expect(3)
        .says("1 of 3 tasks were quarantined")
        .says("corpus/part-01.parquet, row group 1: ")
        .says("mend or remove these files");
    let summary = workspace.summary(&["--set", "allow.quarantined_tasks=1"]);
    let expected = json!({"rows_in": 36, "ok": 24, "failed": 12});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&lanes(&summary, 0)[key], value, "{summary}");
    }
    assert_eq!(statuses(&workspace)["n"], 24);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);

    fs::write(part(&workspace, 1), whole).unwrap();
    assert_eq!(lanes(&workspace.summary(&[]), 0)["ok"], 36);
}

/// Small files share tasks; a broken one takes none of its neighbours with it.
#[test]
fn a_corrupt_page_costs_none_of_the_files_that_share_its_task() {
    const FILES: usize = 30;
    let workspace = workspace(FILES);
    let _ = workspace.run(&["--output", "sound"]).expect(0);
    let shared = workspace.sql_of(
        "sound",
        "SELECT inputs[1] AS file FROM gleaner.tasks WHERE stage = 'weights' AND \
         array_length(inputs) > 1 ORDER BY file",
    );
    let file = workspace.path().join(shared[0]["file"].as_str().unwrap());
    corrupt(&file, 1, 1);
    let _ = workspace.run(&[]).expect(3).says("1 of ");
    let summary = workspace.summary(&["--set", "allow.quarantined_tasks=1"]);
    let rows = (FILES * PER_FILE) as u64;
    let failed = PER_FILE as u64;
    let expected = json!({"rows_in": rows, "ok": rows - failed, "failed": failed});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&lanes(&summary, 0)[key], value, "{summary}");
    }
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

/// Pages of a column that nothing but the selection reads.
#[test]
fn a_corrupt_page_of_a_further_column_stops_what_carries_that_column() {
    let workspace = workspace(2);
    for idx in 0..2 {
        let documents = &documents(24)[12 * idx..12 * idx + 12];
        let column = |of: fn(&Document) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(documents.iter().map(of)))
        };
        let columns = [
            ("id", column(|it| &it.id)),
            ("text", column(|it| &it.text)),
            ("url", column(|it| &it.source)),
        ];
        write_columns(&part(&workspace, idx), &batch(columns), 4);
    }
    corrupt(&part(&workspace, 1), 2, 2);
    let job = JOB.replace("documents: 10", "documents: 24, materialize: true");
    workspace.write("job.yaml", job);
    let _ = workspace
        .run(&[])
        .expect(3)
        .says("stage chosen, phase choose: 1 of ")
        .says("corpus/part-01.parquet")
        .says("mend or remove these files");
    let summary = workspace.summary(&["--set", "allow.quarantined_tasks=1"]);
    assert_eq!(lanes(&summary, 0)["ok"], 24);
    let chosen = lanes(&summary, 1);
    assert_eq!(
        chosen["ok"].as_u64().unwrap() + chosen["failed"].as_u64().unwrap(),
        24
    );
    assert_eq!(chosen["failed"], 12);
}

#[test]
fn columns_must_be_there_and_of_their_types() {
    let workspace = workspace(1);
    let ids = || texts(&[Some("a"), Some("b")]);
    let numbers = || -> ArrayRef { Arc::new(Int64Array::from(vec![1, 2])) };
    let fractions = || -> ArrayRef { Arc::new(Float64Array::from(vec![0.5, 1.5])) };
    let check = |batch: &RecordBatch, job: &str, message: &str| {
        write_columns(&workspace.path().join("corpus/part-99.parquet"), batch, 10);
        workspace.write("job.yaml", job);
        for command in ["run", "validate"] {
            let ended = workspace.gleaner(&[command, "job.yaml"]).expect(2);
            let _ = ended
                .says("error: job.yaml:3:")
                .says(message)
                .says("help: ");
        }
    };
    let at = "corpus/part-99.parquet: ";
    check(
        &batch([("id", ids()), ("body", ids())]),
        JOB,
        &format!("{at}the text column \"text\" is missing; the file has id, body"),
    );
    check(
        &batch([("id", ids()), ("text", numbers())]),
        JOB,
        &format!("{at}column \"text\" has type Int64, in corpus/part-00.parquet it has type Utf8"),
    );
    let alone = JOB.replace("corpus/*", "corpus/part-99");
    check(
        &batch([("id", ids()), ("text", numbers())]),
        &alone,
        &format!("{at}the text column \"text\" has type Int64, it must be a text"),
    );
    let with_id = alone.replace("]}\ndatasets", "], columns: {id: score}}\ndatasets");
    check(
        &batch([("score", fractions()), ("text", ids())]),
        &with_id,
        &format!("{at}the id column \"score\" has type Float64, it must be a text or an integer"),
    );
    check(
        &batch([("score", fractions()), ("text", ids())]),
        &with_id.replace("id: score", "source: score"),
        &format!(
            "{at}the source column \"score\" has type Float64, it must be a text or an integer"
        ),
    );
    // Datasets are looked at in the same way.
    workspace.write("target.jsonl", "{\"id\": \"a\", \"text\": 7}\n");
    workspace.write("job.yaml", JOB.replace("corpus/*", "corpus/part-00"));
    let _ = workspace
        .run(&[])
        .expect(2)
        .says("job.yaml:4:12: target.jsonl: the text column \"text\" has type Int64");
}

#[test]
fn a_where_that_does_not_fit_is_found_before_anything_runs() {
    let workspace = workspace(2);
    let check = |predicate: &str, message: &str| {
        let corpus = format!("parquet], where: \"{predicate}\"");
        workspace.write("job.yaml", JOB.replace("parquet]", &corpus));
        for command in ["run", "plan", "validate"] {
            let ended = workspace.gleaner(&[command, "job.yaml"]).expect(2);
            let ended = ended.says("error: job.yaml:3:44: `where` does not fit corpus/part-0");
            let _ = ended.says(message).says("help: write SQL that is true");
        }
    };
    check(
        "lang = 'en'",
        "there is no column lang; the columns are id, text, source",
    );
    check("length(text)", "not true or false");
    check("source ==== 'x'", "it is not SQL");
    check("random() < 0.5", "a predicate must depend on the row alone");
    // One file of many with the column: the other one is named.
    let text = || texts(&[Some("gold")]);
    let columns = [
        ("id", text()),
        ("text", text()),
        ("source", text()),
        ("lang", text()),
    ];
    write_columns(&part(&workspace, 1), &batch(columns), 4);
    check("lang = 'en'", "part-00.parquet: there is no column lang");
    // An empty file of lines has no columns, and no rows to exclude.
    let _ = fs::remove_file(part(&workspace, 1));
    workspace.write("corpus/part-01.jsonl", "\n");
    let job = JOB.replace("*.parquet]", "*], where: \"source = 'source-1'\"");
    workspace.write("job.yaml", job);
    let summary = workspace.summary(&[]);
    assert_eq!(
        (&lanes(&summary, 0)["ok"], &lanes(&summary, 0)["excluded"]),
        (&json!(6), &json!(6))
    );
}

/// Each phase of this corpus takes the coordinator many looks at the store, so there is time to
/// replace a file after its first task; if a machine stalls for longer, once more.
#[test]
fn a_file_that_changes_while_the_job_runs_fails_its_task_and_is_looked_at_again() {
    const FILES: usize = 24;
    const TRIES_MAX: usize = 5;
    for _ in 0..TRIES_MAX {
        let workspace = workspace(FILES);
        let last = part(&workspace, FILES - 1);
        // With one document less.
        write_columns(
            &workspace.path().join("changed"),
            &batch([
                ("id", texts(&[Some("late")])),
                (
                    "text",
                    texts(&[Some("the patient was given aspirin daily")]),
                ),
                ("source", texts(&[Some("late")])),
            ]),
            4,
        );
        let changing = thread::spawn({
            let directory = workspace.path().to_owned();
            let last = last.clone();
            move || {
                // The files are listed by then, and none of the corpus is read.
                let plans = directory.join("out/_gleaner/plans/weights/count-raw");
                let deadline = Instant::now() + Duration::from_secs(60);
                while !plans.exists() && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                fs::rename(directory.join("changed"), last).unwrap();
            }
        });
        let ended = workspace.run(&["--workers", "1"]);
        changing.join().unwrap();
        let ended = ended.expect(0);
        if !ended.stderr.contains("files were replaced") {
            continue;
        }
        let _ = ended
            .says("corpus/part-23.parquet has changed since the job looked at it")
            .says("files were replaced while they were read; looking again at the inputs");
        // The version is of the file as it is now, and of nothing else of it.
        let lanes = lanes(&workspace.summary(&[]), 0).clone();
        let rows = |lane: &str| lanes[lane].as_u64().unwrap();
        let expected = (PER_FILE * (FILES - 1) + 1) as u64;
        assert_eq!(rows("ok") + rows("ineligible"), expected, "{lanes}");
        return;
    }
    panic!("the file never changed in time");
}
