//! Draws that are pure functions of (purpose, seed, id): the same on every machine, for every
//! number of workers, at every retry.

use xxhash_rust::xxh3::Xxh3;

/// 64 uniform bits.
fn bits(purpose: &str, seed: u64, id: &str) -> u64 {
    let mut hasher = Xxh3::with_seed(seed);
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(id.as_bytes());
    hasher.digest()
}

/// An index below `n`; 0 if `n` is 0 or 1.
pub(crate) fn index_below(n: usize, purpose: &str, seed: u64, id: &str) -> usize {
    // The high word of the product: no division, and a bias below n / 2^64.
    ((u128::from(bits(purpose, seed, id)) * n as u128) >> 64) as usize
}

/// A number in the open interval (0, 1), uniform over the odd multiples of 2^-54.
pub(crate) fn unit(purpose: &str, seed: u64, id: &str) -> f64 {
    ((bits(purpose, seed, id) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// The numbers below `n` in an order drawn for `id`.
pub(crate) fn permutation(n: usize, purpose: &str, seed: u64, id: &str) -> Vec<usize> {
    let mut keyed: Vec<(u64, usize)> = (0..n)
        .map(|index| (bits(&format!("{purpose}/{index}"), seed, id), index))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_do_not_change_between_releases() {
        // Requests that were paid for are found again by what was drawn for them.
        assert_eq!(index_below(1000, "style", 7, "doc-1"), 903);
        assert_eq!(permutation(5, "judge", 7, "doc-1"), [3, 0, 4, 1, 2]);
        assert_ne!(unit("a", 1, "bc"), unit("ab", 1, "c"));
    }

    #[test]
    fn indices_are_uniform() {
        const N_DRAWS: usize = 12_000;
        let mut counts = [0_usize; 6];
        for draw in 0..N_DRAWS {
            counts[index_below(6, "axis", 3, &format!("doc-{draw}"))] += 1;
        }
        // Six standard deviations of a binomial count around 2,000.
        for count in counts {
            assert!((1_755..=2_245).contains(&count), "{counts:?}");
        }
    }

    #[test]
    fn nothing_to_choose_from_is_index_zero() {
        assert_eq!(index_below(0, "axis", 3, "doc"), 0);
        assert_eq!(index_below(1, "axis", 3, "doc"), 0);
    }

    #[test]
    fn each_place_is_equally_likely_in_a_permutation() {
        let mut counts = [[0_usize; 3]; 3];
        for draw in 0..3_000 {
            let order = permutation(3, "judge", 1, &format!("doc-{draw}"));
            for (place, &index) in order.iter().enumerate() {
                counts[place][index] += 1;
            }
        }
        for count in counts.as_flattened() {
            assert!((840..=1_160).contains(count), "{counts:?}");
        }
    }
}
