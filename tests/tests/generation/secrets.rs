//! The key of an endpoint is sent to it, and stands nowhere else.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gleaner_scripted_endpoint::{Play, Request, Script};
use gleaner_tests::program::{Ended, Workspace, command_in, ended, files, program};

use super::{BOTH, Server, job, workspace};

const VARIABLE: &str = "GENERATION_TEST_KEY";
const KEY: &str = "sk-f00dcafe0123456789";

fn run(workspace: &Workspace, arguments: &[&str]) -> Ended {
    let mut command = command_in(workspace.path(), program());
    command
        .env(VARIABLE, KEY)
        .env("RUST_LOG", "trace")
        .args(arguments);
    ended(&mut command)
}

/// Nothing that was printed, and no file, has the key.
#[track_caller]
fn check(workspace: &Workspace, shown: &Ended) {
    let beginning = &KEY[..12];
    for text in [&shown.stdout, &shown.stderr] {
        if let Some(place) = text.find(beginning) {
            let start = text[..place].rfind('\n').map_or(0, |it| it + 1);
            panic!(
                "the key is in {}",
                &text[start..(place + 40).min(text.len())]
            );
        }
    }
    for path in files(workspace.path()) {
        let bytes = fs::read(&path).unwrap();
        let is_there = bytes
            .windows(beginning.len())
            .any(|window| window == beginning.as_bytes());
        assert!(!is_there, "the key is in {}", path.display());
    }
}

fn with_key(server: &Server) -> String {
    job(&server.url(), &format!("api_key_env: {VARIABLE}"), BOTH)
}

#[test]
fn the_key_is_sent_and_shown_nowhere() {
    let n_sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_sent);
    let script: Script = Arc::new(move |request: &Request| {
        if request.authorization.as_deref() == Some(&format!("Bearer {KEY}")) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        Play::Answer
    });
    let server = Server::playing(script);
    let workspace = workspace(4, &with_key(&server));
    let ended = run(&workspace, &["plan", "job.yaml", "--json"]).expect(0);
    check(&workspace, &ended);
    let ended = run(&workspace, &["run", "job.yaml", "--json"]).expect(0);
    // The log is one that would show it.
    assert!(ended.stderr.contains("TRACE"), "{}", ended.stderr);
    check(&workspace, &ended);
    assert_eq!(n_sent.load(Ordering::Relaxed), server.log().n_requests());
    assert!(server.n_requests() > 4);
    for arguments in [
        &["status", "out", "--json"][..],
        &["verify", "out", "--json"],
        &["explain", "job.yaml"],
    ] {
        check(&workspace, &run(&workspace, arguments));
    }
}

#[test]
fn servers_that_repeat_the_key_do_not_make_it_known() {
    let words = format!("Incorrect API key provided: {KEY}");
    let refused = format!(r#"{{"error": {{"message": "{words}"}}}}"#);
    for play in [
        Play::Status(401, Vec::new(), refused.clone()),
        Play::Status(403, Vec::new(), format!("<b>{words}</b>")),
        Play::Body(refused.into_bytes()),
        Play::Status(400, Vec::new(), words.clone()),
        // Where a message is cut, and where a reply is none.
        Play::Status(400, Vec::new(), format!("{} {words}", "x".repeat(358))),
        Play::Body(words.clone().into_bytes()),
        Play::Text(words.clone(), "stop"),
    ] {
        let shown = format!("{play:?}");
        let server = Server::playing(gleaner_scripted_endpoint::always(play));
        let workspace = workspace(4, &with_key(&server));
        let ended = run(&workspace, &["run", "job.yaml", "--json"]);
        check(&workspace, &ended);
        println!("{shown}: {:?}", ended.code);
        check(&workspace, &run(&workspace, &["status", "out", "--json"]));
    }
}

#[test]
fn a_key_that_is_not_set_ends_the_job_with_its_name() {
    let server = Server::answering();
    let workspace = workspace(4, &with_key(&server));
    let _ = workspace.run(&[]).expect(4).says(VARIABLE);
    assert_eq!(server.n_requests(), 0);
    let _ = run(&workspace, &["run", "job.yaml"]).expect(0);
}
