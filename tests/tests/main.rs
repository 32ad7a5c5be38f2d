//! Every system test, as one program: each further one would link everything once more.
//!
//! `cargo test -p gleaner-tests <file>::` runs those of one file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod amqp;
mod bad_datasets;
mod bad_documents;
mod bad_input;
mod bad_job;
mod bad_output;
mod cards;
mod chaos;
mod commands;
mod crash;
mod dashboard;
mod delta;
mod documented;
mod failures;
mod gc;
mod generation;
mod golden;
mod incremental;
mod language_models;
mod language_models_server;
mod layouts;
mod lineage;
mod losses_of_both;
mod memory;
mod observability;
mod overtaken;
mod page_checksums;
mod prompt;
mod pruning;
mod queries;
mod reading;
mod refresh;
mod reports;
mod scale;
mod scoring;
mod selection;
mod simulation;
mod sql_paths;
mod stores;
mod two_runs;
mod unreachable;
mod upkeep;
mod usage;
mod versions;
mod worker;
