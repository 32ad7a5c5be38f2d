//! Which characters make words, which separate them, and which have a lower case: one table
//! look-up per character; ASCII goes by blocks.

use regex_syntax::hir::{Class, HirKind};

/// What a character does to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CharClass {
    Word,
    Space,
    /// Neither word nor space.
    Punctuation,
}

/// Flag of word characters.
pub(crate) const WORD: u8 = 1;
/// Flag of white space.
pub(crate) const SPACE: u8 = 2;
/// Lower-casing changes the character.
const CASED: u8 = 4;
/// Lower-casing knows the character.
const KNOWN: u8 = 8;

/// Lower-casing is that of Unicode 14, as in the reference's Python 3.11: the tokens of a text, and
/// with them its weight, change neither with the compiler nor with the Unicode that it knows.
pub(crate) const KNOWN_PATTERN: &str = r"\p{Age=14.0}";

/// One byte per code point.
pub(crate) struct CharTable {
    flags: Vec<u8>,
    /// Those of ASCII.
    ascii_flags: [u8; 128],
    /// Whether U+001C to U+001F are space: Python says so, Unicode does not.
    separators_are_space: bool,
}

impl CharTable {
    /// A table of two classes of characters, in the syntax of the `regex` crate.
    pub(crate) fn new(word_pattern: &str, space_pattern: &str) -> Self {
        let mut flags = vec![0; char::MAX as usize + 1];
        for (pattern, flag) in [(word_pattern, WORD), (space_pattern, SPACE)] {
            for (first, last) in class_ranges(pattern) {
                flags[first as usize..=last as usize].fill(flag);
            }
        }
        for (first, last) in class_ranges(KNOWN_PATTERN) {
            for c in first..=last {
                let is_cased = !c.to_lowercase().eq([c]);
                flags[c as usize] |= if is_cased { KNOWN | CASED } else { KNOWN };
            }
        }
        Self {
            ascii_flags: std::array::from_fn(|code_point| flags[code_point]),
            separators_are_space: flags[0x1c] & SPACE != 0,
            flags,
        }
    }

    #[inline]
    pub(crate) fn class(&self, code_point: u32) -> CharClass {
        match self.flags[code_point as usize] & (WORD | SPACE) {
            WORD => CharClass::Word,
            SPACE => CharClass::Space,
            _ => CharClass::Punctuation,
        }
    }

    /// Whether lower-casing changes the character.
    #[inline]
    pub(crate) fn is_cased(&self, code_point: u32) -> bool {
        self.flags[code_point as usize] & CASED != 0
    }

    /// Whether lower-casing knows the character; it leaves others as they are.
    pub(crate) fn is_known(&self, c: char) -> bool {
        self.flags[c as usize] & KNOWN != 0
    }

    /// The flags of ASCII.
    pub(crate) fn ascii_flags(&self) -> &[u8; 128] {
        &self.ascii_flags
    }

    /// Whether U+001C to U+001F are space.
    pub(crate) fn separators_are_space(&self) -> bool {
        self.separators_are_space
    }
}

/// Code point ranges of a pattern that is a single class. The patterns are constants of this
/// crate; one that were no class would give no ranges and fail every test.
pub(crate) fn class_ranges(pattern: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => class
            .ranges()
            .iter()
            .map(|range| (range.start(), range.end()))
            .collect(),
        _ => Vec::new(),
    }
}

/// The code point that starts at `idx` of valid UTF-8, and its length in bytes.
#[inline]
pub(crate) fn code_point_at(bytes: &[u8], idx: usize) -> (u32, usize) {
    let lead = u32::from(bytes[idx]);
    let tail = |i: usize| u32::from(bytes[idx + i]) & 0x3f;
    match lead {
        0..0x80 => (lead, 1),
        0x80..0xe0 => ((lead & 0x1f) << 6 | tail(1), 2),
        0xe0..0xf0 => ((lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3),
        _ => (
            (lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3),
            4,
        ),
    }
}

/// The highest bit of each of eight bytes.
pub(crate) const HIGH: u64 = 0x8080_8080_8080_8080;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_points_are_decoded() {
        for c in [
            'a',
            '\u{7f}',
            'é',
            '\u{7ff}',
            'ࠀ',
            '\u{ffff}',
            '𐀀',
            char::MAX,
        ] {
            let text = format!("x{c}");
            assert_eq!(code_point_at(text.as_bytes(), 1), (c.into(), c.len_utf8()));
        }
    }
}
