//! A directory with a model: `config.json`, `tokenizer.json`, one safetensors file or several.
//!
//! 1. [`ModelDirectory::open`] reads the small files and the headers of the large ones, and checks
//!    that every weight of the architecture is there with its shape, and that the tokenizer fits.
//! 2. [`ModelDirectory::read`] reads one weight as f32 in the layout that all families share.
//!
//! It never maps files into memory, and never reads a weight before it is asked for.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::architecture::Architecture;
use crate::parts::{Slot, Stored};
use crate::safetensors_file::{SafetensorsFile, check_dtype};
use crate::{ModelError, Tokenizer};

/// A model directory that was opened and checked.
#[derive(Debug)]
pub struct ModelDirectory {
    path: PathBuf,
    architecture: Architecture,
    tokenizer: Tokenizer,
    eos_id: Option<u32>,
    files: Vec<SafetensorsFile>,
    /// Of each stored tensor, the file that has it.
    file_of: HashMap<String, usize>,
}

impl ModelDirectory {
    /// Opens a directory and checks everything but the values of weights.
    ///
    /// # Errors
    ///
    /// If a file is missing or damaged, if the architecture is not supported, if a weight is
    /// missing, superfluous or of another shape or type, or if the tokenizer has ids that the
    /// model has not.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let config = needed(path, "config.json")?;
        let config_path = path.join("config.json");
        let architecture = Architecture::from_config(&config, &config_path)?;
        let tokenizer_path = path.join("tokenizer.json");
        let tokenizer = Tokenizer::from_bytes(&needed(path, "tokenizer.json")?, &tokenizer_path)?;
        if tokenizer.n_ids() > architecture.vocab_size {
            return Err(ModelError::Tokenizer {
                path: tokenizer_path,
                problem: format!(
                    "has ids up to {}, the model knows {} tokens: it does not belong to the model",
                    tokenizer.n_ids() - 1,
                    architecture.vocab_size,
                ),
            });
        }
        let eos_id = eos_id(path, &config, &tokenizer)?;
        let files = open_files(path)?;
        let mut file_of = HashMap::new();
        for (file_idx, file) in files.iter().enumerate() {
            file_of.extend(file.names().into_iter().map(|name| (name, file_idx)));
        }
        let directory = Self {
            path: path.to_owned(),
            architecture,
            tokenizer,
            eos_id,
            files,
            file_of,
        };
        directory.check_tensors()?;
        Ok(directory)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model computes.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// What there is to know without the weights.
    #[must_use]
    pub fn into_parts(self) -> (Architecture, Tokenizer) {
        (self.architecture, self.tokenizer)
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The id of the token that ends (and, in scoring, starts) a document: `named`, or what the
    /// directory says.
    ///
    /// # Errors
    ///
    /// If `named` is no token of the model, or none is named anywhere.
    pub fn eos_id(&self, named: Option<&str>) -> Result<u32, ModelError> {
        match named {
            Some(token) => self.tokenizer.id_of(token).ok_or_else(|| {
                let path = self.path.display();
                ModelError::input(format!("{token:?} is no token of the model in {path}"))
            }),
            None => self.eos_id.ok_or_else(|| ModelError::NoEos {
                directory: self.path.clone(),
            }),
        }
    }

    /// Reads one weight as f32, row-major in the shape of its slot.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a value is infinite or not a number.
    pub fn read(&self, slot: &Slot) -> Result<Vec<f32>, ModelError> {
        let stored = self.architecture.stored(slot);
        let (file, name) = self.find(&stored)?;
        let values = file.read(&name)?;
        let head_dim = self.architecture.head_dim;
        Ok(stored.layout.load(values, &stored.shape, head_dim))
    }

    /// The file and the name it uses: with the family's prefix or without.
    fn find(&self, stored: &Stored) -> Result<(&SafetensorsFile, String), ModelError> {
        let bare = stored.name.strip_prefix(self.architecture.prefix());
        for name in [Some(stored.name.as_str()), bare].into_iter().flatten() {
            if let Some(&file_idx) = self.file_of.get(name) {
                return Ok((&self.files[file_idx], name.to_owned()));
            }
        }
        let problem = "not there: the files are not those of this config.json";
        Err(ModelError::tensor(&self.path, &stored.name, problem))
    }

    fn check_tensors(&self) -> Result<(), ModelError> {
        let mut used = BTreeSet::new();
        for slot in self.architecture.slots() {
            let stored = self.architecture.stored(&slot);
            let (file, name) = self.find(&stored)?;
            let Some(info) = file.info(&name) else {
                return Err(ModelError::tensor(file.path(), &name, "not there"));
            };
            if info.shape != stored.shape {
                let problem = format!("of shape {:?}, expected {:?}", info.shape, stored.shape);
                return Err(ModelError::tensor(file.path(), &name, problem));
            }
            check_dtype(info.dtype)
                .map_err(|problem| ModelError::tensor(file.path(), &name, problem))?;
            used.insert(name);
        }
        let superfluous = self.file_of.iter().filter(|(name, _)| {
            !used.contains(name.as_str()) && !self.architecture.is_ignored(name)
        });
        if let Some((name, &file_idx)) = superfluous.min() {
            let problem = "no part of the architecture that config.json describes";
            return Err(ModelError::tensor(
                self.files[file_idx].path(),
                name,
                problem,
            ));
        }
        Ok(())
    }
}

fn needed(directory: &Path, name: &str) -> Result<Vec<u8>, ModelError> {
    maybe(directory, name)?.ok_or_else(|| ModelError::Missing {
        directory: directory.to_owned(),
        what: name.to_owned(),
    })
}

fn maybe(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    let path = directory.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ModelError::read(&path, e)),
    }
}

pub(crate) fn open_files(directory: &Path) -> Result<Vec<SafetensorsFile>, ModelError> {
    const INDEX: &str = "model.safetensors.index.json";
    let single = directory.join("model.safetensors");
    if single.exists() {
        return Ok(vec![SafetensorsFile::open(&single)?]);
    }
    let Some(index) = maybe(directory, INDEX)? else {
        return Err(ModelError::Missing {
            directory: directory.to_owned(),
            what: "model.safetensors".to_owned(),
        });
    };
    let path = directory.join(INDEX);
    let index: Value = serde_json::from_slice(&index)
        .map_err(|e| ModelError::malformed(&path, format!("not JSON: {e}")))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| ModelError::malformed(&path, "no object weight_map"))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let plain = name.as_str().filter(|name| !name.contains(['/', '\\']));
        let Some(name) = plain else {
            let problem = format!("weight_map names {name}, expected a file beside it");
            return Err(ModelError::malformed(&path, problem));
        };
        names.insert(name);
    }
    let open = |name: &str| match SafetensorsFile::open(&directory.join(name)) {
        Err(ModelError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(ModelError::Missing {
                directory: directory.to_owned(),
                what: name.to_owned(),
            })
        }
        result => result,
    };
    names.into_iter().map(open).collect()
}

/// From config.json, else generation_config.json, else tokenizer_config.json. Of several ids the
/// first counts.
fn eos_id(
    directory: &Path,
    config: &[u8],
    tokenizer: &Tokenizer,
) -> Result<Option<u32>, ModelError> {
    let id_in = |bytes: &[u8]| {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let id = json.get("eos_token_id")?;
        let id = id.as_array().map_or(Some(id), |ids| ids.first())?;
        id.as_u64().and_then(|id| u32::try_from(id).ok())
    };
    let mut id = id_in(config);
    if id.is_none() {
        let generation = maybe(directory, "generation_config.json")?;
        id = generation.as_deref().and_then(id_in);
    }
    if id.is_none() {
        let settings = maybe(directory, "tokenizer_config.json")?.unwrap_or_default();
        let json: Option<Value> = serde_json::from_slice(&settings).ok();
        let token = json.as_ref().and_then(|json| json.get("eos_token"));
        let token = token.map(|token| token.get("content").unwrap_or(token));
        id = token
            .and_then(Value::as_str)
            .and_then(|t| tokenizer.id_of(t));
    }
    Ok(id)
}
