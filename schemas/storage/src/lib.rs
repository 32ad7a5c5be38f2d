//! Storage: where objects lie, how they are committed, how inputs are read.
//!
//! Writing: [`encode`] turns rows into an object, [`output`] commits it under a name from
//! [`layout`]. Reading: [`listing`] finds files, [`footer`] tells what they hold, [`documents`],
//! [`table`] and [`lookup`] read rows on blocking threads, all through [`stores`].

mod attempts;
mod blocking;
pub mod checkpoints;
pub mod documents;
pub mod encode;
mod fetch;
mod figures;
pub mod footer;
mod infer;
mod jsonl;
mod lasting;
pub mod layout;
mod listed;
pub mod listing;
mod local_copies;
pub mod lookup;
pub mod metadata;
pub mod numbered;
pub mod output;
mod output_error;
mod parquet_documents;
mod phase_manifest;
mod read_error;
pub mod redact;
mod remote_blocks;
mod staged;
pub mod store_error;
pub mod stores;
pub mod table;
mod upload;
mod versions;

pub use attempts::Attempts;
pub use encode::TableEncoder;
pub use fetch::probe_read;
pub use jsonl::decode_lines;
pub use local_copies::{CACHE_VARIABLE, LocalCopies};
pub use output::{Created, ListedAttempt, ListedObject, Output, OutputError};
pub use read_error::ReadError;
pub use store_error::{StoreError, StoreProblem};
pub use stores::Stores;
