//! What a scoring task tells of the n-grams that it saw, so that nobody has to read texts again to
//! compare today's input with what a model was fitted on.
//!
//! Counts are told by bucket, folded to [`FOLDED_MAX`] where the model has more: a text of some
//! kilobytes in the footer of the task's object. Sums over tasks are sums of whole numbers.

use gleaner_algorithms::BucketCounts;
use gleaner_algorithms::importance::{log_weight, log_weight_and_count};
use gleaner_schemas::{ColumnSums, Failure};
use serde::{Deserialize, Serialize};

use super::model::LogRatios;
use crate::batch_columns::permanent;

/// Buckets that are told apart.
pub(crate) const FOLDED_MAX: u32 = 1 << 16;

/// Buckets that are told apart of a model that has so many.
pub(crate) fn n_folded(n_buckets: u32) -> u32 {
    n_buckets.min(FOLDED_MAX)
}

/// What was seen, besides the counts by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seen {
    /// Texts that were scored: documents or chunks.
    pub(crate) n_texts: u64,
    /// Their n-grams.
    pub(crate) n_ngrams: u64,
    /// Those of them that the model never saw.
    pub(crate) n_unseen: u64,
    /// Weights per token of the eligible ones, for each column of weights.
    pub(crate) scores: Vec<ColumnSums>,
}

impl Seen {
    pub(crate) fn new(n_columns: usize) -> Self {
        Self {
            scores: vec![ColumnSums::default(); n_columns],
            ..Self::default()
        }
    }

    /// Adds what another task saw, or takes it away; `false` if it cannot have been among this.
    pub(crate) fn apply(&mut self, other: &Self, is_added: bool) -> bool {
        let pairs = [
            (&mut self.n_texts, other.n_texts),
            (&mut self.n_ngrams, other.n_ngrams),
            (&mut self.n_unseen, other.n_unseen),
        ];
        let mut is_good = self.scores.len() == other.scores.len();
        for (mine, theirs) in pairs {
            is_good &= apply(mine, theirs, is_added);
        }
        for (mine, theirs) in self.scores.iter_mut().zip(&other.scores) {
            is_good &= mine.apply(*theirs, is_added);
        }
        is_good
    }
}

fn apply(mine: &mut u64, theirs: u64, is_added: bool) -> bool {
    let applied = if is_added {
        mine.checked_add(theirs)
    } else {
        mine.checked_sub(theirs)
    };
    applied.inspect(|sum| *mine = *sum).is_some()
}

/// As it stands in a footer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    seen: Seen,
    /// Counts by bucket, see [`to_text`].
    counts: String,
}

/// Counts what a task sees.
#[derive(Debug)]
pub(crate) struct NgramCounter {
    n_folded: u32,
    is_folded: bool,
    counts: BucketCounts,
    seen: Seen,
}

impl NgramCounter {
    pub(crate) fn new(n_buckets: u32) -> Self {
        let n_folded = n_folded(n_buckets);
        Self {
            n_folded,
            is_folded: n_folded < n_buckets,
            counts: BucketCounts::new(n_folded),
            seen: Seen::default(),
        }
    }

    /// Adds the n-grams of a text, and hands its log weight to `each` for every column of the model.
    pub(crate) fn weigh(
        &mut self,
        buckets: &[u32],
        model: &LogRatios,
        mut each: impl FnMut(usize, f64),
    ) {
        self.seen.n_texts += 1;
        self.seen.n_ngrams += buckets.len() as u64;
        let mut columns = model.by_suffix.iter().enumerate();
        if self.is_folded {
            self.add_folded(buckets, model);
        } else if let Some((idx, log_ratios)) = columns.next() {
            // One pass: a count and a log ratio are looked up together.
            each(
                idx,
                log_weight_and_count(log_ratios, buckets, &mut self.counts),
            );
        } else {
            self.counts.add(buckets);
        }
        for (idx, log_ratios) in columns {
            each(idx, log_weight(log_ratios, buckets));
        }
    }

    fn add_folded(&mut self, buckets: &[u32], model: &LogRatios) {
        for bucket in buckets {
            // Below the number of buckets, as it was just folded.
            let _ = self.counts.add_count(bucket % self.n_folded, 1);
        }
        if let Some(is_unseen) = &model.is_unseen {
            let unseen = buckets.iter().filter(|&&bucket| is_unseen[bucket as usize]);
            self.seen.n_unseen += unseen.count() as u64;
        }
    }

    /// What stands in the footer, with the sums of weights per token of each column.
    pub(crate) fn told(&self, model: &LogRatios, scores: &[ColumnSums]) -> Result<String, Failure> {
        let mut seen = Seen {
            scores: scores.to_vec(),
            ..self.seen.clone()
        };
        if let Some(is_unseen) = model.is_unseen.as_ref().filter(|_| !self.is_folded) {
            // Each bucket has a count of its own, so that no text need be asked for it.
            let counts = self.counts.iter().zip(is_unseen);
            seen.n_unseen = counts.filter(|(_, unseen)| **unseen).map(|it| it.0).sum();
        }
        let told = Told {
            seen,
            counts: to_text(self.counts.iter()),
        };
        serde_json::to_string(&told)
            .map_err(|error| permanent(format!("cannot write counts of n-grams: {error}")))
    }
}

/// Sums over tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NgramSums {
    pub(crate) seen: Seen,
    /// By folded bucket.
    pub(crate) counts: Vec<u64>,
}

impl NgramSums {
    pub(crate) fn new(n_buckets: u32, n_columns: usize) -> Self {
        Self {
            seen: Seen::new(n_columns),
            counts: vec![0; n_folded(n_buckets) as usize],
        }
    }

    /// Adds what a task told, or takes it away; `false` if it cannot have been among this.
    pub(crate) fn apply(&mut self, told: &str, is_added: bool) -> Result<bool, Failure> {
        let told: Told = serde_json::from_str(told)
            .map_err(|error| permanent(format!("counts of n-grams cannot be read: {error}")))?;
        let mut is_good = self.seen.apply(&told.seen, is_added);
        for pair in pairs_of(&told.counts) {
            let (bucket, count) =
                pair.ok_or_else(|| permanent("counts of n-grams are not what a task writes"))?;
            let mine = self
                .counts
                .get_mut(bucket)
                .ok_or_else(|| permanent(format!("bucket {bucket} is out of range")))?;
            is_good &= apply(mine, count, is_added);
        }
        Ok(is_good)
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bits of a digit that carry the number; the one above says that more digits follow.
const BITS: u32 = 5;

/// For each bucket that occurs: how many buckets before it do not, and its count, both as numbers of
/// as many digits as they need, the lowest first.
fn to_text(counts: impl Iterator<Item = u64>) -> String {
    let mut text = String::new();
    let mut next_idx = 0;
    for (idx, count) in counts.enumerate().filter(|(_, count)| *count > 0) {
        push(&mut text, (idx - next_idx) as u64);
        push(&mut text, count);
        next_idx = idx + 1;
    }
    text
}

fn push(text: &mut String, mut number: u64) {
    loop {
        let low = (number & ((1 << BITS) - 1)) as usize;
        number >>= BITS;
        let more = usize::from(number > 0) << BITS;
        text.push(char::from(DIGITS[low | more]));
        if number == 0 {
            return;
        }
    }
}

/// Bucket and count; `None` where the text is not one that [`to_text`] gives.
fn pairs_of(text: &str) -> impl Iterator<Item = Option<(usize, u64)>> {
    let mut digits = text.bytes();
    let mut next_idx = Some(0_usize);
    std::iter::from_fn(move || {
        let idx = next_idx?;
        if digits.len() == 0 {
            return None;
        }
        let pair = number(&mut digits).zip(number(&mut digits));
        let pair = pair.and_then(|(gap, count)| {
            let idx = idx.checked_add(usize::try_from(gap).ok()?)?;
            Some((idx, count))
        });
        next_idx = pair.and_then(|(idx, _)| idx.checked_add(1));
        Some(pair)
    })
}

fn number(digits: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut number = 0_u64;
    for place in (0..u64::BITS).step_by(BITS as usize) {
        let digit = match digits.next()? {
            byte @ b'A'..=b'Z' => byte - b'A',
            byte @ b'a'..=b'z' => byte - b'a' + 26,
            byte @ b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        let low = u64::from(digit & ((1 << BITS) - 1));
        if low.leading_zeros() < place {
            return None;
        }
        number |= low << place;
        if digit >> BITS == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts_of(text: &str, n: usize) -> Option<Vec<u64>> {
        let mut counts = vec![0; n];
        for pair in pairs_of(text) {
            let (bucket, count) = pair?;
            *counts.get_mut(bucket)? += count;
        }
        Some(counts)
    }

    /// Log ratios are the numbers of buckets, with the sign of the column.
    fn model(n_buckets: u32, n_columns: usize, unseen: &[u32]) -> LogRatios {
        let ratios = |column| (0..n_buckets).map(move |bucket| f64::from(bucket) * column);
        let is_unseen = (0..n_buckets).map(|bucket| unseen.contains(&bucket));
        LogRatios {
            by_suffix: [1.0, -1.0][..n_columns]
                .iter()
                .map(|column| ratios(*column).collect())
                .collect(),
            is_unseen: (!unseen.is_empty()).then(|| is_unseen.collect()),
        }
    }

    proptest! {
        #[test]
        fn counts_round_trip(counts in prop::collection::vec(
            prop_oneof![3 => Just(0_u64), 3 => 0..50_u64, 1 => any::<u64>()], 0..200,
        )) {
            prop_assert_eq!(counts_of(&to_text(counts.iter().copied()), counts.len()), Some(counts));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9+/*]{0,40}") {
            let _ = counts_of(&text, 100);
        }

        #[test]
        fn sums_do_not_depend_on_the_way(
            tasks in prop::collection::vec(prop::collection::vec(0..50_u32, 1..30), 2..6),
        ) {
            let model = model(50, 1, &[3, 7]);
            let told: Vec<String> = tasks.iter().map(|buckets| {
                let mut counter = NgramCounter::new(50);
                counter.weigh(buckets, &model, |_, _| {});
                let mut scores = ColumnSums::default();
                scores.add_value(f64::from(buckets[0]) / 7.0);
                counter.told(&model, &[scores]).unwrap()
            }).collect();
            let mut anew = NgramSums::new(50, 1);
            for told in &told[1..] {
                prop_assert!(anew.apply(told, true).unwrap());
            }
            let mut carried = NgramSums::new(50, 1);
            for told in &told {
                prop_assert!(carried.apply(told, true).unwrap());
            }
            prop_assert!(carried.apply(&told[0], false).unwrap());
            prop_assert_eq!(anew, carried);
        }
    }

    #[test]
    fn large_models_are_folded_and_unseen_ones_counted() {
        let n_buckets = FOLDED_MAX * 2;
        let mut counter = NgramCounter::new(n_buckets);
        let model = model(n_buckets, 1, &[FOLDED_MAX + 3]);
        let mut weights = Vec::new();
        counter.weigh(&[3, FOLDED_MAX + 3, 5], &model, |_, it| weights.push(it));
        assert_eq!(weights, [f64::from(3 + FOLDED_MAX + 3 + 5)]);
        let mut sums = NgramSums::new(n_buckets, 0);
        let told = counter.told(&model, &[]).unwrap();
        assert!(sums.apply(&told, true).unwrap());
        assert_eq!((sums.counts[3], sums.counts[5]), (2, 1));
        assert_eq!((sums.seen.n_ngrams, sums.seen.n_unseen), (3, 1));
        // What was never added cannot be taken away.
        let mut empty = NgramSums::new(n_buckets, 0);
        assert!(!empty.apply(&told, false).unwrap());
    }

    #[test]
    fn every_column_is_weighed_and_ngrams_are_counted_once() {
        for n_columns in 0..=2 {
            let model = model(50, n_columns, &[7, 9]);
            let mut counter = NgramCounter::new(50);
            let mut weights = Vec::new();
            counter.weigh(&[1, 7, 7, 20], &model, |idx, it| weights.push((idx, it)));
            assert_eq!(weights, [(0, 35.0), (1, -35.0)][..n_columns]);
            let mut sums = NgramSums::new(50, n_columns);
            let told = counter.told(&model, &vec![ColumnSums::default(); n_columns]);
            assert!(sums.apply(&told.unwrap(), true).unwrap());
            assert_eq!((sums.counts[1], sums.counts[7], sums.counts[20]), (1, 2, 1));
            assert_eq!(sums.counts.iter().sum::<u64>(), 4);
            let seen = (sums.seen.n_texts, sums.seen.n_ngrams, sums.seen.n_unseen);
            assert_eq!(seen, (1, 4, 2));
        }
    }
}
