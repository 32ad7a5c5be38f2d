//! The weights of a model as the forward pass multiplies them.

use std::cell::RefCell;

use super::shared::StageHasher;
use crate::architecture::{Architecture, Positions};
use crate::product::{Matrix, WeightType};
use crate::{ModelDirectory, ModelError, Part, Slot};

/// Weight and bias of a normalisation; empty where there is none.
#[derive(Debug, Default)]
pub(super) struct NormWeights {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// One layer. Biases and norms are empty where there are none.
#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) attention_norm: NormWeights,
    /// Queries, keys and values under each other.
    pub(super) qkv: Matrix,
    pub(super) qkv_bias: Vec<f32>,
    pub(super) query_norm: Vec<f32>,
    pub(super) key_norm: Vec<f32>,
    pub(super) output: Matrix,
    pub(super) output_bias: Vec<f32>,
    pub(super) mlp_norm: NormWeights,
    /// The gate, if there is one, and below it what it opens.
    pub(super) up: Matrix,
    pub(super) up_bias: Vec<f32>,
    pub(super) down: Matrix,
    pub(super) down_bias: Vec<f32>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct ForwardWeights {
    pub(super) embedding: Matrix,
    /// `[max_positions, hidden_size]`, or empty.
    pub(super) positions: Vec<f32>,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) final_norm: NormWeights,
    /// `None`: the embedding.
    pub(super) head: Option<Matrix>,
    /// Hashes that tell how far another model computes the same.
    pub(super) stages: Vec<u128>,
}

impl ForwardWeights {
    /// Bytes of the weights in memory.
    pub(super) fn bytes(architecture: &Architecture, weights: WeightType) -> u64 {
        let slots = architecture.slots();
        let bytes = slots.iter().map(|slot| match slot.shape[..] {
            [n_out, n_in] if slot.part != Part::PositionEmbedding => {
                Matrix::bytes(n_in, n_out, weights)
            }
            ref shape => 4 * shape.iter().map(|&n| n as u64).product::<u64>(),
        });
        bytes.sum()
    }

    /// What gives a row its logits.
    pub(super) fn head(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    pub(super) fn load(
        directory: &ModelDirectory,
        weights: WeightType,
    ) -> Result<Self, ModelError> {
        let architecture = directory.architecture();
        let slots = architecture.slots();
        let find = |layer: Option<usize>, part: Part| {
            slots
                .iter()
                .find(|slot| slot.layer == layer && slot.part == part)
        };
        let stages = RefCell::new(StageHasher::new(architecture, weights));
        // What the architecture has not is empty.
        let read = |layer: Option<usize>, part: Part| -> Result<Vec<f32>, ModelError> {
            let slot: Option<&Slot> = find(layer, part);
            let values = slot.map_or(Ok(Vec::new()), |slot| directory.read(slot))?;
            stages.borrow_mut().add(layer, part, &values);
            Ok(values)
        };
        let matrix = |layer: Option<usize>, n_in: usize, parts: &[Part]| {
            let parts: Result<Vec<Vec<f32>>, ModelError> =
                parts.iter().map(|&part| read(layer, part)).collect();
            let parts = parts?;
            let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            Ok(Matrix::new(n_in, &parts, weights))
        };
        let joined = |layer: Option<usize>, parts: &[Part]| -> Result<Vec<f32>, ModelError> {
            let mut all = Vec::new();
            for &part in parts {
                all.extend(read(layer, part)?);
            }
            Ok(all)
        };
        let norm = |layer: Option<usize>, weight: Part, bias: Part| {
            Ok(NormWeights {
                weight: read(layer, weight)?,
                bias: read(layer, bias)?,
            })
        };
        let (hidden, inner) = (architecture.hidden_size, architecture.intermediate_size);
        let layer = |number: usize| -> Result<LayerWeights, ModelError> {
            let layer = Some(number);
            Ok(LayerWeights {
                attention_norm: norm(layer, Part::AttentionNorm, Part::AttentionNormBias)?,
                qkv: matrix(layer, hidden, &[Part::Query, Part::Key, Part::Value])?,
                qkv_bias: joined(layer, &[Part::QueryBias, Part::KeyBias, Part::ValueBias])?,
                query_norm: read(layer, Part::QueryNorm)?,
                key_norm: read(layer, Part::KeyNorm)?,
                output: matrix(layer, architecture.query_size(), &[Part::Output])?,
                output_bias: read(layer, Part::OutputBias)?,
                mlp_norm: norm(layer, Part::MlpNorm, Part::MlpNormBias)?,
                up: matrix(layer, hidden, &[Part::Gate, Part::Up])?,
                up_bias: joined(layer, &[Part::GateBias, Part::UpBias])?,
                down: matrix(layer, inner, &[Part::Down])?,
                down_bias: read(layer, Part::DownBias)?,
            })
        };
        let mut all = Self {
            embedding: matrix(None, hidden, &[Part::Embedding])?,
            positions: match architecture.positions {
                Positions::Learned => read(None, Part::PositionEmbedding)?,
                Positions::Rotary(_) => Vec::new(),
            },
            layers: (0..architecture.n_layers())
                .map(layer)
                .collect::<Result<_, _>>()?,
            final_norm: norm(None, Part::FinalNorm, Part::FinalNormBias)?,
            head: match architecture.tied_head {
                true => None,
                false => Some(matrix(None, hidden, &[Part::Head])?),
            },
            stages: Vec::new(),
        };
        all.stages = stages.into_inner().finish();
        Ok(all)
    }
}
