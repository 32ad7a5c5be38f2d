//! The weights of a model by part: one layout for all families in memory, and what each is called
//! and how it lies on disk.
//!
//! In memory every product is `y = x W^T + b` with `W` of shape `[outputs, inputs]`, queries, keys
//! and values apart. On disk GPT-2 keeps `[inputs, outputs]` with the three side by side, and
//! GPT-NeoX keeps them fused head by head.

use crate::architecture::{Architecture, Family, Placement, Positions, QkNorm};
use crate::layout::Layout;

/// What a weight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the shapes are those of Architecture::slots")]
pub enum Part {
    Embedding,
    PositionEmbedding,
    AttentionNorm,
    AttentionNormBias,
    Query,
    QueryBias,
    Key,
    KeyBias,
    Value,
    ValueBias,
    QueryNorm,
    KeyNorm,
    Output,
    OutputBias,
    MlpNorm,
    MlpNormBias,
    Gate,
    GateBias,
    Up,
    UpBias,
    Down,
    DownBias,
    FinalNorm,
    FinalNormBias,
    Head,
}

/// One weight of a model.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    /// The layer, counted from 0; `None` for what stands before and after the layers.
    pub layer: Option<usize>,
    /// What it is for.
    pub part: Part,
    /// Its shape in memory, row-major.
    pub shape: Vec<usize>,
}

/// Where a slot is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Name with the family's prefix.
    pub(crate) name: String,
    /// Shape of the stored tensor.
    pub(crate) shape: Vec<usize>,
    pub(crate) layout: Layout,
}

impl Part {
    /// Whether weight decay leaves it alone: norms and biases.
    #[must_use]
    pub fn is_vector(self) -> bool {
        !matches!(
            self,
            Self::Embedding
                | Self::PositionEmbedding
                | Self::Query
                | Self::Key
                | Self::Value
                | Self::Output
                | Self::Gate
                | Self::Up
                | Self::Down
                | Self::Head
        )
    }
}

impl Architecture {
    /// All weights of the model with their shapes, in the order of their use.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot> {
        let (hidden, query, kv) = (self.hidden_size, self.query_size(), self.kv_size());
        let inner = self.intermediate_size;
        let mut slots = Vec::new();
        let mut layer = None;
        macro_rules! slot {
            ($part:ident, $($size:expr),+) => {
                slots.push(Slot { layer, part: Part::$part, shape: vec![$($size),+] })
            };
            ($part:ident, $($size:expr),+ ; if $condition:expr) => {
                if $condition { slot!($part, $($size),+) }
            };
        }
        slot!(Embedding, self.vocab_size, hidden);
        slot!(PositionEmbedding, self.max_positions, hidden; if self.positions == Positions::Learned);
        let (norm, biases) = (self.norm, self.biases);
        let (query_norm, key_norm) = match self.qk_norm {
            QkNorm::None => (0, 0),
            QkNorm::PerHead => (self.head_dim, self.head_dim),
            QkNorm::Whole => (query, kv),
        };
        for number in 0..self.n_layers() {
            layer = Some(number);
            slot!(AttentionNorm, hidden; if norm.weight);
            slot!(AttentionNormBias, hidden; if norm.bias);
            slot!(Query, query, hidden);
            slot!(QueryBias, query; if biases.qkv);
            slot!(Key, kv, hidden);
            slot!(KeyBias, kv; if biases.qkv);
            slot!(Value, kv, hidden);
            slot!(ValueBias, kv; if biases.qkv);
            slot!(QueryNorm, query_norm; if query_norm > 0);
            slot!(KeyNorm, key_norm; if key_norm > 0);
            slot!(Output, hidden, query);
            slot!(OutputBias, hidden; if biases.output);
            slot!(MlpNorm, hidden; if norm.weight);
            slot!(MlpNormBias, hidden; if norm.bias);
            slot!(Gate, inner, hidden; if self.gated);
            slot!(GateBias, inner; if self.gated && biases.mlp);
            slot!(Up, inner, hidden);
            slot!(UpBias, inner; if biases.mlp);
            slot!(Down, hidden, inner);
            slot!(DownBias, hidden; if biases.mlp);
        }
        layer = None;
        slot!(FinalNorm, hidden; if norm.weight);
        slot!(FinalNormBias, hidden; if norm.bias);
        slot!(Head, self.vocab_size, hidden; if !self.tied_head);
        slots
    }

    /// Where a slot is kept on disk.
    pub(crate) fn stored(&self, slot: &Slot) -> Stored {
        let shape = slot.shape.clone();
        let plain = |name: String| Stored {
            name,
            shape: shape.clone(),
            layout: Layout::Plain,
        };
        match (self.family, slot.layer) {
            (Family::Gpt2, _) => self.stored_gpt2(slot),
            (Family::GptNeoX, _) => self.stored_gpt_neox(slot),
            (_, Some(layer)) => plain(format!(
                "model.layers.{layer}.{}",
                llama_name(slot.part, self.placement)
            )),
            (_, None) => plain(llama_name(slot.part, self.placement).to_owned()),
        }
    }

    fn stored_gpt2(&self, slot: &Slot) -> Stored {
        let (name, layout) = match slot.part {
            Part::Embedding => ("wte.weight", Layout::Plain),
            Part::PositionEmbedding => ("wpe.weight", Layout::Plain),
            Part::AttentionNorm => ("ln_1.weight", Layout::Plain),
            Part::AttentionNormBias => ("ln_1.bias", Layout::Plain),
            Part::Query => ("attn.c_attn.weight", Layout::TransposedThird(0)),
            Part::Key => ("attn.c_attn.weight", Layout::TransposedThird(1)),
            Part::Value => ("attn.c_attn.weight", Layout::TransposedThird(2)),
            Part::QueryBias => ("attn.c_attn.bias", Layout::TransposedThird(0)),
            Part::KeyBias => ("attn.c_attn.bias", Layout::TransposedThird(1)),
            Part::ValueBias => ("attn.c_attn.bias", Layout::TransposedThird(2)),
            Part::Output => ("attn.c_proj.weight", Layout::Transposed),
            Part::OutputBias => ("attn.c_proj.bias", Layout::Plain),
            Part::MlpNorm => ("ln_2.weight", Layout::Plain),
            Part::MlpNormBias => ("ln_2.bias", Layout::Plain),
            Part::Up => ("mlp.c_fc.weight", Layout::Transposed),
            Part::UpBias => ("mlp.c_fc.bias", Layout::Plain),
            Part::Down => ("mlp.c_proj.weight", Layout::Transposed),
            Part::DownBias => ("mlp.c_proj.bias", Layout::Plain),
            Part::FinalNorm => ("ln_f.weight", Layout::Plain),
            Part::FinalNormBias => ("ln_f.bias", Layout::Plain),
            Part::Head => ("lm_head.weight", Layout::Plain),
            // GPT-2 has none of these slots.
            Part::QueryNorm => ("q_norm.weight", Layout::Plain),
            Part::KeyNorm => ("k_norm.weight", Layout::Plain),
            Part::Gate => ("mlp.gate.weight", Layout::Plain),
            Part::GateBias => ("mlp.gate.bias", Layout::Plain),
        };
        let name = match (slot.part, slot.layer) {
            (Part::Head, _) => name.to_owned(),
            (_, Some(layer)) => format!("transformer.h.{layer}.{name}"),
            (_, None) => format!("transformer.{name}"),
        };
        let mut shape = slot.shape.clone();
        if layout != Layout::Plain {
            shape.reverse();
        }
        if let (Layout::TransposedThird(_), Some(outputs)) = (layout, shape.last_mut()) {
            *outputs *= 3;
        }
        Stored {
            name,
            shape,
            layout,
        }
    }

    fn stored_gpt_neox(&self, slot: &Slot) -> Stored {
        const FUSED: &str = "attention.query_key_value.weight";
        const FUSED_BIAS: &str = "attention.query_key_value.bias";
        let (name, layout) = match slot.part {
            Part::Embedding => ("embed_in.weight", Layout::Plain),
            Part::AttentionNorm => ("input_layernorm.weight", Layout::Plain),
            Part::AttentionNormBias => ("input_layernorm.bias", Layout::Plain),
            Part::Query => (FUSED, Layout::HeadThird(0)),
            Part::Key => (FUSED, Layout::HeadThird(1)),
            Part::Value => (FUSED, Layout::HeadThird(2)),
            Part::QueryBias => (FUSED_BIAS, Layout::HeadThird(0)),
            Part::KeyBias => (FUSED_BIAS, Layout::HeadThird(1)),
            Part::ValueBias => (FUSED_BIAS, Layout::HeadThird(2)),
            Part::Output => ("attention.dense.weight", Layout::Plain),
            Part::OutputBias => ("attention.dense.bias", Layout::Plain),
            Part::MlpNorm => ("post_attention_layernorm.weight", Layout::Plain),
            Part::MlpNormBias => ("post_attention_layernorm.bias", Layout::Plain),
            Part::Up => ("mlp.dense_h_to_4h.weight", Layout::Plain),
            Part::UpBias => ("mlp.dense_h_to_4h.bias", Layout::Plain),
            Part::Down => ("mlp.dense_4h_to_h.weight", Layout::Plain),
            Part::DownBias => ("mlp.dense_4h_to_h.bias", Layout::Plain),
            Part::FinalNorm => ("final_layer_norm.weight", Layout::Plain),
            Part::FinalNormBias => ("final_layer_norm.bias", Layout::Plain),
            Part::Head => ("embed_out.weight", Layout::Plain),
            // GPT-NeoX has none of these slots.
            Part::PositionEmbedding => ("embed_positions.weight", Layout::Plain),
            Part::QueryNorm => ("attention.q_norm.weight", Layout::Plain),
            Part::KeyNorm => ("attention.k_norm.weight", Layout::Plain),
            Part::Gate => ("mlp.gate.weight", Layout::Plain),
            Part::GateBias => ("mlp.gate.bias", Layout::Plain),
        };
        let name = match (slot.part, slot.layer) {
            (Part::Head, _) => name.to_owned(),
            (_, Some(layer)) => format!("gpt_neox.layers.{layer}.{name}"),
            (_, None) => format!("gpt_neox.{name}"),
        };
        let mut shape = slot.shape.clone();
        if let (Layout::HeadThird(_), Some(outputs)) = (layout, shape.first_mut()) {
            *outputs *= 3;
        }
        Stored {
            name,
            shape,
            layout,
        }
    }

    /// Stored tensors that say nothing a forward pass needs, and may be there.
    pub(crate) fn is_ignored(&self, name: &str) -> bool {
        let buffers = [
            ".rotary_emb.inv_freq",
            ".attn.bias",
            ".attn.masked_bias",
            ".attention.bias",
            ".attention.masked_bias",
        ];
        let is_head = ["lm_head.weight", "embed_out.weight"].contains(&name);
        buffers.iter().any(|end| name.ends_with(end)) || (self.tied_head && is_head)
    }

    /// The prefix of the names on disk; files saved from the bare model are without.
    pub(crate) fn prefix(&self) -> &'static str {
        match self.family {
            Family::Gpt2 => "transformer.",
            Family::GptNeoX => "gpt_neox.",
            _ => "model.",
        }
    }
}

fn llama_name(part: Part, placement: Placement) -> &'static str {
    let after = placement == Placement::After;
    match part {
        Part::Embedding => "model.embed_tokens.weight",
        // None of these families has learned positions.
        Part::PositionEmbedding => "model.embed_positions.weight",
        Part::AttentionNorm if after => "post_attention_layernorm.weight",
        Part::AttentionNorm => "input_layernorm.weight",
        Part::AttentionNormBias if after => "post_attention_layernorm.bias",
        Part::AttentionNormBias => "input_layernorm.bias",
        Part::Query => "self_attn.q_proj.weight",
        Part::QueryBias => "self_attn.q_proj.bias",
        Part::Key => "self_attn.k_proj.weight",
        Part::KeyBias => "self_attn.k_proj.bias",
        Part::Value => "self_attn.v_proj.weight",
        Part::ValueBias => "self_attn.v_proj.bias",
        Part::QueryNorm => "self_attn.q_norm.weight",
        Part::KeyNorm => "self_attn.k_norm.weight",
        Part::Output => "self_attn.o_proj.weight",
        Part::OutputBias => "self_attn.o_proj.bias",
        Part::MlpNorm if after => "post_feedforward_layernorm.weight",
        Part::MlpNorm => "post_attention_layernorm.weight",
        Part::MlpNormBias if after => "post_feedforward_layernorm.bias",
        Part::MlpNormBias => "post_attention_layernorm.bias",
        Part::Gate => "mlp.gate_proj.weight",
        Part::GateBias => "mlp.gate_proj.bias",
        Part::Up => "mlp.up_proj.weight",
        Part::UpBias => "mlp.up_proj.bias",
        Part::Down => "mlp.down_proj.weight",
        Part::DownBias => "mlp.down_proj.bias",
        Part::FinalNorm => "model.norm.weight",
        Part::FinalNormBias => "model.norm.bias",
        Part::Head => "lm_head.weight",
    }
}
