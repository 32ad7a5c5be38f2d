//! The program answers. That this test exists makes `cargo test --workspace` build the program,
//! which the system tests in `tests/` start.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

fn worker(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gleaner-worker"));
    command.args(arguments).env_remove("GLEANER_QUEUE");
    command.output().unwrap()
}

#[test]
fn it_tells_its_version_and_what_it_can_do() {
    let version = worker(&["--version"]);
    assert!(version.status.success(), "{version:?}");
    let text = String::from_utf8(version.stdout).unwrap();
    assert_eq!(
        text,
        format!("gleaner-worker {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = String::from_utf8(worker(&["--help"]).stdout).unwrap();
    for option in [
        "--queue",
        "--slots",
        "--stages",
        "--resources",
        "--grace",
        "--health",
    ] {
        assert!(help.contains(option), "{option} is not in\n{help}");
    }
    let completions = worker(&["--completions", "bash"]);
    assert!(completions.status.success(), "{completions:?}");
    assert!(!completions.stdout.is_empty());
}

#[test]
fn wrong_usage_is_two_and_a_broker_that_is_not_there_is_four() {
    let check = |arguments: &[&str], code: i32, says: &str| {
        let ended = worker(arguments);
        let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("s3cret"), "{stderr}");
    };
    check(&[], 2, "--queue");
    check(&["--queue", "http://x"], 2, "amqp://");
    check(
        &["--queue", "amqp://x", "--stages", "selct"],
        2,
        "did you mean `select`?",
    );
    check(&["--queue", "amqp://x", "--slots", "0"], 2, "--slots");
    check(&["--queue", "amqp://x", "--health", "nowhere"], 2, "port");
    let nobody = [
        "--queue",
        "amqp://u:s3cret@127.0.0.1:1",
        "--broker-patience",
        "1s",
    ];
    check(&nobody, 4, "127.0.0.1:1");
}
