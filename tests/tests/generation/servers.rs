//! Servers that answer nobody: the job ends with their words, gives nothing up, and goes on when
//! they are mended.

use std::sync::{Arc, Mutex};

use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::program::{Ended, files};

use super::{QUERIES, Server, count, job, statuses, workspace};

const DOCUMENTS: u64 = 12;

/// Plays what it holds at the time.
fn changeable(play: Play) -> (Script, Arc<Mutex<Play>>) {
    let held = Arc::new(Mutex::new(play));
    let playing = Arc::clone(&held);
    let script = Arc::new(move |_: &Request| playing.lock().unwrap().clone());
    (script, held)
}

fn status(status: u16, body: &str) -> Play {
    Play::Status(status, Vec::new(), body.to_owned())
}

/// Runs against a server that plays `play`, which ends with exit code 4 and `words`; then against
/// the same one, mended. Requests that it got before the run ended.
fn check(play: Play, endpoint: &str, words: &[&str]) -> u64 {
    let shown = format!("{play:?}");
    let (script, held) = changeable(play);
    let server = Server::playing(script);
    let text = job(&server.url(), endpoint, QUERIES);
    let workspace = workspace(DOCUMENTS as usize, &format!("task_bytes: 2KiB{text}"));
    let ended = workspace.run(&["--workers", "2"]);
    assert_eq!(ended.code, Some(4), "{shown}: {ended:?}");
    for words in words {
        assert!(ended.stderr.contains(words), "{shown}: {}", ended.stderr);
    }
    let n_requests = server.n_requests();
    nothing_is_given_up(&workspace.path().join("out"));
    *held.lock().unwrap() = Play::Answer;
    // How long the machine takes to answer under load is not what is tested.
    let timeouts = "endpoints.llm.timeouts={connect: 60s, first_byte: 60s, total: 60s}";
    let Ended { code, stderr, .. } = workspace.run(&["--workers", "2", "--set", timeouts]);
    assert_eq!(code, Some(0), "{shown}: {stderr}");
    let statuses = statuses(&workspace, "queries");
    assert_eq!(statuses.get("failed"), None, "{shown}: {statuses:?}");
    assert_eq!(
        count(&workspace, "gleaner.tasks WHERE status <> 'ok'"),
        0,
        "{shown}"
    );
    assert_eq!(count(&workspace, "queries"), DOCUMENTS * 4, "{shown}");
    n_requests
}

fn nothing_is_given_up(output: &std::path::Path) {
    let manifests = output.join("_gleaner/manifests");
    let found = if manifests.exists() {
        files(&manifests)
    } else {
        Vec::new()
    };
    let partial: Vec<_> = found
        .iter()
        .filter(|path| path.display().to_string().contains("partial"))
        .collect();
    assert!(partial.is_empty(), "{partial:?}");
}

#[test]
fn what_nobody_can_mend_by_waiting_ends_the_job_at_once() {
    let key = r#"{"error": {"message": "Incorrect API key provided"}}"#;
    let model = r#"{"error": {"message": "The model `any` does not exist"}}"#;
    let quota = r#"{"error": {"code": "insufficient_quota", "message": "You exceeded it"}}"#;
    let embedded = r#"{"error": {"code": 401, "message": "no such user"}}"#;
    for (play, words) in [
        (
            status(401, key),
            ["authentication", "Incorrect API key provided"],
        ),
        (
            status(403, "not from this country"),
            ["authentication", "not from this country"],
        ),
        (status(404, model), ["model_not_found", "does not exist"]),
        (status(429, quota), ["quota_exhausted", "You exceeded it"]),
        (status(402, "pay first"), ["quota_exhausted", "pay first"]),
        (
            Play::Body(embedded.as_bytes().to_vec()),
            ["authentication", "no such user"],
        ),
    ] {
        // Only what was in flight when the first was refused; no task asks again.
        let n_requests = check(play, "concurrency: 2", &words);
        assert!((1..=2).contains(&n_requests), "{words:?}: {n_requests}");
    }
}

#[test]
fn a_server_that_fails_every_request_ends_the_job() {
    let timeouts = |first_byte: &str, total: &str| {
        format!("timeouts: {{connect: 30s, first_byte: {first_byte}, total: {total}}}")
    };
    let long = timeouts("60s", "60s");
    for (play, timeouts, words) in [
        (status(500, "oops"), &long, ["server_error", "oops"]),
        (
            Play::Silence,
            &timeouts("1s", "60s"),
            ["timeout_first_byte", "did not begin to answer"],
        ),
        (
            Play::Endless,
            &timeouts("60s", "2s"),
            ["timeout_total", "did not end its answer"],
        ),
        (Play::Reset, &long, ["connection_reset", "llm"]),
        (Play::Close, &long, ["connection_reset", "llm"]),
    ] {
        let endpoint = format!("attempts: 2, {timeouts}, concurrency: 8");
        let n_requests = check(play, &endpoint, &words);
        assert!(n_requests >= 2, "{words:?}: {n_requests}");
    }
}

#[test]
fn nobody_listens() {
    let server = Server::answering();
    let url = server.url();
    drop(server);
    let workspace = workspace(4, &job(&url, "attempts: 2", QUERIES));
    let _ = workspace
        .run(&[])
        .expect(4)
        .says("timeout_connect")
        .says("llm");
    nothing_is_given_up(&workspace.path().join("out"));
    let server = Server::answering();
    let mended = format!("endpoints.llm.url={}", server.url());
    let _ = workspace.run(&["--set", &mended]).expect(0);
    assert_eq!(count(&workspace, "queries"), 16);
}

#[test]
fn a_server_that_asks_to_wait_is_waited_for() {
    let wait = |status, name: &'static str, value: &str| {
        Play::Status(status, vec![(name, value.to_owned())], String::new())
    };
    for play in [
        wait(429, "retry-after-ms", "100"),
        wait(429, "x-ratelimit-reset-requests", "150ms"),
        wait(503, "retry-after", "1"),
        status(429, ""),
        status(529, "overloaded"),
    ] {
        let shown = format!("{play:?}");
        // Every third request is told to wait.
        let script: Script = Arc::new(move |request: &Request| {
            if request.number.is_multiple_of(3) {
                play.clone()
            } else {
                Play::Answer
            }
        });
        let server = Server::playing(script);
        let workspace = workspace(6, &job(&server.url(), "", QUERIES));
        let _ = workspace.run(&[]).expect(0);
        let statuses = statuses(&workspace, "queries");
        assert_eq!(statuses.get("failed"), None, "{shown}: {statuses:?}");
        let answered = server.log().all();
        let n_told = answered.iter().filter(|it| it.status != 200).count();
        assert!(n_told >= 2, "{shown}: {n_told}");
        assert_eq!(answered.len() - n_told, 6, "{shown}");
    }
}

/// It takes as long as such a server is waited for: three minutes.
#[test]
fn a_server_that_makes_everybody_wait_for_ever_ends_the_job() {
    if std::env::var_os("GLEANER_LONG_TESTS").is_none() {
        return;
    }
    let n_requests = check(
        status(429, "slow down, please"),
        "",
        &["rate_limited", "slow down, please"],
    );
    assert!(n_requests > 2, "{n_requests}");
}

/// Servers of which each understands one dialect of structured output.
#[test]
fn schemas_are_asked_for_in_the_words_that_the_server_understands() {
    for known in ["json_schema", "json_object", "none"] {
        let script: Script = Arc::new(move |request: &Request| {
            let format = request.body.pointer("/response_format/type");
            let format = format.and_then(|it| it.as_str()).unwrap_or("none");
            if format == known {
                return Play::Answer;
            }
            status(
                400,
                &format!(r#"{{"error": {{"message": "unsupported response_format {format}"}}}}"#),
            )
        });
        let server = Server::playing(script);
        let workspace = workspace(3, &job(&server.url(), "concurrency: 1", QUERIES));
        let _ = workspace.run(&[]).expect(0);
        let statuses = statuses(&workspace, "queries");
        if known == "none" {
            // Without a schema the server writes no JSON at all.
            assert_eq!(statuses.get("ok"), None, "{statuses:?}");
            assert_eq!(statuses.get("rejected"), Some(&12), "{statuses:?}");
            let flagged = "queries WHERE array_has(flags, 'schema_ignored_by_server')";
            assert_eq!(count(&workspace, flagged), 0);
        } else {
            assert_eq!(statuses.get("failed"), None, "{known}: {statuses:?}");
            assert!(statuses["ok"] > 0, "{known}: {statuses:?}");
        }
    }
}
