//! Text to terms.
//!
//! - A term is a longest run of letters, numbers and the marks on them (Unicode's `Alphabetic`,
//!   `N` and `M`), in lower case. Everything else separates, apostrophes, hyphens and underscores
//!   too: `patient's` has the terms `patient` and `s`.
//! - Scripts that are written without spaces between words (Han, Hiragana, Katakana, Thai, Lao,
//!   Khmer, Myanmar and their relatives) give the overlapping pairs of the characters of a run: a
//!   run of four gives three terms. A run of one character gives that character. Marks belong to
//!   the character before them.
//! - Lower-casing is character by character and that of Unicode 14; the final sigma is a sigma.
//!   Soft hyphens and joiners within words vanish. There is no stemming, no folding of accents or
//!   of compatibility forms, and no stop list: common terms have little weight as it is.

use std::sync::OnceLock;

use crate::char_class::{KNOWN_PATTERN, class_ranges};

/// What a character does, in the low bits of the table.
const SEPARATES: u8 = 0;
const WORD: u8 = 1;
/// Of a script without spaces.
const UNSPACED: u8 = 2;
/// Continues whatever stands before it.
const MARK: u8 = 3;
/// As if it were not there.
const VANISHES: u8 = 4;
const KIND: u8 = 7;
/// Lower-casing changes the character.
const CASED: u8 = 8;

const WORD_PATTERN: &str = r"[\p{Alphabetic}\p{N}]";
const UNSPACED_PATTERN: &str = r"[[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}\p{scx=Tai_Tham}\p{scx=New_Tai_Lue}\p{scx=Tai_Viet}\p{scx=Yi}]&&[\p{Alphabetic}\p{Nd}]]";
const MARK_PATTERN: &str = r"\p{M}";
const VANISHING_PATTERN: &str = r"[\u{ad}\p{Join_Control}]";

/// A byte per code point.
fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = vec![SEPARATES; char::MAX as usize + 1];
        for (pattern, kind) in [
            (WORD_PATTERN, WORD),
            (UNSPACED_PATTERN, UNSPACED),
            (MARK_PATTERN, MARK),
            (VANISHING_PATTERN, VANISHES),
        ] {
            for (first, last) in class_ranges(pattern) {
                table[first as usize..=last as usize].fill(kind);
            }
        }
        for (first, last) in class_ranges(KNOWN_PATTERN) {
            for c in first..=last {
                if !c.to_lowercase().eq([c]) {
                    table[c as usize] |= CASED;
                }
            }
        }
        table
    })
}

/// Finds terms, with the memory that this takes, to be used again and again.
#[derive(Debug, Clone, Default)]
pub struct Analyzer {
    /// The term that is being read; of an unspaced run, its last two characters.
    term: String,
    run: Run,
}

/// What is being read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Run {
    #[default]
    Nothing,
    Word,
    Unspaced {
        /// Where the last character begins in `term`.
        last_start: usize,
    },
}

impl Analyzer {
    /// Calls `sink` with each term of the text, in order.
    pub fn for_each_term(&mut self, text: &str, mut sink: impl FnMut(&str)) {
        let table = table();
        self.term.clear();
        self.run = Run::Nothing;
        for c in text.chars() {
            let flags = table[c as usize];
            match (flags & KIND, self.run) {
                (WORD, Run::Word) => self.push(c, flags),
                (WORD, _) => {
                    self.end_run(&mut sink);
                    self.run = Run::Word;
                    self.push(c, flags);
                }
                (UNSPACED, Run::Unspaced { last_start }) => {
                    self.begin_character(last_start, &mut sink);
                    self.push(c, flags);
                }
                (UNSPACED, _) => {
                    self.end_run(&mut sink);
                    self.run = Run::Unspaced { last_start: 0 };
                    self.push(c, flags);
                }
                (MARK, Run::Word | Run::Unspaced { .. }) => self.push(c, flags),
                (VANISHES, _) => {}
                _ => self.end_run(&mut sink),
            }
        }
        self.end_run(&mut sink);
    }

    #[inline]
    fn push(&mut self, c: char, flags: u8) {
        if c == 'ς' {
            self.term.push('σ');
        } else if flags & CASED == 0 {
            self.term.push(c);
        } else {
            self.term.extend(c.to_lowercase());
        }
    }

    /// The last character is complete, since another one follows: gives the pair that it ends, if
    /// there is one before it, and forgets what is before it.
    fn begin_character(&mut self, last_start: usize, sink: &mut impl FnMut(&str)) {
        if last_start > 0 {
            sink(&self.term);
            self.term.drain(..last_start);
        }
        self.run = Run::Unspaced {
            last_start: self.term.len(),
        };
    }

    /// Gives what is left: a word, the last pair of an unspaced run, or its only character.
    fn end_run(&mut self, sink: &mut impl FnMut(&str)) {
        if self.run != Run::Nothing {
            sink(&self.term);
            self.term.clear();
            self.run = Run::Nothing;
        }
    }
}

/// The terms of a text, in order.
#[must_use]
pub fn terms_of(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    Analyzer::default().for_each_term(text, |term| terms.push(term.to_owned()));
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(terms_of(text), expected, "{text:?}");
    }

    #[test]
    fn words_are_runs_of_letters_and_numbers_in_lower_case() {
        check("", &[]);
        check(" -- _ ", &[]);
        check(
            "The patient's X-ray, 2nd_try",
            &["the", "patient", "s", "x", "ray", "2nd", "try"],
        );
        check("pH 7.4", &["ph", "7", "4"]);
        check("ÄRZTE Straße", &["ärzte", "straße"]);
        check("ΟΔΟΣ οδός ΌΔΟΣ", &["οδοσ", "οδόσ", "όδοσ"]);
        // A mark belongs to the letter before it, and begins nothing.
        check("cafe\u{301} \u{301}x", &["cafe\u{301}", "x"]);
        check("İstanbul", &["i\u{307}stanbul"]);
        // Right to left, with a joiner that is not part of the word.
        check("می\u{200c}خواهم", &["میخواهم"]);
        check("hyphen\u{ad}ation", &["hyphenation"]);
        check("हिन्दी भाषा", &["हिन्दी", "भाषा"]);
    }

    #[test]
    fn scripts_without_spaces_give_pairs() {
        check("日本語文", &["日本", "本語", "語文"]);
        check("猫", &["猫"]);
        check("猫。犬", &["猫", "犬"]);
        check("GPUで学ぶ5年", &["gpu", "で学", "学ぶ", "5", "年"]);
        check("データー", &["デー", "ータ", "ター"]);
        // Vowel signs and tones stay with their consonant.
        check("ที่นี่", &["ที่นี่"]);
        check("か\u{3099}き", &["か\u{3099}き"]);
        // Korean is written with spaces.
        check("한국어 문서", &["한국어", "문서"]);
    }

    proptest! {
        #[test]
        fn no_text_fails_and_terms_of_terms_are_the_same(text in "\\PC{0,40}") {
            for term in terms_of(&text) {
                prop_assert!(!term.is_empty());
                let again = terms_of(&term);
                prop_assert_eq!(again, [term]);
            }
        }
    }
}
