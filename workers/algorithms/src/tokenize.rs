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
//! nor space. So a class per character replaces the engine, and `split` finds where they change.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::ascii_block::{BLOCK_BYTES, Portable};
use crate::avx512::Avx512;
use crate::char_class::{CharTable, HIGH, code_point_at};
use crate::split::{Bounds, split_blocks};

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

    fn char_table(self) -> &'static CharTable {
        static WORD_PUNCT: OnceLock<CharTable> = OnceLock::new();
        static LEGACY: OnceLock<CharTable> = OnceLock::new();
        let table = match self {
            Self::WordPunct => &WORD_PUNCT,
            Self::WordPunctLegacy => &LEGACY,
        };
        table.get_or_init(|| CharTable::new(self.word_pattern(), self.space_pattern()))
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

/// Longest text that is looked at, in bytes (1 GiB): offsets into its lower case have 32 bits, and
/// lower-casing may lengthen a text by half.
pub const TEXT_BYTES_MAX: usize = 1 << 30;

/// Follows the lower-cased text, so that its last token ends, that blocks are whole and that a
/// token's first 16 bytes can be read wherever it stands.
const PADDING: &str = "                                                                ";
const _: () = assert!(PADDING.len() == BLOCK_BYTES);

/// The tokens of a text, with the memory that finding them takes, to be used again and again.
pub struct Tokens {
    table: &'static CharTable,
    /// The lower-cased text and the padding.
    padded: String,
    lower_len: usize,
    bounds: Bounds,
    avx512: Option<Avx512>,
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
        Self::on(Avx512::detect(), tokenizer)
    }

    pub(crate) fn on(avx512: Option<Avx512>, tokenizer: Tokenizer) -> Self {
        Self {
            table: tokenizer.char_table(),
            padded: String::new(),
            lower_len: 0,
            bounds: Bounds::default(),
            avx512,
        }
    }

    /// Replaces the tokens by those of `text`. Of a text longer than [`TEXT_BYTES_MAX`], only the
    /// characters that fit are looked at.
    pub fn set(&mut self, text: &str) {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.lower_case(&text[..end]);
        self.lower_len = self.padded.len();
        self.padded.push_str(PADDING);
        let bytes = self.padded.as_bytes();
        match self.avx512 {
            Some(avx512) => avx512.split(self.table, bytes, &mut self.bounds),
            None => split_blocks(Portable, self.table, bytes, &mut self.bounds),
        }
    }

    /// The lower-cased text.
    #[must_use]
    pub fn lower(&self) -> &str {
        &self.padded[..self.lower_len]
    }

    /// Number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Whether there is no token.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spans().map(|span| &self.padded[span])
    }

    /// Where in [`Tokens::lower`] the tokens stand, as byte offsets.
    pub fn spans(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        let (starts, ends) = self.bounds.starts_and_ends();
        let bounds = starts.iter().zip(ends);
        bounds.map(|(&start, &end)| start as usize..end as usize)
    }

    /// The bounds of [`Tokens::spans`].
    pub(crate) fn bounds(&self) -> (&[u32], &[u32]) {
        self.bounds.starts_and_ends()
    }

    /// [`Tokens::lower`], followed by at least 64 bytes of white space.
    pub(crate) fn padded_lower(&self) -> &[u8] {
        self.padded.as_bytes()
    }

    /// As `str::to_lowercase`, which equals Python's `str.lower`, with the characters of
    /// Unicode 14.
    fn lower_case(&mut self, text: &str) {
        self.padded.clear();
        self.padded.reserve(text.len() + PADDING.len());
        let is_simple = match self.avx512 {
            Some(avx512) => !avx512.has_cased_beyond_ascii(self.table, text),
            None => text.is_ascii(),
        };
        if is_simple {
            self.push_ascii_lower_case(text);
            return;
        }
        let mut rest = text;
        // A capital sigma's lower case depends on its neighbours, though not across white space or
        // an unknown character: the standard library does such words.
        while let Some(sigma) = rest.find('Σ') {
            let table = &self.table;
            let is_apart = |c: char| c.is_ascii_whitespace() || !table.is_known(c);
            let start = rest[..sigma]
                .char_indices()
                .rfind(|&(_, c)| is_apart(c))
                .map_or(0, |(idx, c)| idx + c.len_utf8());
            let end = rest[sigma..]
                .find(is_apart)
                .map_or(rest.len(), |n_bytes| sigma + n_bytes);
            self.push_lower_case(&rest[..start]);
            self.padded.push_str(&rest[start..end].to_lowercase());
            rest = &rest[end..];
        }
        self.push_lower_case(rest);
    }

    /// Lower case that depends on no neighbours.
    fn push_lower_case(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let (mut n_copied, mut idx) = (0, 0);
        while idx < bytes.len() {
            if let Some(Ok(lanes)) = bytes.get(idx..idx + 8).map(<[u8; 8]>::try_from) {
                let beyond_ascii = u64::from_le_bytes(lanes) & HIGH;
                if beyond_ascii == 0 {
                    idx += 8;
                    continue;
                }
                idx += beyond_ascii.trailing_zeros() as usize / 8;
            }
            let (code_point, width) = code_point_at(bytes, idx);
            if width > 1 && self.table.is_cased(code_point) {
                self.push_ascii_lower_case(&text[n_copied..idx]);
                n_copied = idx + width;
                let lower = text[idx..n_copied].chars().flat_map(char::to_lowercase);
                self.padded.extend(lower);
            }
            idx += width;
        }
        self.push_ascii_lower_case(&text[n_copied..]);
    }

    /// Lower-cases ASCII and copies the rest as it is.
    fn push_ascii_lower_case(&mut self, text: &str) {
        let start = self.padded.len();
        self.padded.push_str(text);
        let text = &mut self.padded[start..];
        match self.avx512 {
            Some(avx512) => avx512.make_ascii_lowercase(text),
            None => text.make_ascii_lowercase(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;
    use std::sync::LazyLock;

    fn tokens(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        let [tokens, portable] = [Avx512::detect(), None].map(|avx512| {
            let mut tokens = Tokens::on(avx512, tokenizer);
            tokens.set(text);
            tokens.iter().map(str::to_owned).collect()
        });
        assert_eq!(tokens, portable);
        tokens
    }

    fn by_pattern(tokenizer: Tokenizer, text: &str) -> Vec<String> {
        static WORD_PUNCT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+|[^\w\s]+").unwrap());
        static LEGACY: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s\x1c-\x1f]+").unwrap());
        let pattern = match tokenizer {
            Tokenizer::WordPunct => &WORD_PUNCT,
            Tokenizer::WordPunctLegacy => &LEGACY,
        };
        let lower = lower(text);
        pattern
            .find_iter(&lower)
            .map(|found| found.as_str().to_owned())
            .collect()
    }

    /// Lower case of what Unicode 14 knows.
    fn lower(text: &str) -> String {
        static UNKNOWN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\P{Age=14.0}").unwrap());
        let mut lower = String::new();
        let mut end = 0;
        for unknown in UNKNOWN.find_iter(text) {
            lower.push_str(&text[end..unknown.start()].to_lowercase());
            lower.push_str(unknown.as_str());
            end = unknown.end();
        }
        lower + &text[end..].to_lowercase()
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
            let mut on_processors =
                [Avx512::detect(), None].map(|avx512| Tokens::on(avx512, tokenizer));
            // In blocks, since the engine has to be asked a million times.
            for block in (0..=u32::from(char::MAX)).collect::<Vec<_>>().chunks(4096) {
                let text: String = block
                    .iter()
                    .filter_map(|&c| char::from_u32(c))
                    .filter(|&c| c != 'Σ')
                    .flat_map(|c| ['a', c, '-', c, ' '])
                    .collect();
                let expected = by_pattern(tokenizer, &text);
                for tokens in &mut on_processors {
                    tokens.set(&text);
                    assert!(tokens.iter().eq(expected.iter().map(String::as_str)));
                    assert_eq!(tokens.lower(), lower(&text));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_split_as_by_the_pattern(text in r"(\PC|[ -~]|[\s\x00-\x1f]|Σ|İ|ß|é|٣|_|\u{10d50}){0,60}") {
            for tokenizer in [Tokenizer::WordPunct, Tokenizer::WordPunctLegacy] {
                prop_assert_eq!(tokens(tokenizer, &text), by_pattern(tokenizer, &text));
            }
        }
    }
}
