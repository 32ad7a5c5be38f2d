//! What users call, as functions: each command of `gleaner` is one of these and a rendering.

pub mod completions;
pub mod explain;
pub mod export;
pub mod gc;
pub mod init;
pub mod plan;
pub mod prepare;
pub mod run;
pub mod schema;
pub mod status;
pub mod validate;
pub mod verify;
