//! The program `gleaner-worker`: takes tasks from a broker until it is told to stop.
//!
//! 1. [`cli`] reads the command line.
//! 2. [`app`] sets up log, signals and health, and turns the end into an exit code.
//! 3. [`work`] connects and works; it keeps an eye on the broker and on the store.
//!
//! It opens no port unless it is told to, keeps nothing on disk, and may be killed at any time.

mod app;
mod cli;
mod end;
mod work;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    gleaner_workers::heaps::limit();
    app::main(cli::Cli::parse())
}
