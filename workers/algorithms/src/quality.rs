//! The quality heuristics of the paper's experiments (arXiv 2302.03169, appendix; reference: the
//! filters of its package), and its chunks.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

/// Shares of a document's tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Count of the most frequent token divided by the number of tokens; the paper keeps
    /// documents between 0.02 and 0.2.
    pub repeating: f32,
    /// Share of tokens that are neither stop word nor punctuation; the paper keeps 0.3 to 0.7.
    pub informative: f32,
    /// Share of tokens that are not a single digit; the paper keeps above 0.8.
    pub numeric: f32,
}

/// One stop word per line, lower-case.
const STOP_WORDS: &str = include_str!("stop_words.txt");

fn stop_words() -> &'static HashSet<&'static str> {
    static WORDS: OnceLock<HashSet<&'static str>> = OnceLock::new();
    WORDS.get_or_init(|| STOP_WORDS.split_whitespace().collect())
}

/// The quality of lower-cased tokens; `None` if there are none.
pub fn quality<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Quality> {
    let stop_words = stop_words();
    let mut counts: HashMap<&str, u32> = HashMap::new();
    let (mut n, mut n_informative, mut n_other) = (0_u32, 0_u32, 0_u32);
    for token in tokens {
        n += 1;
        *counts.entry(token).or_default() += 1;
        let is_punctuation = !token.chars().any(char::is_alphanumeric);
        n_informative += u32::from(!is_punctuation && !stop_words.contains(token));
        let mut chars = token.chars();
        let is_digit = chars.next().is_some_and(char::is_numeric) && chars.next().is_none();
        n_other += u32::from(!is_digit);
    }
    let most_frequent = counts.values().copied().max()?;
    let share = |count: u32| (f64::from(count) / f64::from(n)) as f32;
    Some(Quality {
        repeating: share(most_frequent),
        informative: share(n_informative),
        numeric: share(n_other),
    })
}

/// Chunks of `n_words` words (runs without white space) each, the last one possibly shorter, as
/// byte ranges of `text`. White space around a chunk is left out. No chunk for a blank text.
pub fn chunk_words(text: &str, n_words: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut words = text
        .split_whitespace()
        .map(|word| {
            let start = word.as_ptr() as usize - text.as_ptr() as usize;
            start..start + word.len()
        })
        .peekable();
    let n_words = n_words.max(1);
    std::iter::from_fn(move || {
        let first = words.next()?;
        let last = words.by_ref().take(n_words - 1).last();
        Some(first.start..last.map_or(first.end, |last| last.end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_tokens() {
        let tokens = ["the", "cat", ",", "the", "7", "42", "sat", "x_", "."];
        let quality = quality(tokens.into_iter()).unwrap();
        let ninths = |n: u8| f32::from(n) / 9.0;
        assert!((quality.repeating - ninths(2)).abs() < 1e-6);
        assert!((quality.informative - ninths(5)).abs() < 1e-6);
        assert!((quality.numeric - ninths(8)).abs() < 1e-6);
        assert_eq!(super::quality(std::iter::empty()), None);
    }

    #[test]
    fn chunks_cover_all_words() {
        let text = "  one two\n three  four five ";
        let chunks: Vec<&str> = chunk_words(text, 2).map(|range| &text[range]).collect();
        assert_eq!(chunks, ["one two", "three  four", "five"]);
        assert_eq!(chunk_words(" \n", 2).count(), 0);
    }
}
