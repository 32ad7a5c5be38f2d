//! The program `gleaner-worker`: takes tasks from a broker until it is told to stop.
//!
//! [`cli`] says what can be typed, [`program`] what it does.

mod cli;
mod exit;
mod program;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;

fn main() -> ExitCode {
    program::main(Cli::parse()).into()
}
