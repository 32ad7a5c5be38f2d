//! Sizes of new models by name.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

use super::TrainError;
use crate::Architecture;

/// A size of a new model of the Llama family; the name counts all parameters, the embedding (which
/// is the head too) once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Size {
    /// `1m`: 1.2 million parameters, 0.5 million of them embeddings.
    M1,
    /// `5m`: 5.5 million parameters, 1.8 million of them embeddings.
    M5,
    /// `20m`: 20.8 million parameters, 3.1 million of them embeddings.
    M20,
    /// `125m`: 124 million parameters, 25 million of them embeddings; days on a laptop.
    M125,
}

/// The shape of a size, in elements and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens of the tokenizer that is trained for it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Layers.
    pub n_layers: usize,
    /// Heads; each is `hidden_size / n_heads` wide.
    pub n_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
}

impl Size {
    /// All sizes, the smallest first.
    pub const ALL: [Self; 4] = [Self::M1, Self::M5, Self::M20, Self::M125];

    /// The name that [`FromStr`] reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::M1 => "1m",
            Self::M5 => "5m",
            Self::M20 => "20m",
            Self::M125 => "125m",
        }
    }

    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// What a new model of this size with so many tokens computes.
    ///
    /// # Errors
    ///
    /// If the vocabulary is none.
    pub fn architecture(self, vocab_size: usize) -> Result<Architecture, TrainError> {
        let config = self.shape().config(vocab_size).to_string();
        let path = Path::new("config.json");
        Ok(Architecture::from_config(config.as_bytes(), path)?)
    }

    /// Small vocabularies keep the head from being most of the work; the short contexts are what
    /// the losses of a document's tokens need, not what text generation would.
    #[must_use]
    pub fn shape(self) -> Shape {
        let (vocab_size, hidden_size, n_layers, n_heads, intermediate_size, context) = match self {
            Self::M1 => (4096, 128, 3, 4, 384, 128),
            Self::M5 => (8192, 224, 6, 4, 608, 256),
            Self::M20 => (8192, 384, 10, 6, 1024, 256),
            Self::M125 => (32768, 768, 14, 12, 2048, 512),
        };
        Shape {
            vocab_size,
            hidden_size,
            n_layers,
            n_heads,
            intermediate_size,
            context,
        }
    }
}

impl Shape {
    /// `config.json` of a model of this shape whose tokenizer has `vocab_size` tokens, the end of
    /// text being 0.
    #[must_use]
    pub fn config(&self, vocab_size: usize) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_heads,
            "head_dim": self.hidden_size / self.n_heads,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "attention_bias": false,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "initializer_range": 0.02,
            "tie_word_embeddings": true,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "dtype": "float32",
            "use_cache": true,
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Size {
    type Err = TrainError;

    fn from_str(name: &str) -> Result<Self, TrainError> {
        let name = name.trim();
        Self::ALL
            .into_iter()
            .find(|size| size.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| TrainError::UnknownSize {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_all_parameters() {
        for size in Size::ALL {
            let shape = size.shape();
            let architecture = size.architecture(shape.vocab_size);
            let architecture = architecture.expect("a known family");
            let named: f64 = size.name().trim_end_matches('m').parse().expect("a number");
            let millions = architecture.n_parameters() as f64 / 1e6;
            assert!((millions / named - 1.0).abs() < 0.2, "{size}: {millions}");
            assert_eq!(size.name().parse::<Size>().expect("a name"), size);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known() {
        let error = "7b".parse::<Size>().expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "no size \"7b\": the sizes are 1m, 5m, 20m, 125m"
        );
    }
}
