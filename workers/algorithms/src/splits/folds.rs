//! Folds that test what is like the training, and folds that test what is not.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::features::{DIMENSIONS, TextVectors, dot};
use crate::random::Random;

/// Passes over all items before clusters are taken as they are.
pub const ITERATIONS_MAX: usize = 30;
/// First centres that are tried: a bad draw ends in a bad place, and the best end is taken.
const N_STARTS: u64 = 8;

/// The fold in which each item is tested; it trains in all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folds {
    /// By item, its cluster of similar texts: what is tested is unlike the training. Clusters are
    /// numbered by their smallest ids.
    pub extrapolation: Vec<usize>,
    /// By item, its part of its cluster: what is tested is like the training. Parts of a cluster
    /// differ by one item at most, or by as many as must stand together.
    pub interpolation: Vec<usize>,
}

/// Folds of items `(id, text)`, 5 in arXiv 2204.11447: clusters by spherical k-means over
/// [`TextVectors`], which starts from items that are unlike each other (k-means++), drawn by the
/// seed. There are fewer clusters than `n_folds` if there are fewer different texts. Memory: a dense
/// vector of 32 KiB per cluster, and 16 bytes per word of the texts.
#[must_use]
pub fn folds(items: &[(&str, &str)], n_folds: usize, seed: u64) -> Folds {
    folds_of_sets(items, |item| item, n_folds, seed)
}

/// The same with items that must stand in one fold, since whoever trains with one knows the other:
/// `set_of` gives the same number for those. A set is dealt whole, in the cluster that most of its
/// items are in.
#[must_use]
pub fn folds_of_sets(
    items: &[(&str, &str)],
    set_of: impl Fn(usize) -> usize,
    n_folds: usize,
    seed: u64,
) -> Folds {
    let n_folds = n_folds.max(1);
    // By id, so that sums do not depend on the order in which items come.
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_unstable_by_key(|&item| items[item]);
    let texts: Vec<&str> = order.iter().map(|&item| items[item].1).collect();
    let clusters = number_by_first(&cluster(&TextVectors::new(&texts), n_folds, seed));

    let mut folds = Folds {
        extrapolation: vec![0; items.len()],
        interpolation: vec![0; items.len()],
    };
    let mut places_of_set: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, &item) in order.iter().enumerate() {
        places_of_set.entry(set_of(item)).or_default().push(place);
    }
    // The first place is that of the smallest id: numbers of sets say nothing.
    let mut dealt: Vec<Set> = places_of_set
        .into_values()
        .map(|places| {
            let id = items[order[places[0]]].0;
            Set {
                cluster: most_frequent(places.iter().map(|&place| clusters[place]), n_folds),
                draw: (xxh3_64_with_seed(id.as_bytes(), seed), places[0]),
                places,
            }
        })
        .collect();
    // Large sets come first: small ones then make up for what they are uneven by.
    dealt.sort_unstable_by_key(|set| (set.cluster, Reverse(set.places.len()), set.draw));
    // Each fold's items, of the cluster that is dealt and of all: so folds are of equal size too.
    let (mut n_of_cluster, mut n_of_all) = (vec![0; n_folds], vec![0; n_folds]);
    let mut cluster = 0;
    for set in dealt {
        if set.cluster != cluster {
            cluster = set.cluster;
            n_of_cluster.fill(0);
        }
        let fewest = |&fold: &usize| (n_of_cluster[fold], n_of_all[fold], fold);
        let fold = (0..n_folds).min_by_key(fewest).unwrap_or(0);
        n_of_cluster[fold] += set.places.len();
        n_of_all[fold] += set.places.len();
        for place in set.places {
            folds.extrapolation[order[place]] = set.cluster;
            folds.interpolation[order[place]] = fold;
        }
    }
    folds
}

/// Items that stand together.
struct Set {
    cluster: usize,
    draw: (u64, usize),
    /// In the order of ids.
    places: Vec<usize>,
}

/// The number below `n` that comes most often, of several the smallest.
fn most_frequent(numbers: impl Iterator<Item = usize>, n: usize) -> usize {
    let mut counts = vec![0_usize; n];
    for number in numbers {
        counts[number] += 1;
    }
    let most = |&number: &usize| (counts[number], Reverse(number));
    (0..n).max_by_key(most).unwrap_or(0)
}

/// The cluster of each vector, from the start that brings vectors nearest to their centres.
fn cluster(vectors: &TextVectors, n_clusters: usize, seed: u64) -> Vec<usize> {
    let mut best = (Vec::new(), f64::NEG_INFINITY);
    for start in 0..N_STARTS {
        let start_seed = xxh3_64_with_seed(&start.to_le_bytes(), seed);
        let found = cluster_once(vectors, n_clusters, start_seed);
        if found.1 > best.1 {
            best = found;
        }
    }
    best.0
}

/// The cluster of each vector is that of the nearest centre, which then moves to the middle of its
/// vectors, until nothing changes. Also the sum of the cosines to the centres.
fn cluster_once(vectors: &TextVectors, n_clusters: usize, seed: u64) -> (Vec<usize>, f64) {
    let mut centres = first_centres(vectors, n_clusters, seed);
    let (mut clusters, mut cosines) = (Vec::new(), 0.0);
    for _ in 0..ITERATIONS_MAX {
        let nearest = |item| nearest(vectors.vector(item), &centres);
        let found: Vec<(usize, f64)> = (0..vectors.len()).map(nearest).collect();
        cosines = found.iter().map(|(_, cosine)| cosine).sum();
        let found: Vec<usize> = found.into_iter().map(|(cluster, _)| cluster).collect();
        if found == clusters {
            break;
        }
        clusters = found;
        move_centres(vectors, &clusters, &mut centres);
    }
    (clusters, cosines)
}

/// Items drawn one by one, with a probability that grows with the distance to those drawn before.
fn first_centres(vectors: &TextVectors, n_clusters: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut random = Random::new(seed);
    let mut centres: Vec<Vec<f64>> = Vec::new();
    // The first is drawn evenly among texts with terms.
    let weight = |item| {
        if vectors.vector(item).is_empty() {
            0.0
        } else {
            1.0
        }
    };
    let mut weights: Vec<f64> = (0..vectors.len()).map(weight).collect();
    while centres.len() < n_clusters {
        let mut rest = random.uniform() * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            rest -= weight;
            rest < 0.0
        });
        // No text is left that differs from all centres.
        let Some(drawn) = drawn else { break };
        let mut centre = vec![0.0; DIMENSIONS];
        for &(dimension, x) in vectors.vector(drawn) {
            centre[usize::from(dimension)] = x;
        }
        for (item, weight) in weights.iter_mut().enumerate() {
            let distance = 1.0 - dot(vectors.vector(item), &centre);
            // Rounding leaves a little between equal texts.
            let squared = if distance < 1e-9 {
                0.0
            } else {
                distance * distance
            };
            *weight = weight.min(squared);
        }
        centres.push(centre);
    }
    centres
}

/// The centre with the largest cosine, of equal ones the first, and the cosine. Without centres,
/// since no text has terms, all are in one cluster.
fn nearest(vector: &[(u16, f64)], centres: &[Vec<f64>]) -> (usize, f64) {
    let mut nearest = (0, -1.0);
    for (cluster, centre) in centres.iter().enumerate() {
        let cosine = dot(vector, centre);
        if cosine > nearest.1 {
            nearest = (cluster, cosine);
        }
    }
    nearest
}

/// A centre becomes the sum of its vectors, scaled to length 1; without any it stays.
fn move_centres(vectors: &TextVectors, clusters: &[usize], centres: &mut [Vec<f64>]) {
    for (cluster, centre) in centres.iter_mut().enumerate() {
        let mut sum = vec![0.0; DIMENSIONS];
        for item in (0..vectors.len()).filter(|&item| clusters[item] == cluster) {
            for &(dimension, x) in vectors.vector(item) {
                sum[usize::from(dimension)] += x;
            }
        }
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 {
            sum.iter_mut().for_each(|x| *x /= norm);
            *centre = sum;
        }
    }
}

/// The same clusters, numbered as they first occur.
fn number_by_first(clusters: &[usize]) -> Vec<usize> {
    let mut known: Vec<usize> = Vec::new();
    let number = |cluster: &usize| {
        known
            .iter()
            .position(|other| other == cluster)
            .unwrap_or_else(|| {
                known.push(*cluster);
                known.len() - 1
            })
    };
    clusters.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPICS: [&str; 5] = [
        "tides moon ocean coast waves",
        "bread yeast oven flour dough",
        "orbit planet star telescope light",
        "violin bow string sonata concert",
        "contract court judge appeal law",
    ];

    /// Twenty questions of each topic, each with two of its words and two that all share.
    fn questions() -> Vec<(String, String)> {
        let question = |i: usize| {
            let words: Vec<&str> = TOPICS[i % 5].split(' ').collect();
            let (a, b) = (words[i / 5 % 5], words[(i / 25 + i / 5 + 1) % 5]);
            (format!("q{i:03}"), format!("what about {a} {b}"))
        };
        (0..100).map(question).collect()
    }

    fn borrowed(items: &[(String, String)]) -> Vec<(&str, &str)> {
        items
            .iter()
            .map(|(id, text)| (id.as_str(), text.as_str()))
            .collect()
    }

    #[test]
    fn extrapolation_holds_topics_out_and_interpolation_does_not() {
        let items = questions();
        let folds = folds(&borrowed(&items), 5, 1);
        for (i, fold) in folds.extrapolation.iter().enumerate() {
            assert_eq!(*fold, i % 5, "{folds:?}");
        }
        for topic in 0..5 {
            for fold in 0..5 {
                let of_both = folds.interpolation.iter().enumerate();
                let n = of_both
                    .filter(|(i, other)| i % 5 == topic && **other == fold)
                    .count();
                assert_eq!(n, 4);
            }
        }
    }

    #[test]
    fn folds_do_not_depend_on_order_and_are_drawn_by_the_seed() {
        let items = questions();
        let mut items = borrowed(&items);
        let forward = folds(&items, 3, 1);
        items.reverse();
        let mut backward = folds(&items, 3, 1);
        backward.extrapolation.reverse();
        backward.interpolation.reverse();
        assert_eq!(backward, forward);
        items.reverse();
        assert_ne!(folds(&items, 3, 2).interpolation, forward.interpolation);
        for fold in 0..3 {
            let n = forward
                .interpolation
                .iter()
                .filter(|&&other| other == fold)
                .count();
            assert!((33..=34).contains(&n), "{n}");
        }
    }

    #[test]
    fn what_stands_together_is_in_one_fold() {
        // Copies of a question have its words; three questions of different topics have a document.
        let mut items = questions();
        let copies: Vec<_> = items[..30]
            .iter()
            .map(|(id, text)| (format!("copy of {id}"), text.clone()))
            .collect();
        items.extend(copies);
        let set = |i: usize| match i {
            0..=2 | 100..=102 => 7,
            100.. => 1_000 + i - 100,
            _ => 1_000 + i,
        };
        let sets: Vec<usize> = (0..items.len()).map(set).collect();
        let found = folds_of_sets(&borrowed(&items), |i| sets[i], 5, 1);
        for (i, one) in sets.iter().enumerate() {
            for (j, other) in sets.iter().enumerate().filter(|(_, other)| *other == one) {
                assert_eq!(
                    found.extrapolation[i], found.extrapolation[j],
                    "{one} {other}"
                );
                assert_eq!(
                    found.interpolation[i], found.interpolation[j],
                    "{one} {other}"
                );
            }
        }
        // They are about as even as before.
        for fold in 0..5 {
            let n = found.interpolation.iter().filter(|&&it| it == fold).count();
            assert!((23..=29).contains(&n), "{fold}: {n}");
        }
        // By nothing but who stands with whom.
        let renumbered = folds_of_sets(&borrowed(&items), |i| usize::MAX - sets[i], 5, 1);
        assert_eq!(renumbered, found);
        items.reverse();
        let sets: Vec<usize> = sets.into_iter().rev().collect();
        let mut backward = folds_of_sets(&borrowed(&items), |i| sets[i], 5, 1);
        backward.extrapolation.reverse();
        backward.interpolation.reverse();
        assert_eq!(backward, found);
    }

    #[test]
    fn few_and_empty_texts_make_few_clusters() {
        let check = |items: &[(&str, &str)], expected: &[usize]| {
            assert_eq!(folds(items, 5, 1).extrapolation, expected, "{items:?}");
        };
        check(&[], &[]);
        check(&[("a", ""), ("b", "?")], &[0, 0]);
        check(
            &[("a", "same words"), ("b", "same words"), ("c", "other")],
            &[0, 0, 1],
        );
    }
}
