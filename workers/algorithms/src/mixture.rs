//! Mixing sources so that their n-grams resemble a target's (arXiv 2306.02556):
//! `nu = argmin 1/2 ||W nu - w*||^2 + lambda ||nu||_1`, where column s of W is the n-gram
//! distribution of source s and w* the target's.

/// Passes over all sources before the best so far is returned.
const PASSES_MAX: usize = 10_000;
/// A pass that changes no coefficient by more than this ends the search.
const TOLERANCE: f64 = 1e-12;

/// The Lasso coefficients of the sources, by cyclic coordinate descent. `sources` holds one
/// distribution per source, each as long as `target`.
#[must_use]
pub fn lasso(sources: &[Vec<f64>], target: &[f64], lambda: f64) -> Vec<f64> {
    let mut nu = vec![0.0; sources.len()];
    let mut residual = target.to_vec();
    let norms: Vec<f64> = sources.iter().map(|source| dot(source, source)).collect();
    for _ in 0..PASSES_MAX {
        let mut change_max: f64 = 0.0;
        for (s, source) in sources.iter().enumerate() {
            if norms[s] <= 0.0 {
                continue;
            }
            let correlation = dot(source, &residual) + norms[s] * nu[s];
            let shrunk = correlation.signum() * (correlation.abs() - lambda).max(0.0);
            let change = shrunk / norms[s] - nu[s];
            if change != 0.0 {
                for (r, w) in residual.iter_mut().zip(source) {
                    *r -= w * change;
                }
                nu[s] += change;
                change_max = change_max.max(change.abs());
            }
        }
        if change_max <= TOLERANCE {
            break;
        }
    }
    nu
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Documents of each source: `n_documents * |nu_s| / ||nu||_1`, rounded down; all zero if all
/// coefficients are.
#[must_use]
pub fn documents_per_source(nu: &[f64], n_documents: u64) -> Vec<u64> {
    let norm: f64 = nu.iter().map(|x| x.abs()).sum();
    nu.iter()
        .map(|x| {
            if norm > 0.0 {
                (n_documents as f64 * x.abs() / norm).floor() as u64
            } else {
                0
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_follow_the_absolute_coefficients() {
        assert_eq!(
            documents_per_source(&[3.0, 1.0, 0.0, -2.0], 600),
            [300, 100, 0, 200]
        );
        assert_eq!(documents_per_source(&[0.0], 600), [0]);
    }

    #[test]
    fn without_a_penalty_a_mixture_is_found_again() {
        let sources = [
            vec![0.7, 0.2, 0.1],
            vec![0.1, 0.8, 0.1],
            vec![0.2, 0.2, 0.6],
        ];
        let target: Vec<f64> = (0..3)
            .map(|i| 0.5 * sources[0][i] + 0.3 * sources[1][i] + 0.2 * sources[2][i])
            .collect();
        let nu = lasso(&sources, &target, 0.0);
        for (found, expected) in nu.iter().zip([0.5, 0.3, 0.2]) {
            assert!((found - expected).abs() < 1e-6, "{nu:?}");
        }
        assert_eq!(lasso(&sources, &target, 10.0), [0.0; 3]);
    }
}
