//! Targets, queries and examples that cannot be used, or not all of them: found before anything
//! runs, by every command that looks at them, with the place and the remedy.

use std::fs;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use gleaner_tests::corpus::{jsonl, write_columns, write_parquet};
use gleaner_tests::plain_job::{JOB, batch, documents, texts, workspace};
use gleaner_tests::program::Workspace;
use serde_json::json;

/// What `run`, `plan` and `validate` all say, with the same exit code.
fn check(workspace: &Workspace, arguments: &[&str], code: i32, messages: &[&str]) {
    for command in ["validate", "plan", "run"] {
        let arguments = [&[command, "job.yaml"], arguments].concat();
        let mut ended = workspace.gleaner(&arguments).expect(code);
        for message in messages {
            ended = ended.says(message);
        }
    }
    // Nothing was computed for it.
    assert!(!workspace.path().join("out/_gleaner/plans").exists());
}

fn check_target(contents: &[u8], name: &str, messages: &[&str]) {
    let workspace = workspace(1);
    workspace.write(name, contents);
    workspace.write("job.yaml", JOB.replace("target.jsonl", name));
    check(&workspace, &[], 2, messages);
}

#[test]
fn a_target_that_is_not_what_its_name_says_is_found_before_anything_runs() {
    let workspace = workspace(1);
    let path = workspace.path().join("whole.parquet");
    write_parquet(&path, &documents(12), 4);
    let whole = fs::read(path).unwrap();
    let at = "error: job.yaml:4:28: ";
    let help = "help: are they complete, and are they what their names say?";
    let cases: [(&[u8], &str, &str); 3] = [
        (
            b"no columns at all",
            "t.parquet",
            "t.parquet is not a valid Parquet file",
        ),
        (
            &whole[..whole.len() / 2],
            "t.parquet",
            "t.parquet is not a valid Parquet file",
        ),
        (
            b"",
            "t.parquet",
            "t.parquet is not a valid Parquet file: it has 0 bytes",
        ),
    ];
    for (contents, name, message) in cases {
        check_target(contents, name, &[at, message, help]);
    }
    // Its head is in order; nothing but reading it to its end tells.
    let mut lines = GzEncoder::new(Vec::new(), Compression::default());
    lines.write_all(jsonl(&documents(3000)).as_bytes()).unwrap();
    let lines = lines.finish().unwrap();
    let cut = &lines[..lines.len() - 40];
    check_target(
        cut,
        "t.jsonl.gz",
        &[at, "t.jsonl.gz is not a valid jsonl file", help],
    );
    let mut damaged = whole;
    let reader =
        parquet::file::reader::SerializedFileReader::new(bytes::Bytes::from(damaged.clone()));
    let (start, length) = {
        use parquet::file::reader::FileReader as _;
        let reader = reader.unwrap();
        reader.metadata().row_group(2).column(1).byte_range()
    };
    damaged[start as usize..(start + length) as usize].fill(0xff);
    check_target(
        &damaged,
        "t.parquet",
        &[at, "t.parquet, row group 2: ", help],
    );
}

#[test]
fn one_bad_file_of_a_dataset_stops_the_job_unless_it_is_allowed() {
    let workspace = workspace(1);
    workspace.write("more.parquet", "no columns at all");
    let job = JOB.replace("[target.jsonl]", "[target.jsonl, more.parquet]");
    workspace.write("job.yaml", job);
    let messages = [
        "error: job.yaml:4:28: more.parquet is not a valid Parquet file",
        "help: mend these files or leave them out of `paths`, or allow it: `allow: \
         {quarantined_tasks: 1}`",
    ];
    check(&workspace, &[], 2, &messages);
    let ended = workspace
        .run(&["--set", "allow.quarantined_tasks=1"])
        .expect(0);
    let _ = ended.says("dataset target: cannot read more.parquet: ");
}

#[test]
fn a_target_without_a_text_or_a_token_is_found_before_anything_runs() {
    let help = "help: are `paths`, `columns: {text: ...}` and `where` what you meant?";
    let none = "the dataset `target` has no document with a text: ";
    check_target(
        b"",
        "t.jsonl",
        &["error: job.yaml:4:28: ", none, "it has no row", help],
    );
    check_target(
        b"{\"text\": null}\n\n{\"text\": null}\n",
        "t.jsonl",
        &[
            "error: job.yaml:4:12: ",
            none,
            "none of its 2 rows can be used:\n  t.jsonl, line 1: the text is null\n  t.jsonl, line \
             3: the text is null\n",
            help,
        ],
    );
    check_target(
        b"{\"text\": \" \"}\n{\"text\": \"\"}\n",
        "t.jsonl",
        &[
            "the dataset `target` has no usable token: the column \"text\" of its 2 documents \
             holds nothing but blanks",
            help,
        ],
    );
    let workspace = workspace(1);
    let path = workspace.path().join("t.parquet");
    let columns = [
        ("id", texts(&[Some("a"), Some("b")])),
        ("text", texts(&[None, None])),
    ];
    write_columns(&path, &batch(columns), 1);
    workspace.write("job.yaml", JOB.replace("target.jsonl", "t.parquet"));
    let told = "t.parquet, row group 0, row 0: the text is null\n  t.parquet, row group 1, row 1: \
                the text is null\n";
    check(&workspace, &[], 2, &[none, told, help]);
    let job = JOB.replace("[target.jsonl]", "[target.jsonl], where: \"id = 'nobody'\"");
    workspace.write("job.yaml", job);
    let excluded = "`where` excludes all of its 6 rows";
    check(
        &workspace,
        &[],
        2,
        &["error: job.yaml:4:51: ", none, excluded, help],
    );
}

#[test]
fn columns_of_datasets_must_be_there_and_of_their_types() {
    let workspace = workspace(1);
    let path = workspace.path().join("t.parquet");
    let columns = [("body", texts(&[Some("gold")]))];
    write_columns(&path, &batch(columns), 1);
    workspace.write("job.yaml", JOB.replace("target.jsonl", "t.parquet"));
    let missing = "t.parquet: the text column \"text\" is missing; the file has body";
    check(
        &workspace,
        &[],
        2,
        &["error: job.yaml:4:12: ", missing, "help: "],
    );
    let number: arrow::array::ArrayRef =
        std::sync::Arc::new(arrow::array::Int64Array::from(vec![1]));
    write_columns(&path, &batch([("text", number)]), 1);
    let wrong = "t.parquet: the text column \"text\" has type Int64, it must be a text";
    check(
        &workspace,
        &[],
        2,
        &["error: job.yaml:4:12: ", wrong, "help: "],
    );
}

#[test]
fn rows_that_cannot_be_used_are_told_one_by_one_and_bounded() {
    let workspace = workspace(1);
    let mut lines = jsonl(&documents(96));
    lines.push_str("\nno json\n{\"text\": null}\n[1]\n{\"text\": 7}\n");
    workspace.write("target.jsonl", lines);
    let told = "target.jsonl, line 98: the line is not JSON: ";
    let messages = [
        "dataset target: 4 of 100 rows cannot be used, the job allows 1%:\n  ",
        told,
        "\n  target.jsonl, line 99: the text is null\n",
        "\n  target.jsonl, line 100: the line is not a JSON object\n",
        "\n  target.jsonl, line 101: the value of \"text\" is not a text\n",
        "mend these rows, exclude them (`datasets: {target: {where: ...}}`), or raise `allow: \
         {rejected_rows: ...}`",
    ];
    check(&workspace, &[], 3, &messages);
    check(
        &workspace,
        &["--set", "allow.rejected_rows=3"],
        3,
        &messages[2..],
    );

    // Allowed, they are told all the same: as the run begins, in its summary, and by `plan`.
    let allowed = ["--set", "allow.rejected_rows=4"];
    let plan = workspace
        .gleaner(&[&["plan", "job.yaml"], &allowed[..]].concat())
        .expect(0);
    assert!(plan.stdout.contains(told), "{}", plan.stdout);
    let ended = workspace
        .run(&allowed)
        .expect(0)
        .says("dataset target: 4 of 100 rows")
        .says(told);
    assert!(ended.stdout.contains(told), "{}", ended.stdout);
    let rows = &workspace.summary(&allowed)["datasets"]["target"];
    assert_eq!(
        (&rows["n_rows"], &rows["n_rejected"]),
        (&json!(100), &json!(4))
    );
    let places = rows["rejected"].as_array().unwrap().iter();
    let places: Vec<&str> = places.map(|row| row["place"].as_str().unwrap()).collect();
    assert_eq!(
        places,
        [98, 99, 100, 101].map(|line| format!("target.jsonl, line {line}"))
    );
}

/// Few-shot examples need two texts each.
#[test]
fn pairs_without_their_other_half_are_rows_that_cannot_be_used() {
    let workspace = workspace(1);
    workspace.write(
        "pairs.jsonl",
        "{\"text\": \"gold is heavy\", \"q\": \"what is heavy\"}\n{\"text\": \"iron rusts\"}\n",
    );
    workspace.write(
        "job.yaml",
        "name: pairs\noutput: out\ncorpus: {paths: [corpus/*.parquet]}\ndatasets:\n  pairs: {paths: \
         [pairs.jsonl], columns: {source: q}}\nendpoints: {llm: {url: 'http://127.0.0.1:9/v1', \
         model: m}}\nstages:\n  queries: {kind: synthetic_queries, endpoint: llm, demonstrations: \
         {dataset: pairs, count: 1}}\n",
    );
    // Before any endpoint is asked.
    let message =
        "pairs.jsonl, line 2: it has no text to go with: `columns: {source: ...}` names it";
    check(
        &workspace,
        &[],
        3,
        &["dataset pairs: 1 of 2 rows cannot be used", message],
    );
}
