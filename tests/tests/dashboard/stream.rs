//! What the program serves, read by a plain client.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Child;

use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, always};
use gleaner_tests::corpus::{sample_documents, write_parquet};
use gleaner_tests::plain_job;
use gleaner_tests::program::{Workspace, text};
use gleaner_tests::watching::{Snapshots, ask};
use serde_json::{Value, json};

use super::start;

/// Gives a waiting run its job, and returns all snapshots with what the program wrote.
fn watch(
    mut run: Child,
    port: u16,
    job: &str,
    before: impl FnOnce(&Value),
) -> (Vec<Value>, Vec<Value>, Option<i32>) {
    let mut snapshots = Snapshots::of(port);
    let first = snapshots.next().unwrap();
    before(&first);
    let mut stdin = run.stdin.take().unwrap();
    stdin.write_all(job.as_bytes()).unwrap();
    drop(stdin);
    let mut seen = vec![first];
    seen.extend(snapshots);
    let output = run.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let events = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    (seen, events.collect(), output.status.code())
}

fn part(value: &Value, key: &str) -> (u64, Option<u64>) {
    let part = &value[key];
    (part["done"].as_u64().unwrap(), part["total"].as_u64())
}

/// What must hold of every snapshot of a run.
fn check_each(snapshots: &[Value]) {
    let mut stages_before = Vec::new();
    for snapshot in snapshots {
        let stages = snapshot["stages"].as_array().unwrap();
        for (idx, stage) in stages.iter().enumerate() {
            for phase in stage["phases"].as_array().unwrap() {
                for key in ["tasks", "rows", "bytes"] {
                    let (done, total) = part(phase, key);
                    assert!(total.is_none_or(|total| done <= total), "{key}: {phase}");
                }
            }
            // What is done stays done.
            let (done, _) = part(stage, "tasks");
            let before: u64 = stages_before.get(idx).copied().unwrap_or(0);
            assert!(done >= before, "{stage}");
        }
        stages_before = stages.iter().map(|stage| part(stage, "tasks").0).collect();
    }
}

/// The last figures are those of the summary, to the digit.
fn check_last(last: &Value, finished: &Value) {
    assert_eq!(finished["event"], "finished");
    assert_eq!(last["state"], "ended");
    assert_eq!(last["ended"]["exit_code"], 0);
    assert_eq!(last["ended"]["version"], finished["version"]);
    assert_eq!(last["ended"]["is_new"], finished["is_new"]);
    assert_eq!(last["job"], finished["job"]);
    assert_eq!(last["output"], finished["output"]);
    assert_eq!(last["corpus"]["n_files"], finished["corpus"][0]);
    assert_eq!(last["corpus"]["bytes"], finished["corpus"][1]);
    let stages = last["stages"].as_array().unwrap();
    let summarized = finished["stages"].as_array().unwrap();
    assert_eq!(stages.len(), summarized.len());
    let mut n_quarantined = 0;
    for (stage, summary) in stages.iter().zip(summarized) {
        assert_eq!(stage["state"], "done", "{stage}");
        for key in ["name", "kind"] {
            assert_eq!(stage[key], summary[key]);
        }
        for key in ["rows", "lanes", "n_quarantined", "reuse", "work"] {
            assert_eq!(stage["result"][key], summary[key], "{key} of {stage}");
        }
        n_quarantined += summary["n_quarantined"].as_u64().unwrap();
        // What the phases add up to is what the summary counts.
        let (n_done, n_tasks) = part(stage, "tasks");
        let given_up = stage["tasks"]["given_up"].as_u64().unwrap();
        assert_eq!(Some(n_done + given_up), n_tasks, "{stage}");
        assert_eq!(json!(n_tasks), summary["reuse"]["n_tasks"], "{stage}");
        assert_eq!(stage["tasks"]["reused"], summary["reuse"]["n_reused"]);
    }
    assert_eq!(last["quarantine"]["n"], n_quarantined);
    let sum = |key: &str| -> u64 {
        let spans = last["throughput"][key].as_array().unwrap();
        spans.iter().map(|it| it.as_u64().unwrap()).sum()
    };
    // A file that cannot be read does not tell its rows.
    let phases = stages
        .iter()
        .flat_map(|it| it["phases"].as_array().unwrap());
    let has_rows = phases.into_iter().all(|it| part(it, "rows").1.is_some());
    for key in ["rows", "bytes"].into_iter().skip(usize::from(!has_rows)) {
        let work = summarized
            .iter()
            .map(|it| it["work"][key].as_u64().unwrap());
        // What is given up is no work that was done.
        assert_eq!(sum(key), work.sum::<u64>(), "{key}");
    }
}

#[test]
fn a_run_is_watched_from_before_its_start_to_its_end() {
    let workspace = plain_job::workspace(3);
    for _ in 0..2 {
        let (run, port) = start(&workspace, &["--set", "task_bytes=1B"]);
        let (snapshots, events, code) = watch(run, port, plain_job::JOB, |first| {
            assert_eq!(first["state"], "starting");
            assert_eq!(first["doing"], "waiting for the plan");
            assert_eq!(first["stages"], json!([]));
            assert_eq!(first["ended"], Value::Null);
        });
        assert_eq!(code, Some(0));
        check_each(&snapshots);
        let last = snapshots.last().unwrap();
        check_last(last, events.last().unwrap());
        // The second time everything is there: then nobody works.
        let done = last["workers"]["workers"].as_array().unwrap().iter();
        let n_done: u64 = done.map(|it| it["n_done"].as_u64().unwrap()).sum();
        let stages = last["stages"].as_array().unwrap();
        let n_new: u64 = stages
            .iter()
            .map(|it| part(it, "tasks").0 - it["tasks"]["reused"].as_u64().unwrap())
            .sum();
        assert_eq!(n_done, n_new);
        assert_eq!(last["times"].is_null(), n_new == 0, "{}", last["times"]);
        // The address is told, and nobody is there any more.
        let told = format!("watch it at http://127.0.0.1:{port}");
        assert!(events.iter().any(|it| it["text"] == told), "{events:?}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn what_is_given_up_is_told_with_its_cause() {
    let workspace = plain_job::workspace(2);
    workspace.write("corpus/broken.parquet", b"PAR1 is not all it takes");
    let (run, port) = start(&workspace, &["--set", "allow.quarantined_tasks=1"]);
    let (snapshots, events, code) = watch(run, port, plain_job::JOB, |_| {});
    assert_eq!(code, Some(0));
    check_each(&snapshots);
    let last = snapshots.last().unwrap();
    check_last(last, events.last().unwrap());
    let quarantine = &last["quarantine"];
    assert!(quarantine["n"].as_u64() > Some(0), "{quarantine}");
    assert_eq!(quarantine["allowed"], "1");
    let causes = quarantine["causes"].as_array().unwrap();
    let n: u64 = causes
        .iter()
        .map(|it| it["n_tasks"].as_u64().unwrap())
        .sum();
    assert_eq!(Some(n), quarantine["n"].as_u64());
    for cause in causes {
        let example = cause["examples"][0].as_str().unwrap();
        assert!(example.contains("corpus/broken.parquet"), "{cause}");
        assert!(!text(cause, "message").is_empty());
    }
}

#[test]
fn a_run_that_fails_says_why_to_who_watches() {
    let workspace = plain_job::workspace(1);
    workspace.write("corpus/broken.parquet", b"PAR1 is not all it takes");
    let (run, port) = start(&workspace, &[]);
    let (snapshots, _, code) = watch(run, port, plain_job::JOB, |_| {});
    assert_eq!(code, Some(3));
    let ended = &snapshots.last().unwrap()["ended"];
    assert_eq!(ended["exit_code"], 3);
    let message = text(ended, "message");
    assert!(message.contains("quarantined"), "{message}");
    // So does one whose job file is wrong.
    let (run, port) = start(&workspace, &[]);
    let (snapshots, _, code) = watch(run, port, "name: x\nstagse: {}\n", |_| {});
    assert_eq!(code, Some(2));
    assert_eq!(snapshots.last().unwrap()["ended"]["exit_code"], 2);
}

#[test]
fn what_is_spent_is_what_the_server_charged_and_keys_are_not_told() {
    const KEY: &str = "sk-very-secret-0815";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = ScriptedServer::start(always(Play::Answer), ServerOptions::default());
    let server = runtime.block_on(server).unwrap();
    let workspace = Workspace::new();
    let path = workspace.path().join("corpus/part-0.parquet");
    write_parquet(&path, &sample_documents(8), 4);
    let job = format!(
        "name: paid\noutput: out\ncorpus: {{paths: [corpus/*.parquet]}}\n\
         allow: {{rejected_rows: 100%}}\n\
         endpoints: {{llm: {{url: \"{}\", model: any, api_key_env: WATCHED_KEY, \
         price: {{input: 0.1, output: 0.4}}, budget: 25.0}}}}\n\
         stages: {{queries: {{kind: synthetic_queries, endpoint: llm}}}}\n",
        server.url()
    );
    // Only the program has the key.
    workspace.write(
        "run.sh",
        "WATCHED_KEY=\"$1\"; export WATCHED_KEY; shift; exec \"$@\"",
    );
    let port = gleaner_tests::watching::free_port();
    let mut command = gleaner_tests::program::command_in(workspace.path(), "sh".as_ref());
    command.args(["run.sh", KEY]);
    command.arg(gleaner_tests::program::program());
    command.args(["run", "-", "--json", "--workers", "2"]);
    command.arg(format!("--dashboard={port}"));
    let piped = std::process::Stdio::piped;
    let run = command.stdin(piped()).stdout(piped()).spawn().unwrap();
    let (snapshots, events, code) = watch(run, port, &job, |_| {});
    assert_eq!(code, Some(0), "{events:?}");
    let last = snapshots.last().unwrap();
    check_last(last, events.last().unwrap());
    let money = &last["money"][0];
    assert_eq!(money["name"], "llm");
    assert_eq!(money["budget"], 25.0);
    assert_eq!(money["spent"]["requests"], server.log().n_requests() as u64);
    let charged = server.log().price_nanos(0.1, 0.4);
    // Each answer's price is rounded to billionths.
    let nanos = money["spent"]["nanos"].as_u64().unwrap();
    let n_requests = server.log().n_requests() as u64;
    assert!(nanos.abs_diff(charged) <= n_requests, "{nanos} {charged}");
    let status = workspace.gleaner(&["status", "out", "--json"]).expect(0);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let spent = &status["endpoints"]["endpoints"][0]["spent"];
    assert_eq!(money["spent"], *spent);
    for snapshot in &snapshots {
        assert!(!snapshot.to_string().contains(KEY));
    }
}

#[test]
fn only_who_asks_for_this_machine_is_answered_and_only_by_get() {
    let workspace = plain_job::workspace(1);
    let (mut run, port) = start(&workspace, &["--dashboard-host", "watch.example.com"]);
    let local = format!("host: localhost:{port}");
    for path in [
        "/",
        "/page.css",
        "/page.js",
        "/text.js",
        "/parts.js",
        "/snapshot.json",
    ] {
        let answer = ask(port, &[&format!("GET {path} HTTP/1.1"), &local]);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(
                answer.head.contains(header),
                "{path}: {header}: {}",
                answer.head
            );
        }
        // Nothing is named that would have to be loaded from elsewhere.
        let foreign = answer.body.replace("http://www.w3.org/", "");
        assert!(
            !foreign.contains("http://") && !foreign.contains("https://"),
            "{path}"
        );
        for host in [
            "evil.example",
            "localhost.evil.example",
            "",
            "evil.example:80",
        ] {
            let host = format!("host: {host}");
            let answer = ask(port, &[&format!("GET {path} HTTP/1.1"), &host]);
            assert!(matches!(answer.status, 400 | 421), "{path} {host}");
            assert!(
                !answer.body.contains("job"),
                "{path} {host}: {}",
                answer.body
            );
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let line = format!("{method} {path} HTTP/1.1");
            let answer = ask(port, &[&line, &local, "content-length: 0"]);
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    for host in [
        "127.0.0.1",
        "[::1]:1",
        "WATCH.example.com:80",
        "10.0.0.7:8080",
    ] {
        let host = format!("host: {host}");
        assert_eq!(ask(port, &["GET / HTTP/1.1", &host]).status, 200, "{host}");
    }
    // Two hosts, or another one in the first line.
    let both = ["GET / HTTP/1.1", &local, "host: evil.example"];
    assert_ne!(ask(port, &both).status, 200);
    let whole = ["GET http://evil.example/ HTTP/1.1", &local];
    assert_eq!(ask(port, &whole).status, 421);
    // A page of another site may lead here, and cannot take anything from here.
    let foreign = "sec-fetch-site: cross-site";
    assert_eq!(ask(port, &["GET / HTTP/1.1", &local, foreign]).status, 200);
    let events = ["GET /events HTTP/1.1", &local, foreign];
    assert_eq!(ask(port, &events).status, 403);
    assert_eq!(ask(port, &["GET /nothing HTTP/1.1", &local]).status, 404);
    run.kill().unwrap();
    run.wait().unwrap();
}

#[test]
fn an_address_that_is_wrong_or_taken_is_said_before_anything_is_done() {
    let workspace = plain_job::workspace(1);
    let _ = workspace
        .run(&["--dashboard=example.com:80"])
        .expect(2)
        .says("write --dashboard, --dashboard=8080 or --dashboard=0.0.0.0:8080");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let _ = workspace
        .run(&[&format!("--dashboard={port}")])
        .expect(2)
        .says(&format!("cannot listen on 127.0.0.1:{port}"));
    assert!(!workspace.path().join("out").exists());
}
