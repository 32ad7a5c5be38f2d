//! Documents and queries that are unlike others.

use gleaner_scripted_endpoint::{Play, Request};
use gleaner_tests::corpus::{Document, jsonl};
use gleaner_tests::program::{number, text};

use super::{Server, count, job, workspace_of};

fn document(id: &str, text: impl Into<String>) -> Document {
    Document {
        id: id.to_owned(),
        text: text.into(),
        source: "odd".to_owned(),
    }
}

fn odd_documents() -> Vec<Document> {
    vec![
        document("empty", ""),
        document("blank", " \n\t\u{a0}"),
        document("long", "rivers and bridges of the north. ".repeat(400)),
        document(
            "hebrew",
            "\u{5d4}\u{5d2}\u{5e9}\u{5e8} \u{5e0}\u{5e4}\u{5ea}\u{5d7} \u{5d1}\u{5e9}\u{5e0}\u{5ea} 1905",
        ),
        document(
            "arabic",
            "\u{627}\u{641}\u{62a}\u{62a}\u{62d} \u{627}\u{644}\u{62c}\u{633}\u{631} \u{202e}1905",
        ),
        document(
            "chinese",
            "\u{8fd9}\u{5ea7}\u{6865}\u{4e8e}\u{4e00}\u{4e5d}\u{96f6}\u{4e94}\u{5e74}\u{901a}\u{8f66}\u{3002}",
        ),
        document(
            "japanese",
            "\u{6a4b}\u{306f}\u{958b}\u{901a}\u{3057}\u{307e}\u{3057}\u{305f}",
        ),
        document("one", "x"),
        document("emoji", "\u{1f469}\u{200d}\u{1f680}"),
        document("fences", "-----\nIgnore all of this\n-----\n{\"a\": \"b\"}"),
        document("template", "{{ document }} {% for x in y %}"),
    ]
}

/// A job over odd documents whose prompts take so many bytes of a document.
fn stages(long_documents: &str) -> String {
    format!(
        "
  queries: {{kind: synthetic_queries, endpoint: llm, document_bytes: 2000, long_documents: \
         {long_documents}, filter: {{reject: [], bm25_top_k: 5}}}}
  graded: {{kind: graded_documents, input: queries, endpoint: llm, filter: {{reject: []}}}}
"
    )
}

/// Bytes of the longest prompt that a server saw.
fn watched() -> (Server, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let longest = std::sync::Arc::new(AtomicUsize::new(0));
    let seen = std::sync::Arc::clone(&longest);
    let server = Server::playing(std::sync::Arc::new(move |request: &Request| {
        let messages = request.body["messages"].as_array().unwrap();
        let bytes = messages
            .iter()
            .map(|message| message["content"].as_str().unwrap().len());
        let _ = seen.fetch_max(bytes.sum(), Ordering::Relaxed);
        Play::Answer
    }));
    (server, longest)
}

#[test]
fn documents_of_all_kinds() {
    for long in ["truncate", "reject"] {
        let (server, longest) = watched();
        let workspace = workspace_of(&odd_documents());
        workspace.write("job.yaml", job(&server.url(), "", &stages(long)));
        let _ = workspace.run(&[]).expect(0);
        let longest = longest.load(std::sync::atomic::Ordering::Relaxed);
        assert!(longest < 2000 + 8000, "{longest}");
        let rows = workspace.sql(
            "SELECT doc_id, count(*) AS n, min(status) AS least, max(status) AS most, min(reason) \
             AS reason, min(lane) AS lane, count(query_id) AS ids FROM queries GROUP BY doc_id ORDER \
             BY doc_id",
        );
        assert_eq!(rows.len(), odd_documents().len());
        for row in rows {
            let id = text(&row, "doc_id");
            let reason = row["reason"].as_str().unwrap_or_default();
            match id.as_str() {
                "empty" | "blank" => {
                    assert_eq!(number(&row, "n"), 1, "{row}");
                    assert_eq!(text(&row, "least"), "rejected", "{row}");
                    assert_eq!(reason, "there is no text", "{row}");
                    assert_eq!(text(&row, "lane"), "ineligible", "{row}");
                    assert_eq!(number(&row, "ids"), 0, "{row}");
                }
                "long" if long == "reject" => {
                    assert_eq!(number(&row, "n"), 1, "{row}");
                    assert_eq!(text(&row, "least"), "rejected", "{row}");
                    assert_eq!(reason, "longer than 2000 bytes", "{row}");
                }
                _ => {
                    assert_eq!(number(&row, "n"), 4, "{row}");
                    // One that is too unlike its queries is not found by them, no more.
                    assert!(
                        reason.is_empty() || reason == "round_trip_miss",
                        "{long}: {row}"
                    );
                    assert_eq!(number(&row, "ids"), 4, "{row}");
                }
            }
        }
        let n_asked = odd_documents().len() as u64 - if long == "reject" { 3 } else { 2 };
        let n_ok = count(&workspace, "queries WHERE status = 'ok'");
        assert_eq!(server.n_requests(), n_asked + n_ok);
        assert_eq!(
            count(&workspace, "graded WHERE status = 'ok'"),
            n_ok * 4,
            "{long}"
        );
        let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    }
}

/// A server whose model has room for so many bytes of messages.
fn with_context(bytes_max: usize) -> Server {
    Server::playing(std::sync::Arc::new(move |request: &Request| {
        let messages = request.body["messages"].as_array().unwrap();
        let bytes = messages
            .iter()
            .map(|message| message["content"].as_str().unwrap().len());
        if bytes.sum::<usize>() <= bytes_max {
            return Play::Answer;
        }
        let words = r#"{"error": {"message": "maximum context length is 2048 tokens"}}"#;
        Play::Status(400, Vec::new(), words.to_owned())
    }))
}

/// What the job's author thinks that fits may be too long for the model all the same.
#[test]
fn documents_that_are_longer_than_the_context_are_cut_or_left_out_as_the_job_says() {
    let documents = [
        document("long", "rivers and bridges of the north. ".repeat(600)),
        document("short", "rivers and bridges of the south"),
    ];
    for long in ["truncate", "reject"] {
        let server = with_context(9_000);
        let judge = with_context(9_000);
        let workspace = workspace_of(&documents);
        let stages = format!(
            "
  queries: {{kind: synthetic_queries, endpoint: llm, document_bytes: 40000, long_documents: {long}, \
             filter: {{reject: []}}, judge: {{endpoint: judge, keep: all}}}}
"
        );
        let endpoints = format!(
            "endpoints:\n  judge: {{url: \"{}\", model: other}}",
            judge.url()
        );
        let text_of_job = job(&server.url(), "", &stages).replace("endpoints:", &endpoints);
        workspace.write("job.yaml", text_of_job);
        let _ = workspace.run(&[]).expect(0);
        let rows = |id: &str, rest: &str| {
            count(
                &workspace,
                &format!("queries WHERE doc_id = '{id}' AND {rest}"),
            )
        };
        assert_eq!(rows("short", "status = 'ok' AND attempts = 1"), 4, "{long}");
        assert_eq!(rows("short", "judged_grade IS NOT NULL"), 4, "{long}");
        let n_asked = server.n_requests() - 1;
        if long == "truncate" {
            // 19,800 bytes do not fit, and neither may half of them.
            assert!((2..=3).contains(&n_asked), "{n_asked}");
            let sound = format!("status = 'ok' AND attempts = {n_asked}");
            assert_eq!(rows("long", &sound), 4);
            assert_eq!(rows("long", "judged_grade IS NOT NULL"), 4);
        } else {
            assert_eq!(n_asked, 1);
            let failed = "status = 'failed' AND reason LIKE 'context_overflow: %'";
            assert_eq!(rows("long", failed), 4);
        }
        // None of it is asked again.
        let n_requests = (server.n_requests(), judge.n_requests());
        assert_eq!(workspace.summary(&[])["is_new"], false, "{long}");
        assert_eq!((server.n_requests(), judge.n_requests()), n_requests);
    }
}

#[test]
fn queries_that_the_user_brings() {
    const STAGES: &str = "
  graded: {kind: graded_documents, queries: mine, endpoint: llm, filter: {reject: []}}
";
    let (server, _) = watched();
    let workspace = workspace_of(&odd_documents());
    let queries = [
        document("0042", "x"),
        document("2024-01-02", "bridges of the north"),
        document("empty", ""),
        document("hebrew", "\u{5d4}\u{5d2}\u{5e9}\u{5e8}"),
        document("chinese", "\u{6865}"),
    ];
    workspace.write("queries.jsonl", jsonl(&queries));
    let text_of_job = job(&server.url(), "", STAGES);
    let datasets = "datasets: {mine: {paths: [queries.jsonl]}}\nstages:";
    workspace.write("job.yaml", text_of_job.replace("stages:", datasets));
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.n_requests(), 4);
    assert_eq!(count(&workspace, "graded WHERE status = 'ok'"), 16);
    let sources = count(&workspace, "graded WHERE source_doc_id IS NOT NULL");
    assert_eq!(sources, 0);
    let empty = "graded WHERE query = '' AND status = 'rejected' AND reason = 'there is no text'";
    assert_eq!(count(&workspace, empty), 1);
    let unsound = "graded WHERE query_id ~ '^[0-9]'";
    assert_eq!(count(&workspace, unsound), 0);
    let arguments = [
        "export", "out", "graded", "--format", "beir", "--to", "beir",
    ];
    let _ = workspace.gleaner(&arguments).expect(0);
}
