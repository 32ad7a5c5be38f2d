//! The coordinator: plans jobs, offers tasks, pins attempts, publishes versions; and the commands
//! of `gleaner` over what it published.
//!
//! [`driver`] is the place to start reading: it asks each stage for its next step and takes it.
//! [`planner`] and [`ledger`] are pure, [`dispatch`] moves tasks, [`publish`] ends a run, [`sql`]
//! answers queries, [`commands`] are what users call.

pub mod allow;
pub mod app;
pub mod broker;
pub mod card;
pub mod checked_job;
pub mod cli;
pub mod commands;
pub mod dashboard;
pub mod datasets;
pub mod delta;
pub mod diagnostics;
pub mod dispatch;
pub mod driver;
pub mod endpoints;
pub mod gathered;
pub mod guardrails;
#[cfg(test)]
mod hooked;
pub mod inputs;
pub mod journal;
mod kept_sums;
pub mod known_footers;
pub mod ledger;
pub mod lineage;
pub mod losers;
pub mod observation;
pub mod phase_input;
pub mod planner;
pub mod progress;
pub mod publish;
pub mod reduce;
pub mod report;
pub mod restore;
pub mod retry;
pub mod run_error;
pub mod splits;
pub mod sql;
pub mod sql_stage;
pub mod stdout;
pub mod summary;
pub mod sweep;
pub mod told;
pub mod training;
