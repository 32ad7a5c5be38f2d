//! Storage: where objects lie, how they are committed, how shards are read.

pub mod encode;
pub mod layout;
pub mod output;

pub use encode::TableEncoder;
pub use output::{Created, ListedAttempt, ListedObject, Output, OutputError};

// Reading.
pub mod stores;

pub use stores::Stores;
