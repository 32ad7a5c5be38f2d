//! Lower-casing and splitting by the WordPunct pattern.
//!
//! The reference's tokeniser is NLTK's, and NLTK changed its engine for regular expressions, so
//! there are two of them; they differ outside of ASCII. In the syntax of the `regex` crate:
//!
//! - [`Tokenizer::WordPunct`] (NLTK 3.10): `\w+|[^\w\s]+`
//! - [`Tokenizer::WordPunctLegacy`] (NLTK 3.8 and earlier):
//!   `[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]+`
//!
//! Both mean: a token is a longest run of word characters, or of characters that are neither word
//! nor space. So one table of a class per code point replaces the engine.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// How text is split into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Tokenizer {
    /// WordPunct as in NLTK 3.10.
    #[default]
    WordPunct,
    /// WordPunct as in NLTK 3.8 and earlier.
    WordPunctLegacy,
}

impl Tokenizer {
    /// The name in job files and in fitted models.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WordPunct => "wordpunct",
            Self::WordPunctLegacy => "wordpunct_legacy",
        }
    }

    fn word_pattern(self) -> &'static str {
        match self {
            Self::WordPunct => r"\w",
            Self::WordPunctLegacy => r"[\p{L}\p{N}_]",
        }
    }

    fn space_pattern(self) -> &'static str {
        match self {
            Self::WordPunct => r"\s",
            Self::WordPunctLegacy => r"[\s\x1c-\x1f]",
        }
    }
}

impl fmt::Display for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tokenizer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wordpunct" => Ok(Self::WordPunct),
            "wordpunct_legacy" => Ok(Self::WordPunctLegacy),
            _ => Err(format!(
                "{text:?} is not a tokenizer: expected wordpunct or wordpunct_legacy"
            )),
        }
    }
}

const PUNCTUATION: u8 = 0;
const WORD: u8 = 1;
const SPACE: u8 = 2;
const CLASS: u8 = 3;
/// Set where `char::to_lowercase` is not the identity.
const CASED: u8 = 4;

/// Lower-casing changes no code point from here on (the last is U+1E921, Adlam).
const CASED_END: u32 = 0x1_F000;

/// One byte per code point: its class and whether lower-casing changes it.
struct ClassTable(Vec<u8>);

impl ClassTable {
    fn of(tokenizer: Tokenizer) -> &'static Self {
        static WORD_PUNCT: OnceLock<ClassTable> = OnceLock::new();
        static LEGACY: OnceLock<ClassTable> = OnceLock::new();
        let table = match tokenizer {
            Tokenizer::WordPunct => &WORD_PUNCT,
            Tokenizer::WordPunctLegacy => &LEGACY,
        };
        table.get_or_init(|| Self::build(tokenizer))
    }

    fn build(tokenizer: Tokenizer) -> Self {
        let mut table = vec![PUNCTUATION; char::MAX as usize + 1];
        for (pattern, class) in [
            (tokenizer.word_pattern(), WORD),
            (tokenizer.space_pattern(), SPACE),
        ] {
            for (first, last) in class_ranges(pattern) {
                table[first as usize..=last as usize].fill(class);
            }
        }
        for c in (0..CASED_END).filter_map(char::from_u32) {
            let mut lower = c.to_lowercase();
            if lower.next() != Some(c) || lower.next().is_some() {
                table[c as usize] |= CASED;
            }
        }
        Self(table)
    }

    fn class(&self, c: char) -> u8 {
        self.0[c as usize] & CLASS
    }

    fn is_cased(&self, c: char) -> bool {
        self.0[c as usize] & CASED != 0
    }
}

/// Code point ranges of a pattern that is a single class. The patterns are constants of this
/// module; one that were no class would give no ranges and fail every test.
fn class_ranges(pattern: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class
            .ranges()
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        _ => Vec::new(),
    }
}

/// The tokens of a text, with the memory that finding them takes, to be used again and again.
pub struct Tokens {
    table: &'static ClassTable,
    ascii_classes: [u8; 128],
    lower: String,
    spans: Vec<(u32, u32)>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Tokens {
    /// No tokens yet.
    #[must_use]
    pub fn new(tokenizer: Tokenizer) -> Self {
        let table = ClassTable::of(tokenizer);
        let mut ascii_classes = [0; 128];
        for (class, entry) in ascii_classes.iter_mut().zip(&table.0) {
            *class = entry & CLASS;
        }
        Self {
            table,
            ascii_classes,
            lower: String::new(),
            spans: Vec::new(),
        }
    }

    /// Replaces the tokens by those of `text`. Texts of 4 GiB and more are cut at the last
    /// character below that.
    pub fn set(&mut self, text: &str) {
        let mut end = text.len().min(u32::MAX as usize / 4);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.lower_case(&text[..end]);
        self.split();
    }

    /// The lower-cased text.
    #[must_use]
    pub fn lower(&self) -> &str {
        &self.lower
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The tokens in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spans
            .iter()
            .map(|&(start, end)| &self.lower[start as usize..end as usize])
    }

    /// Where in [`Tokens::lower`] the tokens stand, as byte offsets.
    pub fn spans(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.spans
            .iter()
            .map(|&(start, end)| start as usize..end as usize)
    }

    /// As `str::to_lowercase`, which equals Python's `str.lower` on all assigned code points.
    fn lower_case(&mut self, text: &str) {
        self.lower.clear();
        if text.is_ascii() {
            self.lower.push_str(text);
            self.lower.make_ascii_lowercase();
            return;
        }
        // A capital sigma's lower case depends on its neighbours.
        if text.contains('Σ') {
            self.lower = text.to_lowercase();
            return;
        }
        self.lower.reserve(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let n_ascii = rest
                .as_bytes()
                .iter()
                .position(|byte| !byte.is_ascii())
                .unwrap_or(rest.len());
            let (ascii, other) = rest.split_at(n_ascii);
            let start = self.lower.len();
            self.lower.push_str(ascii);
            self.lower[start..].make_ascii_lowercase();
            rest = other;
            let mut chars = rest.chars();
            while let Some(c) = chars.next().filter(|c| !c.is_ascii()) {
                if self.table.is_cased(c) {
                    self.lower.extend(c.to_lowercase());
                } else {
                    self.lower.push(c);
                }
                rest = &rest[c.len_utf8()..];
            }
        }
    }

    fn split(&mut self) {
        self.spans.clear();
        let bytes = self.lower.as_bytes();
        let mut start = 0;
        let mut class = SPACE;
        let mut idx = 0;
        while idx < bytes.len() {
            let byte = bytes[idx];
            let (here, width) = if byte < 128 {
                (self.ascii_classes[byte as usize], 1)
            } else {
                // `idx` is at a character's first byte, so there is a next character.
                match self.lower[idx..].chars().next() {
                    Some(c) => (self.table.class(c), c.len_utf8()),
                    None => break,
                }
            };
            if here != class {
                if class != SPACE {
                    self.spans.push((start, idx as u32));
                }
                start = idx as u32;
                class = here;
            }
            idx += width;
        }
        if class != SPACE {
            self.spans.push((start, bytes.len() as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn tokens(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        let mut tokens = Tokens::new(tokenizer);
        tokens.set(text);
        tokens.iter().map(str::to_owned).collect()
    }

    fn by_pattern(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        let pattern = match tokenizer {
            Tokenizer::WordPunct => r"\w+|[^\w\s]+",
            Tokenizer::WordPunctLegacy => r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]+",
        };
        let lower = text.to_lowercase();
        let pattern = Regex::new(pattern).unwrap();
        pattern
            .find_iter(&lower)
            .map(|found| found.as_str().to_owned())
            .collect()
    }

    #[test]
    fn words_and_punctuation_are_apart() {
        let text = "It's  3.5_x!?\n";
        assert_eq!(
            tokens(Tokenizer::WordPunct, text),
            ["it", "'", "s", "3", ".", "5_x", "!?"]
        );
        assert!(tokens(Tokenizer::WordPunct, " \t").is_empty());
    }

    #[test]
    fn every_code_point_is_classified_as_by_the_pattern() {
        for tokenizer in [Tokenizer::WordPunct, Tokenizer::WordPunctLegacy] {
            let mut fast = Tokens::new(tokenizer);
            // In blocks, since the engine has to be asked a million times.
            for block in (0..=u32::from(char::MAX)).collect::<Vec<_>>().chunks(4096) {
                let text: String = block
                    .iter()
                    .filter_map(|&c| char::from_u32(c))
                    .filter(|&c| c != 'Σ')
                    .flat_map(|c| ['a', c, '-', c, ' '])
                    .collect();
                fast.set(&text);
                let expected = by_pattern(tokenizer, &text);
                assert!(fast.iter().eq(expected.iter().map(String::as_str)));
                assert_eq!(fast.lower(), text.to_lowercase());
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_as_by_the_pattern(text in r"(\PC|[ -~]|[\s\x00-\x1f]|Σ|İ|ß|é|٣|_){0,60}") {
            for tokenizer in [Tokenizer::WordPunct, Tokenizer::WordPunctLegacy] {
                prop_assert_eq!(tokens(tokenizer, &text), by_pattern(tokenizer, &text));
            }
        }
    }
}
