//! Inputs that are not what they seem, read by workers over a broker.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, LargeStringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::corpus::write_columns;
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::plain_job::{self, PER_FILE, batch, texts};
use gleaner_tests::program::{Workspace, number};
use gleaner_tests::servers::fake_s3::{FakeS3, Faults};

use super::shared;

/// The id and the text of a file's documents.
fn columns(idx: usize) -> (ArrayRef, ArrayRef) {
    let documents: Vec<_> = (PER_FILE * idx..PER_FILE * (idx + 1))
        .map(plain_job::document)
        .collect();
    let column = |of: fn(&gleaner_tests::corpus::Document) -> &str| {
        let values: Vec<Option<&str>> = documents.iter().map(|it| Some(of(it))).collect();
        texts(&values)
    };
    (column(|it| &it.id), column(|it| &it.text))
}

fn sources() -> ArrayRef {
    texts(&[Some("source-0"); PER_FILE])
}

/// Four files: the usual one, one with other string types in another order, one with more columns,
/// one whose views and nulls differ.
fn workspace_of_many_schemas() -> Workspace {
    let workspace = plain_job::workspace(1);
    let write = |idx: usize, batch| {
        write_columns(&plain_job::part(&workspace, idx), &batch, 4);
    };
    let (id, text) = columns(1);
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let large: LargeStringArray = cast(&text, &DataType::LargeUtf8).unwrap().to_data().into();
    let source = cast(&sources(), &dictionary).unwrap();
    write(
        1,
        batch([("source", source), ("text", Arc::new(large)), ("id", id)]),
    );
    let (id, text) = columns(2);
    let language = texts(&[Some("en"); PER_FILE]);
    write(
        2,
        batch([
            ("id", id),
            ("lang", language),
            ("text", text),
            ("source", sources()),
        ]),
    );
    let (id, text) = columns(3);
    let views = cast(&text, &DataType::Utf8View).unwrap();
    let none = texts(&[None; PER_FILE]);
    write(3, batch([("source", none), ("id", id), ("text", views)]));
    workspace
}

#[test]
fn files_of_many_schemas_give_all_their_rows() {
    let Some(broker) = shared() else { return };
    let job = Job::of(workspace_of_many_schemas());
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
    let rows = job.workspace.sql(
        "SELECT count(*) AS n, count(DISTINCT doc_id) AS ids, count(*) FILTER (WHERE eligible) AS ok \
         FROM weights",
    );
    for column in ["n", "ids", "ok"] {
        assert_eq!(number(&rows[0], column), 4 * PER_FILE as u64, "{rows:?}");
    }
}

/// Files that do not go together end a run over a broker before any worker is asked.
#[test]
fn a_file_that_does_not_fit_is_named_before_anything_is_done() {
    let Some(broker) = shared() else { return };
    let (id, text) = columns(4);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..PER_FILE as i64));
    let of_numbers = batch([
        ("id", Arc::clone(&id)),
        ("text", numbers),
        ("source", sources()),
    ]);
    let without_source = batch([("id", id), ("text", text)]);
    for (bad, says) in [
        (of_numbers, &["\"text\"", "Int64"][..]),
        (without_source, &["\"source\" is missing"]),
    ] {
        let workspace = workspace_of_many_schemas();
        write_columns(&plain_job::part(&workspace, 4), &bad, 4);
        let surroundings = Surroundings {
            queue: broker.new_vhost_url(),
            variables: Vec::new(),
        };
        let mut cluster = Cluster::new(&workspace, surroundings);
        cluster.start_worker(0, &[]);
        cluster.start_coordinator(&[]);
        assert_eq!(cluster.coordinator_end(SOON), Some(2));
        let log = cluster.log("coordinator.log");
        for text in [&["part-04.parquet"], says].concat() {
            assert!(log.contains(text), "{text}: {log}");
        }
        assert!(!workspace.path().join("out/weights").exists());
    }
}

/// What was planned is read, or nothing: the file is looked at again, and does not fit.
#[test]
fn a_file_that_becomes_another_before_it_is_read_is_looked_at_again_and_named() {
    let Some(broker) = shared() else { return };
    let job = Job::of(workspace_of_many_schemas());
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_coordinator(&[
        "--set",
        "allow.quarantined_tasks=1",
        "--set",
        "task_bytes=1B",
    ]);
    let plans = job.workspace.path().join("out/_gleaner/plans");
    cluster.await_that("nothing is planned", SOON, || plans.exists());
    let (id, _) = columns(3);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..PER_FILE as i64));
    let bad = batch([("id", id), ("text", numbers), ("source", sources())]);
    write_columns(&plain_job::part(&job.workspace, 3), &bad, PER_FILE);
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(2));
    let log = cluster.log("coordinator.log");
    assert!(log.contains("looking again at the inputs"), "{log}");
    let error = log.split("looking again").nth(1).unwrap();
    assert!(error.contains("part-03.parquet"), "{log}");
}

/// The same job over files that a plain web server has.
#[test]
fn a_corpus_on_a_web_server_is_read_by_workers() {
    let Some(broker) = shared() else { return };
    let local = Job::of(plain_job::workspace(3));
    let server = FakeS3::start(&["corpus"]);
    let mut urls = Vec::new();
    for idx in 0..3 {
        let name = format!("part {idx}.parquet");
        let bytes = std::fs::read(plain_job::part(&local.workspace, idx)).unwrap();
        server.put("corpus", &name, bytes);
        urls.push(format!("'http://{}/corpus/{name}'", server.address()));
    }
    let workspace = plain_job::workspace(0);
    let paths = format!("paths: [{}]", urls.join(", "));
    workspace.write(
        "job.yaml",
        plain_job::JOB.replace("paths: [corpus/*.parquet]", &paths),
    );
    let job = Job::of(workspace);
    // No listing, no writing; and connections break.
    server.set(Faults {
        cut_every: 5,
        ..Faults::default()
    });
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let counts = server.counts();
    assert!(counts.cut > 0 && counts.puts == 0, "{counts:?}");
    server.set(Faults::default());
    job.check(&cluster, "out");
    let query = "SELECT doc_id, log_weight FROM weights ORDER BY doc_id";
    assert_eq!(
        job.workspace.sql(query),
        local.workspace.sql_of("undisturbed", query)
    );
}
