//! Is what was generated diverse, and written rather than copied? Measures of texts without a
//! model.
//!
//! 1. [`Words`] numbers the terms of texts: all measures are of slices of numbers.
//! 2. [`distinct_n`], [`self_bleu()`], [`commonest_starts`]: how alike texts are to one another.
//! 3. [`CopyIndex`]: what a text copies of its source; [`mean_pairwise_overlap`]: what the
//!    documents of one query have in common.
//! 4. [`distinct_trigrams`], [`length_term`]: whether a text goes round in circles, and its length.

mod copying;
mod diversity;
mod self_bleu;
mod words;

pub use copying::{CopyIndex, Copying, mean_pairwise_overlap};
pub use diversity::{Start, commonest_starts, distinct_n, distinct_trigrams, length_term};
pub use self_bleu::self_bleu;
pub use words::Words;
