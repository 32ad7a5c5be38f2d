//! The classes of 64 bytes at once, as far as they are ASCII.
//!
//! The loops are over arrays of bytes of fixed length and without branches, so that the compiler
//! makes vector instructions of them on every machine.

/// The classes of 64 bytes of UTF-8, one bit each, the first byte in the lowest bit. What is
/// neither word nor space is punctuation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockClasses {
    pub(crate) word: u64,
    pub(crate) space: u64,
    /// Bytes of characters beyond ASCII; their other bits are not set yet.
    pub(crate) beyond_ascii: u64,
}

/// Length of a block in bytes.
pub(crate) const BLOCK_BYTES: usize = 64;

/// The classes of a block of lower-cased text. Whether U+001C to U+001F are space depends on the
/// tokenizer.
#[inline]
pub(crate) fn classify(block: &[u8; BLOCK_BYTES], separators_are_space: bool) -> BlockClasses {
    let is_word = |byte: u8| within(byte, b'a', b'z') | within(byte, b'0', b'9') | (byte == b'_');
    let is_space = |byte: u8| within(byte, b'\t', b'\r') | (byte == b' ');
    BlockClasses {
        word: bits(block, is_word),
        space: if separators_are_space {
            bits(block, |byte| is_space(byte) | within(byte, 0x1c, 0x1f))
        } else {
            bits(block, is_space)
        },
        beyond_ascii: if block.is_ascii() {
            0
        } else {
            bits(block, |byte| !byte.is_ascii())
        },
    }
}

#[inline]
fn within(byte: u8, first: u8, last: u8) -> bool {
    byte.wrapping_sub(first) <= last - first
}

/// Bit r for the eight bytes of row r.
const ROW_BITS: [u8; BLOCK_BYTES] = {
    let mut bits = [0; BLOCK_BYTES];
    let mut idx = 0;
    while idx < BLOCK_BYTES {
        bits[idx] = 1 << (idx / 8);
        idx += 1;
    }
    bits
};

/// One bit for each byte of a block, the first one's is the lowest.
#[inline]
fn bits(block: &[u8; BLOCK_BYTES], is_set: impl Fn(u8) -> bool) -> u64 {
    let mut selected = [0; BLOCK_BYTES];
    for idx in 0..BLOCK_BYTES {
        selected[idx] = if is_set(block[idx]) { ROW_BITS[idx] } else { 0 };
    }
    // Rows on top of one another: byte c holds column c, where bit r is of row r.
    let mut columns = 0;
    for row in selected.as_chunks().0 {
        columns |= u64::from_le_bytes(*row);
    }
    transpose(columns)
}

/// Exchanges bits 8r + c and 8c + r (Hacker's Delight, section 7-3).
#[inline]
fn transpose(mut bits: u64) -> u64 {
    for (shift, mask) in [
        (7, 0x00aa_00aa_00aa_00aa),
        (14, 0x0000_cccc_0000_cccc),
        (28, 0x0000_0000_f0f0_f0f0),
    ] {
        let exchanged = (bits ^ bits >> shift) & mask;
        bits ^= exchanged ^ exchanged << shift;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_bit_everywhere() {
        for position in 0..BLOCK_BYTES {
            for byte in 0..=255 {
                let mut block = [b'-'; BLOCK_BYTES];
                block[position] = byte;
                let bit = |is_set: bool| u64::from(is_set) << position;
                let is_space = byte.is_ascii_whitespace() || byte == 0x0b;
                let expected = BlockClasses {
                    word: bit(matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')),
                    space: bit(is_space),
                    beyond_ascii: bit(!byte.is_ascii()),
                };
                assert_eq!(classify(&block, false), expected, "{byte} at {position}");
                let separators = BlockClasses {
                    space: bit(is_space || matches!(byte, 0x1c..=0x1f)),
                    ..expected
                };
                assert_eq!(classify(&block, true), separators, "{byte} at {position}");
            }
        }
    }
}
