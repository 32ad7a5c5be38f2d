//! N-gram counts per bucket.

/// How often each bucket occurs in a corpus or a target.
///
/// N-grams of documents are added to counts of 32 bits, of which twice as many lie in a cache; before
/// one of them could overflow they are moved to counts of 64 bits.
#[derive(Debug, Clone)]
pub struct BucketCounts {
    recent: Vec<u32>,
    /// All of `recent`, so that none of them is larger.
    n_recent: u64,
    /// What was moved out of `recent`; empty until something was.
    settled: Vec<u64>,
}

/// N-grams that are added at a time.
const ADDED_MAX: usize = 1 << 30;

impl BucketCounts {
    /// All zero.
    #[must_use]
    pub fn new(n_buckets: u32) -> Self {
        Self {
            recent: vec![0; n_buckets as usize],
            n_recent: 0,
            settled: Vec::new(),
        }
    }

    /// Adds the n-grams of one document.
    ///
    /// # Panics
    ///
    /// If a bucket is not below the number of buckets: extractor and counts do not belong
    /// together.
    pub fn add(&mut self, buckets: &[u32]) {
        for buckets in buckets.chunks(ADDED_MAX) {
            let recent = self.room_for(buckets.len());
            for &bucket in buckets {
                recent[bucket as usize] += 1;
            }
        }
    }

    /// The counts that so many n-grams can be added to without an overflow, for who adds each of them
    /// on the way of something else; nothing where that are too many.
    pub(crate) fn with_room_for(&mut self, n_ngrams: usize) -> Option<&mut [u32]> {
        (n_ngrams <= ADDED_MAX).then(|| self.room_for(n_ngrams))
    }

    fn room_for(&mut self, n_ngrams: usize) -> &mut [u32] {
        let n_ngrams = n_ngrams as u64;
        if self.n_recent + n_ngrams > u64::from(u32::MAX) {
            self.settle();
        }
        self.n_recent += n_ngrams;
        &mut self.recent
    }

    fn settle(&mut self) {
        self.settled.resize(self.recent.len(), 0);
        for (settled, recent) in self.settled.iter_mut().zip(&mut self.recent) {
            *settled += u64::from(std::mem::take(recent));
        }
        self.n_recent = 0;
    }

    /// Adds to one bucket. Buckets out of range, and counts that no corpus has, are refused with
    /// `false`.
    #[must_use]
    pub fn add_count(&mut self, bucket: u32, count: u64) -> bool {
        let idx = bucket as usize;
        let Some(n_recent) = self.n_recent.checked_add(count) else {
            return false;
        };
        match self.recent.get_mut(idx) {
            None => false,
            // No more than all of them together, which 32 bits hold.
            Some(recent) if n_recent <= u64::from(u32::MAX) => {
                *recent += count as u32;
                self.n_recent = n_recent;
                true
            }
            Some(_) => {
                self.settle();
                let sum = self.settled[idx].checked_add(count);
                sum.inspect(|sum| self.settled[idx] = *sum).is_some()
            }
        }
    }

    /// Takes away from one bucket. What is not there is refused with `false`.
    #[must_use]
    pub fn take_count(&mut self, bucket: u32, count: u64) -> bool {
        if self.n_recent > 0 || self.settled.is_empty() {
            self.settle();
        }
        let sum = self.settled.get_mut(bucket as usize);
        let left = sum.as_ref().and_then(|sum| sum.checked_sub(count));
        match (sum, left) {
            (Some(sum), Some(left)) => {
                *sum = left;
                true
            }
            _ => false,
        }
    }

    /// The counts by bucket.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let settled = self.settled.iter().copied().chain(std::iter::repeat(0));
        let recent = self.recent.iter().copied().map(u64::from);
        recent
            .zip(settled)
            .map(|(recent, settled)| recent + settled)
    }

    /// The counts by bucket.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u64> {
        self.iter().collect()
    }

    /// All n-grams.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.iter().sum()
    }

    /// Buckets that occur, ascending, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        (0..).zip(self.iter()).filter(|&(_, count)| count > 0)
    }
}

impl PartialEq for BucketCounts {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for BucketCounts {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_32_bits_are_kept() {
        const MAX: u64 = u32::MAX as u64;
        let mut counts = BucketCounts::new(3);
        assert!(counts.add_count(1, MAX - 1));
        counts.add(&[1, 2, 2]);
        assert_eq!(counts.to_vec(), [0, MAX, 2]);
        counts.add(&[1]);
        assert!(counts.add_count(1, MAX + 7));
        assert!(counts.add_count(0, 5));
        assert_eq!(counts.to_vec(), [5, 2 * MAX + 8, 2]);
        assert_eq!(counts.total(), 2 * MAX + 15);
        assert_eq!(counts.nonzero().count(), 3);
        assert!(!counts.add_count(3, 1));
        assert!(!counts.add_count(0, u64::MAX));

        let mut same = BucketCounts::new(3);
        assert!(same.add_count(1, 2 * MAX + 8));
        assert_ne!(counts, same);
        assert!(same.add_count(0, 5) && same.add_count(2, 2));
        assert_eq!(counts, same);

        assert!(counts.take_count(1, 2 * MAX + 7) && counts.take_count(2, 2));
        assert!(!counts.take_count(1, 2) && !counts.take_count(3, 0));
        counts.add(&[2]);
        assert!(counts.take_count(2, 1) && !counts.take_count(2, 1));
        assert_eq!(counts.to_vec(), [5, 1, 0]);
        assert!(!BucketCounts::new(1).take_count(0, 1));
    }
}
