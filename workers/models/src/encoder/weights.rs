//! The weights of an encoder, as they are stored: a product's outputs are rows.

use std::path::Path;

use super::config::EncoderConfig;
use crate::ModelError;
use crate::directory::open_files;
use crate::safetensors_file::SafetensorsFile;

/// A product with its bias.
#[derive(Debug)]
pub(super) struct Linear {
    /// `[n_out][n_in]`
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Weights of a normalisation.
#[derive(Debug)]
pub(super) struct NormWeights {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) output: Linear,
    pub(super) attention_norm: NormWeights,
    pub(super) up: Linear,
    pub(super) down: Linear,
    pub(super) norm: NormWeights,
}

#[derive(Debug)]
pub(super) struct EncoderWeights {
    /// `[vocab_size][n_dimensions]`
    pub(super) words: Vec<f32>,
    /// `[n_positions][n_dimensions]`
    pub(super) positions: Vec<f32>,
    /// Of the first type: there is one text.
    pub(super) kind: Vec<f32>,
    pub(super) norm: NormWeights,
    pub(super) layers: Vec<LayerWeights>,
}

/// Tensors by their name without the prefix that models with a head put in front.
struct Stored {
    files: Vec<SafetensorsFile>,
    prefix: &'static str,
}

/// Prefixes of names.
const PREFIXES: [&str; 3] = ["", "bert.", "roberta."];
/// The tensor that tells the prefix.
const WORDS: &str = "embeddings.word_embeddings.weight";

impl Stored {
    fn open(directory: &Path) -> Result<Self, ModelError> {
        let files = open_files(directory)?;
        let has = |prefix: &&str| {
            let name = format!("{prefix}{WORDS}");
            files.iter().any(|file| file.info(&name).is_some())
        };
        let prefix = PREFIXES.into_iter().find(|prefix| has(prefix));
        let prefix = prefix.ok_or_else(|| ModelError::tensor(directory, WORDS, "not there"))?;
        Ok(Self { files, prefix })
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let file = self.files.iter().find(|file| file.info(&name).is_some());
        let file = file.or(self.files.first());
        let Some(file) = file else {
            return Err(ModelError::input("there is no file of weights"));
        };
        if let Some(info) = file.info(&name)
            && info.shape != shape
        {
            let problem = format!("has shape {:?}, expected {shape:?}", info.shape);
            return Err(ModelError::tensor(file.path(), &name, problem));
        }
        file.read(&name)
    }

    fn linear(&self, name: &str, n_out: usize, n_in: usize) -> Result<Linear, ModelError> {
        Ok(Linear {
            weight: self.read(&format!("{name}.weight"), &[n_out, n_in])?,
            bias: self.read(&format!("{name}.bias"), &[n_out])?,
        })
    }

    fn norm(&self, name: &str, n: usize) -> Result<NormWeights, ModelError> {
        Ok(NormWeights {
            weight: self.read(&format!("{name}.weight"), &[n])?,
            bias: self.read(&format!("{name}.bias"), &[n])?,
        })
    }
}

impl EncoderWeights {
    pub(super) fn load(directory: &Path, config: &EncoderConfig) -> Result<Self, ModelError> {
        let stored = Stored::open(directory)?;
        let (n, inner) = (config.n_dimensions, config.n_inner);
        let mut layers = Vec::new();
        for idx in 0..config.n_layers {
            let of = |name: &str| format!("encoder.layer.{idx}.{name}");
            layers.push(LayerWeights {
                query: stored.linear(&of("attention.self.query"), n, n)?,
                key: stored.linear(&of("attention.self.key"), n, n)?,
                value: stored.linear(&of("attention.self.value"), n, n)?,
                output: stored.linear(&of("attention.output.dense"), n, n)?,
                attention_norm: stored.norm(&of("attention.output.LayerNorm"), n)?,
                up: stored.linear(&of("intermediate.dense"), inner, n)?,
                down: stored.linear(&of("output.dense"), n, inner)?,
                norm: stored.norm(&of("output.LayerNorm"), n)?,
            });
        }
        let kinds = "embeddings.token_type_embeddings.weight";
        let n_kinds = stored.files.iter().find_map(|file| {
            let info = file.info(&format!("{}{kinds}", stored.prefix))?;
            info.shape.first().copied()
        });
        let mut kind = stored.read(kinds, &[n_kinds.unwrap_or(1), n])?;
        kind.truncate(n);
        Ok(Self {
            words: stored.read(WORDS, &[config.vocab_size, n])?,
            positions: stored.read(
                "embeddings.position_embeddings.weight",
                &[config.n_positions, n],
            )?,
            kind,
            norm: stored.norm("embeddings.LayerNorm", n)?,
            layers,
        })
    }
}
