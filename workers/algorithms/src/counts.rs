//! N-gram counts per bucket.

/// How often each bucket occurs in a corpus or a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketCounts {
    counts: Vec<u64>,
}

impl BucketCounts {
    /// All zero.
    #[must_use]
    pub fn new(n_buckets: u32) -> Self {
        Self {
            counts: vec![0; n_buckets as usize],
        }
    }

    /// Adds the n-grams of one document.
    ///
    /// # Panics
    ///
    /// If a bucket is not below the number of buckets: extractor and counts do not belong
    /// together.
    pub fn add(&mut self, buckets: &[u32]) {
        for &bucket in buckets {
            self.counts[bucket as usize] += 1;
        }
    }

    /// Adds to one bucket. Buckets out of range are refused with `false`.
    #[must_use]
    pub fn add_count(&mut self, bucket: u32, count: u64) -> bool {
        match self.counts.get_mut(bucket as usize) {
            Some(sum) => {
                *sum += count;
                true
            }
            None => false,
        }
    }

    /// Takes away from one bucket. What is not there is refused with `false`.
    #[must_use]
    pub fn take_count(&mut self, bucket: u32, count: u64) -> bool {
        let sum = self.counts.get_mut(bucket as usize);
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
    #[must_use]
    pub fn as_slice(&self) -> &[u64] {
        &self.counts
    }

    /// The counts by bucket.
    #[must_use]
    pub fn into_vec(self) -> Vec<u64> {
        self.counts
    }

    /// All n-grams.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Buckets that occur, ascending, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..)
            .zip(self.counts.iter().copied())
            .filter(|&(_, count)| count > 0)
    }
}
