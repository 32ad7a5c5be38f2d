//! The program `gleaner`.

use std::process::ExitCode;

use clap::Parser as _;
use gleaner_coordinator::app;
use gleaner_coordinator::cli::Cli;

fn main() -> ExitCode {
    gleaner_workers::heaps::limit();
    app::main(Cli::parse()).into()
}
