//! What a stage cost, by the summary and the report: all replies, a judge's too, and those of servers
//! that do not tell.

use std::sync::Arc;

use gleaner_scripted_endpoint::answer::{Style, completion};
use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::program::{Workspace, number};
use serde_json::{Value, json};

use super::{QUERIES, Server, count, job, workspace};
use crate::reports::{embedded, html_of, section};

const DOCUMENTS: usize = 8;
const NANOS: f64 = 1e9;

fn cost(summary: &Value) -> Value {
    let stages = summary["stages"].as_array().unwrap();
    let queries = stages.iter().find(|it| it["name"] == "queries").unwrap();
    queries["generation"]["cost"].clone()
}

fn assert_close(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    // The server rounds each answer up to a billionth.
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
}

fn operation(workspace: &Workspace) -> Value {
    let report = embedded(&html_of(workspace, &[]));
    section(&report, "generation", Some("queries"))["operation"].clone()
}

#[test]
fn a_judge_is_paid_too() {
    let (writer, judge) = (Server::answering(), Server::answering());
    let stages = "
  queries: {kind: synthetic_queries, endpoint: llm, judge: {endpoint: judge, keep: all}}
";
    let text = job(&writer.url(), "price: {input: 10, output: 40}", stages);
    let judges = format!(
        "endpoints:\n  judge: {{url: \"{}\", model: other, price: {{input: 100, output: 400}}}}",
        judge.url()
    );
    let workspace = workspace(DOCUMENTS, &text.replace("endpoints:", &judges));
    let cost = cost(&workspace.summary(&[]));
    assert_eq!(judge.n_requests(), DOCUMENTS as u64);
    let written = writer.log().price_nanos(10.0, 40.0) as f64 / NANOS;
    let judged = judge.log().price_nanos(100.0, 400.0) as f64 / NANOS;
    assert!(judged > 0.0);
    assert_close(&cost["judge_money"], judged);
    assert_close(&cost["money"], written + judged);
    let n_ok = count(&workspace, "queries WHERE status = 'ok'");
    assert_close(&cost["money_per_ok_row"], (written + judged) / n_ok as f64);
    assert_eq!(cost["estimated"], 0);
    assert!(count(&workspace, "queries WHERE judged_grade IS NOT NULL") > 0);

    // The report has the same money, and how requests fared.
    let operation = operation(&workspace);
    assert_eq!(operation["cost"], cost);
    assert_eq!(
        operation["attempts"],
        json!([{ "attempts": 1, "completions": DOCUMENTS }])
    );
    assert_eq!(operation["latency_ms"]["n"], DOCUMENTS as u64);
    assert!(
        !operation["latency_ms"]["quantiles"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let sql = "SELECT flag, count(*) AS rows FROM (SELECT unnest(flags) AS flag FROM queries WHERE query \
               IS NOT NULL) GROUP BY flag ORDER BY rows DESC, flag";
    let expected = workspace.sql(sql);
    let flags = operation["flags"].as_array().unwrap();
    assert_eq!(flags.len(), expected.len());
    let n_texts = count(&workspace, "queries WHERE query IS NOT NULL") as f64;
    for (found, expected) in flags.iter().zip(&expected) {
        assert_eq!(found["flag"], expected["flag"]);
        assert_eq!(found["rows"], expected["rows"]);
        assert_close(&found["share"], number(expected, "rows") as f64 / n_texts);
    }
    let report = embedded(&html_of(&workspace, &[]));
    let quality = &section(&report, "generation", Some("queries"))["measures"];
    assert!(
        quality["monotonicity"]["n"].as_u64().unwrap() > 0,
        "{quality}"
    );
    assert!(quality["judge"]["confusion"].is_object(), "{quality}");
}

/// What it does not tell is estimated by the texts, and marked: in the rows, in the summary, for
/// people.
#[test]
fn servers_that_do_not_tell_their_usage_cost_something_all_the_same() {
    let script: Script = Arc::new(|request: &Request| {
        if request.number.is_multiple_of(2) {
            return Play::Answer;
        }
        let text = completion(&request.body, Style::Related);
        let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
        Play::Body(json!({ "choices": [choice] }).to_string().into_bytes())
    });
    let server = Server::playing(script);
    let price = "price: {input: 10, output: 40}";
    let workspace = workspace(DOCUMENTS, &job(&server.url(), price, QUERIES));
    let ended = workspace.run(&[]).expect(0);
    let n_estimated = DOCUMENTS as u64 / 2;
    let words = format!("{n_estimated} replies told no usage");
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(
        shown.contains(&words) && shown.contains("about "),
        "{shown}"
    );
    let marked =
        "queries WHERE tokens_estimated AND prompt_tokens > 100 AND completion_tokens > 10";
    assert_eq!(count(&workspace, marked), n_estimated);
    let report = operation(&workspace);
    assert_eq!(report["cost"]["estimated"], n_estimated);
    let told = "SELECT sum(prompt_tokens) AS p, sum(completion_tokens) AS c FROM queries";
    let told = &workspace.sql(told)[0];
    let money = (number(told, "p") * 10 + number(told, "c") * 40) as f64 / 1e6;
    assert_close(&report["cost"]["money"], money);
}

/// A part of it, or what is no number of tokens: what is told counts, the rest is estimated and
/// marked. None of it keeps a text from being used.
#[test]
fn servers_that_tell_a_part_of_their_usage_or_nonsense() {
    // Of the four rows of each document, the first has the tokens of its completion.
    let check = |usage: Value, prompt: Option<u64>, completion: Option<u64>| {
        let sent = usage.clone();
        let script: Script = Arc::new(move |request: &Request| {
            let text = completion_of(request);
            let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
            let body = json!({ "choices": [choice], "usage": sent });
            Play::Body(body.to_string().into_bytes())
        });
        let server = Server::playing(script);
        let price = "price: {input: 10, output: 40}, budget: 5";
        let workspace = workspace(3, &job(&server.url(), price, QUERIES));
        let _ = workspace.run(&[]).expect(0);
        let rows = workspace.sql(
            "SELECT count(*) AS n, count(*) FILTER (WHERE reason LIKE 'not_json%' OR status = \
             'failed') AS lost, bool_or(tokens_estimated) AS estimated, max(prompt_tokens) AS p, \
             max(completion_tokens) AS c, min(completion_tokens + prompt_tokens) AS least FROM queries \
             WHERE prompt_tokens + completion_tokens > 0",
        );
        let row = &rows[0];
        assert_eq!(count(&workspace, "queries"), 12, "{usage}");
        assert_eq!(number(row, "lost"), 0, "{usage}: {row}");
        let is_whole = prompt.is_some() && completion.is_some();
        assert_eq!(row["estimated"], !is_whole, "{usage}: {row}");
        for (found, told) in [("p", prompt), ("c", completion)] {
            let found = number(row, found);
            match told {
                Some(told) => assert_eq!(found, told, "{usage}: {row}"),
                // By the length of the texts.
                None => assert!((10..10_000).contains(&found), "{usage}: {row}"),
            }
        }
        // What is booked is never less than what was told, and never nothing.
        let status = workspace.gleaner(&["status", "out", "--json"]).expect(0);
        let status = status.events().remove(0);
        let spent = status["endpoints"]["endpoints"][0]["spent"]["tokens"].as_u64();
        let spent = spent.unwrap_or_else(|| panic!("{status}"));
        let told = 3 * (prompt.unwrap_or(0) + completion.unwrap_or(0));
        if is_whole {
            assert_eq!(spent, told, "{usage}: {status}");
        } else {
            assert!(spent > told + 300, "{usage}: {status}");
        }
    };
    check(
        json!({ "prompt_tokens": 321, "completion_tokens": 77 }),
        Some(321),
        Some(77),
    );
    check(json!({ "prompt_tokens": 321 }), Some(321), None);
    check(json!({ "completion_tokens": 77 }), None, Some(77));
    check(
        json!({ "prompt_tokens": 321, "total_tokens": 398 }),
        Some(321),
        Some(77),
    );
    check(
        json!({ "prompt_tokens": "321", "completion_tokens": "77" }),
        Some(321),
        Some(77),
    );
    check(
        json!({ "prompt_tokens": -5, "completion_tokens": -1 }),
        None,
        None,
    );
    check(
        json!({ "prompt_tokens": "many", "completion_tokens": 77 }),
        None,
        Some(77),
    );
    check(
        json!({ "prompt_tokens": 1e300, "completion_tokens": null }),
        None,
        None,
    );
    check(json!([]), None, None);
}

/// Where only the sum is told, no more is told of both.
#[test]
fn servers_that_tell_only_the_sum_of_tokens() {
    let script: Script = Arc::new(move |request: &Request| {
        let text = completion_of(request);
        let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
        let body = json!({ "choices": [choice], "usage": { "total_tokens": 500 } });
        Play::Body(body.to_string().into_bytes())
    });
    let server = Server::playing(script);
    let workspace = workspace(3, &job(&server.url(), "", QUERIES));
    let _ = workspace.run(&[]).expect(0);
    let summed = "(SELECT doc_id FROM queries GROUP BY doc_id HAVING sum(prompt_tokens + \
                  completion_tokens) = 500 AND bool_or(tokens_estimated))";
    assert_eq!(count(&workspace, summed), 3);
}

fn completion_of(request: &Request) -> String {
    completion(&request.body, Style::Related)
}

#[test]
fn failures_are_told_by_class() {
    let script: Script = Arc::new(|request: &Request| match request.number {
        0 => Play::Status(400, Vec::new(), "no such parameter".to_owned()),
        _ => Play::Answer,
    });
    let server = Server::playing(script);
    let text = job(&server.url(), "concurrency: 1", QUERIES);
    let workspace = workspace(DOCUMENTS, &text);
    let _ = workspace.run(&[]).expect(0);
    let operation = operation(&workspace);
    let classes = operation["classes"].as_array().unwrap();
    let refused = classes.iter().find(|it| it["class"] == "bad_request");
    let n_rows = DOCUMENTS as f64 * 4.0;
    let refused = refused.unwrap_or_else(|| panic!("{classes:?}"));
    assert_eq!(refused["status"], "failed");
    assert_close(&refused["share"], number(refused, "rows") as f64 / n_rows);
}
