//! The program answers. That this test exists makes `cargo test --workspace` build the program,
//! which the system tests in `tests/` start.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;

fn stdout_of(argument: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gleaner"))
        .arg(argument)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_tells_its_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(stdout_of("--version"), format!("gleaner {version}\n"));
}

#[test]
fn it_tells_what_it_can_do() {
    let help = stdout_of("--help");
    for command in ["run", "plan", "sql", "verify"] {
        let is_listed = help
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{command} ")));
        assert!(is_listed, "{command} is not in\n{help}");
    }
}
