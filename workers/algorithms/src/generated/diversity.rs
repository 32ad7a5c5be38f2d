//! How much of a set of texts is new, and how many of them begin alike.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3;

use super::Words;

/// Distinct n-grams over all n-grams of all texts (distinct-n, arXiv 1510.03055); n-grams do not
/// cross texts. `None` if there are none. It falls as texts are added: compare samples of one size.
///
/// n-grams are compared by 64-bit hashes, so memory is 8 bytes per n-gram.
#[must_use]
pub fn distinct_n<T: AsRef<[u32]>>(texts: &[T], n: usize) -> Option<f64> {
    let n_grams = texts
        .iter()
        .flat_map(|text| text.as_ref().windows(n.max(1)));
    let mut hashes: Vec<u64> = n_grams.map(hash).collect();
    let n_all = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    (n_all > 0).then(|| hashes.len() as f64 / n_all as f64)
}

fn hash(words: &[u32]) -> u64 {
    let mut hasher = Xxh3::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    hasher.digest()
}

/// Distinct trigrams over trigrams of one text, 1 if there are none: the repetition term of
/// arXiv 2402.03469. Below 0.5 a text goes round in circles.
#[must_use]
pub fn distinct_trigrams(text: &[u32]) -> f64 {
    distinct_n(&[text], 3).unwrap_or(1.0)
}

/// Tokens over 100: the length term of arXiv 2402.03469.
#[must_use]
pub fn length_term(text: &[u32]) -> f64 {
    text.len() as f64 / 100.0
}

/// How many texts begin with the same words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The words.
    pub words: String,
    /// Texts that begin with them.
    pub n_texts: u64,
    /// Texts in all, those too that have fewer words.
    pub n_all: u64,
}

impl Start {
    /// The share of texts that begin so.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.n_texts as f64 / self.n_all as f64
    }
}

/// The `k` commonest beginnings of `n_words` words, most frequent first, equal ones by their words.
/// The first one's share for three words is the usual measure of templates.
#[must_use]
pub fn commonest_starts<T: AsRef<[u32]>>(
    words: &Words,
    texts: &[T],
    n_words: usize,
    k: usize,
) -> Vec<Start> {
    let mut counts: BTreeMap<&[u32], u64> = BTreeMap::new();
    for text in texts {
        if let Some(start) = text.as_ref().get(..n_words) {
            *counts.entry(start).or_default() += 1;
        }
    }
    let mut starts: Vec<Start> = counts
        .into_iter()
        .map(|(start, n_texts)| Start {
            words: words.text(start),
            n_texts,
            n_all: texts.len() as u64,
        })
        .collect();
    starts.sort_by(|a, b| (Reverse(a.n_texts), &a.words).cmp(&(Reverse(b.n_texts), &b.words)));
    starts.truncate(k);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> (Words, Vec<Vec<u32>>) {
        let mut words = Words::default();
        let texts = texts.iter().map(|text| words.of(text)).collect();
        (words, texts)
    }

    #[test]
    fn distinct_n_grams_do_not_cross_texts() {
        let (_, texts) = texts(&["a b a b", "b a", ""]);
        assert_eq!(distinct_n(&texts, 1), Some(2.0 / 6.0));
        // a b, b a, a b; b a.
        assert_eq!(distinct_n(&texts, 2), Some(2.0 / 4.0));
        assert_eq!(distinct_n(&texts, 3), Some(1.0));
        assert_eq!(distinct_n(&texts, 5), None);
    }

    #[test]
    fn repetition_and_length_are_the_terms_of_the_reference() {
        let (_, texts) = texts(&["a b c a b c", "a b", "a a a a"]);
        assert_eq!(distinct_trigrams(&texts[0]), 0.75);
        assert_eq!(length_term(&texts[0]), 0.06);
        assert_eq!(distinct_trigrams(&texts[1]), 1.0);
        assert_eq!(distinct_trigrams(&texts[2]), 0.5);
    }

    #[test]
    fn starts_are_counted_over_all_texts() {
        let (words, texts) = texts(&[
            "what is the time",
            "who knows the way",
            "What is the weather?",
            "why",
        ]);
        let starts = commonest_starts(&words, &texts, 3, 1);
        assert_eq!(
            (starts[0].words.as_str(), starts[0].n_texts),
            ("what is the", 2)
        );
        assert_eq!(starts[0].share(), 0.5);
        let starts = commonest_starts(&words, &texts, 1, 9);
        let words: Vec<&str> = starts.iter().map(|start| start.words.as_str()).collect();
        assert_eq!(words, ["what", "who", "why"]);
    }
}
