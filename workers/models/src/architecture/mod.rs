//! One description of all families of models by their parts, instead of one module per family.
//!
//! A forward pass reads nothing but this: what a family is called only decides how its
//! `config.json` is read and what its tensors are named on disk.

mod config;
mod family;
mod layers;
mod rotary;

use crate::ModelError;

pub use family::Family;
pub use rotary::{Rotary, RotaryScaling};

/// What a causal language model computes; sizes in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Decides the names and the layout of the tensors on disk, nothing else.
    pub family: Family,
    /// Rows of the embedding and of the head; the tokenizer may have fewer tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values, each shared by `n_heads / n_kv_heads` heads of queries.
    pub n_kv_heads: usize,
    /// Width of one head; `n_heads * head_dim` may differ from `hidden_size`.
    pub head_dim: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// The normalisation, of one kind in the whole model.
    pub norm: Norm,
    /// Where the normalisation stands.
    pub placement: Placement,
    /// Normalisation of queries and keys (RMS, with weights), before the rotation.
    pub qk_norm: QkNorm,
    /// How the model knows where a token stands.
    pub positions: Positions,
    /// What differs from layer to layer; its length is the number of layers.
    pub layers: Vec<Layer>,
    /// Which products have a bias.
    pub biases: Biases,
    /// The feed-forward part has a gate: `down(activation(gate(x)) * up(x))`, and without one
    /// `down(activation(up(x)))`.
    pub gated: bool,
    /// The non-linear function of the feed-forward part.
    pub activation: Activation,
    /// The head is the embedding.
    pub tied_head: bool,
    /// Queries, keys and values are clamped to `[-clip, clip]` (OLMo).
    pub clip_qkv: Option<f32>,
    /// The standard deviation of new weights (`initializer_range`).
    pub initializer_range: f32,
}

/// Normalisation over the last dimension.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// What is taken out.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f32,
    /// Multiplies by learned weights (OLMo does not).
    pub weight: bool,
    /// Adds a learned bias.
    pub bias: bool,
}

/// What a normalisation takes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)`
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps)`
    Layer,
}

/// Where the normalisation stands in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// `x += attention(norm(x)); x += mlp(norm(x))`
    Before,
    /// `x += norm(attention(x)); x += norm(mlp(x))` (OLMo 2)
    After,
    /// `x += attention(norm_1(x)) + mlp(norm_2(x))` (GPT-NeoX)
    Parallel,
}

/// Normalisation of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Over each head, with one weight of `head_dim` for all heads (Qwen3).
    PerHead,
    /// Over all heads together (OLMo 2).
    Whole,
}

/// How the model knows where a token stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// A learned embedding per position is added to the token's.
    Learned,
    /// Queries and keys are rotated.
    Rotary(Rotary),
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layer {
    /// Queries and keys are rotated here (every fourth layer of SmolLM3 is without).
    pub rotary: bool,
    /// A token attends to itself and the `window - 1` tokens before it; `None`: to all before it.
    pub window: Option<usize>,
    /// Multiplies the scores of attention before the softmax.
    pub attention_scale: f32,
}

/// Which products have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// Of queries, keys and values.
    pub qkv: bool,
    /// Of attention's output.
    pub output: bool,
    /// Of the feed-forward part.
    pub mlp: bool,
}

/// The non-linear function of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`: `gelu_new`, `gelu_pytorch_tanh`
    GeluTanh,
    /// `max(x, 0)`
    Relu,
}

impl Architecture {
    /// The same with a head of its own.
    #[must_use]
    pub fn untied(&self) -> Self {
        Self {
            tied_head: false,
            ..self.clone()
        }
    }

    /// Number of layers.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Width of all heads of queries together.
    #[must_use]
    pub fn query_size(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all heads of keys (or of values) together.
    #[must_use]
    pub fn kv_size(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Refuses sequences that are too long or have ids that the model does not know.
    pub(crate) fn check(&self, sequences: &[&[u32]], context: usize) -> Result<(), ModelError> {
        let n_ids = self.vocab_size;
        for (place, sequence) in sequences.iter().enumerate() {
            if sequence.len() > context {
                return Err(ModelError::input(format!(
                    "sequence {place} has {} tokens, the context is {}",
                    sequence.len(),
                    context
                )));
            }
            if let Some(id) = sequence.iter().find(|id| **id as usize >= n_ids) {
                return Err(ModelError::input(format!(
                    "sequence {place} has token {id}, the model knows {n_ids}"
                )));
            }
        }
        Ok(())
    }

    /// Learned numbers.
    #[must_use]
    pub fn n_parameters(&self) -> u64 {
        self.slots()
            .iter()
            .map(|slot| slot.shape.iter().map(|&n| n as u64).product::<u64>())
            .sum()
    }
}
