//! Replies as models and servers give them.

use super::*;
use crate::prompt::{AskedJudgements, AskedTexts, TextKind};
use crate::scale::{Grade, Scale};

pub(super) fn asked(scale: &Scale, per_label: u16, kind: TextKind) -> AskedTexts {
    let grades: Vec<&Grade> = scale.grades().iter().collect();
    AskedTexts::new(scale, &grades, per_label, kind, 100)
}

pub(super) fn reply(text: &str) -> Reply<'_> {
    Reply {
        text,
        finish: Finish::Complete,
        schema_sent: false,
    }
}

/// Items as `grade=text`, flags, classes of problems.
fn outcome(parsed: &Parsed) -> (String, String, String) {
    let items: Vec<String> = parsed
        .items
        .iter()
        .map(|item| format!("{}={}", item.grade, item.text))
        .collect();
    let classes: Vec<&str> = parsed.problems.iter().map(ReplyProblem::class).collect();
    (items.join("|"), parsed.flags.to_string(), classes.join(","))
}

fn check_reply(reply: &Reply<'_>, items: &str, flags: &str, problems: &str) {
    let asked = asked(&Scale::binary(), 1, TextKind::Query);
    let expected = (items.to_owned(), flags.to_owned(), problems.to_owned());
    assert_eq!(
        outcome(&parse_texts(reply, &asked)),
        expected,
        "{:.200}",
        reply.text
    );
}

fn check(text: &str, items: &str, flags: &str, problems: &str) {
    check_reply(&reply(text), items, flags, problems);
}

pub(super) const PROPER: &str = r#"{"query_1": {"label": "relevant", "query": "a"}, "query_2": {"label": "irrelevant", "query": "b"}}"#;

#[test]
fn proper_replies_are_taken_as_they_are() {
    check(PROPER, "1=a|0=b", "", "");
    check(&format!("\n {PROPER}\n"), "1=a|0=b", "", "");
    let other_order = r#"{"query_2":{"query":"b","label":"irrelevant"},"query_1":{"query":"a \"x\" \u00e9\ud83d\ude00","label":"relevant"}}"#;
    check(other_order, "1=a \"x\" é😀|0=b", "", "");
    let sent = Reply {
        schema_sent: true,
        ..reply(PROPER)
    };
    check_reply(&sent, "1=a|0=b", "", "");
}

#[test]
fn what_models_put_around_json_is_left_out() {
    let repaired = |text: String| check(&text, "1=a|0=b", "json_repaired", "");
    repaired(format!("```json\n{PROPER}\n```"));
    repaired(format!("```\n{PROPER}```  \n"));
    repaired(format!(
        "Here are the [two] queries {{as asked}}:\n\n{PROPER}\n\nI hope {{this}} helps!"
    ));
    repaired(format!(
        "<think>Perhaps {{\"query_1\": 1}}?</think>\n{PROPER}"
    ));
    repaired(format!("\u{feff}{PROPER}"));
}

#[test]
fn broken_json_is_mended() {
    let repaired = |text: &str| check(text, "1=a|0=b", "json_repaired", "");
    repaired(
        r#"{"query_1": {"label": "relevant", "query": "a",}, "query_2": {"label": "irrelevant", "query": "b"},}"#,
    );
    repaired(
        r#"{“query_1”: {“label”: “relevant”, “query”: “a”}, “query_2”: {“label”: “irrelevant”, “query”: “b”}}"#,
    );
    repaired(
        "{'query_1': {'label': 'relevant', 'query': 'a'}, 'query_2': {'label': 'irrelevant', 'query': 'b'}}",
    );
    repaired(
        r#"{query_1: {label: "relevant", query: "a"}, query_2: {label: "irrelevant", query: "b"}}"#,
    );
    repaired(
        r#"{"query_1": {"label": "relevant", "query": "a"}, "query_2": {"label": "irrelevant", "query": "b"}"#,
    );
    repaired(
        r#"{"query_1": {"label": "relevant", "query": "a"}, "query_2": {"label": "irrelevant", "query": "b""#,
    );
    repaired(
        "{\"query_1\": {\"label\": \"relevant\"\n \"query\": \"a\"}\n \"query_2\": {\"label\": \"irrelevant\", \"query\": \"b\"}}",
    );
    repaired(r#"[{"label": "relevant", "query": "a"}, {"label": "irrelevant", "query": "b"}]"#);
    let inner = |text: &str, items: &str| check(text, items, "json_repaired", "");
    inner(
        r#"{"query_1": {"label": "relevant", "query": "what is "fair" use"}, "query_2": {"label": "irrelevant", "query": "b"}}"#,
        r#"1=what is "fair" use|0=b"#,
    );
    inner(
        "{'query_1': {'label': 'relevant', 'query': 'what's this'}, 'query_2': {'label': 'irrelevant', 'query': 'line\nfeed'}}",
        "1=what's this|0=line feed",
    );
    // A curly quote is a character of a text that straight quotes enclose.
    let curly = r#"{"query_1": {"label": "relevant", "query": "the “a”"}, "query_2": {"label": "irrelevant", "query": "b"}}"#;
    check(curly, "1=the “a”|0=b", "", "");
}

#[test]
fn other_shapes_are_understood_and_told_to_the_server_s_account() {
    let shape = |text: &str| {
        check(text, "1=a|0=b", "", "");
        let sent = Reply {
            schema_sent: true,
            ..reply(text)
        };
        check_reply(&sent, "1=a|0=b", "schema_ignored_by_server", "");
    };
    shape(r#"{"relevant": "a", "irrelevant": "b"}"#);
    shape(r#"{"relevant": ["a"], "irrelevant": {"query": "b"}}"#);
    shape(r#"{"queries": [{"label": "Relevant", "query": "a"}, {"grade": 0, "text": "b"}]}"#);
    shape(r#"{"query_1": "a", "query_2": "b"}"#);
    shape(r#"{"1": "a", "0": "b"}"#);
    shape(
        r#"{"query_1": {"label": "relevant", "query": "a", "why": "x"}, "query_2": {"label": "irrelevant", "query": "b"}}"#,
    );
    let cut = Reply {
        finish: Finish::Truncated,
        schema_sent: true,
        text: r#"{"query_1": {"#,
    };
    check_reply(
        &cut,
        "",
        "json_repaired",
        "truncated,grade_missing,grade_missing",
    );
}

#[test]
fn truncated_replies_are_told_from_broken_ones() {
    let in_text = r#"{"query_1": {"label": "relevant", "query": "a"}, "query_2": {"label": "irrelevant", "query": "b and"#;
    // Even where the server claims that the model was done.
    check(in_text, "1=a", "json_repaired", "truncated,grade_missing");
    let cut = Reply {
        finish: Finish::Truncated,
        ..reply(in_text)
    };
    check_reply(&cut, "1=a", "json_repaired", "truncated,grade_missing");
    // All was there before the limit.
    let filled = format!("{PROPER}{}", " \n".repeat(100));
    let filled = Reply {
        finish: Finish::Truncated,
        ..reply(&filled)
    };
    check_reply(&filled, "1=a|0=b", "", "");
    let cut = Reply {
        finish: Finish::Truncated,
        ..reply("Let me think about")
    };
    check_reply(&cut, "", "", "truncated");
    let cut = Reply {
        finish: Finish::Truncated,
        ..reply("")
    };
    check_reply(&cut, "", "", "truncated");
    let parsed = parse_texts(&cut, &asked(&Scale::binary(), 1, TextKind::Query));
    assert_eq!(
        parsed.problems[0].action(),
        Action::OneMoreTry { larger_limit: true }
    );
}

#[test]
fn what_is_not_as_asked_is_a_problem() {
    check("", "", "", "empty");
    check(" \n", "", "", "empty");
    check("I'm sorry, but I can't help with that.", "", "", "not_json");
    check("{{{{", "", "", "not_json");
    check("[[[[]]]]", "", "json_repaired", "schema_violation");
    check(r#"{"error": "overloaded"}"#, "", "", "schema_violation");
    check(
        r#"{"query_1": {"label": "relevant", "query": "a"}}"#,
        "1=a",
        "",
        "grade_missing",
    );
    check(
        r#"{"query_1": {"label": "relevant", "query": " "}, "query_2": {"label": "irrelevant", "query": "b"}}"#,
        "0=b",
        "",
        "grade_missing",
    );
    check(
        r#"{"relevant": "a", "relevant": "a2", "irrelevant": "b"}"#,
        "0=b",
        "",
        "grade_doubled",
    );
    check(
        r#"{"query_1": {"label": "relevant", "query": "a"}, "query_2": {"label": "relevant", "query": "b"}}"#,
        "",
        "",
        "grade_doubled,grade_missing",
    );
    check(
        r#"{"query_1": {"label": "perfect", "query": "a"}}"#,
        "",
        "",
        "schema_violation",
    );
    let long = PROPER.replace("\"a\"", &format!("\"{}\"", "x".repeat(101)));
    check(&long, "0=b", "", "schema_violation");
    let huge = format!("{PROPER}{}", " ".repeat(REPLY_BYTES_MAX));
    check(&huge, "", "", "schema_violation");
    let unknown = Reply {
        finish: Finish::Unknown,
        ..reply(PROPER)
    };
    check_reply(&unknown, "1=a|0=b", "unknown_finish_reason", "");
}

#[test]
fn a_label_that_was_not_asked_for_is_a_violation() {
    let scale = Scale::esci();
    let asked = AskedTexts::new(&scale, &[&scale.grades()[1]], 1, TextKind::Query, 100);
    let of = |text: &str| outcome(&parse_texts(&reply(text), &asked));
    let one = r#"{"query_1": {"label": "substitute", "query": "a"}}"#;
    assert_eq!(of(one), ("2=a".into(), String::new(), String::new()));
    let other = r#"{"query_1": {"label": "exact", "query": "a"}}"#;
    assert_eq!(of(other).2, "schema_violation");
    let parsed = parse_texts(&reply(other), &asked);
    assert!(
        parsed.problems[0]
            .to_string()
            .contains("`exact` was not asked for; expected substitute")
    );
}

#[test]
fn several_texts_of_a_label_are_numbered() {
    let asked = asked(&Scale::binary(), 2, TextKind::Query);
    let text = r#"{"relevant": ["a", "b"], "irrelevant": ["c", "d"]}"#;
    let parsed = parse_texts(&reply(text), &asked);
    let places: Vec<(i8, u16)> = parsed
        .items
        .iter()
        .map(|item| (item.grade, item.index))
        .collect();
    assert_eq!(places, [(1, 0), (1, 1), (0, 0), (0, 1)]);
    assert!(parsed.is_complete());
    let text = r#"{"relevant": ["a", "b", "e"], "irrelevant": ["c"]}"#;
    let parsed = parse_texts(&reply(text), &asked);
    assert_eq!(outcome(&parsed).2, "grade_doubled,grade_missing");
}

#[test]
fn passages_are_read_like_queries_and_keep_their_paragraphs() {
    let asked = asked(&Scale::binary(), 1, TextKind::Passage);
    let text = r#"{"passage_1": {"label": "relevant", "passage": "one\n\ntwo  three\u0007"}, "passage_2": {"label": "irrelevant", "passage": "אחד שתיים"}}"#;
    let parsed = parse_texts(
        &Reply {
            schema_sent: true,
            ..reply(text)
        },
        &asked,
    );
    assert_eq!(
        outcome(&parsed),
        (
            "1=one\n\ntwo three|0=אחד שתיים".into(),
            String::new(),
            String::new()
        )
    );
}

#[test]
fn verdicts_go_back_to_their_pairs() {
    let asked = AskedJudgements {
        scale: Scale::trec(),
        order: vec![2, 0, 1],
    };
    let check = |text: &str, grades: [Option<i8>; 3], flags: &str, problems: &str| {
        let sent = Reply {
            schema_sent: true,
            ..reply(text)
        };
        let parsed = parse_judgements(&sent, &asked);
        let classes: Vec<&str> = parsed.problems.iter().map(ReplyProblem::class).collect();
        let found = (
            parsed.grades.as_slice(),
            parsed.flags.to_string(),
            classes.join(","),
        );
        assert_eq!(
            found,
            (grades.as_slice(), flags.to_owned(), problems.to_owned()),
            "{text}"
        );
    };
    let all = [Some(2), Some(0), Some(3)];
    check(
        r#"{"pair_1":{"label":"perfectly_relevant"},"pair_2":{"label":"highly_relevant"},"pair_3":{"label":"irrelevant"}}"#,
        all,
        "",
        "",
    );
    let ignored = "schema_ignored_by_server";
    check(
        r#"{"pair_1":3,"pair_2":"Highly relevant","pair_3":"0"}"#,
        all,
        ignored,
        "",
    );
    check(
        r#"{"judgements":{"pair_1":3,"pair_2":2,"pair_3":0}}"#,
        all,
        ignored,
        "",
    );
    let repaired = "json_repaired,schema_ignored_by_server";
    check(r#"[{"label":3},{"grade":2},0]"#, all, repaired, "");
    check(
        "The verdicts [as asked]: {\"pair_1\":3,\"pair_2\":2,\"pair_3\":0}",
        all,
        repaired,
        "",
    );
    check(
        r#"{"pair_1":3,"pair_3":0}"#,
        [None, Some(0), Some(3)],
        ignored,
        "grade_missing",
    );
    check(
        r#"{"pair_1":3,"pair_2":2,"pair_2":1,"pair_3":0}"#,
        [None, Some(0), Some(3)],
        ignored,
        "grade_doubled",
    );
    check(
        r#"{"pair_1":3,"pair_2":2,"pair_3":7}"#,
        [Some(2), None, Some(3)],
        ignored,
        "schema_violation,grade_missing",
    );
    check(
        "[3,2]",
        [None; 3],
        repaired,
        "grade_missing,grade_missing,grade_missing",
    );
    check("none", [None; 3], ignored, "not_json");
    check("", [None; 3], "", "empty");
    let one = AskedJudgements {
        scale: Scale::binary(),
        order: vec![0],
    };
    assert_eq!(
        parse_judgements(&reply(r#"{"label":"relevant"}"#), &one).grades,
        [Some(1)]
    );
}

#[test]
fn finish_reasons_of_all_servers() {
    let check = |reason, expected| assert_eq!(Finish::from_reason(reason), expected);
    check(Some("stop"), Finish::Complete);
    check(Some("end_turn"), Finish::Complete);
    check(Some("length"), Finish::Truncated);
    check(Some("max_tokens"), Finish::Truncated);
    check(Some("abort"), Finish::Unknown);
    check(None, Finish::Unknown);
}

#[test]
fn only_a_truncated_reply_asks_for_more_tokens() {
    let larger =
        |problem: ReplyProblem| problem.action() == Action::OneMoreTry { larger_limit: true };
    assert!(larger(ReplyProblem::Truncated));
    assert!(!larger(ReplyProblem::Empty));
    assert!(!larger(ReplyProblem::NotJson {
        beginning: String::new()
    }));
}
