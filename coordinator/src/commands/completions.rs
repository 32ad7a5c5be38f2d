//! `gleaner completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;
use serde::Serialize;

use crate::cli::Cli;

/// Completions for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompletionsReport {
    /// The shell.
    pub shell: String,
    /// What it has to read.
    pub script: String,
}

/// The completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> CompletionsReport {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gleaner", &mut script);
    CompletionsReport {
        shell: shell.to_string(),
        script: String::from_utf8_lossy(&script).into_owned(),
    }
}
