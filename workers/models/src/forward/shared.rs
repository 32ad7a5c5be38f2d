//! What several models compute alike: a model that was trained further from another one, with its
//! first layers frozen, turns the same tokens into the same rows up to the first layer that differs.
//! Those rows are computed once.

use xxhash_rust::xxh3::Xxh3;

use super::{CausalModel, WeightType};
use crate::Part;
use crate::architecture::Architecture;

/// Values that are hashed at a time.
const BLOCK: usize = 4096;

/// Hashes the weights of a model by what comes after what: the embedding, each layer, the head.
pub(super) struct StageHasher {
    stages: Vec<Xxh3>,
}

impl StageHasher {
    /// Of a model whose weights are to be [added](Self::add), each once, in an order of their own.
    pub(super) fn new(architecture: &Architecture, weights: WeightType) -> Self {
        // The same weights are others once they are rounded.
        let of_type = Xxh3::with_seed(weights as u64);
        Self {
            stages: vec![of_type; architecture.n_layers() + 2],
        }
    }

    pub(super) fn add(&mut self, layer: Option<usize>, part: Part, values: &[f32]) {
        let stage = match (layer, part) {
            (Some(layer), _) => layer + 1,
            (None, Part::FinalNorm | Part::FinalNormBias | Part::Head) => self.stages.len() - 1,
            (None, _) => 0,
        };
        let Some(hasher) = self.stages.get_mut(stage) else {
            return;
        };
        let mut bytes = [0; 4 * BLOCK];
        for block in values.chunks(BLOCK) {
            let places = bytes.as_chunks_mut::<4>().0;
            for (place, value) in places.iter_mut().zip(block) {
                *place = value.to_le_bytes();
            }
            hasher.update(&bytes[..4 * block.len()]);
        }
    }

    /// The hash of each stage.
    pub(super) fn finish(self) -> Vec<u128> {
        self.stages.iter().map(Xxh3::digest128).collect()
    }
}

/// How far two models compute the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    /// These first layers, with what comes before them.
    Layers(usize),
    /// All.
    Whole,
}

impl CausalModel {
    /// Layers from the first on that `other` has too, with the embedding before them: the same weights
    /// in the same order.
    #[must_use]
    pub fn n_layers_shared_with(&self, other: &Self) -> usize {
        match shared(self, other) {
            None => 0,
            Some(Shared::Layers(n_layers)) => n_layers,
            Some(Shared::Whole) => self.architecture.n_layers(),
        }
    }
}

/// How far `other` computes what `model` does, if that is a layer or more.
fn shared(model: &CausalModel, other: &CausalModel) -> Option<Shared> {
    // What matters to no row, or only after all layers; learned positions are in the hash.
    let alike = |architecture: &Architecture| Architecture {
        tied_head: false,
        max_positions: 0,
        initializer_range: 0.0,
        ..architecture.clone()
    };
    let is_alike =
        alike(&model.architecture) == alike(&other.architecture) && model.context == other.context;
    let (stages, others) = (&model.weights.stages, &other.weights.stages);
    let n_layers = model.architecture.n_layers();
    let stages = stages.iter().zip(others);
    match stages.take_while(|(one, other)| one == other).count() {
        n_shared if !is_alike || n_shared < 2 => None,
        n_shared
            if n_shared == n_layers + 2
                && model.architecture.tied_head == other.architecture.tied_head =>
        {
            Some(Shared::Whole)
        }
        n_shared => Some(Shared::Layers((n_shared - 1).min(n_layers))),
    }
}

/// Models that begin alike, by their places in a list of models.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The first, and those that compute something of their own.
    pub(super) different: Vec<usize>,
    /// Layers that all of these have in common; 0 where there is one alone.
    pub(super) n_shared_layers: usize,
    /// Those that are equal to the first.
    pub(super) equal: Vec<usize>,
}

/// All models, each once.
pub(super) fn groups(models: &[&CausalModel]) -> Vec<Group> {
    grouped(models.len(), |one, other| {
        shared(models[one], models[other])
    })
}

fn grouped(n_models: usize, shared: impl Fn(usize, usize) -> Option<Shared>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for model in 0..n_models {
        let found = groups.iter_mut().find_map(|group| {
            let depth = shared(group.different[0], model)?;
            Some((group, depth))
        });
        match found {
            Some((group, Shared::Whole)) => group.equal.push(model),
            Some((group, Shared::Layers(n_layers))) => {
                group.n_shared_layers = match group.different.len() {
                    1 => n_layers,
                    _ => group.n_shared_layers.min(n_layers),
                };
                group.different.push(model);
            }
            None => groups.push(Group {
                different: vec![model],
                n_shared_layers: 0,
                equal: Vec::new(),
            }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_grouped_by_how_they_begin() {
        // Each model is the list of its stages.
        let check = |models: &[&str], expected: &[(&[usize], usize, &[usize])]| {
            let shared = |one: usize, other: usize| {
                let pairs = models[one].bytes().zip(models[other].bytes());
                match pairs.take_while(|(one, other)| one == other).count() {
                    0 => None,
                    n if n == models[one].len() => Some(Shared::Whole),
                    n => Some(Shared::Layers(n)),
                }
            };
            let expected: Vec<Group> = expected
                .iter()
                .map(|(different, n_layers, equal)| Group {
                    different: different.to_vec(),
                    n_shared_layers: *n_layers,
                    equal: equal.to_vec(),
                })
                .collect();
            assert_eq!(grouped(models.len(), shared), expected, "{models:?}");
        };
        check(&[], &[]);
        check(&["abcd"], &[(&[0], 0, &[])]);
        check(&["abcd", "xbcd"], &[(&[0], 0, &[]), (&[1], 0, &[])]);
        check(&["abcd", "abcx"], &[(&[0, 1], 3, &[])]);
        check(&["abcd", "abcd"], &[(&[0], 0, &[1])]);
        check(
            &["abcd", "abcx", "xyzz", "abcd", "axcd", "xyz1"],
            &[(&[0, 1, 4], 1, &[3]), (&[2, 5], 3, &[])],
        );
    }

    #[test]
    fn a_weight_counts_in_its_stage() {
        let of = |embedding: f32, layer: f32, head: f32| {
            let mut hasher = StageHasher {
                stages: vec![Xxh3::new(); 3],
            };
            hasher.add(Some(0), Part::Query, &vec![layer; BLOCK + 1]);
            hasher.add(None, Part::FinalNorm, &[head]);
            hasher.add(None, Part::Embedding, &[embedding]);
            hasher.finish()
        };
        let one = of(1.0, 2.0, 3.0);
        assert_eq!(one, of(1.0, 2.0, 3.0));
        for (stage, other) in [of(4.0, 2.0, 3.0), of(1.0, 4.0, 3.0), of(1.0, 2.0, 4.0)]
            .iter()
            .enumerate()
        {
            let is_other: Vec<bool> = one.iter().zip(other).map(|(a, b)| a != b).collect();
            assert_eq!(is_other, [0, 1, 2].map(|it| it == stage));
        }
    }
}
