//! A judge that grades some texts and fails on others: failing is no verdict.

use std::sync::Arc;

use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::program::Workspace;

use super::{Server, count, for_marked, job, with_marked, workspace_of};

const DOCUMENTS: usize = 6;
/// Words of the marked document, too many to be a query.
const ONLY_IN_THE_DOCUMENT: &str = "bridge over the river was opened in the spring of 1905";

/// Runs with a judge that keeps to a script.
fn judged(judge: &Server, keep: &str) -> Workspace {
    let writer = Server::answering();
    let stages = format!(
        "
  queries: {{kind: synthetic_queries, endpoint: llm, judge: {{endpoint: judge, keep: {keep}}},
             filter: {{reject: []}}}}
"
    );
    let text = job(&writer.url(), "", &stages);
    let judges = format!(
        "endpoints:\n  judge: {{url: \"{}\", model: other}}",
        judge.url()
    );
    let workspace = workspace_of(&with_marked(DOCUMENTS));
    workspace.write("job.yaml", text.replace("endpoints:", &judges));
    let ended = workspace.run(&[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    workspace
}

fn overflowing() -> Script {
    for_marked(|_, _| {
        let words = "maximum context length is 2048 tokens";
        Play::Status(400, Vec::new(), words.to_owned())
    })
}

const FAILED: &str = "queries WHERE doc_id = 'marked' AND judged_grade IS NULL AND \
                      array_has(flags, 'judge_failed') AND NOT array_has(flags, 'judge_disagrees') \
                      AND reason LIKE 'judge_failed: context_overflow: %2048 tokens%'";

#[test]
fn what_a_judge_could_not_grade_is_no_disagreement() {
    let judge = Server::playing(overflowing());
    // A text that no rule left out has the reason beside `ok`.
    let workspace = judged(&judge, "all");
    assert_eq!(count(&workspace, &format!("{FAILED} AND status = 'ok'")), 4);
    let graded = "queries WHERE doc_id <> 'marked' AND judged_grade IS NOT NULL AND NOT \
                  array_has(flags, 'judge_failed')";
    assert_eq!(count(&workspace, graded), DOCUMENTS as u64 * 4);

    // Whoever keeps only what the judge agrees with loses them, and is told why.
    let workspace = judged(&judge, "agree");
    let rejected = format!("{FAILED} AND status = 'rejected' AND lane = 'rejected'");
    assert_eq!(count(&workspace, &rejected), 4);
    let disagreed = "queries WHERE reason = 'judge_disagrees' AND judged_grade IS NULL";
    assert_eq!(count(&workspace, disagreed), 0);
}

#[test]
fn a_judge_whose_reply_cannot_be_read_has_failed() {
    let script = for_marked(|_, _| Play::Text("They are all fine.".to_owned(), "stop"));
    let workspace = judged(&Server::playing(script), "{within: 1}");
    let rejected = "queries WHERE doc_id = 'marked' AND status = 'rejected' AND reason LIKE \
                    'judge_failed: not_json: %'";
    assert_eq!(count(&workspace, rejected), 4);
}

#[test]
fn the_judge_is_shown_a_document_once() {
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let judge = Server::playing(Arc::new(move |request: &Request| {
        let shown = request
            .body
            .to_string()
            .matches(ONLY_IN_THE_DOCUMENT)
            .count();
        seen.fetch_max(shown, std::sync::atomic::Ordering::Relaxed);
        Play::Answer
    }));
    judged(&judge, "all");
    assert_eq!(most.load(std::sync::atomic::Ordering::Relaxed), 1);
}
