//! `gleaner completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

/// The script of completions for a shell.
#[must_use]
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "gleaner", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
