//! Both stages, and what is paid for once.

use std::collections::BTreeSet;

use gleaner_tests::program::{Opened, Workspace, number, text};

use super::{Server, count, job, rows, workspace};

const DOCUMENTS: usize = 24;
const GRADES: u64 = 4;

/// With the filters of a test.
fn stages(queries: &str, graded: &str) -> String {
    format!(
        "
  queries: {{kind: synthetic_queries, endpoint: llm, filter: {{{queries}}}}}
  graded: {{kind: graded_documents, input: queries, endpoint: llm, filter: {{{graded}}}}}
"
    )
}

fn columns(workspace: &Workspace, table: &str) -> Vec<String> {
    let opened = Opened::new(&workspace.path().join("out"));
    let batch = opened.query(&format!("SELECT * FROM {table} LIMIT 1"));
    let fields = batch.schema();
    fields
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

#[test]
fn documents_become_queries_and_these_get_graded_documents() {
    let server = Server::answering();
    let text_of_job = job(&server.url(), "", &stages("bm25_top_k: 10", ""));
    let workspace = workspace(DOCUMENTS, &text_of_job);
    assert_eq!(workspace.summary(&[])["is_new"], true);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    let common = [
        "judged_grade",
        "status",
        "reason",
        "flags",
        "lane",
        "model",
        "prompt_id",
        "sample",
        "prompt_tokens",
        "completion_tokens",
        "attempts",
        "latency_ms",
        "judge_prompt_tokens",
        "judge_completion_tokens",
        "tokens_estimated",
        "input_file",
        "input_row",
    ];
    let queries = ["query_id", "doc_id", "source", "query", "label", "grade"];
    let with_rank = [&queries[..], &common[..1], &["bm25_rank"], &common[1..]].concat();
    assert_eq!(columns(&workspace, "queries"), with_rank);
    let graded = [
        "query_id",
        "doc_id",
        "query",
        "source_doc_id",
        "label",
        "grade",
        "text",
    ];
    assert_eq!(
        columns(&workspace, "graded"),
        [&graded[..], &common].concat()
    );

    // A query of each grade for each document, in one completion each.
    let documents = "(SELECT doc_id, count(DISTINCT grade) AS grades, count(*) AS n, \
                     sum(prompt_tokens) AS prompt, min(attempts) AS least, max(attempts) AS most \
                     FROM queries GROUP BY doc_id)";
    let whole =
        format!("{documents} WHERE grades = 4 AND n = 4 AND prompt > 0 AND least = 1 AND most = 1");
    assert_eq!(count(&workspace, &whole), DOCUMENTS as u64);
    let n_ok = count(&workspace, "queries WHERE status = 'ok'");
    assert!(n_ok > DOCUMENTS as u64, "{n_ok}");
    // A document of each grade for each query that stays, and a row for each that does not.
    let written = "graded WHERE lane <> 'ineligible' OR reason NOT LIKE 'the query is%'";
    assert_eq!(count(&workspace, written), n_ok * GRADES);
    let left_out = "graded WHERE reason LIKE 'the query is%' AND lane = 'ineligible' AND doc_id IS \
                    NULL AND grade IS NULL AND text IS NULL";
    assert_eq!(
        count(&workspace, left_out),
        DOCUMENTS as u64 * GRADES - n_ok
    );
    assert_eq!(server.n_requests(), DOCUMENTS as u64 + n_ok);

    // What the server charged is what the tables tell.
    let tokens = workspace.sql(
        "SELECT sum(n) AS n FROM (SELECT sum(prompt_tokens + completion_tokens) AS n FROM queries \
         UNION ALL SELECT sum(prompt_tokens + completion_tokens) AS n FROM graded)",
    );
    assert_eq!(number(&tokens[0], "n"), server.n_tokens());

    // Ids are unique, and such as trainers can read.
    let of_ids = "SELECT count(*) AS n, count(DISTINCT query_id) AS ids, count(*) FILTER (WHERE \
                  query_id ~ '^[a-z]') AS sound FROM queries";
    let ids = workspace.sql(of_ids);
    assert_eq!(number(&ids[0], "n"), number(&ids[0], "ids"));
    assert_eq!(number(&ids[0], "n"), number(&ids[0], "sound"));
    let doubled = "(SELECT doc_id, count(*) AS n FROM graded WHERE doc_id IS NOT NULL GROUP BY \
                   doc_id) WHERE n > 1";
    assert_eq!(count(&workspace, doubled), 0);
    let strangers = "graded g LEFT JOIN queries q ON q.query_id = g.query_id AND q.doc_id = \
                     g.source_doc_id WHERE q.query_id IS NULL";
    assert_eq!(count(&workspace, strangers), 0);
    // Labels are those of the scale, each with its grade.
    let labels = workspace.sql("SELECT DISTINCT label, grade FROM queries ORDER BY grade");
    let labels: BTreeSet<String> = labels.iter().map(|row| text(row, "label")).collect();
    assert_eq!(labels.len() as u64, GRADES);
    assert!(count(&workspace, "queries WHERE bm25_rank IS NOT NULL") > 0);

    // Nothing is asked twice, and nothing new is published.
    let n_requests = server.n_requests();
    assert_eq!(workspace.summary(&[])["is_new"], false);
    assert_eq!(server.n_requests(), n_requests);
}

#[test]
fn other_filters_decide_anew_and_ask_nothing() {
    let server = Server::answering();
    let strict = "reject: [too_short]";
    let with = |queries: &str, graded: &str| job(&server.url(), "", &stages(queries, graded));
    let workspace = workspace(DOCUMENTS, &with("", "reject: []"));
    let _ = workspace.run(&[]).expect(0);
    let n_requests = server.n_requests();
    let is_short = "graded WHERE array_has(flags, 'too_short')";
    let n_short = count(&workspace, is_short);
    assert!(n_short > 0);
    assert_eq!(
        count(&workspace, &format!("{is_short} AND status = 'ok'")),
        n_short
    );

    workspace.write("job.yaml", with("", strict));
    assert_eq!(workspace.summary(&[])["is_new"], true);
    assert_eq!(server.n_requests(), n_requests);
    let decided = format!("{is_short} AND status = 'rejected' AND reason = 'too_short'");
    assert_eq!(count(&workspace, &decided), n_short);

    // Ranks need terms of the documents, which are found in the replies that are there. What is
    // left over of the queries is a part of what there was.
    let before = count(&workspace, "queries WHERE status = 'ok'");
    workspace.write("job.yaml", with("bm25_top_k: 1", strict));
    assert_eq!(workspace.summary(&[])["is_new"], true);
    assert_eq!(server.n_requests(), n_requests);
    let n_missed = count(&workspace, "queries WHERE reason = 'round_trip_miss'");
    assert!(n_missed > 0);
    assert_eq!(
        count(&workspace, "queries WHERE status = 'ok'"),
        before - n_missed
    );
    let wrong = "queries WHERE (reason = 'round_trip_miss') <> (grade > 0 AND (bm25_rank IS NULL OR \
                 bm25_rank > 1) AND (status = 'ok' OR reason = 'round_trip_miss'))";
    assert_eq!(count(&workspace, wrong), 0);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn other_tasks_give_the_same_rows_and_ask_nothing() {
    let server = Server::answering();
    let text_of_job = job(&server.url(), "", &stages("bm25_top_k: 10", ""));
    let workspace = workspace(DOCUMENTS, &text_of_job);
    let _ = workspace.run(&["--workers", "2"]).expect(0);
    let (expected, n_requests) = (rows(&workspace, "out"), server.n_requests());
    let n_tasks = count(&workspace, "gleaner.tasks");
    for task_bytes in ["task_bytes=1KiB", "task_bytes=6KiB"] {
        let _ = workspace
            .run(&["--workers", "3", "--set", task_bytes])
            .expect(0);
        assert_eq!(server.n_requests(), n_requests, "{task_bytes}");
        assert!(
            count(&workspace, "gleaner.tasks") > n_tasks,
            "{task_bytes} cuts no other tasks"
        );
        assert_eq!(rows(&workspace, "out"), expected, "{task_bytes}");
    }
}

#[test]
fn several_samples_and_a_completion_for_each_grade() {
    const STAGES: &str = "
  queries: {kind: synthetic_queries, endpoint: llm, grades: esci, strategy: separate, per_document: 2}
";
    let server = Server::answering();
    let workspace = workspace(4, &job(&server.url(), "", STAGES));
    let _ = workspace.run(&[]).expect(0);
    let rows = workspace.sql(
        "SELECT count(*) AS n, count(DISTINCT query_id) AS ids, count(DISTINCT sample) AS samples, \
         count(*) FILTER (WHERE prompt_tokens > 0) AS counted FROM queries",
    );
    let n = 4 * GRADES * 2;
    assert_eq!(number(&rows[0], "n"), n);
    assert_eq!(number(&rows[0], "ids"), n);
    assert_eq!(number(&rows[0], "samples"), 2);
    assert_eq!(number(&rows[0], "counted"), n);
    assert_eq!(server.n_requests(), n);
}
