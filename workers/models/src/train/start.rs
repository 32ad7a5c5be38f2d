//! What a training starts from: new weights, or a given model.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use serde_json::Value;

use super::parameters::Places;
use super::{Size, TrainError, TrainedTokenizer};
use crate::{Architecture, ModelDirectory, ModelError, Part, Tokenizer};

/// Files of a model directory that go into the trained model as they are.
const KEPT_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
];

/// A model to train: its description, its weights, and the files beside them.
#[derive(Debug)]
pub struct Start {
    pub(crate) architecture: Architecture,
    pub(crate) weights: Vec<f32>,
    /// `config.json`, `tokenizer.json` and so on: all files but the weights.
    pub(crate) files: Vec<(String, Bytes)>,
    tokenizer: Tokenizer,
    eos_id: u32,
}

impl Start {
    /// A new model: its weights are a function of size, vocabulary and seed.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot be read back.
    pub fn scratch(
        size: Size,
        tokenizer: &TrainedTokenizer,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let shape = size.shape();
        let config = shape.config(tokenizer.tokenizer().n_ids());
        let config = Bytes::from(format!("{config:#}\n"));
        let architecture = Architecture::from_config(&config, Path::new("config.json"))?;
        let weights = Places::new(&architecture).initial(&architecture, seed);
        let mut files = vec![("config.json".to_owned(), config)];
        files.extend(tokenizer.files(shape.context));
        let generation = "{\n  \"bos_token_id\": 0,\n  \"eos_token_id\": 0\n}\n";
        files.push(("generation_config.json".to_owned(), Bytes::from(generation)));
        Ok(Self {
            architecture,
            weights,
            files,
            tokenizer: Tokenizer::from_bytes(tokenizer.json(), Path::new("tokenizer.json"))?,
            eos_id: 0,
        })
    }

    /// A given model: what is trained has its family, its config and its tokenizer; weights become
    /// f32. `eos` names the token that joins documents where the directory names none.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read, or has no end-of-sequence token.
    pub fn directory(path: &Path, eos: Option<&str>) -> Result<Self, TrainError> {
        let directory = ModelDirectory::open(path)?;
        let eos_id = directory.eos_id(eos)?;
        let architecture = directory.architecture().clone();
        let weights = Places::new(&architecture).read(|slot| directory.read(slot))?;
        let files = files(path, &needed(path, "config.json")?)?;
        let tokenizer = Tokenizer::open(&path.join("tokenizer.json"))?;
        Ok(Self {
            architecture,
            weights,
            files,
            tokenizer,
            eos_id,
        })
    }

    /// New weights for a model of any supported family: `config` is its `config.json`, which names
    /// the end-of-sequence token by `eos_token_id`; `folder` has its `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the family is not supported, the tokenizer cannot be read or does not fit, or no
    /// end-of-sequence token is named.
    pub fn new_weights(config: &[u8], folder: &Path, seed: u64) -> Result<Self, TrainError> {
        let config_path = folder.join("config.json");
        let architecture = Architecture::from_config(config, &config_path)?;
        let json = needed(folder, "tokenizer.json")?;
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(&json, &tokenizer_path)?;
        let (n_ids, vocab_size) = (tokenizer.n_ids(), architecture.vocab_size);
        if n_ids > vocab_size {
            let problem = format!("has {n_ids} tokens where config.json tells of {vocab_size}");
            return Err(ModelError::Tokenizer {
                path: tokenizer_path,
                problem,
            }
            .into());
        }
        let no_eos = || ModelError::NoEos {
            directory: folder.to_owned(),
        };
        let value: Value = serde_json::from_slice(config)
            .map_err(|e| ModelError::malformed(&config_path, format!("not JSON: {e}")))?;
        let eos_id = value.get("eos_token_id").and_then(Value::as_u64);
        let eos_id = eos_id
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(no_eos)?;
        let files = files(folder, config)?;
        Ok(Self {
            weights: Places::new(&architecture).initial(&architecture, seed),
            architecture,
            files,
            tokenizer,
            eos_id,
        })
    }

    /// The same model with a head of its own, which may be trained while the embedding that it was stays
    /// as it is.
    pub(crate) fn untied(mut self) -> Result<Self, TrainError> {
        if !self.architecture.tied_head {
            return Ok(self);
        }
        let tied = Places::new(&self.architecture);
        self.architecture = self.architecture.untied();
        let at = |layer, part| {
            let place = tied.find(layer, part);
            place.map_or(Vec::new(), |place| self.weights[place].to_vec())
        };
        self.weights = Places::new(&self.architecture).read(|slot| {
            Ok(match slot.part {
                Part::Head => at(None, Part::Embedding),
                part => at(slot.layer, part),
            })
        })?;
        for (name, bytes) in &mut self.files {
            if name == "config.json" {
                let tells = ("tie_word_embeddings", Value::from(false));
                *bytes = changed(bytes, Path::new(name), None, tells)?;
            }
        }
        Ok(self)
    }

    /// What encodes the texts to train on.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The token that joins documents.
    #[must_use]
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }

    /// What the model computes.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }
}

/// All files of a directory but the weights, its config telling of f32.
fn files(folder: &Path, config: &[u8]) -> Result<Vec<(String, Bytes)>, TrainError> {
    let config = in_f32(config, &folder.join("config.json"))?;
    let mut files = vec![("config.json".to_owned(), config)];
    for name in KEPT_FILES {
        if let Some(bytes) = maybe(folder, name)? {
            files.push((name.to_owned(), bytes));
        }
    }
    Ok(files)
}

/// A `config.json` that tells of weights in f32.
fn in_f32(config: &[u8], path: &Path) -> Result<Bytes, TrainError> {
    changed(
        config,
        path,
        Some("torch_dtype"),
        ("dtype", Value::from("float32")),
    )
}

/// A JSON object without one key, and with another one.
fn changed(
    config: &[u8],
    path: &Path,
    without: Option<&str>,
    (key, value): (&str, Value),
) -> Result<Bytes, TrainError> {
    let mut config: Value = serde_json::from_slice(config)
        .map_err(|e| ModelError::malformed(path, format!("not JSON: {e}")))?;
    if let Some(map) = config.as_object_mut() {
        if let Some(without) = without {
            map.remove(without);
        }
        map.insert(key.to_owned(), value);
    }
    Ok(Bytes::from(format!("{config:#}\n")))
}

fn needed(directory: &Path, name: &str) -> Result<Bytes, TrainError> {
    let missing = || ModelError::Missing {
        directory: directory.to_owned(),
        what: name.to_owned(),
    };
    Ok(maybe(directory, name)?.ok_or_else(missing)?)
}

fn maybe(directory: &Path, name: &str) -> Result<Option<Bytes>, TrainError> {
    let path = directory.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::read(&path, e).into()),
    }
}
