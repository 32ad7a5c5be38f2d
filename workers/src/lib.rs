//! What a worker does: the interface of stages, the stages, and the loop that runs their tasks.
//!
//! [`stage`] is the interface, [`registry`] the one list of kinds, and each kind has a folder of
//! its own. [`runner`] takes tasks from a queue, [`attempt`] works on one, [`execute`] runs a
//! stage over a shard.

pub mod activity;
pub mod attempt;
pub mod attempt_log;
mod batch_columns;
pub mod endpoint;
pub mod entropy;
pub mod execute;
pub mod expected_requests;
pub mod forecast;
pub mod generation;
pub mod graded_documents;
pub mod heaps;
mod hung_threads;
pub mod importance_weights;
mod in_hand;
pub mod language_model;
pub mod loss_reduction;
pub mod options;
pub mod phase_input;
pub mod plan_cache;
pub mod query;
pub mod reduce;
mod refusals;
pub mod registry;
pub mod runner;
mod running_attempt;
pub mod select;
pub mod shutdown;
pub mod side_inputs;
pub mod stage;
pub mod synthetic_queries;
#[cfg(test)]
mod testing;
pub mod throttling;
pub mod time_to_settle;
pub mod train_language_model;
mod trouble;
mod unsettled;
