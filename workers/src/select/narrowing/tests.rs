//! Narrowing against sorting everything in one memory.

use proptest::prelude::*;

use super::*;
use crate::select::sort_key::digit;

/// The rows that begin with a prefix, by digit.
fn histogram(rows: &[(Vec<u8>, u64)], prefix: &[u8]) -> BTreeMap<u32, Bucket> {
    let mut buckets: BTreeMap<u32, Bucket> = BTreeMap::new();
    for (key, cost) in rows.iter().filter(|(key, _)| key.starts_with(prefix)) {
        match buckets.get_mut(&digit(key, prefix.len())) {
            Some(bucket) => bucket.add(1, *cost, key, key),
            None => {
                buckets.insert(digit(key, prefix.len()), Bucket::one(key, *cost));
            }
        }
    }
    buckets
}

/// As the phases of a stage do it: narrows, and lists once at most `n_listed_max` rows are open.
fn cut_by_narrowing(rows: &[(Vec<u8>, u64)], budget: u64, n_listed_max: u64) -> Cut {
    let mut open = OpenGroup {
        budget,
        prefix: Hex::default(),
        through: None,
        n_rows: rows.len() as u64,
    };
    for _ in 0..100 {
        if open.n_rows <= n_listed_max {
            let prefix = open.prefix.0.clone();
            let listed = rows.iter().filter(|(key, _)| key.starts_with(&prefix));
            return decide_group(open, listed.cloned().collect());
        }
        let buckets = histogram(rows, &open.prefix.0);
        match narrow_group(open, buckets) {
            Progress::Decided(cut) => return cut,
            Progress::Open(next) => open = next,
        }
    }
    panic!("narrowing does not end");
}

/// The longest run of best rows that fits, rows of equal keys together.
fn taken_by_sorting(rows: &[(Vec<u8>, u64)], mut budget: u64) -> Vec<(Vec<u8>, u64)> {
    let mut sorted = rows.to_vec();
    sorted.sort();
    let mut taken = Vec::new();
    for same in sorted.chunk_by(|a, b| a.0 == b.0) {
        let cost: u64 = same.iter().map(|(_, cost)| cost).sum();
        if cost > budget {
            break;
        }
        budget -= cost;
        taken.extend_from_slice(same);
    }
    taken
}

fn rows() -> impl Strategy<Value = Vec<(Vec<u8>, u64)>> {
    // Few symbols and long common starts: ties and deep prefixes are frequent.
    let key = prop_oneof![
        prop::collection::vec(0..3_u8, 0..6),
        prop::collection::vec(prop_oneof![Just(0_u8), Just(255), any::<u8>()], 0..5),
        prop::collection::vec(any::<u8>(), 1..3).prop_map(|end| [vec![7; 9], end].concat()),
    ];
    prop::collection::vec((key, 0..5_u64), 0..60)
}

proptest! {
    #[test]
    fn the_same_rows_are_taken_as_by_sorting(
        rows in rows(),
        budget in 0..150_u64,
        n_listed_max in 0..20_u64,
    ) {
        let cut = cut_by_narrowing(&rows, budget, n_listed_max);
        let mut taken: Vec<_> = rows.iter().filter(|(key, _)| cut.takes(key)).cloned().collect();
        taken.sort();
        prop_assert_eq!(taken, taken_by_sorting(&rows, budget));
    }
}

#[test]
fn a_budget_above_all_takes_all_and_one_of_nothing_takes_nothing() {
    let rows: Vec<(Vec<u8>, u64)> = (0..9).map(|i| (vec![i], 2)).collect();
    assert_eq!(cut_by_narrowing(&rows, 18, 0), Cut::All);
    assert_eq!(cut_by_narrowing(&rows, 0, 0), Cut::Nothing);
    assert_eq!(cut_by_narrowing(&rows, 1, 0), Cut::Nothing);
    assert_eq!(cut_by_narrowing(&rows, 5, 0), Cut::Through(Hex(vec![1])));
}
