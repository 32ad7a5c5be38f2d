//! The page to watch a run: what is served, that it is the truth, that it stays small, and how a
//! browser shows it.
#![cfg(unix)]

mod browser;
mod large;
mod stream;

use std::process::{Child, Stdio};

use gleaner_tests::program::{Workspace, command_in, program};
use gleaner_tests::watching::free_port;

/// A run that waits for its job on the standard input, and serves its page.
fn start(workspace: &Workspace, arguments: &[&str]) -> (Child, u16) {
    let port = free_port();
    let mut command = command_in(workspace.path(), program());
    command
        .args(["run", "-", "--json", "--workers", "2"])
        .arg(format!("--dashboard={port}"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    (command.spawn().unwrap(), port)
}
