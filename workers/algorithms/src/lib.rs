//! The mathematics of Gleaner, as plain functions: no I/O, nothing asynchronous, no clock.
//!
//! The way of a document through the importance weights (DSIR, arXiv 2302.03169):
//!
//! 1. [`tokenize`] lower-cases it and splits it into tokens;
//! 2. [`features`] hashes its n-grams to buckets;
//! 3. [`counts`] adds buckets up over a corpus or a target;
//! 4. [`importance`] fits the log ratio of each bucket and sums a document's log weight;
//! 5. [`resample`] adds noise that is a function of (seed, target, document id);
//! 6. [`order`] maps keys to integers of the same order, for exact selection by digits;
//! 7. [`measure`] tells whether it worked.
//!
//! For queries and documents that were written by a language model: [`bm25`] ranks the sources of
//! queries in the whole corpus, [`grading`] tells whether grades mean what they say, [`generated`]
//! [`splits`] keeps what is tested out of training.

mod ascii_block;
#[cfg_attr(not(target_arch = "x86_64"), path = "absent_avx512.rs")]
mod avx512;
pub mod bm25;
mod char_class;
pub mod counts;
pub mod features;
pub mod generated;
pub mod grading;
pub mod importance;
pub mod measure;
pub mod mixture;
pub mod order;
mod prefetch;
pub mod quality;
mod random;
pub mod resample;
mod sha_buckets;
mod split;
pub mod splits;
mod token_hash;
mod token_memo;
pub mod tokenize;

pub use counts::BucketCounts;
pub use features::{FeatureError, FeatureExtractor, FeatureSpec, Features, NgramHash};
pub use tokenize::{Tokenizer, Tokens};
