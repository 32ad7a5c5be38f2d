//! Queries and documents as counts of the vocabulary's terms.

use std::sync::Arc;

use super::{Analyzer, Bm25Error, Vocabulary};

/// A document as BM25 sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentTerms {
    /// Its terms, whether in the vocabulary or not.
    pub length: u32,
    /// Terms of the vocabulary, ascending, with how often they occur.
    pub frequencies: Vec<(u32, u32)>,
}

impl DocumentTerms {
    /// How often a term occurs.
    #[must_use]
    pub fn frequency(&self, term: u32) -> u32 {
        frequency_in(&self.frequencies, term)
    }
}

pub(super) fn frequency_in(frequencies: &[(u32, u32)], term: u32) -> u32 {
    match frequencies.binary_search_by_key(&term, |&(term, _)| term) {
        Ok(found) => frequencies[found].1,
        Err(_) => 0,
    }
}

/// The document that a query was written from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its id in the corpus. A document with this id never counts as above the source.
    pub document_id: String,
    /// Its terms, whether in the vocabulary or not.
    pub length: u32,
    /// How often it has each term of the query, in the query's order.
    pub frequencies: Vec<u32>,
}

/// A query, and what its source has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Names the query in errors.
    pub id: String,
    /// Its terms, ascending, with how often it repeats each.
    pub terms: Vec<(u32, u32)>,
    /// The document whose rank is asked for.
    pub source: Source,
}

impl Query {
    /// A query from texts. Terms that the counter's vocabulary lacks are left out: a vocabulary
    /// that was made of all queries lacks none.
    #[must_use]
    pub fn new(
        counter: &mut TermCounter,
        id: &str,
        text: &str,
        source_id: &str,
        source_text: &str,
    ) -> Self {
        let terms = counter.count(text).frequencies;
        let source = counter.count(source_text);
        Self {
            id: id.to_owned(),
            source: Source {
                document_id: source_id.to_owned(),
                length: source.length,
                frequencies: terms
                    .iter()
                    .map(|&(term, _)| source.frequency(term))
                    .collect(),
            },
            terms,
        }
    }

    /// Whether terms are in order, of a vocabulary of `n_terms`, and each with a frequency.
    pub(super) fn check(&self, n_terms: usize) -> Result<(), Bm25Error> {
        let error = |what| {
            Err(Bm25Error::Query {
                query: self.id.clone(),
                what,
            })
        };
        if !self.terms.is_sorted_by(|a, b| a.0 < b.0) {
            return error("its terms are not in ascending order");
        }
        if self
            .terms
            .last()
            .is_some_and(|last| last.0 as usize >= n_terms)
        {
            return error("it has a term that the vocabulary lacks");
        }
        if self
            .terms
            .iter()
            .any(|&(_, multiplicity)| multiplicity == 0)
        {
            return error("it has a term that it has zero times");
        }
        if self.terms.len() != self.source.frequencies.len() {
            return error("the frequencies of its source are not as many as its terms");
        }
        Ok(())
    }
}

/// The terms of a query, for the vocabulary of all queries: distinct and sorted.
#[must_use]
pub fn query_terms(text: &str) -> Vec<String> {
    let mut terms = super::terms_of(text);
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// Counts the vocabulary's terms in texts, with the memory that this takes, to be used again and
/// again: 4 bytes per term of the vocabulary.
#[derive(Debug)]
pub struct TermCounter {
    vocabulary: Arc<Vocabulary>,
    analyzer: Analyzer,
    /// By term; all zero between texts.
    counts: Vec<u32>,
    /// Terms whose count is not zero.
    present: Vec<u32>,
}

impl TermCounter {
    /// Counts terms of this vocabulary.
    #[must_use]
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self {
            counts: vec![0; vocabulary.len()],
            present: Vec::new(),
            analyzer: Analyzer::default(),
            vocabulary,
        }
    }

    /// The vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// The counts of a text.
    #[must_use]
    pub fn count(&mut self, text: &str) -> DocumentTerms {
        let mut frequencies = Vec::new();
        let length =
            self.for_each_frequency(text, |term, frequency| frequencies.push((term, frequency)));
        DocumentTerms {
            length,
            frequencies,
        }
    }

    /// Calls `sink` with each term of the vocabulary that the text has, ascending, and how often;
    /// returns the length of the text in terms.
    pub fn for_each_frequency(&mut self, text: &str, mut sink: impl FnMut(u32, u32)) -> u32 {
        let Self {
            vocabulary,
            analyzer,
            counts,
            present,
        } = self;
        let mut length = 0_u32;
        analyzer.for_each_term(text, |term| {
            length = length.saturating_add(1);
            if let Some(idx) = vocabulary.idx(term) {
                let count = &mut counts[idx as usize];
                if *count == 0 {
                    present.push(idx);
                }
                *count = count.saturating_add(1);
            }
        });
        present.sort_unstable();
        for term in present.drain(..) {
            sink(term, std::mem::take(&mut counts[term as usize]));
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_knows_what_its_source_has() {
        let vocabulary = Arc::new(Vocabulary::new(query_terms("dog dog fox cat")).unwrap());
        let mut counter = TermCounter::new(vocabulary);
        let query = Query::new(
            &mut counter,
            "q",
            "fox, dog! dog",
            "d",
            "A dog is a dog is a wolf",
        );
        assert_eq!(query.terms, [(1, 2), (2, 1)]);
        assert_eq!(query.source.frequencies, [2, 0]);
        assert_eq!(query.source.length, 8);
        // Nothing of a text is left for the next one.
        assert_eq!(
            counter.count("wolf"),
            DocumentTerms {
                length: 1,
                frequencies: vec![]
            }
        );
    }

    #[test]
    fn a_query_that_does_not_fit_is_refused_with_its_id() {
        let query = |terms: &[(u32, u32)], frequencies: &[u32]| Query {
            id: "q7".to_owned(),
            terms: terms.to_vec(),
            source: Source {
                document_id: "d".to_owned(),
                length: 3,
                frequencies: frequencies.to_vec(),
            },
        };
        assert_eq!(query(&[(0, 1), (2, 1)], &[1, 0]).check(3), Ok(()));
        for (query, what) in [
            (query(&[(2, 1), (0, 1)], &[1, 0]), "order"),
            (query(&[(0, 1), (0, 1)], &[1, 0]), "order"),
            (query(&[(0, 1), (3, 1)], &[1, 0]), "vocabulary lacks"),
            (query(&[(0, 0), (2, 1)], &[1, 0]), "zero times"),
            (query(&[(0, 1), (2, 1)], &[1]), "not as many"),
        ] {
            let error = query.check(3).unwrap_err().to_string();
            assert!(error.contains("\"q7\"") && error.contains(what), "{error}");
        }
    }
}
