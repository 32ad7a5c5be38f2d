//! Does a score rise with the grade that was asked for?

use super::correlation::{kendall_tau_b, ordered_share, ordered_share_between};
use super::estimate::Estimate;

/// What a score says of the grades, as means over queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Monotonicity {
    /// Per query, among pairs of documents of different grades, the share in which the higher
    /// grade has the higher score, ties counting half: 0.5 is chance. `None` if no query has two
    /// grades.
    pub ordered_share: Option<Estimate>,
    /// Per query, Kendall's tau-b of grade and score: 0 is chance. Queries whose scores are all the
    /// same have none.
    pub kendall_tau_b: Option<Estimate>,
    /// The same share for each two grades that follow one another, the lowest first: where the
    /// scale fails.
    pub steps: Vec<Step>,
}

/// From a grade to the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The lower grade.
    pub lower: i8,
    /// The next one that occurs.
    pub upper: i8,
    /// The share of ordered pairs, over queries that have both grades; `None` if there is none.
    pub ordered_share: Option<Estimate>,
}

/// Measures queries, each given by its documents' grades and scores. `seed` draws the intervals,
/// whose unit is the query.
#[must_use]
pub fn monotonicity(queries: &[Vec<(i8, f64)>], seed: u64) -> Monotonicity {
    let tau_b = |query: &[(i8, f64)]| {
        let pairs = query
            .iter()
            .map(|&(grade, score)| (f64::from(grade), score));
        kendall_tau_b(&pairs.collect::<Vec<_>>())
    };
    let mut grades: Vec<i8> = queries.iter().flatten().map(|&(grade, _)| grade).collect();
    grades.sort_unstable();
    grades.dedup();
    let step = |grades: &[i8]| {
        let (lower, upper) = (grades[0], grades[1]);
        Step {
            lower,
            upper,
            ordered_share: over_queries(queries, seed, |query| {
                ordered_share_between(query, upper, lower)
            }),
        }
    };
    Monotonicity {
        ordered_share: over_queries(queries, seed, ordered_share),
        kendall_tau_b: over_queries(queries, seed, tau_b),
        steps: grades.windows(2).map(step).collect(),
    }
}

/// The mean of a measure over the queries that have it.
fn over_queries(
    queries: &[Vec<(i8, f64)>],
    seed: u64,
    measure: impl Fn(&[(i8, f64)]) -> Option<f64>,
) -> Option<Estimate> {
    let values: Vec<f64> = queries.iter().filter_map(|query| measure(query)).collect();
    Estimate::new(&values, seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn shares_are_means_over_queries() {
        let queries = [
            // Two of three pairs are in order, and one ties: 2.5 / 3.
            vec![(2, 3.0), (1, 1.0), (0, 1.0)],
            // One pair, in the wrong order; two documents of one grade make none.
            vec![(2, 0.0), (0, 1.0)],
            vec![(1, 5.0), (1, 6.0)],
        ];
        let measured = monotonicity(&queries, 1);
        let share = measured.ordered_share.unwrap();
        assert_eq!((share.mean, share.n), ((2.5 / 3.0) / 2.0, 2));
        let tau_b = measured.kendall_tau_b.unwrap();
        assert!((tau_b.mean - (2.0 / 6.0_f64.sqrt() - 1.0) / 2.0).abs() < 1e-12);
        let steps: Vec<_> = measured
            .steps
            .iter()
            .map(|step| {
                let share = step.ordered_share.unwrap();
                (step.lower, step.upper, share.mean, share.n)
            })
            .collect();
        assert_eq!(steps, [(0, 1, 0.5, 1), (1, 2, 1.0, 1)]);
    }

    #[test]
    fn grades_that_never_meet_have_no_share() {
        let measured = monotonicity(&[vec![(0, 1.0)], vec![(1, 2.0)]], 1);
        assert_eq!(measured.ordered_share, None);
        assert_eq!(measured.kendall_tau_b, None);
        assert_eq!(measured.steps.len(), 1);
        assert_eq!(measured.steps[0].ordered_share, None);
        assert_eq!(monotonicity(&[], 1).steps, []);
    }

    #[test]
    fn noise_is_at_chance_and_its_interval_says_so() {
        let mut random = Random::new(3);
        let mut query = || (0..4_i8).map(|grade| (grade, random.uniform())).collect();
        let queries: Vec<Vec<(i8, f64)>> = (0..500).map(|_| query()).collect();
        let measured = monotonicity(&queries, 1);
        let share = measured.ordered_share.unwrap();
        assert!(share.low < 0.5 && 0.5 < share.high, "{share:?}");
        assert!(share.high - share.low < 0.06, "{share:?}");
        // Adding the grade to the noise shows.
        let shifted: Vec<Vec<(i8, f64)>> = queries
            .iter()
            .map(|query| {
                query
                    .iter()
                    .map(|&(g, x)| (g, x + 0.2 * f64::from(g)))
                    .collect()
            })
            .collect();
        assert!(monotonicity(&shifted, 1).ordered_share.unwrap().low > 0.7);
    }
}
