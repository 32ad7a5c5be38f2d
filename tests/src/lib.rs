//! Whole runs through the program `gleaner`, the simulation of the commit protocol, and golden
//! values of the reference implementations. What tests share is here, the tests are in `tests/`.

// Everything here serves tests: what cannot go on panics with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

pub mod browser;
pub mod chaos;
pub mod cluster;
pub mod corpus;
pub mod golden;
pub mod hooked_store;
pub mod in_process;
pub mod job;
pub mod memory;
pub mod plain_job;
pub mod program;
pub mod scale;
pub mod servers;
pub mod simulation;
pub mod small;
pub mod watching;
