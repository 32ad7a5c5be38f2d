//! Whole runs through the program `gleaner`, the simulation of the commit protocol, and golden
//! values of the reference implementations. What tests share is here, the tests are in `tests/`.

// Everything here serves tests: what cannot go on panics with its reason.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod corpus;
pub mod golden;
pub mod plain_job;
pub mod program;
#[cfg(unix)]
pub mod servers;
pub mod simulation;
pub mod small;
