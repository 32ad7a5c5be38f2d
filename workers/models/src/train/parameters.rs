//! The weights of a model as one flat vector of f32: gradients, moments and checkpoints have the
//! same places.

use std::collections::HashMap;
use std::ops::Range;

use crate::architecture::Architecture;
use crate::{ModelError, Part, Slot};

use super::random::Random;

/// Where each weight stands in the flat vectors.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    slots: Vec<(Slot, Range<usize>)>,
    index: HashMap<(Option<usize>, Part), Range<usize>>,
    len: usize,
}

impl Places {
    pub(crate) fn new(architecture: &Architecture) -> Self {
        let mut len = 0;
        let slots: Vec<_> = architecture
            .slots()
            .into_iter()
            .map(|slot| {
                let start = len;
                len += slot.shape.iter().product::<usize>();
                (slot, start..len)
            })
            .collect();
        let index = slots
            .iter()
            .map(|(slot, place)| ((slot.layer, slot.part), place.clone()))
            .collect();
        Self { slots, index, len }
    }

    /// Number of all values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn slots(&self) -> &[(Slot, Range<usize>)] {
        &self.slots
    }

    /// The place of a weight, if the architecture has it.
    pub(crate) fn find(&self, layer: Option<usize>, part: Part) -> Option<Range<usize>> {
        self.index.get(&(layer, part)).cloned()
    }

    /// The weights of a model, read one by one.
    pub(crate) fn read(
        &self,
        mut read: impl FnMut(&Slot) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Vec<f32>, ModelError> {
        let mut values = Vec::with_capacity(self.len);
        for (slot, _) in &self.slots {
            values.extend(read(slot)?);
        }
        Ok(values)
    }

    /// New weights, a function of the seed: normal with the architecture's deviation, that of what
    /// is added to the residual stream divided by `sqrt(2 * layers)` (GPT-2, section 2.3); norms 1,
    /// biases 0.
    pub(crate) fn initial(&self, architecture: &Architecture, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed, "initial weights");
        let deviation = f64::from(architecture.initializer_range);
        let residual = deviation / (2.0 * architecture.n_layers() as f64).sqrt();
        let mut values = Vec::with_capacity(self.len);
        for (slot, place) in &self.slots {
            let end = values.len() + place.len();
            match slot.part {
                Part::AttentionNorm
                | Part::MlpNorm
                | Part::FinalNorm
                | Part::QueryNorm
                | Part::KeyNorm => values.resize(end, 1.0),
                part if part.is_vector() => values.resize(end, 0.0),
                Part::Output | Part::Down => values
                    .extend(std::iter::repeat_with(|| random.normal(residual)).take(place.len())),
                _ => values
                    .extend(std::iter::repeat_with(|| random.normal(deviation)).take(place.len())),
            }
        }
        values
    }

    /// The ranges that weight decay shrinks: matrices of products, not norms, biases and embeddings
    /// (nor a head that is the embedding), nor the first `n_frozen_layers`.
    pub(crate) fn decayed(&self, n_frozen_layers: usize) -> Vec<Range<usize>> {
        self.slots
            .iter()
            .filter(|(slot, _)| {
                slot.layer.is_none_or(|layer| layer >= n_frozen_layers)
                    && !slot.part.is_vector()
                    && !matches!(slot.part, Part::Embedding | Part::PositionEmbedding)
            })
            .map(|(_, place)| place.clone())
            .collect()
    }
}
