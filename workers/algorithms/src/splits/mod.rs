//! Keeping what is tested out of training.
//!
//! - [`folds()`]: for evaluation by resampling (arXiv 2204.11447): extrapolation folds hold out whole
//!   clusters of similar queries, interpolation folds some queries of every cluster; with
//!   [`folds_of_sets()`], sets of items that must not be told apart stand in one fold.
//! - [`overlap()`]: how much of what is tested is near to something in training.
//!
//! Everything is a function of the set of items and of a seed, whatever the order of items.

mod features;
mod folds;
mod overlap;

pub use features::TextVectors;
pub use folds::{Folds, ITERATIONS_MAX, folds, folds_of_sets};
pub use overlap::{OVERLAP_TESTED_MAX, Overlap, overlap};
