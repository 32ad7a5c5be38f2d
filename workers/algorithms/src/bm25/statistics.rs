//! What BM25's weights depend on: counts over the whole corpus, which add up over its shards.

use std::sync::Arc;

use super::{Bm25Error, TermCounter, Vocabulary};

/// Counts over documents. Additive: the sum over shards is that over the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorpusStatistics {
    /// Documents, empty ones too.
    pub documents: u64,
    /// Terms of all documents, whether in the vocabulary or not.
    pub tokens: u64,
    /// Documents with the term, by the vocabulary's index.
    pub document_frequency: Vec<u64>,
}

impl CorpusStatistics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(vocabulary: &Vocabulary) -> Self {
        Self {
            documents: 0,
            tokens: 0,
            document_frequency: vec![0; vocabulary.len()],
        }
    }

    /// Adds what another shard counted.
    ///
    /// # Errors
    ///
    /// If the other is of a vocabulary of another size.
    pub fn merge(&mut self, other: &Self) -> Result<(), Bm25Error> {
        if self.document_frequency.len() != other.document_frequency.len() {
            return Err(Bm25Error::OtherVocabulary {
                expected: self.document_frequency.len(),
                found: other.document_frequency.len(),
            });
        }
        self.documents += other.documents;
        self.tokens += other.tokens;
        for (sum, count) in self
            .document_frequency
            .iter_mut()
            .zip(&other.document_frequency)
        {
            *sum += count;
        }
        Ok(())
    }

    /// Terms per document.
    #[must_use]
    pub fn mean_length(&self) -> f64 {
        match self.documents {
            0 => 0.0,
            documents => self.tokens as f64 / documents as f64,
        }
    }
}

/// Counts the statistics of a shard.
#[derive(Debug)]
pub struct StatisticsCounter {
    terms: TermCounter,
    statistics: CorpusStatistics,
}

impl StatisticsCounter {
    /// Counts documents with the vocabulary's terms.
    #[must_use]
    pub fn new(vocabulary: Arc<Vocabulary>) -> Self {
        Self {
            statistics: CorpusStatistics::new(&vocabulary),
            terms: TermCounter::new(vocabulary),
        }
    }

    /// Adds a document.
    pub fn add(&mut self, text: &str) {
        let statistics = &mut self.statistics;
        statistics.documents += 1;
        statistics.tokens += u64::from(self.terms.for_each_frequency(text, |term, _| {
            statistics.document_frequency[term as usize] += 1;
        }));
    }

    /// What was counted.
    #[must_use]
    pub fn finish(self) -> CorpusStatistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_document_counts_once_per_term_and_in_full_length() {
        let vocabulary = Arc::new(Vocabulary::new(["dog", "fox"]).unwrap());
        let mut counter = StatisticsCounter::new(Arc::clone(&vocabulary));
        counter.add("The fox, the FOX and the dog");
        counter.add("");
        counter.add("a fox");
        let statistics = counter.finish();
        assert_eq!(
            statistics,
            CorpusStatistics {
                documents: 3,
                tokens: 9,
                document_frequency: vec![1, 2],
            }
        );
        assert_eq!(statistics.mean_length(), 3.0);
        assert_eq!(CorpusStatistics::new(&vocabulary).mean_length(), 0.0);
    }

    #[test]
    fn statistics_of_another_vocabulary_are_refused() {
        let mut statistics = CorpusStatistics::new(&Vocabulary::new(["a"]).unwrap());
        let other = CorpusStatistics::new(&Vocabulary::new(["a", "b"]).unwrap());
        assert_eq!(
            statistics.merge(&other),
            Err(Bm25Error::OtherVocabulary {
                expected: 1,
                found: 2
            })
        );
    }

    proptest! {
        #[test]
        fn shards_add_up(
            documents in proptest::collection::vec("[a-d ]{0,12}", 0..12),
            cut in 0_usize..12,
        ) {
            let vocabulary = Arc::new(Vocabulary::new(["a", "b", "cc"]).unwrap());
            let count = |documents: &[String]| {
                let mut counter = StatisticsCounter::new(Arc::clone(&vocabulary));
                documents.iter().for_each(|text| counter.add(text));
                counter.finish()
            };
            let (first, second) = documents.split_at(cut.min(documents.len()));
            let mut merged = count(second);
            merged.merge(&count(first)).unwrap();
            prop_assert_eq!(merged, count(&documents));
        }
    }
}
