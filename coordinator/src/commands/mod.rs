//! What users call, as functions: each command of `gleaner` is one of these and a rendering.

pub mod plan;
pub mod prepare;
pub mod run;
pub mod verify;
