//! Every system test, as one program: each further one would link everything once more.
//!
//! `cargo test -p gleaner-tests <file>::` runs those of one file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod amqp;
mod bad_documents;
mod bad_input;
mod bad_job;
mod bad_output;
mod chaos;
mod commands;
mod crash;
mod failures;
mod golden;
mod incremental;
mod layouts;
mod memory;
mod queries;
mod reading;
mod scale;
mod scoring;
mod selection;
mod simulation;
mod stores;
mod unreachable;
mod upkeep;
mod usage;
mod worker;
