//! The grade that was asked for against the grade that a judge gave.

use std::collections::BTreeMap;

use super::correlation::weighted_correlation;

/// How often each grade was asked for and each was judged. Additive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfusionMatrix {
    counts: BTreeMap<(i8, i8), u64>,
}

impl ConfusionMatrix {
    /// Adds an item.
    pub fn add(&mut self, asked: i8, judged: i8) {
        self.add_count(asked, judged, 1);
    }

    /// Adds items of the same grades.
    pub fn add_count(&mut self, asked: i8, judged: i8, count: u64) {
        if count > 0 {
            *self.counts.entry((asked, judged)).or_default() += count;
        }
    }

    /// Adds all of another's items.
    pub fn merge(&mut self, other: &Self) {
        for (&(asked, judged), &count) in &other.counts {
            self.add_count(asked, judged, count);
        }
    }

    /// All items.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Items with these grades.
    #[must_use]
    pub fn count(&self, asked: i8, judged: i8) -> u64 {
        self.counts.get(&(asked, judged)).copied().unwrap_or(0)
    }

    /// Grades that occur on either side, ascending: rows and columns of the matrix.
    #[must_use]
    pub fn grades(&self) -> Vec<i8> {
        let mut grades: Vec<i8> = self.counts.keys().flat_map(|&(a, b)| [a, b]).collect();
        grades.sort_unstable();
        grades.dedup();
        grades
    }

    /// The share of items whose judged grade is the one asked for. `None` without items.
    #[must_use]
    pub fn exact_agreement(&self) -> Option<f64> {
        self.mean(|asked, judged| f64::from(u8::from(asked == judged)))
    }

    /// The same among the items that were asked for with one grade.
    #[must_use]
    pub fn faithfulness(&self, asked: i8) -> Option<f64> {
        let row = self.counts.range((asked, i8::MIN)..=(asked, i8::MAX));
        let n: u64 = row.map(|(_, count)| count).sum();
        (n > 0).then(|| self.count(asked, asked) as f64 / n as f64)
    }

    /// The mean distance of the grades. `None` without items.
    #[must_use]
    pub fn mean_absolute_difference(&self) -> Option<f64> {
        self.mean(|asked, judged| (asked - judged).abs())
    }

    /// Cohen's kappa with quadratic weights: 1 less the mean squared distance of the grades over
    /// that of independent judgments. Distances are those of the grades themselves. `None` where
    /// chance would agree always, as with one grade alone.
    #[must_use]
    pub fn quadratic_kappa(&self) -> Option<f64> {
        let observed = self.mean(|asked, judged| (asked - judged) * (asked - judged))?;
        // Of independent sides: the variances, and the squared distance of the means.
        let mean_asked = self.mean(|asked, _| asked)?;
        let mean_judged = self.mean(|_, judged| judged)?;
        let variance_asked = self.mean(|asked, _| (asked - mean_asked) * (asked - mean_asked))?;
        let variance_judged =
            self.mean(|_, judged| (judged - mean_judged) * (judged - mean_judged))?;
        let distance = mean_asked - mean_judged;
        let expected = variance_asked + variance_judged + distance * distance;
        (expected > 0.0).then(|| 1.0 - observed / expected)
    }

    /// Spearman's rank correlation. `None` if either side has one grade only.
    #[must_use]
    pub fn spearman(&self) -> Option<f64> {
        let ranks_asked = self.mean_ranks(|(asked, _)| asked);
        let ranks_judged = self.mean_ranks(|(_, judged)| judged);
        let point = |(&(asked, judged), &count): (&(i8, i8), &u64)| {
            (ranks_asked[&asked], ranks_judged[&judged], count as f64)
        };
        weighted_correlation(&self.counts.iter().map(point).collect::<Vec<_>>())
    }

    fn mean(&self, term: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let n = self.n();
        let weighted = |(&(asked, judged), &count): (&(i8, i8), &u64)| {
            count as f64 * term(asked.into(), judged.into())
        };
        (n > 0).then(|| self.counts.iter().map(weighted).sum::<f64>() / n as f64)
    }

    fn mean_ranks(&self, side: impl Fn((i8, i8)) -> i8) -> BTreeMap<i8, f64> {
        let mut totals: BTreeMap<i8, u64> = BTreeMap::new();
        for (&grades, &count) in &self.counts {
            *totals.entry(side(grades)).or_default() += count;
        }
        let mut n_before = 0;
        let rank = |(grade, total): (i8, u64)| {
            let rank = n_before as f64 + (total + 1) as f64 / 2.0;
            n_before += total;
            (grade, rank)
        };
        totals.into_iter().map(rank).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: [i8; 16] = [3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 0, 0, 0, 0, 0, 1];
    const JUDGED: [i8; 16] = [3, 3, 2, 2, 2, 1, 3, 1, 1, 0, 0, 0, 0, 0, 1, 3];

    fn matrix(pairs: impl Iterator<Item = (i8, i8)>) -> ConfusionMatrix {
        let mut matrix = ConfusionMatrix::default();
        pairs.for_each(|(asked, judged)| matrix.add(asked, judged));
        matrix
    }

    #[test]
    fn agreement_is_that_of_scikit_learn_and_scipy() {
        let matrix = matrix(ASKED.into_iter().zip(JUDGED));
        let near = |found: Option<f64>, expected: f64| {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        };
        near(matrix.exact_agreement(), 0.625);
        near(matrix.mean_absolute_difference(), 0.4375);
        near(matrix.quadratic_kappa(), 0.781_818_181_818_181_9);
        near(matrix.spearman(), 0.793_238_993_710_692);
        near(matrix.faithfulness(2), 0.5);
        assert_eq!(matrix.faithfulness(4), None);
        assert_eq!(
            (matrix.n(), matrix.count(1, 3), matrix.count(3, 1)),
            (16, 1, 0)
        );
        assert_eq!(matrix.grades(), [0, 1, 2, 3]);
    }

    #[test]
    fn parts_add_up() {
        let pairs: Vec<(i8, i8)> = ASKED.into_iter().zip(JUDGED).collect();
        let (first, second) = pairs.split_at(5);
        let mut merged = matrix(second.iter().copied());
        merged.merge(&matrix(first.iter().copied()));
        assert_eq!(merged, matrix(pairs.into_iter()));
    }

    #[test]
    fn one_grade_has_no_correlation_and_opposites_have_the_least() {
        let same = matrix([(2, 2), (2, 2)].into_iter());
        assert_eq!(same.exact_agreement(), Some(1.0));
        assert_eq!((same.quadratic_kappa(), same.spearman()), (None, None));
        let opposite = matrix([(0, 3), (3, 0)].into_iter());
        assert_eq!(opposite.quadratic_kappa(), Some(-1.0));
        assert_eq!(opposite.spearman(), Some(-1.0));
        let none = ConfusionMatrix::default();
        assert_eq!(
            (none.exact_agreement(), none.quadratic_kappa()),
            (None, None)
        );
        assert_eq!(none.spearman(), None);
        // Distances are those of grades, not of their places among the grades that occur.
        let wide = matrix([(0, 0), (10, 10), (0, 10), (10, 9)].into_iter());
        assert_eq!(wide.quadratic_kappa(), Some(1.0 - 25.25 / 47.75));
    }
}
