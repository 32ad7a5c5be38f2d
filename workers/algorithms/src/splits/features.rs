//! Texts as vectors, without a model.

use xxhash_rust::xxh3::xxh3_64;

use crate::bm25::Analyzer;

/// Numbers of a vector.
pub(super) const DIMENSIONS: usize = 4096;

/// Bags of words of texts, hashed to 4,096 dimensions: `(1 + ln frequency) * ln(1 + N / df)` per
/// term, scaled to length 1. Cosines of hashed bags are those of bags, but for collisions, which are
/// few for queries.
#[derive(Debug, Clone, PartialEq)]
pub struct TextVectors {
    /// Dimensions that are not zero, ascending.
    vectors: Vec<Vec<(u16, f64)>>,
}

impl TextVectors {
    /// The vectors of texts; document frequencies are counted over all of them.
    #[must_use]
    pub fn new(texts: &[&str]) -> Self {
        let mut analyzer = Analyzer::default();
        let mut document_frequency = vec![0_u64; DIMENSIONS];
        let mut frequencies: Vec<Vec<(u16, u64)>> = Vec::with_capacity(texts.len());
        for text in texts {
            let mut dimensions: Vec<u16> = Vec::new();
            analyzer.for_each_term(text, |term| {
                dimensions.push((xxh3_64(term.as_bytes()) % DIMENSIONS as u64) as u16);
            });
            dimensions.sort_unstable();
            let runs = dimensions.chunk_by(|a, b| a == b);
            let counted: Vec<(u16, u64)> = runs.map(|run| (run[0], run.len() as u64)).collect();
            for &(dimension, _) in &counted {
                document_frequency[usize::from(dimension)] += 1;
            }
            frequencies.push(counted);
        }
        let n_texts = texts.len() as f64;
        let weight = |(dimension, frequency): (u16, u64)| {
            let df = document_frequency[usize::from(dimension)] as f64;
            let tf = 1.0 + libm::log(frequency as f64);
            (dimension, tf * libm::log(1.0 + n_texts / df))
        };
        let vector = |counted: Vec<(u16, u64)>| {
            let mut vector: Vec<(u16, f64)> = counted.into_iter().map(weight).collect();
            let norm = vector.iter().map(|(_, x)| x * x).sum::<f64>().sqrt();
            vector.iter_mut().for_each(|(_, x)| *x /= norm);
            vector
        };
        Self {
            vectors: frequencies.into_iter().map(vector).collect(),
        }
    }

    /// The cosine of two texts; 0 for a text without terms.
    #[must_use]
    pub fn cosine(&self, a: usize, b: usize) -> f64 {
        let (mut a, mut b) = (self.vector(a), self.vector(b));
        let mut sum = 0.0;
        while let ([(dimension_a, x), rest_a @ ..], [(dimension_b, y), rest_b @ ..]) = (a, b) {
            if dimension_a == dimension_b {
                sum += x * y;
            }
            if dimension_a <= dimension_b {
                a = rest_a;
            }
            if dimension_b <= dimension_a {
                b = rest_b;
            }
        }
        sum
    }

    pub(super) fn len(&self) -> usize {
        self.vectors.len()
    }

    pub(super) fn vector(&self, text: usize) -> &[(u16, f64)] {
        &self.vectors[text]
    }
}

/// The product of a vector and a dense one.
pub(super) fn dot(vector: &[(u16, f64)], dense: &[f64]) -> f64 {
    vector
        .iter()
        .map(|&(dimension, x)| x * dense[usize::from(dimension)])
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_follow_from_shared_terms_and_their_rarity() {
        let texts = [
            "a rare word",
            "a rare thing",
            "a common word",
            "",
            "RARE word, a",
        ];
        let vectors = TextVectors::new(&texts);
        assert!((vectors.cosine(0, 0) - 1.0).abs() < 1e-12);
        assert!((vectors.cosine(0, 4) - 1.0).abs() < 1e-12);
        assert_eq!(vectors.cosine(0, 3), 0.0);
        assert_eq!(vectors.cosine(0, 1), vectors.cosine(1, 0));
        assert!(vectors.cosine(0, 1) > vectors.cosine(1, 2));
        // Of a: ln(1 + 5/4), rare and word: ln(1 + 5/3), thing and common: ln 6.
        let (a, word, single) = ((9.0_f64 / 4.0).ln(), (8.0_f64 / 3.0).ln(), 6.0_f64.ln());
        let norm = |x: f64| (a * a + word * word + x * x).sqrt();
        let expected = (a * a + word * word) / norm(word) / norm(single);
        assert!((vectors.cosine(0, 1) - expected).abs() < 1e-12);
    }
}
