//! The classes of 64 bytes at once, as far as they are ASCII.
//!
//! The loops are over arrays of bytes of fixed length and without branches, so that the compiler
//! makes vector instructions of them on every machine. Where there is AVX-512, its own are taken.

use crate::char_class::CharTable;

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

/// What a processor does with a block.
pub(crate) trait BlockOps: Copy {
    /// The classes of a block of lower-cased text, as far as it is ASCII.
    fn classify(self, table: &CharTable, block: &[u8; BLOCK_BYTES]) -> BlockClasses;

    /// Writes `base` plus the position of each bit that is set, then anything. Returns their number.
    fn put_positions(self, bits: u64, base: u32, positions: &mut [u32; BLOCK_BYTES]) -> usize;
}

/// Any processor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl BlockOps for Portable {
    #[inline]
    fn classify(self, table: &CharTable, block: &[u8; BLOCK_BYTES]) -> BlockClasses {
        classify(block, table.separators_are_space())
    }

    #[inline]
    fn put_positions(self, mut bits: u64, base: u32, positions: &mut [u32; BLOCK_BYTES]) -> usize {
        /// Written at a time, more than there are if need be: a branch that ends the loop behind
        /// the exact number cannot be foreseen.
        const GROUP: usize = 4;
        let n_bits = bits.count_ones() as usize;
        for group in positions.as_chunks_mut::<GROUP>().0 {
            for position in group {
                *position = base + bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
            }
            if bits == 0 {
                break;
            }
        }
        n_bits
    }
}

/// The classes of a block of lower-cased text. Whether U+001C to U+001F are space depends on the
/// tokenizer.
#[inline]
fn classify(block: &[u8; BLOCK_BYTES], separators_are_space: bool) -> BlockClasses {
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
    use crate::char_class::CharClass;

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

    fn check_table(ops: impl BlockOps) {
        for (word, space) in [(r"\w", r"\s"), (r"[\p{L}\p{N}_]", r"[\s\x1c-\x1f]")] {
            let table = CharTable::new(word, space);
            // Capitals never reach the blocks: they are of lower-cased text.
            for byte in (0..=255_u8).filter(|byte| !byte.is_ascii_uppercase()) {
                for position in [0, 7, 31, 63] {
                    let mut block = [b'\n'; BLOCK_BYTES];
                    block[position] = byte;
                    let classes = ops.classify(&table, &block);
                    let bits = |bits: u64| bits >> position & 1 == 1;
                    let found = (
                        bits(classes.word),
                        bits(classes.space),
                        bits(classes.beyond_ascii),
                    );
                    let expected = match table.class(u32::from(byte)) {
                        _ if !byte.is_ascii() => (false, false, true),
                        CharClass::Word => (true, false, false),
                        CharClass::Space => (false, true, false),
                        CharClass::Punctuation => (false, false, false),
                    };
                    assert_eq!(found, expected, "{word} {byte:#x}");
                    let others = !(1 << position);
                    assert_eq!(classes.space & others, others);
                    assert_eq!((classes.word | classes.beyond_ascii) & others, 0);
                }
            }
        }
    }

    fn check_positions(ops: impl BlockOps) {
        let mut bits = 1_u64;
        for n_kept in (0..=64).cycle().take(1000) {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // All numbers of bits come up.
            let bits =
                if n_kept % 2 == 0 { bits } else { u64::MAX } & u64::MAX >> (64 - n_kept).min(63);
            let mut positions = [0; BLOCK_BYTES];
            let n_bits = ops.put_positions(bits, 1000, &mut positions);
            let expected = (0..64)
                .filter(|idx| bits >> idx & 1 == 1)
                .map(|idx| 1000 + idx);
            assert!(
                expected.eq(positions[..n_bits].iter().copied()),
                "{bits:#x}"
            );
        }
    }

    #[test]
    fn portable_blocks_are_as_their_bytes() {
        check_table(Portable);
        check_positions(Portable);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn blocks_in_avx512_are_as_their_bytes() {
        if let Some(avx512) = crate::avx512::Avx512::detect() {
            check_table(avx512);
            check_positions(avx512);
        }
    }
}
