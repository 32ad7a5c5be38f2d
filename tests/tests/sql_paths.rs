//! What SQL may read besides an output: nothing, unless `--allow-paths` says so.

use gleaner_tests::plain_job::{self, JOB, PER_FILE};
use gleaner_tests::program::{Ended, Workspace, number};
use gleaner_tests::servers::fake_s3::FakeS3;

fn finished() -> Workspace {
    let workspace = plain_job::workspace(1);
    let _ = workspace.run(&[]).expect(0);
    // Beside the corpus, and not a part of it.
    plain_job::write_part(&workspace, 1);
    let from = plain_job::part(&workspace, 1);
    let to = workspace.path().join("other.parquet");
    std::fs::rename(from, to).unwrap();
    let labels =
        "{\"doc_id\": \"doc-001\", \"label\": 1}\n{\"doc_id\": \"doc-013\", \"label\": 0}\n";
    workspace.write("labels/a.jsonl", labels);
    workspace.write(
        "labels/b.jsonl",
        "{\"doc_id\": \"doc-002\", \"label\": 2}\n",
    );
    workspace
}

fn sql(workspace: &Workspace, query: &str) -> Ended {
    workspace.gleaner(&["sql", "out", "--allow-paths", "--format", "json", query])
}

#[test]
fn paths_are_refused_unless_they_are_allowed() {
    let workspace = finished();
    let absolute = workspace.path().join("other.parquet");
    let absolute = absolute.display();
    for path in [
        "other.parquet".to_owned(),
        "./other.parquet".to_owned(),
        "labels/*.jsonl".to_owned(),
        "/etc/passwd".to_owned(),
        "s3://bucket/x.parquet".to_owned(),
        absolute.to_string(),
        format!("file://{absolute}"),
    ] {
        for query in [
            format!("SELECT * FROM '{path}'"),
            format!("SELECT * FROM public.\"{path}\""),
            format!("SELECT * FROM weights WHERE doc_id IN (SELECT id FROM '{path}')"),
            format!("WITH x AS (SELECT * FROM \"{path}\") SELECT * FROM x"),
        ] {
            let ended = workspace.gleaner(&["sql", "out", &query]).expect(2);
            let _ = ended.says("--allow-paths").says(&path);
        }
    }
    // What is a table's name is no path.
    let ended = workspace.gleaner(&["sql", "out", "SELECT * FROM wieghts"]);
    let ended = ended.expect(2).says("did you mean weights?");
    assert!(!ended.stderr.contains("allow-paths"), "{}", ended.stderr);
}

#[test]
fn allowed_paths_are_tables() {
    let workspace = finished();
    let check = |query: &str, expected: u64| {
        let rows = sql(&workspace, query).expect(0).events();
        assert_eq!(number(&rows[0], "n"), expected, "{query}");
    };
    check("SELECT count(*) AS n FROM 'other.parquet'", PER_FILE as u64);
    let absolute = workspace.path().join("other.parquet");
    let query = format!(
        "SELECT count(DISTINCT id) AS n FROM 'file://{}'",
        absolute.display()
    );
    check(&query, PER_FILE as u64);
    check("SELECT sum(label) AS n FROM 'labels/*.jsonl'", 3);
    check("SELECT sum(label) AS n FROM 'labels/'", 3);
    // With tables of the output, and twice in one query.
    let joined = "SELECT count(*) AS n FROM weights JOIN 'labels/*.jsonl' USING (doc_id) WHERE label > \
                  (SELECT min(label) FROM 'labels/*.jsonl')";
    check(joined, 2);
    check("SELECT count(*) AS n FROM corpus", PER_FILE as u64);
    // Nothing is written, whatever is allowed.
    let write = "COPY (SELECT 1) TO 'written.parquet'";
    let _ = sql(&workspace, write).expect(2).says("only queries");
    assert!(!workspace.path().join("written.parquet").exists());
}

#[test]
fn paths_that_cannot_be_read_are_named() {
    let workspace = finished();
    workspace.write("broken.parquet", "no such thing");
    let check = |path: &str, says: &str| {
        let query = format!("SELECT * FROM '{path}'");
        let _ = sql(&workspace, &query).expect(2).says(path).says(says);
    };
    check("missing.parquet", "no file matches");
    check("broken.parquet", "broken.parquet");
    check("missing/*.jsonl", "no file matches");
    let secret = "SELECT * FROM 'https://user:hunter2@host/x.parquet'";
    let ended = sql(&workspace, secret).expect(2);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn a_store_is_read_with_the_credentials_of_the_environment() {
    let workspace = finished();
    let server = FakeS3::start(&["bucket"]);
    let bytes = std::fs::read(workspace.path().join("other.parquet")).unwrap();
    server.put("bucket", "data/other.parquet", bytes);
    let mut command =
        gleaner_tests::program::command_in(workspace.path(), gleaner_tests::program::program());
    command
        .envs(server.variables())
        .args(["sql", "out", "--allow-paths", "--format", "json"]);
    command.arg("SELECT count(*) AS n FROM 's3://bucket/data/*.parquet'");
    let rows = gleaner_tests::program::ended(&mut command)
        .expect(0)
        .events();
    assert_eq!(number(&rows[0], "n"), PER_FILE as u64);
}

/// A stage is a part of a job that others run: it reads what the job names.
#[test]
fn stages_read_no_paths() {
    let workspace = finished();
    let stage = "  more: {kind: query, sql: \"SELECT * FROM 'other.parquet'\"}\n";
    workspace.write("job.yaml", format!("{JOB}{stage}"));
    let ended = workspace
        .run(&[])
        .expect(2)
        .says("there is no table other.parquet");
    assert!(!ended.stderr.contains("allow-paths"), "{}", ended.stderr);
}
