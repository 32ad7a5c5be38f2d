//! Where tokens begin and end: text is looked at in blocks of 64 bytes, whose classes are bits of an
//! integer, and tokens begin and end where bits change.

use crate::ascii_block::{BLOCK_BYTES, BlockClasses, BlockOps};
use crate::char_class::{CharClass, CharTable, code_point_at};

/// Where the tokens of a text begin and end, in memory that is used again and again.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Where tokens begin, in order, and behind the last of them whatever was there.
    starts: Vec<u32>,
    /// Where they end, likewise.
    ends: Vec<u32>,
    n_tokens: usize,
}

impl Bounds {
    pub(crate) fn len(&self) -> usize {
        self.n_tokens
    }

    pub(crate) fn starts_and_ends(&self) -> (&[u32], &[u32]) {
        (&self.starts[..self.n_tokens], &self.ends[..self.n_tokens])
    }
}

/// Replaces `bounds` by those of the tokens of a lower-cased text that ends with white space, and of
/// which only whole blocks are looked at. To be inlined where the operations have their
/// instructions.
#[inline(always)]
pub(crate) fn split_blocks(
    ops: impl BlockOps,
    table: &CharTable,
    bytes: &[u8],
    bounds: &mut Bounds,
) {
    let mut tail = CharTail::default();
    let mut last = BlockClasses {
        space: 1 << 63,
        ..BlockClasses::default()
    };
    // A token that reaches into the next block has its start already, and not yet its end.
    let (mut n_starts, mut n_ends) = (0, 0);
    for (block_idx, block) in bytes.as_chunks().0.iter().enumerate() {
        let base = (block_idx * BLOCK_BYTES) as u32;
        let mut classes = ops.classify(table, block);
        if classes.beyond_ascii != 0 {
            classify_beyond_ascii(table, bytes, base as usize, &mut classes, &mut tail);
        }
        let word_before = classes.word << 1 | last.word >> 63;
        let space_before = classes.space << 1 | last.space >> 63;
        let changes = classes.word ^ word_before | classes.space ^ space_before;
        let (starts, ends) = (changes & !classes.space, changes & !space_before);
        n_starts += ops.put_positions(starts, base, room(&mut bounds.starts, n_starts));
        n_ends += ops.put_positions(ends, base, room(&mut bounds.ends, n_ends));
        last = classes;
    }
    // The text is followed by space.
    debug_assert_eq!(n_starts, n_ends);
    bounds.n_tokens = n_ends;
}

/// Room for the positions of a block behind those that are there.
#[inline(always)]
fn room(positions: &mut Vec<u32>, n_positions: usize) -> &mut [u32; BLOCK_BYTES] {
    if positions.len() < n_positions + BLOCK_BYTES {
        grow(positions, n_positions);
    }
    // There is room for one now.
    &mut positions[n_positions..].as_chunks_mut().0[0]
}

#[cold]
fn grow(positions: &mut Vec<u32>, n_positions: usize) {
    positions.resize(n_positions + n_positions / 2 + 16 * BLOCK_BYTES, 0);
}

/// What of a character reaches into the next block.
#[derive(Default)]
struct CharTail {
    n_bytes: usize,
    classes: BlockClasses,
}

/// Sets the bits of the characters beyond ASCII: all bytes of a character have its class.
#[inline]
fn classify_beyond_ascii(
    table: &CharTable,
    bytes: &[u8],
    base: usize,
    classes: &mut BlockClasses,
    tail: &mut CharTail,
) {
    classes.word |= tail.classes.word;
    classes.space |= tail.classes.space;
    let mut rest = classes.beyond_ascii & u64::MAX << tail.n_bytes;
    *tail = CharTail::default();
    while rest != 0 {
        let idx = rest.trailing_zeros() as usize;
        let (code_point, width) = code_point_at(bytes, base + idx);
        let bits = (1 << width) - 1;
        rest &= !(bits << idx);
        let class = table.class(code_point);
        let set = |classes: &mut BlockClasses, bits: u64| match class {
            CharClass::Word => classes.word |= bits,
            CharClass::Space => classes.space |= bits,
            CharClass::Punctuation => (),
        };
        set(classes, bits << idx);
        if idx + width > BLOCK_BYTES {
            tail.n_bytes = idx + width - BLOCK_BYTES;
            set(&mut tail.classes, bits >> (BLOCK_BYTES - idx));
        }
    }
}
