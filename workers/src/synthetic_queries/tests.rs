use crate::testing::{check, job_with_endpoint};

fn message(params: &str) -> String {
    let stages = format!("  q: {{kind: synthetic_queries, {params}}}\n");
    match check(&job_with_endpoint(&stages), "q") {
        Ok(_) => "fine".to_owned(),
        Err(error) => error.message,
    }
}

#[test]
fn what_cannot_be_is_said() {
    let check = |params: &str, expected: &str| {
        let found = message(params);
        assert!(found.contains(expected), "{params}: {found}");
    };
    check("endpoint: llm", "fine");
    check(
        "endpoint: llm, grades: esci, strategy: separate, per_document: 3",
        "fine",
    );
    check("endpoint: other", "there is no endpoint `other`");
    check("endpoint: llm, grades: x", "x");
    check("endpoint: llm, per_document: 0", "from 1 to");
    check("endpoint: llm, input: x", "there is no stage `x`");
    check("endpoint: llm, prompts: [x]", "there is no prompt `x`");
    check(
        "endpoint: llm, prompts: [{file: missing.j2}]",
        "cannot read the prompt",
    );
    check(
        "endpoint: llm, prompts: [{name: a, text: b}]",
        "exactly one of",
    );
    check(
        "endpoint: llm, demonstrations: {dataset: x}",
        "there is no dataset `x`",
    );
    check(
        "endpoint: llm, demonstrations: {dataset: one, count: 0}",
        "from 1 to",
    );
    let select =
        |select: &str| format!("endpoint: llm, demonstrations: {{dataset: one, select: {select}}}");
    check(&select("{}"), "fine");
    check(&select("{sets: 0}"), "from 1 to");
    check(&select("{held_out: 33}"), "from 1 to");
    check(&select("{endpoint: x}"), "there is no endpoint `x`");
    check("endpoint: llm, sampling: {temperature: 3}", "a temperature");
    check(
        "endpoint: llm, sampling: {extra: {model: x}}",
        "`model` is set by Gleaner",
    );
    check("endpoint: llm, filter: {bm25_top_k: 0}", "the first 0");
    check("endpoint: llm, filter: {reject: [x]}", "x");
    check(
        "endpoint: llm, judge: {endpoint: x}",
        "there is no endpoint `x`",
    );
    check(
        "endpoint: llm, judge: {endpoint: llm, keep: {within: 1}}",
        "fine",
    );
}
