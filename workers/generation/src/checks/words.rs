//! Words of any language.
//!
//! A token is a run of letters, digits and their marks, in lower case, with apostrophes inside it.
//! Chinese, Japanese, Thai, Lao, Khmer and Burmese put nothing between words: there each character
//! with its marks is a token. Where words are counted, tokens of these scripts count as parts of
//! one.

use std::ops::Range;

use unicode_normalization::char::is_combining_mark;
use unicode_script::{Script, UnicodeScript};
use xxhash_rust::xxh3::xxh3_64;

/// The tokens of a text.
#[derive(Debug, Clone)]
pub struct Tokens {
    lower: String,
    spans: Vec<Range<usize>>,
    n_word_parts: usize,
}

/// Parts of a word that a token of a script with spaces counts as; others count as fewer.
const PARTS_PER_WORD: usize = 6;

/// Parts of a word that a character counts as where nothing stands between words: a Chinese or
/// Japanese word has two characters, a Thai one three with their marks; none for other scripts.
fn unspaced_parts(c: char) -> Option<usize> {
    if c.is_ascii() {
        return None;
    }
    match c.script() {
        Script::Han | Script::Hiragana | Script::Katakana | Script::Bopomofo => Some(3),
        Script::Thai | Script::Lao | Script::Khmer | Script::Myanmar => Some(2),
        // The mark of long vowels belongs to both kinds of kana.
        Script::Common if c == 'ー' => Some(3),
        _ => None,
    }
}

/// Joiners inside words of Persian, Indic scripts and emoji.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

impl Tokens {
    /// The tokens of `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let lower = text.to_lowercase();
        let mut tokens = Self {
            lower: String::new(),
            spans: Vec::new(),
            n_word_parts: 0,
        };
        // Whether the next character can carry the last token on.
        let mut is_open = false;
        let mut chars = lower.char_indices().peekable();
        while let Some((start, c)) = chars.next() {
            let end = start + c.len_utf8();
            if !c.is_ascii() && (is_combining_mark(c) || is_joiner(c)) {
                tokens.extend_last(start, end);
            } else if let Some(parts) = unspaced_parts(c).filter(|_| c.is_alphanumeric()) {
                tokens.push(start..end, parts);
                is_open = false;
            } else if c.is_alphanumeric() {
                if !(is_open && tokens.extend_last(start, end)) {
                    tokens.push(start..end, PARTS_PER_WORD);
                }
                is_open = true;
            } else {
                let is_apostrophe = matches!(c, '\'' | '’');
                let is_inside = chars.peek().is_some_and(|(_, next)| next.is_alphabetic());
                let carries_on = is_apostrophe && is_inside && is_open;
                is_open = carries_on && tokens.extend_last(start, end);
            }
        }
        tokens.lower = lower;
        tokens
    }

    fn push(&mut self, span: Range<usize>, parts: usize) {
        self.spans.push(span);
        self.n_word_parts += parts;
    }

    /// Carries the last token on if it ends where this begins.
    fn extend_last(&mut self, start: usize, end: usize) -> bool {
        match self.spans.last_mut().filter(|span| span.end == start) {
            Some(span) => {
                span.end = end;
                true
            }
            None => false,
        }
    }

    /// The tokens in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spans.iter().map(|span| &self.lower[span.clone()])
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// A number for each token, the same for equal tokens; they do not change between releases.
    #[must_use]
    pub fn hashes(&self) -> Vec<u64> {
        self.iter().map(|token| xxh3_64(token.as_bytes())).collect()
    }

    /// Words, rounded; at least 1 unless there are no tokens.
    #[must_use]
    pub fn n_words(&self) -> usize {
        let rounded = (self.n_word_parts + PARTS_PER_WORD / 2) / PARTS_PER_WORD;
        rounded.max(usize::from(!self.is_empty()))
    }
}

/// How many words a text has, in any language.
#[must_use]
pub fn count_words(text: &str) -> usize {
    Tokens::new(text).n_words()
}

/// Shared tokens over all tokens of two texts, 0 if both are empty.
#[must_use]
pub fn similarity(a: &Tokens, b: &Tokens) -> f64 {
    let distinct = |tokens: &Tokens| {
        let mut hashes = tokens.hashes();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    };
    let (a, b) = (distinct(a), distinct(b));
    let n_shared = a
        .iter()
        .filter(|hash| b.binary_search(hash).is_ok())
        .count();
    let n_all = a.len() + b.len() - n_shared;
    if n_all == 0 {
        0.0
    } else {
        n_shared as f64 / n_all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_many_scripts() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(Tokens::new(text).iter().collect::<Vec<_>>(), expected);
        };
        check(
            "The cat's 3 mats, e.g. RED-ish!",
            &["the", "cat's", "3", "mats", "e", "g", "red", "ish"],
        );
        check("'quoted'", &["quoted"]);
        check("Straße ÉTÉ", &["straße", "été"]);
        check("光合作用 2024年", &["光", "合", "作", "用", "2024", "年"]);
        check(
            "コーヒーを飲む",
            &["コ", "ー", "ヒ", "ー", "を", "飲", "む"],
        );
        check("서울의 날씨", &["서울의", "날씨"]);
        // Marks stay with what they stand on.
        check("ที่นี่", &["ที่", "นี่"]);
        check("हिन्दी भाषा", &["हिन्दी", "भाषा"]);
        check("می\u{200c}خواهم بروم", &["می\u{200c}خواهم", "بروم"]);
        check("ما هي عاصمة مصر؟", &["ما", "هي", "عاصمة", "مصر"]);
        check(" \u{301} ?!", &[]);
    }

    #[test]
    fn words_are_counted_in_any_script() {
        let check = |text: &str, expected: usize| assert_eq!(count_words(text), expected, "{text}");
        check("", 0);
        check("?!", 0);
        check("one two three", 3);
        check("什么是光合作用", 4);
        check("字", 1);
        check("Python 列表推导式", 4);
        check("שלום עולם", 2);
    }

    #[test]
    fn similarity_is_that_of_sets() {
        let check = |a: &str, b: &str, expected: f64| {
            assert_eq!(similarity(&Tokens::new(a), &Tokens::new(b)), expected);
        };
        check("a b c d", "D C B A a", 1.0);
        check("a b c", "b c d", 0.5);
        check("", "", 0.0);
        check("a", "", 0.0);
    }
}
