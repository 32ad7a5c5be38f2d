//! The total order of rows: by key, then document id, then place.
//!
//! A sort key is a text of bytes whose byte order is the order in which rows are chosen, so that
//! histograms can narrow it digit by digit without knowing what it is made of.

use gleaner_algorithms::order::{ascending, descending};
use serde::{Deserialize, Serialize};

use super::params::Method;

/// Digits have two bytes; a key that ends within one is padded by a smaller symbol than any byte.
const SYMBOLS: u32 = 257;

/// The bytes of a key: eight of the score, then id and place, each behind a zero.
#[derive(Debug, Default)]
pub(crate) struct SortKey(Vec<u8>);

/// What decides between rows of equal keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TieBreak<'a> {
    pub(crate) doc_id: &'a str,
    pub(crate) input_file: &'a str,
    pub(crate) input_row: u64,
}

impl SortKey {
    /// Sets the key. `false` if `key` is not a number.
    pub(crate) fn set(&mut self, method: Method, key: f64, tie: TieBreak<'_>) -> bool {
        let order = match method {
            Method::BottomK => ascending(key),
            Method::Resample | Method::TopK | Method::Threshold => descending(key),
        };
        let Some(order) = order else { return false };
        self.0.clear();
        self.0.extend_from_slice(&order.to_be_bytes());
        for part in [tie.doc_id, tie.input_file] {
            self.0.extend_from_slice(part.as_bytes());
            self.0.push(0);
        }
        self.0.extend_from_slice(&tie.input_row.to_be_bytes());
        true
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The digit behind the first `n_before` bytes; digits have the order of keys.
pub(crate) fn digit(key: &[u8], n_before: usize) -> u32 {
    let symbol = |at: usize| key.get(at).map_or(0, |byte| u32::from(*byte) + 1);
    symbol(n_before) * SYMBOLS + symbol(n_before + 1)
}

/// Number of bytes that two keys have in common at their start.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Which rows of a group are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cut {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those whose sort key is this one or stands before it.
    Through(Hex),
}

impl Cut {
    pub(crate) fn takes(&self, key: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Through(last) => key <= last.0.as_slice(),
        }
    }
}

/// Bytes that are written as hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Hex(pub(crate) Vec<u8>);

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        hex.0
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
            .collect()
    }
}

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let nibbles: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
        let nibbles = nibbles.filter(|nibbles| nibbles.len().is_multiple_of(2));
        let nibbles = nibbles.ok_or_else(|| format!("{text:?} is not hexadecimal"))?;
        // Each pair is below 256.
        Ok(Self(
            nibbles
                .chunks(2)
                .map(|pair| (pair[0] * 16 + pair[1]) as u8)
                .collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(method: Method, key: f64, doc_id: &str) -> Vec<u8> {
        let mut sort_key = SortKey::default();
        let tie = TieBreak {
            doc_id,
            input_file: "f",
            input_row: 3,
        };
        assert!(sort_key.set(method, key, tie));
        sort_key.0
    }

    #[test]
    fn keys_come_first_then_ids() {
        let top = |k, id| key(Method::TopK, k, id);
        assert!(top(2.0, "z") < top(1.0, "a"));
        assert!(top(1.0, "a") < top(1.0, "b"));
        assert!(top(1.0, "a") < top(1.0, "aa"));
        assert!(key(Method::BottomK, -2.0, "z") < key(Method::BottomK, 1.0, "a"));
        assert_eq!(top(0.0, "a"), top(-0.0, "a"));
    }

    #[test]
    fn digits_have_the_order_of_keys() {
        let (short, long) = (b"ab".as_slice(), b"ab\0".as_slice());
        assert!(digit(short, 2) < digit(long, 2));
        assert!(digit(b"\xff\xff", 0) > digit(b"\xff\xfe", 0));
        assert_eq!(common_prefix(b"abc", b"abd"), 2);
    }

    #[test]
    fn hexadecimal_text_comes_back() {
        let hex = Hex(vec![0, 17, 255]);
        let text = String::from(hex.clone());
        assert_eq!(text, "0011ff");
        assert_eq!(Hex::try_from(text), Ok(hex));
        assert!(Hex::try_from("0".to_owned()).is_err());
        assert!(Hex::try_from("zz".to_owned()).is_err());
    }
}
