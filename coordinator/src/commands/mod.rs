//! What users call, as functions: each command of `gleaner` is one of these and a rendering.

mod claim;
pub mod completions;
pub mod coordinate;
pub mod diff;
pub mod endpoint_status;
pub mod explain;
pub mod export;
pub mod gc;
pub(crate) mod gc_runs;
pub mod init;
pub mod job_reference;
pub mod opened;
pub mod plan;
pub mod prepare;
pub mod query;
pub mod run;
pub mod schema;
pub mod status;
pub mod validate;
pub mod verify;
