//! Do grades mean what they say? Measures of graded queries and documents that need no model.
//!
//! - [`monotonicity()`]: does a score (BM25, the similarity of embeddings) rise with the grade that
//!   was asked for?
//! - [`ConfusionMatrix`]: does a judge give the grade that was asked for?
//! - [`ordered_share`]: does something else than relevance, the length say, give the grade away?
//! - [`Estimate`], [`quantiles`]: means with intervals, and where values lie.
//!
//! No result depends on the order of what is given, nor on the machine. Scores that are not numbers
//! are left out.

mod agreement;
mod correlation;
mod estimate;
mod monotonicity;

pub use agreement::ConfusionMatrix;
pub use correlation::{kendall_tau_b, ordered_share, spearman};
pub use estimate::{BOOTSTRAP_SAMPLES, BOOTSTRAP_VALUES_MAX, Estimate, quantiles};
pub use monotonicity::{Monotonicity, Step, monotonicity};
