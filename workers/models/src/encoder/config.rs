//! What a directory of an encoder says of it: `config.json`, and the files of sentence-transformers
//! where they are there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::ModelError;
use crate::architecture::{Activation, Norm, NormKind};

/// How the vectors of tokens become that of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
}

/// An encoder of BERT's family.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    /// Dimensions of a vector.
    pub n_dimensions: usize,
    /// Layers.
    pub n_layers: usize,
    /// Heads of each.
    pub n_heads: usize,
    /// Inner size of each layer's second half.
    pub n_inner: usize,
    /// Tokens that are known.
    pub vocab_size: usize,
    /// Positions that are stored.
    pub n_positions: usize,
    /// Where positions of a text begin: RoBERTa leaves the first ones out.
    pub first_position: usize,
    /// Longest text, in tokens with the two around it.
    pub n_tokens_max: usize,
    /// What is between the two products of a layer's second half.
    pub(super) activation: Activation,
    /// Of all normalisations.
    pub(super) norm: Norm,
    /// How vectors of tokens become one.
    pub pooling: Pooling,
}

/// A file of the directory, if it is there.
pub(super) fn maybe(directory: &Path, name: &str) -> Result<Option<(PathBuf, Value)>, ModelError> {
    let path = directory.join(name);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ModelError::read(&path, error)),
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::malformed(&path, format!("not JSON: {error}")))?;
    Ok(Some((path, value)))
}

impl EncoderConfig {
    /// Reads and checks what a directory says.
    pub(super) fn of(directory: &Path) -> Result<Self, ModelError> {
        let Some((path, config)) = maybe(directory, "config.json")? else {
            return Err(ModelError::Missing {
                directory: directory.to_owned(),
                what: "config.json".to_owned(),
            });
        };
        let wrong = |problem: String| ModelError::malformed(&path, problem);
        let kind = config.get("model_type").and_then(Value::as_str);
        let is_roberta = match kind {
            Some("bert") => false,
            Some("roberta" | "xlm-roberta") => true,
            other => {
                return Err(wrong(format!(
                    "model_type is {}, and embeddings are made by bert, roberta and xlm-roberta",
                    other.unwrap_or("missing")
                )));
            }
        };
        let size = |key: &str| {
            let value = config.get(key).and_then(Value::as_u64);
            let value = value.and_then(|value| usize::try_from(value).ok());
            value
                .filter(|value| *value > 0 && *value < 1 << 24)
                .ok_or_else(|| wrong(format!("{key} is no positive number")))
        };
        let positions = config
            .get("position_embedding_type")
            .and_then(Value::as_str);
        if positions.is_some_and(|it| it != "absolute") {
            return Err(wrong("position_embedding_type must be absolute".to_owned()));
        }
        let activation = match config.get("hidden_act").and_then(Value::as_str) {
            Some("gelu") | None => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("relu") => Activation::Relu,
            Some("silu" | "swish") => Activation::Silu,
            Some(other) => return Err(wrong(format!("hidden_act {other} is not known"))),
        };
        let eps = config.get("layer_norm_eps").and_then(Value::as_f64);
        let padding = config.get("pad_token_id").and_then(Value::as_u64);
        let first_position = match is_roberta {
            true => {
                usize::try_from(padding.unwrap_or(1))
                    .unwrap_or(1)
                    .min(1 << 20)
                    + 1
            }
            false => 0,
        };
        let n_positions = size("max_position_embeddings")?;
        let n_fit = n_positions.saturating_sub(first_position);
        let told = maybe(directory, "sentence_bert_config.json")?;
        let told = told.and_then(|(_, it)| it.get("max_seq_length")?.as_u64());
        let told = told.and_then(|it| usize::try_from(it).ok());
        let this = Self {
            n_dimensions: size("hidden_size")?,
            n_layers: size("num_hidden_layers")?,
            n_heads: size("num_attention_heads")?,
            n_inner: size("intermediate_size")?,
            vocab_size: size("vocab_size")?,
            n_positions,
            first_position,
            n_tokens_max: told.unwrap_or(n_fit).min(n_fit),
            activation,
            norm: Norm {
                kind: NormKind::Layer,
                eps: eps.unwrap_or(1e-12) as f32,
                weight: true,
                bias: true,
            },
            pooling: pooling(directory)?,
        };
        if !this.n_dimensions.is_multiple_of(this.n_heads) {
            return Err(wrong(
                "hidden_size is no multiple of num_attention_heads".to_owned(),
            ));
        }
        if this.n_tokens_max < 3 {
            return Err(wrong(
                "no text fits into the positions of the model".to_owned(),
            ));
        }
        Ok(this)
    }
}

/// As sentence-transformers write it; the mean where nothing is said.
fn pooling(directory: &Path) -> Result<Pooling, ModelError> {
    if let Some((path, modules)) = maybe(directory, "modules.json")? {
        let kinds = modules.as_array().into_iter().flatten();
        let kinds = kinds.filter_map(|it| it.get("type")?.as_str());
        let known = ["Transformer", "Pooling", "Normalize"];
        for kind in kinds {
            let name = kind.rsplit('.').next().unwrap_or(kind);
            if !known.contains(&name) {
                let problem = format!("module {name} is not supported, only {}", known.join(", "));
                return Err(ModelError::malformed(&path, problem));
            }
        }
    }
    let Some((path, config)) = maybe(&directory.join("1_Pooling"), "config.json")? else {
        return Ok(Pooling::Mean);
    };
    let modes = config.as_object().into_iter().flatten();
    let modes = modes
        .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true));
    let modes: Vec<&str> = modes.map(|(key, _)| key.as_str()).collect();
    match modes[..] {
        [] | ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_cls_token"] => Ok(Pooling::Cls),
        _ => Err(ModelError::malformed(
            &path,
            format!(
                "{} is not supported, only the mean or the first token",
                modes.join(" and ")
            ),
        )),
    }
}
