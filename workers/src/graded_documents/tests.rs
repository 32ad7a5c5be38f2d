use crate::testing::{check, job_with_endpoint};

#[test]
fn what_cannot_be_is_said() {
    let check = |params: &str, expected: &str| {
        let stages = format!(
            "  q: {{kind: synthetic_queries, endpoint: llm}}\n  s: {{kind: select, by: 'length(x)', \
             method: top_k, documents: 1}}\n  d: {{kind: graded_documents, {params}}}\n"
        );
        let found = match check(&job_with_endpoint(&stages), "d") {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.message,
        };
        assert!(found.contains(expected), "{params}: {found}");
    };
    check("endpoint: llm, input: q", "fine");
    check(
        "endpoint: llm, queries: one, grades: binary, per_query: 2",
        "fine",
    );
    check("endpoint: llm", "exactly one of");
    check("endpoint: llm, input: q, queries: one", "exactly one of");
    check("endpoint: llm, input: s", "which has no queries");
    check("endpoint: llm, input: x", "there is no stage `x`");
    check("endpoint: llm, queries: x", "there is no dataset `x`");
    check("endpoint: llm, queries: one, per_query: 0", "from 1 to");
    check(
        "endpoint: llm, queries: one, demonstrations: {dataset: one, select: {}}",
        "in synthetic_queries only",
    );
    check("endpoint: x, input: q", "there is no endpoint `x`");
}
