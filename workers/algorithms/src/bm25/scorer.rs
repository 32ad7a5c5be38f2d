//! The formula, and scores of documents that are at hand.

use super::{Bm25Error, CorpusStatistics, DocumentTerms, Query};

/// The parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bm25 {
    /// How slowly repetitions of a term saturate; 0 counts presence alone.
    pub k1: f64,
    /// How much long documents are held back: 0 not at all, 1 in full.
    pub b: f64,
}

impl Default for Bm25 {
    /// k1 = 0.9, b = 0.4, as Anserini, and so most published round-trip filters.
    fn default() -> Self {
        Self { k1: 0.9, b: 0.4 }
    }
}

impl Bm25 {
    fn check(self) -> Result<(), Bm25Error> {
        let error = |name, value, expected| {
            Err(Bm25Error::Parameter {
                name,
                value,
                expected,
            })
        };
        if !(0.0..=1e6).contains(&self.k1) {
            return error("k1", self.k1, "0 to 1e6");
        }
        if !(0.0..=1.0).contains(&self.b) {
            return error("b", self.b, "0 to 1");
        }
        Ok(())
    }
}

/// Scores documents with the weights of a corpus. Memory: 8 bytes per term of the vocabulary.
#[derive(Debug, Clone)]
pub struct Scorer {
    parameters: Bm25,
    mean_length: f64,
    idf: Vec<f64>,
}

impl Scorer {
    /// The weights of a corpus.
    ///
    /// # Errors
    ///
    /// If a parameter is out of range, or a term is in more documents than there are.
    pub fn new(parameters: Bm25, statistics: &CorpusStatistics) -> Result<Self, Bm25Error> {
        parameters.check()?;
        let documents = statistics.documents;
        let idf = |&document_frequency: &u64| {
            if document_frequency > documents {
                return Err(Bm25Error::DocumentFrequency {
                    documents,
                    document_frequency,
                });
            }
            let (n, df) = (documents as f64, document_frequency as f64);
            Ok(libm::log(1.0 + (n - df + 0.5) / (df + 0.5)))
        };
        Ok(Self {
            parameters,
            mean_length: statistics.mean_length(),
            idf: statistics
                .document_frequency
                .iter()
                .map(idf)
                .collect::<Result<_, _>>()?,
        })
    }

    /// `ln(1 + (N - df + 0.5) / (df + 0.5))`, always positive; 0 for a term that the vocabulary
    /// lacks.
    #[must_use]
    pub fn idf(&self, term: u32) -> f64 {
        self.idf.get(term as usize).copied().unwrap_or(0.0)
    }

    /// The score of a document for a query of `(term, how often the query has it)`, ascending by
    /// term.
    #[must_use]
    pub fn score(&self, terms: &[(u32, u32)], document: &DocumentTerms) -> f64 {
        let penalty = self.length_penalty(document.length);
        sum_of_terms(terms.iter().map(|&(term, multiplicity)| {
            (
                self.weight(term, multiplicity),
                saturation(document.frequency(term), penalty),
            )
        }))
    }

    /// The score of the query's source: what another document must exceed to stand above it.
    #[must_use]
    pub fn threshold(&self, query: &Query) -> f64 {
        let penalty = self.length_penalty(query.source.length);
        let terms = query.terms.iter().zip(&query.source.frequencies);
        sum_of_terms(terms.map(|(&(term, multiplicity), &frequency)| {
            (
                self.weight(term, multiplicity),
                saturation(frequency, penalty),
            )
        }))
    }

    /// The score of each document, in the order of the documents.
    #[must_use]
    pub fn scores(&self, terms: &[(u32, u32)], documents: &[DocumentTerms]) -> Vec<f64> {
        let score = |document| self.score(terms, document);
        documents.iter().map(score).collect()
    }

    /// The k best documents with a score above zero, best first, as positions in `documents` and
    /// scores; of equal ones the earlier.
    #[must_use]
    pub fn top_k(
        &self,
        terms: &[(u32, u32)],
        documents: &[DocumentTerms],
        k: usize,
    ) -> Vec<(usize, f64)> {
        let mut scored: Vec<(usize, f64)> = self
            .scores(terms, documents)
            .into_iter()
            .enumerate()
            .filter(|&(_, score)| score > 0.0)
            .collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        scored.truncate(k);
        scored
    }

    /// What a term adds to a score at most.
    #[inline]
    pub(super) fn weight(&self, term: u32, multiplicity: u32) -> f64 {
        self.idf(term) * f64::from(multiplicity)
    }

    /// `k1 * (1 - b + b * length / mean length)`.
    #[inline]
    pub(super) fn length_penalty(&self, length: u32) -> f64 {
        let Bm25 { k1, b } = self.parameters;
        // All lengths are zero then, and nothing has a frequency.
        if self.mean_length <= 0.0 {
            return k1;
        }
        k1 * (1.0 - b + b * f64::from(length) / self.mean_length)
    }
}

/// Between 0, for a term that is not there, and 1.
#[inline]
pub(super) fn saturation(frequency: u32, length_penalty: f64) -> f64 {
    if frequency == 0 {
        return 0.0;
    }
    let frequency = f64::from(frequency);
    frequency / (frequency + length_penalty)
}

/// The sum of `weight * saturation`. All scores come from here, with terms in ascending order, so
/// that equal documents have equal bits.
#[inline]
pub(super) fn sum_of_terms(terms: impl Iterator<Item = (f64, f64)>) -> f64 {
    let mut sum = 0.0;
    for (weight, saturation) in terms {
        sum += weight * saturation;
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bm25::{StatisticsCounter, TermCounter, Vocabulary};

    /// Three documents of 4, 2 and 3 terms; the vocabulary is cat, dog, fox.
    fn scorer(parameters: Bm25) -> (Scorer, TermCounter, Vec<DocumentTerms>) {
        let vocabulary = Arc::new(Vocabulary::new(["cat", "dog", "fox"]).unwrap());
        let texts = ["dog dog dog fox", "a dog", "b c d"];
        let mut statistics = StatisticsCounter::new(Arc::clone(&vocabulary));
        texts.iter().for_each(|text| statistics.add(text));
        let mut counter = TermCounter::new(vocabulary);
        let documents = texts.iter().map(|text| counter.count(text)).collect();
        let scorer = Scorer::new(parameters, &statistics.finish()).unwrap();
        (scorer, counter, documents)
    }

    fn assert_near(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn scores_are_those_of_the_formula() {
        let (scorer, mut counter, documents) = scorer(Bm25::default());
        let (rare, half, unseen) = (8.0_f64 / 3.0, 8.0_f64 / 5.0, 8.0_f64);
        let idf = [unseen.ln(), half.ln(), rare.ln()];
        assert_near(&[scorer.idf(0), scorer.idf(1), scorer.idf(2)], &idf);
        assert_eq!(scorer.idf(3), 0.0);
        // The mean length is 3: penalties 0.9 (0.6 + 0.4 length / 3).
        let penalty = |length: f64| 0.9 * (0.6 + 0.4 * length / 3.0);
        let query = counter.count("dog fox").frequencies;
        let expected = [
            idf[1] * 3.0 / (3.0 + penalty(4.0)) + idf[2] / (1.0 + penalty(4.0)),
            idf[1] / (1.0 + penalty(2.0)),
            0.0,
        ];
        assert_near(&scorer.scores(&query, &documents), &expected);
        // A term that the query repeats counts each time.
        let twice = counter.count("dog dog").frequencies;
        let once = counter.count("dog").frequencies;
        assert_eq!(
            scorer.score(&twice, &documents[0]),
            2.0 * scorer.score(&once, &documents[0])
        );
    }

    #[test]
    fn without_saturation_and_length_a_score_is_the_sum_of_idf() {
        let (scorer, mut counter, documents) = scorer(Bm25 { k1: 0.0, b: 0.0 });
        let query = counter.count("dog fox cat").frequencies;
        let expected = [
            (8.0_f64 / 5.0).ln() + (8.0_f64 / 3.0).ln(),
            (8.0_f64 / 5.0).ln(),
            0.0,
        ];
        assert_near(&scorer.scores(&query, &documents), &expected);
    }

    #[test]
    fn the_first_k_have_a_score_and_ties_keep_their_order() {
        let (scorer, mut counter, mut documents) = scorer(Bm25::default());
        documents.push(documents[1].clone());
        let query = counter.count("dog").frequencies;
        let top = |k| -> Vec<usize> {
            let top = scorer.top_k(&query, &documents, k);
            top.into_iter().map(|(document, _)| document).collect()
        };
        assert_eq!(top(9), [0, 1, 3]);
        assert_eq!(top(2), [0, 1]);
    }

    #[test]
    fn a_threshold_is_the_score_of_the_source() {
        let (scorer, mut counter, documents) = scorer(Bm25::default());
        let query = Query::new(&mut counter, "q", "fox dog cat dog", "d", "dog dog dog fox");
        assert_eq!(
            scorer.threshold(&query),
            scorer.score(&query.terms, &documents[0])
        );
    }
}
