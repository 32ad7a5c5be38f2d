//! Replies to one request that are not as they should be: its rows tell so, all others are as
//! ever.

use std::sync::{Arc, Mutex};

use gleaner_scripted_endpoint::answer::{Style, completion};
use gleaner_scripted_endpoint::{Play, Request};
use gleaner_tests::program::{Workspace, number};
use serde_json::{Value, json};

use super::{QUERIES, Server, count, for_marked, job, with_marked, workspace_of};

const OTHERS: usize = 5;

/// What becomes of the four rows of the marked document.
#[derive(Debug, Clone, Copy)]
struct Expected {
    /// Beginning of the reason of rows that are not ok.
    reason: &'static str,
    /// Rows with a text that can be used.
    ok: u64,
    rejected: u64,
    failed: u64,
    /// Requests about it.
    asked: usize,
}

/// No reply: all rows failed for it.
fn failed(reason: &'static str, asked: usize) -> Expected {
    Expected {
        reason,
        ok: 0,
        rejected: 0,
        failed: 4,
        asked,
    }
}

/// Replies that cannot be used: all rows rejected for it.
fn rejected(reason: &'static str, asked: usize) -> Expected {
    Expected {
        reason,
        ok: 0,
        rejected: 4,
        failed: 0,
        asked,
    }
}

/// All rows are as they should be.
fn sound(asked: usize) -> Expected {
    Expected {
        reason: "",
        ok: 4,
        rejected: 0,
        failed: 0,
        asked,
    }
}

/// Runs a job in which a script plays for one document. Its workspace, the requests about the
/// document, and the server.
fn run(
    play: impl Fn(&Request, usize) -> Play + Send + Sync + 'static,
) -> (Workspace, Vec<Value>, Server) {
    let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let server = Server::playing(for_marked(move |request, n_before| {
        seen.lock().unwrap().push(request.body.clone());
        play(request, n_before)
    }));
    let workspace = workspace_of(&with_marked(OTHERS));
    // Nothing of the method may reject texts here.
    let endpoint = "attempts: 2, concurrency: 2, timeouts: {first_byte: 2s, total: 3s}";
    let stages = QUERIES.replace("llm}", "llm, filter: {reject: []}}");
    workspace.write("job.yaml", job(&server.url(), endpoint, &stages));
    let _ = workspace.run(&["--workers", "1"]).expect(0);
    let asked = asked.lock().unwrap().clone();
    (workspace, asked, server)
}

#[track_caller]
fn check(
    name: &str,
    play: impl Fn(&Request, usize) -> Play + Send + Sync + 'static,
    expected: Expected,
) {
    let (workspace, asked, server) = run(play);
    let others = "queries WHERE doc_id <> 'marked' AND status = 'ok' AND attempts = 1";
    assert_eq!(count(&workspace, others), OTHERS as u64 * 4, "{name}");
    let rows = workspace.sql(
        "SELECT count(*) FILTER (WHERE status = 'ok') AS ok, count(*) FILTER (WHERE status = \
         'rejected') AS rejected, count(*) FILTER (WHERE status = 'failed') AS failed, \
         min(reason) AS least, max(reason) AS most FROM queries WHERE doc_id = 'marked'",
    );
    let row = &rows[0];
    let found = [
        number(row, "ok"),
        number(row, "rejected"),
        number(row, "failed"),
    ];
    let wanted = [expected.ok, expected.rejected, expected.failed];
    assert_eq!(found, wanted, "{name}: {row}");
    for reason in ["least", "most"] {
        let reason = row[reason].as_str().unwrap_or_default();
        assert!(reason.starts_with(expected.reason), "{name}: {row}");
        assert_eq!(
            reason.is_empty(),
            expected.reason.is_empty(),
            "{name}: {row}"
        );
    }
    assert_eq!(asked.len(), expected.asked, "{name}");
    // None of it is asked for again.
    let n_requests = server.n_requests();
    assert_eq!(workspace.summary(&[])["is_new"], false, "{name}");
    assert_eq!(server.n_requests(), n_requests, "{name}");
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

fn status(status: u16, message: &str) -> Play {
    let body = json!({ "error": { "message": message } });
    Play::Status(status, Vec::new(), body.to_string())
}

/// A body that claims success.
fn body(value: Value) -> Play {
    Play::Body(value.to_string().into_bytes())
}

/// A choice with a text and the reason for its end, without usage.
fn choice(text: &str, finish_reason: &str) -> Value {
    json!({ "choices": [{
        "index": 0,
        "message": { "role": "assistant", "content": text },
        "finish_reason": finish_reason,
    }] })
}

/// What a sound model would write.
fn sound_text(request: &Request) -> String {
    completion(&request.body, Style::Related)
}

/// The entries of a sound reply, changed.
fn changed(request: &Request, change: impl FnOnce(&mut Vec<(String, Value)>)) -> String {
    let value: Value = serde_json::from_str(&sound_text(request)).unwrap();
    let mut entries: Vec<(String, Value)> = value
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    change(&mut entries);
    let entries: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{}: {value}", json!(key)))
        .collect();
    format!("{{{}}}", entries.join(", "))
}

#[test]
fn requests_that_the_server_does_not_take() {
    check(
        "400",
        |_, _| status(400, "max_tokens is too small"),
        failed("bad_request: ", 1),
    );
    check(
        "context",
        |_, _| status(400, "maximum context length is 2048 tokens"),
        failed("context_overflow: ", 1),
    );
    check(
        "413",
        |_, _| status(413, "too large"),
        failed("context_overflow: ", 1),
    );
    check(
        "filter",
        |_, _| status(400, "the content management policy forbids it"),
        failed("content_filter: ", 1),
    );
    check(
        "500 with a validation error",
        |_, _| status(500, "1 validation error for Request"),
        failed("bad_request: ", 1),
    );
    check(
        "200 with an error",
        |_, _| body(json!({ "error": { "message": "no", "code": 400 } })),
        failed("bad_request: ", 1),
    );
}

#[test]
fn answers_that_the_server_or_the_model_holds_back() {
    check(
        "refusal",
        |_, _| {
            body(json!({ "choices": [{ "message": { "content": null, "refusal": "I cannot" } }] }))
        },
        failed("refusal: I cannot", 1),
    );
    check(
        "filter",
        |_, _| body(choice("", "content_filter")),
        failed("content_filter: ", 1),
    );
    check(
        "filter in the middle",
        |request, _| body(choice(&sound_text(request)[..20], "content_filter")),
        failed("content_filter: ", 1),
    );
}

#[test]
fn answers_that_cannot_be_read_are_asked_for_once_more() {
    check(
        "no JSON",
        |_, _| Play::Body(b"<html>busy</html>".to_vec()),
        rejected("not_json: ", 2),
    );
    check(
        "nothing",
        |_, _| Play::Body(Vec::new()),
        rejected("not_json: ", 2),
    );
    check(
        "no choice",
        |_, _| body(json!({ "choices": [] })),
        rejected("empty: ", 2),
    );
    check(
        "no text",
        |_, _| body(choice(" ", "stop")),
        rejected("empty: ", 2),
    );
    check(
        "prose",
        |_, _| Play::Text("Sure! Here you are.".to_owned(), "stop"),
        rejected("not_json: ", 2),
    );
    check(
        "another form",
        |_, _| Play::Text(r#"{"queries": {"answer": 5}}"#.to_owned(), "stop"),
        rejected("schema_violation: ", 2),
    );
    check(
        "5 MB",
        |_, _| Play::Text("x".repeat(5 << 20), "stop"),
        rejected("schema_violation: ", 2),
    );
    // More than that is not even read to its end, and may have been paid for.
    check(
        "20 MB",
        |_, _| Play::Body(vec![b' '; 20 << 20]),
        failed("too_large: ", 1),
    );
    check(
        "no JSON at first",
        |_, n_before| match n_before {
            0 => Play::Body(b"<html>busy</html>".to_vec()),
            _ => Play::Answer,
        },
        sound(2),
    );
}

#[test]
fn grades_that_are_missing_or_doubled_are_asked_for_once_more() {
    let one_of_four = |reason| Expected {
        reason,
        ok: 3,
        rejected: 1,
        failed: 0,
        asked: 2,
    };
    check(
        "missing",
        |request, _| {
            let text = changed(request, |entries| {
                entries.pop();
            });
            Play::Text(text, "stop")
        },
        one_of_four("grade_missing: "),
    );
    check(
        "doubled",
        |request, _| {
            let text = changed(request, |entries| {
                let mut again = entries[0].clone();
                again.0.push_str("_again");
                entries.push(again);
            });
            Play::Text(text, "stop")
        },
        one_of_four("grade_doubled: "),
    );
    check(
        "missing at first",
        |request, n_before| {
            let text = changed(request, |entries| {
                if n_before == 0 {
                    entries.pop();
                }
            });
            Play::Text(text, "stop")
        },
        sound(2),
    );
}

#[test]
fn what_was_cut_off_is_asked_for_with_more_room() {
    let (workspace, asked, _server) = run(|request, n_before| {
        let text = sound_text(request);
        match n_before {
            0 => Play::Text(text[..text.len() / 2].to_owned(), "length"),
            _ => Play::Answer,
        }
    });
    let room = |idx: usize| asked[idx]["max_tokens"].as_u64().unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(room(1), 2 * room(0));
    let sound = "queries WHERE doc_id = 'marked' AND status = 'ok' AND attempts = 2";
    assert_eq!(count(&workspace, sound), 4);
    check(
        "always cut off",
        |request, _| {
            let text = sound_text(request);
            Play::Text(text[..10].to_owned(), "length")
        },
        rejected("truncated: ", 2),
    );
}

#[test]
fn what_a_server_leaves_out_or_invents_costs_nothing() {
    check(
        "an unknown reason",
        |request, _| Play::Text(sound_text(request), "because"),
        sound(1),
    );
    check(
        "no usage",
        |request, _| body(choice(&sound_text(request), "stop")),
        sound(1),
    );
    check(
        "fenced",
        |request, _| {
            let text = sound_text(request);
            Play::Text(format!("Here it is:\n```json\n{text}\n```"), "stop")
        },
        sound(1),
    );
    let flag = |play: fn(&Request) -> Play, flag: &str| {
        let (workspace, _, _server) = run(move |request, _| play(request));
        let flagged = format!("queries WHERE array_has(flags, '{flag}') AND doc_id = 'marked'");
        assert_eq!(count(&workspace, &flagged), 4, "{flag}");
    };
    flag(
        |request| Play::Text(sound_text(request), "because"),
        "unknown_finish_reason",
    );
    flag(
        |request| Play::Text(format!("```\n{}\n```", sound_text(request)), "stop"),
        "json_repaired",
    );
}

#[test]
fn bytes_that_are_no_text_are_asked_for_once_more() {
    let with_bytes = |request: &Request| {
        let mut bytes = choice(&sound_text(request), "stop")
            .to_string()
            .into_bytes();
        // Where the text of the first query begins: all else is as it should be.
        let start = br#"query\":\""#;
        let found = bytes.windows(start.len()).position(|it| it == start);
        let place = found.unwrap() + start.len();
        bytes.splice(place..place, [0xff, 0xfe]);
        Play::Body(bytes)
    };
    check(
        "always",
        move |request, _| with_bytes(request),
        rejected("not_json: ", 2),
    );
    check(
        "at first",
        move |request, n_before| match n_before {
            0 => with_bytes(request),
            _ => Play::Answer,
        },
        sound(2),
    );
}

#[test]
fn failures_that_pass_are_tried_again_and_then_given_up_for_this_item_only() {
    type Case = (&'static str, fn() -> Play, &'static str);
    let plays: [Case; 5] = [
        ("500", || status(500, "oops"), "server_error: "),
        ("silence", || Play::Silence, "timeout_first_byte: "),
        ("no end", || Play::Endless, "timeout_total: "),
        ("reset", || Play::Reset, "connection_reset: "),
        ("closed", || Play::Close, "connection_reset: "),
    ];
    for (name, play, reason) in plays {
        check(
            &format!("{name} at first"),
            move |_, n_before| if n_before == 0 { play() } else { Play::Answer },
            sound(2),
        );
        // Others are answered before and after, or it is the last: that must make no difference.
        check(name, move |_, _| play(), failed(reason, 2));
    }
}
