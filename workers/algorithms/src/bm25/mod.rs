//! Exact BM25 over a corpus that no machine holds, and the ranks of known documents in it.
//!
//! A round-trip check asks of a query that was written from a document: where does the document
//! stand among all documents of the corpus, when they are ranked by BM25? One index of the whole
//! corpus is not needed for that, since only the documents *above* the source count:
//!
//! 1. [`Vocabulary`]: the terms of all queries; others cannot score.
//! 2. [`CorpusStatistics`]: documents, tokens and document frequencies, counted per shard by
//!    [`StatisticsCounter`] and added up. They fix every weight.
//! 3. [`Query`]: its terms, and how often they occur in its source. The source's score is the
//!    query's threshold, and any worker computes it without the corpus.
//! 4. [`Ranker`]: counts per shard, for each query, the documents that stand above the source:
//!    a higher score, or the same one and a smaller id. Counts of shards add up to
//!    [`Rank`], whatever the shards.
//!
//! Formula: the sum over the query's terms of
//! `idf * frequency / (frequency + k1 * (1 - b + b * length / mean length))`, a term that the query
//! repeats counting each time, with `idf = ln(1 + (N - df + 0.5) / (df + 0.5))`. The factor
//! `k1 + 1` of the first publications is left out, as in Lucene: no rank depends on it. Lengths are
//! exact, where Lucene keeps them in a byte.
//!
//! Sums have 64 bits and run over terms in the order of the vocabulary, and logarithms are computed
//! in software: every machine gets the same bits, so a tie here is a tie everywhere.
//!
//! [`Scorer`] gives the scores themselves, for collections that fit into memory.

mod analyzer;
mod block;
mod query;
mod ranker;
mod scorer;
mod search;
mod statistics;
mod vocabulary;

pub use analyzer::{Analyzer, terms_of};
pub use query::{DocumentTerms, Query, Source, TermCounter, query_terms};
pub use ranker::{Rank, Ranker, RankerLimits};
pub use scorer::{Bm25, Scorer};
pub use statistics::{CorpusStatistics, StatisticsCounter};
pub use vocabulary::Vocabulary;

/// What does not fit together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Bm25Error {
    /// A parameter out of its range.
    #[error("the BM25 parameter {name} is {value}: expected {expected}")]
    Parameter {
        /// `k1` or `b`.
        name: &'static str,
        /// What was given.
        value: f64,
        /// Its range.
        expected: &'static str,
    },
    /// Statistics of another vocabulary.
    #[error("the corpus statistics are of {found} terms, the vocabulary has {expected}")]
    OtherVocabulary {
        /// Terms of the vocabulary.
        expected: usize,
        /// Document frequencies of the statistics.
        found: usize,
    },
    /// Counts that no corpus has.
    #[error("a term is in {document_frequency} documents of {documents}")]
    DocumentFrequency {
        /// Documents of the corpus.
        documents: u64,
        /// Documents with the term.
        document_frequency: u64,
    },
    /// Too many terms for 32-bit indices.
    #[error("a vocabulary of {terms} terms: expected fewer than 2^32 - 1")]
    VocabularyTooLarge {
        /// Terms that were given.
        terms: usize,
    },
    /// A query whose terms are not of this vocabulary, or not in order, or do not match the
    /// frequencies of its source.
    #[error("query {query:?}: {what}")]
    Query {
        /// The query's id.
        query: String,
        /// What is wrong with it.
        what: &'static str,
    },
}
