//! How many documents of a block stand above the source of a query.
//!
//! For every query and block:
//!
//! 1. The largest impacts of the query's terms in the block bound every score. If the bound is
//!    below the threshold, which is the score of the query's own source and so a high one, no
//!    document of the block is looked at: the usual end.
//! 2. Otherwise the terms with the smallest bounds, as many as together stay below the threshold,
//!    bring no document above it by themselves (MaxScore). These are the frequent terms with the
//!    long lists. Only the lists of the others are read.
//! 3. A document of those lists is dropped as soon as what it has and what the rest could add stay
//!    below the threshold.
//! 4. For what is left the score itself is computed, as [`Scorer`] does, and compared.
//!
//! Bounds only leave out what cannot count: the counts are those of a loop over all documents.

use super::block::{Block, Index};
use super::query::frequency_in;
use super::scorer::{saturation, sum_of_terms};
use super::{Query, Scorer};

/// Bounds are sums in another order than scores. They are compared with the threshold less this
/// share of it, which is far more than rounding takes from a sum of a million terms.
const ROUNDING_SHARE: f64 = 1e-9;

/// All queries, one behind the other: a block looks at every one of them.
#[derive(Debug)]
pub(super) struct PreparedQueries {
    terms: Vec<u32>,
    weights: Vec<f64>,
    term_ends: Vec<usize>,
    thresholds: Vec<f64>,
    source_ids: String,
    source_id_ends: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct PreparedQuery<'a> {
    /// Ascending.
    terms: &'a [u32],
    weights: &'a [f64],
    threshold: f64,
    source_id: &'a str,
}

impl PreparedQueries {
    pub(super) fn new(queries: &[Query], scorer: &Scorer) -> Self {
        let mut prepared = Self {
            terms: Vec::new(),
            weights: Vec::new(),
            term_ends: vec![0],
            thresholds: Vec::new(),
            source_ids: String::new(),
            source_id_ends: vec![0],
        };
        for query in queries {
            for &(term, multiplicity) in &query.terms {
                prepared.terms.push(term);
                prepared.weights.push(scorer.weight(term, multiplicity));
            }
            prepared.term_ends.push(prepared.terms.len());
            prepared.thresholds.push(scorer.threshold(query));
            prepared.source_ids.push_str(&query.source.document_id);
            prepared.source_id_ends.push(prepared.source_ids.len());
        }
        prepared
    }

    pub(super) fn get(&self, query_idx: usize) -> PreparedQuery<'_> {
        let terms = self.term_ends[query_idx]..self.term_ends[query_idx + 1];
        let source_id = self.source_id_ends[query_idx]..self.source_id_ends[query_idx + 1];
        PreparedQuery {
            terms: &self.terms[terms.clone()],
            weights: &self.weights[terms],
            threshold: self.thresholds[query_idx],
            source_id: &self.source_ids[source_id],
        }
    }

    /// Whether some query's source has none of its terms: documents of score 0 may tie with it.
    pub(super) fn has_threshold_zero(&self) -> bool {
        self.thresholds.contains(&0.0)
    }

    /// Bytes of the queries and of their counts.
    pub(super) fn memory_bytes(&self) -> usize {
        self.terms.len() * (size_of::<u32>() + size_of::<f64>())
            // Two ends, the threshold, and the count.
            + self.thresholds.len() * (2 * size_of::<usize>() + 2 * size_of::<u64>())
            + self.source_ids.len()
    }
}

/// Memory that the next query uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The query's terms that the block has, by ascending bound.
    terms: Vec<BoundedTerm>,
    /// By document; all zero between queries.
    pub(super) partial_scores: Vec<f64>,
    /// Documents whose partial score is not zero.
    candidates: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct BoundedTerm {
    term: u32,
    weight: f64,
    /// What it adds to the score of any document of the block at most.
    bound: f64,
    /// The sum of the bounds up to and including this one.
    bounds_sum: f64,
}

pub(super) struct Search<'a> {
    pub(super) block: &'a Block,
    pub(super) index: &'a Index,
    pub(super) scratch: &'a mut Scratch,
}

impl Search<'_> {
    /// Documents of the block above the query's source; at least `open` may mean more.
    pub(super) fn count_above(&mut self, query: &PreparedQuery<'_>, open: u64) -> u64 {
        if query.threshold <= 0.0 {
            return self.count_above_zero(query, open);
        }
        let floor = query.threshold * (1.0 - ROUNDING_SHARE);
        let bounds = query.terms.iter().zip(query.weights);
        let bound =
            |(&term, &weight): (&u32, &f64)| weight * f64::from(self.index.impact_max(term));
        if bounds.map(bound).sum::<f64>() < floor {
            return 0;
        }
        self.order_terms(query);
        let n_skipped = self
            .scratch
            .terms
            .partition_point(|term| term.bounds_sum < floor);
        self.add_lists(n_skipped);

        let mut count = 0;
        let mut candidates = std::mem::take(&mut self.scratch.candidates);
        for document in candidates.drain(..) {
            let partial = std::mem::take(&mut self.scratch.partial_scores[document as usize]);
            if count >= open || !self.may_reach(floor, document, partial, n_skipped) {
                continue;
            }
            let id = self.block.id(document);
            let score = self.score(query, document);
            let is_above =
                score > query.threshold || (score == query.threshold && id < query.source_id);
            count += u64::from(is_above && id != query.source_id);
        }
        self.scratch.candidates = candidates;
        count
    }

    /// The query's terms with their bounds in this block, ascending.
    fn order_terms(&mut self, query: &PreparedQuery<'_>) {
        let terms = &mut self.scratch.terms;
        terms.clear();
        for (&term, &weight) in query.terms.iter().zip(query.weights) {
            let bound = weight * f64::from(self.index.impact_max(term));
            if bound > 0.0 {
                terms.push(BoundedTerm {
                    term,
                    weight,
                    bound,
                    bounds_sum: 0.0,
                });
            }
        }
        terms.sort_unstable_by(|a, b| a.bound.total_cmp(&b.bound));
        let mut sum = 0.0;
        for term in terms {
            sum += term.bound;
            term.bounds_sum = sum;
        }
    }

    /// Reads the lists of all terms but the first ones.
    fn add_lists(&mut self, n_skipped: usize) {
        let Scratch {
            terms,
            partial_scores,
            candidates,
        } = &mut *self.scratch;
        for term in &terms[n_skipped..] {
            for posting in self.index.postings(term.term) {
                let partial = &mut partial_scores[posting.document as usize];
                if *partial == 0.0 {
                    candidates.push(posting.document);
                }
                *partial += term.weight * f64::from(posting.impact);
            }
        }
    }

    /// Whether the document's score may be as high as `floor`, given what it has without the
    /// skipped terms.
    fn may_reach(&self, floor: f64, document: u32, mut partial: f64, n_skipped: usize) -> bool {
        let frequencies = self.block.frequencies(document);
        let penalty = self.index.length_penalty(document);
        for term in self.scratch.terms[..n_skipped].iter().rev() {
            if partial + term.bounds_sum < floor {
                return false;
            }
            let frequency = frequency_in(frequencies, term.term);
            partial += term.weight * saturation(frequency, penalty);
        }
        partial >= floor
    }

    fn score(&self, query: &PreparedQuery<'_>, document: u32) -> f64 {
        let frequencies = self.block.frequencies(document);
        let penalty = self.index.length_penalty(document);
        let terms = query.terms.iter().zip(query.weights);
        sum_of_terms(
            terms.map(|(&term, &weight)| {
                (weight, saturation(frequency_in(frequencies, term), penalty))
            }),
        )
    }

    /// The source has none of the query's terms: above it stand all documents that have one, and
    /// those with a smaller id that have none either.
    fn count_above_zero(&mut self, query: &PreparedQuery<'_>, open: u64) -> u64 {
        let Scratch {
            partial_scores,
            candidates,
            ..
        } = &mut *self.scratch;
        let (mut count, mut n_below) = (0, 0);
        'terms: for &term in query.terms {
            for posting in self.index.postings(term) {
                let partial = &mut partial_scores[posting.document as usize];
                if *partial == 0.0 {
                    *partial = 1.0;
                    candidates.push(posting.document);
                    let id = self.block.id(posting.document);
                    count += u64::from(id != query.source_id);
                    n_below += u64::from(id < query.source_id);
                }
                if count >= open {
                    break 'terms;
                }
            }
        }
        for document in candidates.drain(..) {
            partial_scores[document as usize] = 0.0;
        }
        // After a break these are too few, of a count that has reached its end already.
        count + self.index.n_below(self.block, query.source_id) - n_below
    }
}
