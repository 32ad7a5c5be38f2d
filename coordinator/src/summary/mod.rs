//! What a run found, for people.

pub mod text;
