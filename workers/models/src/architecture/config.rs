//! `config.json` to [`Architecture`]: defaults and names of keys as in transformers, of versions 4
//! and 5. What would change losses and is not computed here is refused by name.

use std::path::Path;

use serde_json::{Map, Value};

use super::{
    Activation, Architecture, Biases, Family, Layer, Norm, NormKind, Placement, Positions, QkNorm,
};
use crate::ModelError;

/// More layers than any model has: a bound on what a damaged file can make us allocate.
const N_LAYERS_MAX: usize = 1 << 12;
/// A bound on any other size.
const SIZE_MAX: usize = 1 << 31;

/// Keys of other models that change what is computed: refused unless null or neutral.
const FOREIGN: [(&str, f64); 16] = [
    ("quantization_config", f64::NAN),
    ("add_cross_attention", 0.0),
    ("is_encoder_decoder", 0.0),
    ("alibi", 0.0),
    ("num_experts", 0.0),
    ("num_local_experts", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("logits_scaling", 1.0),
    ("embedding_multiplier", 1.0),
    ("residual_multiplier", 1.0),
    ("attention_multiplier", f64::NAN),
    ("attention_chunk_size", f64::NAN),
    ("use_qk_norm", 0.0),
    ("lm_head_bias", 0.0),
];

impl Architecture {
    /// Reads the text of a `config.json`; `path` is where it came from, for errors.
    ///
    /// # Errors
    ///
    /// If it is no such file, is of a family that is not supported, or asks for something that
    /// would change losses and is not computed here.
    pub fn from_config(text: &[u8], path: &Path) -> Result<Self, ModelError> {
        let map: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|e| ModelError::malformed(path, format!("not a JSON object: {e}")))?;
        Config { map: &map, path }.architecture()
    }
}

/// A JSON object, and what reads it with errors that name file and key.
#[derive(Clone, Copy)]
pub(super) struct Config<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) path: &'a Path,
}

impl<'a> Config<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &str, expected: &str) -> ModelError {
        let found = self.map.get(key).map_or("nothing".into(), Value::to_string);
        let problem = format!("{key} should be {expected}, found {found}");
        ModelError::malformed(self.path, problem)
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> ModelError {
        ModelError::Unsupported {
            path: self.path.to_owned(),
            what: what.into(),
        }
    }

    pub(super) fn maybe_size(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.get(key)
            .map(|value| {
                let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
                size.filter(|n| (1..=SIZE_MAX).contains(n))
                    .ok_or_else(|| self.wrong(key, "a positive integer"))
            })
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        self.maybe_size(key)?
            .ok_or_else(|| self.wrong(key, "a positive integer"))
    }

    fn maybe_number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.get(key)
            .map(|value| value.as_f64().ok_or_else(|| self.wrong(key, "a number")))
            .transpose()
    }

    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let number = self.maybe_number(key)?;
        if number.is_some_and(|n| n <= 0.0) {
            return Err(self.wrong(key, "a positive number"));
        }
        Ok(number)
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        self.get(key).map_or(Ok(default), |value| {
            value
                .as_bool()
                .ok_or_else(|| self.wrong(key, "true or false"))
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.get(key)
            .map(|value| value.as_str().ok_or_else(|| self.wrong(key, "a string")))
            .transpose()
    }

    fn architecture(self) -> Result<Architecture, ModelError> {
        let Some(model_type) = self.text("model_type")? else {
            return Err(self.wrong("model_type", "the name of an architecture"));
        };
        let Some(family) = Family::named(model_type) else {
            return Err(self.unsupported(format!("architecture {model_type:?}")));
        };
        self.refuse_foreign(family)?;
        let mut architecture = match family {
            Family::Gpt2 => self.gpt2()?,
            Family::GptNeoX => self.gpt_neox()?,
            _ => self.llama_like(family)?,
        };
        architecture.initializer_range = self.positive("initializer_range")?.unwrap_or(0.02) as f32;
        self.check_sizes(&architecture)?;
        Ok(architecture)
    }

    fn refuse_foreign(&self, family: Family) -> Result<(), ModelError> {
        if let Some(Value::Array(classes)) = self.get("architectures") {
            let class = family.class();
            if !classes.is_empty() && !classes.iter().any(|c| c.as_str() == Some(class)) {
                let found = Value::Array(classes.clone());
                return Err(self.unsupported(format!("{family} as {found} (only {class})")));
            }
        }
        for (key, neutral) in FOREIGN {
            let is_neutral = match self.get(key) {
                None => true,
                Some(Value::Bool(flag)) => f64::from(u8::from(*flag)) == neutral,
                Some(value) => value.as_f64() == Some(neutral),
            };
            if !is_neutral {
                return Err(self.unsupported(format!("{key} = {}", self.map[key])));
            }
        }
        Ok(())
    }

    fn llama_like(&self, family: Family) -> Result<Architecture, ModelError> {
        let hidden_size = self.size("hidden_size")?;
        let n_heads = self.size("num_attention_heads")?;
        let default_head_dim = match family {
            Family::Qwen3 => 128,
            _ => hidden_size / n_heads,
        };
        // OLMo and Qwen2 have no key head_dim in transformers, which reads it all the same.
        let head_dim = self.maybe_size("head_dim")?.unwrap_or(default_head_dim);
        let n_layers = self.n_layers("num_hidden_layers")?;
        let n_kv_heads = self.maybe_size("num_key_value_heads")?;
        let norm = match family {
            Family::Olmo => Norm {
                kind: NormKind::Layer,
                eps: 1e-5,
                weight: false,
                bias: false,
            },
            _ => {
                let default = if family == Family::Olmo2 { 1e-5 } else { 1e-6 };
                Norm {
                    kind: NormKind::Rms,
                    eps: self.positive("rms_norm_eps")?.unwrap_or(default) as f32,
                    weight: true,
                    bias: false,
                }
            }
        };
        let attention_bias = self.flag("attention_bias", false)?;
        let biases = match family {
            Family::Mistral => Biases::NONE,
            Family::Qwen2 => Biases {
                qkv: true,
                ..Biases::NONE
            },
            _ => Biases {
                qkv: attention_bias,
                output: attention_bias,
                mlp: self.flag("mlp_bias", false)? && family != Family::Qwen3,
            },
        };
        let theta = if family == Family::SmolLm3 { 2e6 } else { 1e4 };
        Ok(Architecture {
            family,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            n_heads,
            n_kv_heads: n_kv_heads.unwrap_or(n_heads),
            head_dim,
            intermediate_size: self.size("intermediate_size")?,
            max_positions: self.size("max_position_embeddings")?,
            norm,
            placement: match family {
                Family::Olmo2 => Placement::After,
                _ => Placement::Before,
            },
            qk_norm: match family {
                Family::Qwen3 => QkNorm::PerHead,
                Family::Olmo2 => QkNorm::Whole,
                _ => QkNorm::None,
            },
            positions: Positions::Rotary(self.rotary(head_dim, theta, 1.0)?),
            layers: self.layers(family, n_layers, head_dim)?,
            biases,
            gated: true,
            activation: self.activation("hidden_act", Activation::Silu)?,
            tied_head: self.flag("tie_word_embeddings", family == Family::SmolLm3)?,
            clip_qkv: match family {
                Family::Olmo => self.positive("clip_qkv")?.map(|clip| clip as f32),
                _ => None,
            },
            initializer_range: 0.02,
        })
    }

    fn gpt2(&self) -> Result<Architecture, ModelError> {
        let hidden_size = self.size("n_embd")?;
        let n_heads = self.size("n_head")?;
        let n_layers = self.n_layers("n_layer")?;
        let head_dim = hidden_size / n_heads;
        let scaled = self.flag("scale_attn_weights", true)?;
        let by_layer = self.flag("scale_attn_by_inverse_layer_idx", false)?;
        let layers = (0..n_layers)
            .map(|layer| {
                let scale = if scaled {
                    (head_dim as f64).powf(-0.5)
                } else {
                    1.0
                };
                let divisor = if by_layer { layer as f64 + 1.0 } else { 1.0 };
                Layer {
                    rotary: false,
                    window: None,
                    attention_scale: (scale / divisor) as f32,
                }
            })
            .collect();
        let default_positions = self.maybe_size("n_ctx")?.unwrap_or(1024);
        Ok(Architecture {
            family: Family::Gpt2,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            intermediate_size: self.maybe_size("n_inner")?.unwrap_or(4 * hidden_size),
            max_positions: self.maybe_size("n_positions")?.unwrap_or(default_positions),
            norm: Norm {
                kind: NormKind::Layer,
                eps: self.positive("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
                weight: true,
                bias: true,
            },
            placement: Placement::Before,
            qk_norm: QkNorm::None,
            positions: Positions::Learned,
            layers,
            biases: Biases::ALL,
            gated: false,
            activation: self.activation("activation_function", Activation::GeluTanh)?,
            tied_head: self.flag("tie_word_embeddings", true)?,
            clip_qkv: None,
            initializer_range: 0.02,
        })
    }

    fn gpt_neox(&self) -> Result<Architecture, ModelError> {
        let hidden_size = self.size("hidden_size")?;
        let n_heads = self.size("num_attention_heads")?;
        let n_layers = self.n_layers("num_hidden_layers")?;
        let head_dim = hidden_size / n_heads;
        let attention_bias = self.flag("attention_bias", true)?;
        Ok(Architecture {
            family: Family::GptNeoX,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            n_heads,
            n_kv_heads: n_heads,
            head_dim,
            intermediate_size: self.size("intermediate_size")?,
            max_positions: self.size("max_position_embeddings")?,
            norm: Norm {
                kind: NormKind::Layer,
                eps: self.positive("layer_norm_eps")?.unwrap_or(1e-5) as f32,
                weight: true,
                bias: true,
            },
            placement: match self.flag("use_parallel_residual", true)? {
                true => Placement::Parallel,
                false => Placement::Before,
            },
            qk_norm: QkNorm::None,
            positions: Positions::Rotary(self.rotary(head_dim, 1e4, 0.25)?),
            layers: self.layers(Family::GptNeoX, n_layers, head_dim)?,
            biases: Biases {
                qkv: attention_bias,
                output: attention_bias,
                mlp: true,
            },
            gated: false,
            activation: self.activation("hidden_act", Activation::Gelu)?,
            tied_head: self.flag("tie_word_embeddings", false)?,
            clip_qkv: None,
            initializer_range: 0.02,
        })
    }

    fn n_layers(&self, key: &str) -> Result<usize, ModelError> {
        let n_layers = self.size(key)?;
        if n_layers > N_LAYERS_MAX {
            return Err(self.wrong(key, &format!("at most {N_LAYERS_MAX}")));
        }
        Ok(n_layers)
    }

    fn activation(&self, key: &str, default: Activation) -> Result<Activation, ModelError> {
        Ok(match self.text(key)? {
            None => default,
            Some("silu" | "swish") => Activation::Silu,
            Some("gelu" | "gelu_python") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
            Some("relu") => Activation::Relu,
            Some(other) => return Err(self.unsupported(format!("{key} = {other:?}"))),
        })
    }

    fn check_sizes(&self, a: &Architecture) -> Result<(), ModelError> {
        let problem = if !a.n_heads.is_multiple_of(a.n_kv_heads) {
            format!(
                "{} heads are not a multiple of {} of keys",
                a.n_heads, a.n_kv_heads
            )
        } else if a.head_dim == 0 {
            format!("{} heads in a width of {}", a.n_heads, a.hidden_size)
        } else {
            return Ok(());
        };
        Err(ModelError::malformed(self.path, problem))
    }
}

impl Biases {
    const NONE: Self = Self {
        qkv: false,
        output: false,
        mlp: false,
    };
    const ALL: Self = Self {
        qkv: true,
        output: true,
        mlp: true,
    };
}
