//! The ranks of queries' sources in a corpus, counted shard by shard.

use std::sync::Arc;

use super::block::{Block, Index, TERM_BYTES};
use super::search::{PreparedQueries, Scratch, Search};
use super::{Bm25, Bm25Error, CorpusStatistics, Query, Scorer, TermCounter, Vocabulary};

/// Bounds on memory and on work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankerLimits {
    /// Documents of a block. Each block looks at every query.
    pub block_documents_max: usize,
    /// Bytes of a block and its index; the document that exceeds it still belongs to the block.
    pub block_bytes_max: usize,
    /// A count ends here: `count_max` means that many or more. Below it, counts are exact, and so
    /// is [`Rank`].
    pub count_max: u64,
}

impl Default for RankerLimits {
    /// Blocks of 16,384 documents, whose partial scores stay in a processor's cache, or 64 MiB; counts
    /// without an end.
    fn default() -> Self {
        Self {
            block_documents_max: 1 << 14,
            block_bytes_max: 64 << 20,
            count_max: u64::MAX,
        }
    }
}

/// Where a source stands in the corpus for its query; the best is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// At this place.
    Exact(u64),
    /// At a place after this one.
    After(u64),
}

impl Rank {
    /// The rank from the sum of all shards' counts, each made with this `count_max`.
    #[must_use]
    pub fn from_count(count: u64, count_max: u64) -> Self {
        if count >= count_max {
            Self::After(count_max)
        } else {
            Self::Exact(count + 1)
        }
    }

    /// Whether the source is among the first k: `None` if the counts ended before that is known.
    #[must_use]
    pub fn is_within(self, k: u64) -> Option<bool> {
        match self {
            Self::Exact(rank) => Some(rank <= k),
            Self::After(rank) => (rank >= k).then_some(false),
        }
    }
}

/// Counts, for each query, the documents with a higher score than its source, or with the same
/// score and a smaller id (by bytes). Documents with the source's own id never count; copies of the
/// source under other ids do, by their ids.
///
/// The documents of the shard come one by one and are looked at in blocks, in memory of
/// [`Self::memory_bytes_max`]: with d documents in a block and p pairs of a document and a term of
/// the vocabulary, `44 d + 16 p` and the ids for the block, which `block_bytes_max` bounds, and
/// twice that while vectors grow; `24 v` and the [`Vocabulary`] for v terms; `32 q + 12 t` and the
/// ids for q queries of t distinct terms in all.
#[derive(Debug)]
pub struct Ranker {
    counter: TermCounter,
    scorer: Scorer,
    queries: PreparedQueries,
    /// Some query's source has none of its terms, so that documents of score 0 may tie with it.
    has_threshold_zero: bool,
    limits: RankerLimits,
    block: Block,
    index: Index,
    scratch: Scratch,
    counts: Vec<u64>,
}

impl Ranker {
    /// Ranks the sources of these queries in a corpus with these statistics.
    ///
    /// # Errors
    ///
    /// If statistics or queries are not of this vocabulary, or a parameter is out of range.
    pub fn new(
        vocabulary: Arc<Vocabulary>,
        parameters: Bm25,
        statistics: &CorpusStatistics,
        queries: &[Query],
        limits: RankerLimits,
    ) -> Result<Self, Bm25Error> {
        let n_terms = vocabulary.len();
        if statistics.document_frequency.len() != n_terms {
            return Err(Bm25Error::OtherVocabulary {
                expected: n_terms,
                found: statistics.document_frequency.len(),
            });
        }
        let scorer = Scorer::new(parameters, statistics)?;
        for query in queries {
            query.check(n_terms)?;
        }
        let prepared = PreparedQueries::new(queries, &scorer);
        Ok(Self {
            has_threshold_zero: prepared.has_threshold_zero(),
            queries: prepared,
            counter: TermCounter::new(vocabulary),
            scorer,
            limits,
            block: Block::new(),
            index: Index::new(n_terms),
            scratch: Scratch::default(),
            counts: vec![0; queries.len()],
        })
    }

    /// Takes a document of the shard.
    pub fn add(&mut self, document_id: &str, text: &str) {
        self.block.add(&mut self.counter, document_id, text);
        if self.block.len() >= self.limits.block_documents_max
            || self.block.memory_bytes() >= self.limits.block_bytes_max
        {
            self.rank_block();
        }
    }

    /// The counts of the shard, in the order of the queries.
    #[must_use]
    pub fn finish(mut self) -> Vec<u64> {
        self.rank_block();
        self.counts
    }

    /// Bytes of memory at most, besides what the last document of a block has more than
    /// `block_bytes_max`.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        let vocabulary = self.counter.vocabulary();
        // A term of the vocabulary has an idf and a counter besides its part of the index.
        let term_bytes = TERM_BYTES + size_of::<f64>() + size_of::<u32>();
        // A vector that grows may reserve twice what it holds.
        2 * self.limits.block_bytes_max
            + vocabulary.memory_bytes()
            + vocabulary.len() * term_bytes
            + self.queries.memory_bytes()
    }

    fn rank_block(&mut self) {
        if self.block.len() == 0 {
            return;
        }
        self.index
            .fill(&self.block, &self.scorer, self.has_threshold_zero);
        self.scratch.partial_scores.resize(self.block.len(), 0.0);
        let mut search = Search {
            block: &self.block,
            index: &self.index,
            scratch: &mut self.scratch,
        };
        for (query_idx, count) in self.counts.iter_mut().enumerate() {
            let open = self.limits.count_max - *count;
            if open > 0 {
                let above = search.count_above(&self.queries.get(query_idx), open);
                *count += above.min(open);
            }
        }
        self.block.clear();
    }
}

#[cfg(test)]
mod tests;
