//! What both stages of generation are made of: `synthetic_queries` writes queries for documents,
//! `graded_documents` documents for queries.
//!
//! | phase | is | reads | gives |
//! |---|---|---|---|
//! | `demonstrations` | map and reduce, if there are some | a dataset | pairs for few-shot prompts |
//! | `rate_examples` | map and reduce, if they are to be chosen | the dataset | [`example_sets`]: the best set of pairs |
//! | `write` | map, over the network | the input | [`write_stage`]: texts with what checks note |
//! | `duplicates` | reduce | `write` | [`duplicates`]: texts that repeat others |
//! | (of queries only) | | the corpus | ranks: [`crate::synthetic_queries`] |
//! | `filter` | map, the table | `write`, each object | [`filter`]: the end of each row |
//!
//! What is paid for happens in `write` (and `rate_examples`) alone. Everything that judges texts by rules comes after it,
//! so that other rules cost nothing; and what was answered before is found by the request's hash,
//! so that other code that reads replies costs nothing either.

mod asking;
mod demonstrations;
mod duplicates;
pub(crate) mod estimate;
pub(crate) mod example_sets;
pub(crate) mod filter;
pub(crate) mod in_order;
mod judging;
pub mod params;
pub(crate) mod phases;
pub mod published;
pub(crate) mod rows;
pub(crate) mod setup;
pub(crate) mod similarity;
mod source_terms;
pub(crate) mod write_params;
pub(crate) mod write_stage;
pub(crate) mod writing;

pub use params::EndpointIdentity;
