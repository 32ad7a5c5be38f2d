//! What is known of a model before any task runs, and where its files are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gleaner_models::encoder::TextEncoder;
use gleaner_models::{Architecture, ModelDirectory, ModelError, ModelErrorKind, Tokenizer};
use gleaner_schemas::{ContentHash, Failure, FailureKind, SideInput, StoredFile};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{LocalCopies, Output};
use serde::{Deserialize, Serialize};

use crate::batch_columns::permanent;
use crate::forecast::{ExpectedModel, ExpectedTokenizer};
use crate::stage::SideTable;

/// Files of a model directory that are looked at; besides these, those that end in
/// `.safetensors`.
const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
const WEIGHTS: &str = ".safetensors";
/// The same of an encoder of texts.
const ENCODER_FILES: [&str; 7] = [
    "config.json",
    "model.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];
/// The folder in which sentence-transformers keep how vectors of tokens become one.
const POOLING: &str = "1_Pooling";

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Its name in the model's directory.
    pub name: String,
    /// Where it is.
    pub place: ModelPlace,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its bytes.
    pub content: ContentHash,
}

/// Where a file of a model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelPlace {
    /// At this key of the job's output.
    Path(String),
    /// At this absolute URI.
    Uri(String),
}

impl ModelFile {
    /// Its absolute URI; `uri_of` gives that of a key of the output.
    #[must_use]
    pub fn uri(&self, uri_of: impl Fn(&str) -> String) -> String {
        match &self.place {
            ModelPlace::Path(path) => uri_of(path),
            ModelPlace::Uri(uri) => uri.clone(),
        }
    }
}

/// What is known of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Its files.
    pub files: Vec<ModelFile>,
    /// Name of its architecture.
    pub architecture: String,
    /// Learned numbers.
    pub n_parameters: u64,
    /// Longest sequence, in tokens.
    pub context: u64,
    /// Rows of its embedding.
    pub vocabulary: u64,
    /// Layers.
    pub n_layers: u64,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Equal for tokenizers that give equal ids.
    pub tokenizer: String,
    /// The id of its end-of-sequence token, if its files tell it.
    pub eos_id: Option<u32>,
}

impl ModelFacts {
    /// What a description and a tokenizer tell.
    pub(crate) fn new(
        files: Vec<ModelFile>,
        architecture: &Architecture,
        tokenizer: &Tokenizer,
        eos_id: Option<u32>,
    ) -> Self {
        Self {
            files,
            architecture: architecture.family.name().to_owned(),
            n_parameters: architecture.n_parameters(),
            context: architecture.max_positions as u64,
            vocabulary: architecture.vocab_size as u64,
            n_layers: architecture.n_layers() as u64,
            hidden_size: architecture.hidden_size as u64,
            tokenizer: tokenizer.fingerprint().to_owned(),
            eos_id,
        }
    }

    /// The facts of a model whose files a stage has stored.
    pub(crate) fn of_stored(mut self, stored: &BTreeMap<String, StoredFile>) -> Self {
        let files = stored.iter().map(|(name, file)| ModelFile {
            name: name.clone(),
            place: ModelPlace::Path(file.path.clone()),
            bytes: file.bytes,
            content: file.checksum.clone(),
        });
        self.files = files.collect();
        self
    }

    /// Its files as side inputs below `prefix`.
    pub(crate) fn side_inputs(&self, prefix: &str) -> Vec<(String, SideTable)> {
        let files = self.files.iter().cloned();
        files
            .map(|file| {
                (
                    format!("{prefix}/{}", file.name),
                    SideTable::ModelFile(file),
                )
            })
            .collect()
    }
}

/// A model in a directory, as it is before a run.
#[derive(Debug)]
pub struct InspectedModel {
    /// What tasks need to know of it.
    pub facts: ModelFacts,
    /// What it computes.
    pub architecture: Architecture,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl InspectedModel {
    /// What stages expect of it.
    #[must_use]
    pub fn expected(&self) -> ExpectedModel {
        ExpectedModel {
            architecture: self.architecture.clone(),
            tokenizer: ExpectedTokenizer::Known(self.facts.tokenizer.clone()),
            has_eos: self.facts.eos_id.is_some(),
        }
    }
}

/// Looks at the model in a directory: its files are read and hashed, its weights not loaded.
///
/// # Errors
///
/// Of the reads; permanent if it is no model that Gleaner can run.
pub fn inspect(io: &BlockingIo, uri: &str) -> Result<InspectedModel, Failure> {
    let (hashed, path) = hashed(io, files_of(io, uri, &FILES)?)?;
    let directory = ModelDirectory::open(&path).map_err(|error| of_place(&error, &path, uri))?;
    let eos_id = directory.eos_id(None).ok();
    let (architecture, tokenizer) = directory.into_parts();
    Ok(InspectedModel {
        facts: ModelFacts::new(hashed, &architecture, &tokenizer, eos_id),
        architecture,
        tokenizer,
    })
}

/// Looks at an encoder of texts in a directory: it is loaded once, so that tasks need not find out
/// that it is none.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_encoder(io: &BlockingIo, uri: &str) -> Result<ModelFacts, Failure> {
    let mut files = files_of(io, uri, &ENCODER_FILES)?;
    let folder = Output::open(&io.stores, uri)?;
    let (_, pooling) = io.run(folder.children(POOLING))?;
    let pooling = pooling
        .into_iter()
        .filter(|object| object.path.ends_with("config.json"));
    files.extend(pooling.map(|object| {
        let uri = folder.uri_of(&object.path);
        (object.path, uri)
    }));
    let (hashed, path) = hashed(io, files)?;
    let encoder = TextEncoder::open(&path).map_err(|error| of_place(&error, &path, uri))?;
    let config = encoder.config();
    Ok(ModelFacts {
        files: hashed,
        architecture: "encoder".to_owned(),
        n_parameters: encoder.bytes() / 4,
        context: config.n_tokens_max as u64,
        vocabulary: config.vocab_size as u64,
        n_layers: config.n_layers as u64,
        hidden_size: config.n_dimensions as u64,
        tokenizer: encoder.tokenizer().fingerprint().to_owned(),
        eos_id: None,
    })
}

/// The failure of an error about `path`, a directory of links; the user knows the other one.
fn of_place(error: &ModelError, path: &Path, uri: &str) -> Failure {
    let failure = failure_of(error);
    let message = failure.message.replace(&path.display().to_string(), uri);
    Failure::new(failure.kind, message)
}

/// Names, places and hashes of files, and a local directory of them.
fn hashed(
    io: &BlockingIo,
    files: Vec<(String, String)>,
) -> Result<(Vec<ModelFile>, PathBuf), Failure> {
    let copies = LocalCopies::from_env();
    let mut hashed = Vec::new();
    for (name, uri) in files {
        let (content, bytes) = copies.identify(io, &uri)?;
        hashed.push(ModelFile {
            name,
            place: ModelPlace::Uri(uri),
            bytes,
            content,
        });
    }
    let inputs: Vec<SideInput> = hashed
        .iter()
        .map(|file| SideInput {
            name: file.name.clone(),
            uri: file.uri(str::to_owned),
            content: file.content.clone(),
        })
        .collect();
    let named: Vec<(&str, &SideInput)> = inputs
        .iter()
        .map(|input| (input.name.as_str(), input))
        .collect();
    let path = copies.directory(io, &named)?;
    Ok((hashed, path))
}

fn files_of(io: &BlockingIo, uri: &str, known: &[&str]) -> Result<Vec<(String, String)>, Failure> {
    let folder = Output::open(&io.stores, uri)?;
    let (_, objects) = io.run(folder.children(""))?;
    let files: Vec<(String, String)> = objects
        .into_iter()
        .filter(|object| known.contains(&object.path.as_str()) || object.path.ends_with(WEIGHTS))
        .map(|object| {
            let uri = folder.uri_of(&object.path);
            (object.path, uri)
        })
        .collect();
    if files.is_empty() {
        return Err(permanent(format!(
            "there is no model in {uri}: a model directory holds config.json, tokenizer.json and \
             model.safetensors"
        )));
    }
    Ok(files)
}

/// The failure that an error of a model is.
pub(crate) fn failure_of(error: &ModelError) -> Failure {
    Failure::new(
        failure_kind(error.kind()),
        gleaner_schemas::failure::error_chain(error),
    )
}

/// What to do about an error of a model.
pub(crate) fn failure_kind(kind: ModelErrorKind) -> FailureKind {
    match kind {
        ModelErrorKind::Permanent => FailureKind::Permanent,
        ModelErrorKind::Memory => FailureKind::Memory,
        ModelErrorKind::Transient => FailureKind::Transient,
    }
}
