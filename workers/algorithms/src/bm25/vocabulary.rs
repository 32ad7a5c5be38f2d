//! The terms that can score: those of all queries.

use xxhash_rust::xxh3::xxh3_64;

use super::Bm25Error;

/// No term stands here.
const EMPTY: u32 = u32::MAX;

/// A sorted list of terms, with a hash table over it. Two workers that are given the same terms
/// number them alike, whatever the order.
///
/// Memory: the terms' bytes, and per term 8 bytes of offset and 16 to 32 of the hash table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// The terms, one behind the other.
    bytes: String,
    /// Where each term begins, and where the last one ends.
    offsets: Vec<usize>,
    /// Open addressing; the number of slots is a power of two, at least twice that of terms.
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// The upper half of the term's hash: most other terms are told apart without their bytes.
    tag: u32,
    term: u32,
}

impl Vocabulary {
    /// The distinct ones of these terms.
    ///
    /// # Errors
    ///
    /// If there are more than 32 bits number.
    pub fn new<S: AsRef<str>>(terms: impl IntoIterator<Item = S>) -> Result<Self, Bm25Error> {
        let mut terms: Vec<S> = terms.into_iter().collect();
        terms.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        terms.dedup_by(|a, b| a.as_ref() == b.as_ref());
        if terms.len() >= EMPTY as usize {
            return Err(Bm25Error::VocabularyTooLarge { terms: terms.len() });
        }
        let empty = Slot {
            tag: 0,
            term: EMPTY,
        };
        let mut vocabulary = Self {
            bytes: String::new(),
            offsets: vec![0],
            slots: vec![empty; (2 * terms.len()).next_power_of_two()],
        };
        for (idx, term) in (0_u32..).zip(&terms) {
            let hash = xxh3_64(term.as_ref().as_bytes());
            let mut position = vocabulary.first_slot(hash);
            while vocabulary.slots[position].term != EMPTY {
                position = vocabulary.next_slot(position);
            }
            vocabulary.slots[position] = Slot {
                tag: tag(hash),
                term: idx,
            };
            vocabulary.bytes.push_str(term.as_ref());
            vocabulary.offsets.push(vocabulary.bytes.len());
        }
        Ok(vocabulary)
    }

    /// The number of terms.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no term.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All terms in the order of their bytes, which is that of their indices: what is stored, and
    /// what [`Self::new`] makes the same vocabulary of.
    pub fn terms(&self) -> impl ExactSizeIterator<Item = &str> {
        self.offsets
            .windows(2)
            .map(|ends| &self.bytes[ends[0]..ends[1]])
    }

    /// The term of an index.
    #[must_use]
    pub fn term(&self, idx: u32) -> Option<&str> {
        let idx = idx as usize;
        Some(&self.bytes[*self.offsets.get(idx)?..*self.offsets.get(idx + 1)?])
    }

    /// The index of a term.
    #[must_use]
    pub fn idx(&self, term: &str) -> Option<u32> {
        let hash = xxh3_64(term.as_bytes());
        let mut position = self.first_slot(hash);
        loop {
            let slot = self.slots[position];
            if slot.term == EMPTY {
                return None;
            }
            if slot.tag == tag(hash) && self.term(slot.term) == Some(term) {
                return Some(slot.term);
            }
            position = self.next_slot(position);
        }
    }

    /// Bytes of memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.offsets.capacity() * size_of::<usize>()
            + self.slots.capacity() * size_of::<Slot>()
    }

    fn first_slot(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn next_slot(&self, position: usize) -> usize {
        (position + 1) & (self.slots.len() - 1)
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_vocabulary_knows_nothing() {
        let vocabulary = Vocabulary::new::<&str>([]).unwrap();
        assert!(vocabulary.is_empty());
        assert_eq!(vocabulary.idx(""), None);
        assert_eq!(vocabulary.term(0), None);
    }

    proptest! {
        #[test]
        fn terms_are_found_by_their_rank(terms in proptest::collection::vec("[a-cé]{0,3}", 0..60)) {
            let vocabulary = Vocabulary::new(&terms).unwrap();
            let mut sorted = terms.clone();
            sorted.sort();
            sorted.dedup();
            prop_assert!(vocabulary.terms().eq(sorted.iter().map(String::as_str)));
            for (idx, term) in (0_u32..).zip(&sorted) {
                prop_assert_eq!(vocabulary.idx(term), Some(idx));
                prop_assert_eq!(vocabulary.term(idx), Some(term.as_str()));
            }
            prop_assert_eq!(vocabulary.idx("d"), None);
            prop_assert_eq!(&Vocabulary::new(vocabulary.terms()).unwrap(), &vocabulary);
        }
    }
}
