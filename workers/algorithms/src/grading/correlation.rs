//! Whether two orders agree.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Among pairs of different grades, the share in which the higher grade has the larger value, ties
/// counting half; 0.5 says that the value knows nothing of the grade. With two grades this is the
/// area under the ROC curve. `None` if no two grades differ.
#[must_use]
pub fn ordered_share(graded: &[(i8, f64)]) -> Option<f64> {
    let by_grade = sorted_by_grade(graded);
    let (mut halves, mut n_pairs) = (0_u128, 0_u128);
    for (grade, values) in &by_grade {
        for lower in by_grade.range(..grade).map(|(_, lower)| lower) {
            halves += wins_in_halves(values, lower);
            n_pairs += values.len() as u128 * lower.len() as u128;
        }
    }
    share(halves, n_pairs)
}

/// [`ordered_share`] of two grades alone.
pub(super) fn ordered_share_between(graded: &[(i8, f64)], upper: i8, lower: i8) -> Option<f64> {
    let of = |wanted: &[i8]| -> Vec<(i8, f64)> {
        let is_wanted = |&(grade, _): &(i8, f64)| wanted.contains(&grade);
        graded.iter().copied().filter(is_wanted).collect()
    };
    ordered_share(&of(&[upper, lower]))
}

fn share(halves: u128, n_pairs: u128) -> Option<f64> {
    (n_pairs > 0).then(|| halves as f64 / (2 * n_pairs) as f64)
}

fn sorted_by_grade(graded: &[(i8, f64)]) -> BTreeMap<i8, Vec<f64>> {
    let mut by_grade: BTreeMap<i8, Vec<f64>> = BTreeMap::new();
    for &(grade, value) in graded.iter().filter(|(_, value)| !value.is_nan()) {
        by_grade.entry(grade).or_default().push(value);
    }
    for values in by_grade.values_mut() {
        values.sort_unstable_by(compare);
    }
    by_grade
}

/// The order of numbers, with both zeros equal, as there are no NaN.
fn compare(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or(Ordering::Equal)
}

/// Twice the pairs in which `upper` is larger plus the pairs that tie; both are sorted.
fn wins_in_halves(upper: &[f64], lower: &[f64]) -> u128 {
    let (mut n_below, mut n_not_above, mut halves) = (0, 0, 0);
    for value in upper {
        while n_below < lower.len() && lower[n_below] < *value {
            n_below += 1;
        }
        while n_not_above < lower.len() && lower[n_not_above] <= *value {
            n_not_above += 1;
        }
        halves += (n_below + n_not_above) as u128;
    }
    halves
}

/// Kendall's tau-b of pairs, which corrects for ties on both sides. In time n log n (Knight 1966).
/// `None` if either side has one value only.
#[must_use]
pub fn kendall_tau_b(pairs: &[(f64, f64)]) -> Option<f64> {
    let mut pairs = numbers(pairs);
    let by_both = |a: &(f64, f64), b: &(f64, f64)| compare(&a.0, &b.0).then(compare(&a.1, &b.1));
    pairs.sort_unstable_by(by_both);
    let n_pairs = pairs_of(pairs.len());
    let n_ties_x = tied_pairs(&pairs, |a, b| a.0 == b.0);
    let n_ties_both = tied_pairs(&pairs, |a, b| a == b);
    let mut y: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
    let n_discordant = sort_counting_inversions(&mut y);
    let n_ties_y = tied_pairs(&y, |a, b| a == b);
    let n_untied = n_pairs + n_ties_both - n_ties_x - n_ties_y;
    let difference = n_untied as f64 - 2.0 * n_discordant as f64;
    let product = (n_pairs - n_ties_x) as f64 * (n_pairs - n_ties_y) as f64;
    (product > 0.0).then(|| difference / product.sqrt())
}

fn numbers(pairs: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let is_number = |&(x, y): &(f64, f64)| !x.is_nan() && !y.is_nan();
    pairs.iter().copied().filter(is_number).collect()
}

fn pairs_of(n: usize) -> u64 {
    let n = n as u64;
    n * n.saturating_sub(1) / 2
}

fn tied_pairs<T>(sorted: &[T], is_tie: impl Fn(&T, &T) -> bool) -> u64 {
    sorted.chunk_by(is_tie).map(|run| pairs_of(run.len())).sum()
}

/// Sorts, and returns how many pairs were in the wrong order (equal ones are not).
fn sort_counting_inversions(values: &mut [f64]) -> u64 {
    let mut other = values.to_vec();
    let (mut width, mut n_inversions) = (1, 0);
    while width < values.len() {
        for (from, to) in values.chunks(2 * width).zip(other.chunks_mut(2 * width)) {
            let (left, right) = from.split_at(width.min(from.len()));
            let (mut i, mut j) = (0, 0);
            for slot in to {
                if j == right.len() || (i < left.len() && left[i] <= right[j]) {
                    *slot = left[i];
                    i += 1;
                } else {
                    *slot = right[j];
                    j += 1;
                    n_inversions += (left.len() - i) as u64;
                }
            }
        }
        values.copy_from_slice(&other);
        width *= 2;
    }
    n_inversions
}

/// Spearman's rank correlation of pairs; equal values share their mean rank. `None` if either side
/// has one value only.
#[must_use]
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let pairs = numbers(pairs);
    let ranks_x = mean_ranks(pairs.iter().map(|pair| pair.0));
    let ranks_y = mean_ranks(pairs.iter().map(|pair| pair.1));
    let ranks = ranks_x.into_iter().zip(ranks_y);
    weighted_correlation(&ranks.map(|(x, y)| (x, y, 1.0)).collect::<Vec<_>>())
}

fn mean_ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut indexed: Vec<(usize, f64)> = values.enumerate().collect();
    indexed.sort_unstable_by(|a, b| compare(&a.1, &b.1));
    let mut ranks = vec![0.0; indexed.len()];
    let mut n_before = 0;
    for run in indexed.chunk_by(|a, b| a.1 == b.1) {
        let rank = n_before as f64 + (run.len() + 1) as f64 / 2.0;
        for &(idx, _) in run {
            ranks[idx] = rank;
        }
        n_before += run.len();
    }
    ranks
}

/// Pearson's correlation of `(x, y, weight)`.
pub(super) fn weighted_correlation(points: &[(f64, f64, f64)]) -> Option<f64> {
    let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
        points
            .iter()
            .map(|&(x, y, weight)| weight * term(x, y))
            .sum()
    };
    let n = sum(&|_, _| 1.0);
    let (mean_x, mean_y) = (sum(&|x, _| x) / n, sum(&|_, y| y) / n);
    let covariance = sum(&|x, y| (x - mean_x) * (y - mean_y));
    let variance_x = sum(&|x, _| (x - mean_x) * (x - mean_x));
    let variance_y = sum(&|_, y| (y - mean_y) * (y - mean_y));
    let product = variance_x * variance_y;
    (product > 0.0).then(|| (covariance / product.sqrt()).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const X: [f64; 10] = [12.0, 2.0, 1.0, 12.0, 2.0, 5.0, 0.0, 3.0, 3.0, 7.0];
    const Y: [f64; 10] = [1.0, 4.0, 7.0, 1.0, 0.0, 4.0, 6.0, 3.0, 3.0, 2.0];

    fn pairs() -> Vec<(f64, f64)> {
        X.into_iter().zip(Y).collect()
    }

    #[test]
    fn correlations_are_those_of_scipy() {
        let near = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        };
        near(kendall_tau_b(&pairs()), -0.547_619_047_619_047_6);
        near(spearman(&pairs()), -0.632_716_049_382_716);
        let graded: Vec<(i8, f64)> = [3, 3, 2, 2, 1, 1, 0, 0, 0, 3].into_iter().zip(Y).collect();
        near(ordered_share(&graded), 16.0 / 37.0);
        near(ordered_share_between(&graded, 3, 0), 2.0 / 9.0);
        assert_eq!(kendall_tau_b(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(spearman(&[(1.0, 2.0)]), None);
        assert_eq!(spearman(&[]), None);
        assert_eq!(ordered_share(&[(1, 2.0), (1, 3.0)]), None);
        assert_eq!(ordered_share(&[(1, f64::NAN), (0, 3.0)]), None);
        assert_eq!(ordered_share(&[(1, 0.0), (0, -0.0)]), Some(0.5));
    }

    proptest! {
        #[test]
        fn counting_by_sorting_is_counting_by_pairs(
            points in proptest::collection::vec((0_i8..4, 0_i8..5), 0..30),
        ) {
            let (mut n_better, mut n_equal, mut n_graded, mut difference) = (0.0, 0.0, 0.0, 0.0);
            let (mut n_x, mut n_y) = (0.0, 0.0);
            for (idx, a) in points.iter().enumerate() {
                for b in &points[..idx] {
                    let (x, y) = (f64::from((a.0 - b.0).signum()), f64::from((a.1 - b.1).signum()));
                    difference += x * y;
                    n_x += x.abs();
                    n_y += y.abs();
                    n_graded += x.abs();
                    n_better += f64::from(u8::from(x * y > 0.0));
                    n_equal += f64::from(u8::from(x != 0.0 && y == 0.0));
                }
            }
            let graded: Vec<(i8, f64)> = points.iter().map(|&(x, y)| (x, y.into())).collect();
            let expected = (n_graded > 0.0).then(|| (n_better + 0.5 * n_equal) / n_graded);
            prop_assert_eq!(ordered_share(&graded), expected);
            let pairs: Vec<(f64, f64)> = points.iter().map(|&(x, y)| (x.into(), y.into())).collect();
            let product: f64 = n_x * n_y;
            let expected = (product > 0.0).then(|| difference / product.sqrt());
            prop_assert_eq!(kendall_tau_b(&pairs), expected);
            let mut backward = pairs.clone();
            backward.reverse();
            prop_assert_eq!(kendall_tau_b(&backward), expected);
        }
    }
}
