//! A model in a worker's memory: loaded once, shared by its slots.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use gleaner_models::{
    CausalModel, DeviceModel, Encoded, LanguageModel as _, LoadOptions, MemoryNeed, ModelDirectory,
    ModelError, Tokenizer, WeightType, check_device, losses_together,
};
use gleaner_schemas::{Failure, FailureKind, Resource};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::facts::failure_of;
use crate::batch_columns::permanent;
use crate::stage::{Derived, SideInputs};

/// A model that is ready to score.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    directory: ModelDirectory,
    model: Model,
    /// What it takes, where it is on the processor.
    need: MemoryNeed,
}

#[derive(Debug)]
enum Model {
    OnProcessor(Box<CausalModel>),
    OnDevice(Box<DeviceModel>),
}

/// Numbers that a model computes with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32.
    Bf16,
    /// 16 bits of IEEE 754.
    F16,
}

/// Where a model computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// On the processor; on a GPU where the worker was built for it and has one.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On the GPU of this number.
    Cuda(usize),
}

impl Device {
    /// What a task on the device needs of its worker.
    pub(crate) fn resource(self) -> Resource {
        match self {
            Self::Auto | Self::Cpu => Resource::Cpu,
            Self::Cuda(_) => Resource::Accelerator,
        }
    }

    /// Whether models on it are on no processor here.
    pub(crate) fn is_accelerator(self) -> bool {
        self.name().is_some()
    }

    /// What the device is called, where it is no processor.
    fn name(self) -> Option<String> {
        match self {
            Self::Cpu => None,
            Self::Cuda(number) => Some(format!("cuda:{number}")),
            Self::Auto => has_accelerator().then(|| "cuda:0".to_owned()),
        }
    }
}

/// Whether this build computes on GPUs and there is one.
fn has_accelerator() -> bool {
    cfg!(feature = "cuda") && check_device("cuda:0").is_ok()
}

/// Says why tasks that need an accelerator cannot be computed here, if they cannot.
///
/// # Errors
///
/// In one sentence, with the remedy.
pub fn check_accelerator() -> Result<(), String> {
    check_device("cuda:0").map_err(|error| {
        format!(
            "{error}; build with `--features cuda`, start workers on machines with a GPU, or take \
             other tasks (`--resources cpu,network`)"
        )
    })
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok()),
        };
        let unknown = || format!("{text:?} is no device: write `auto`, `cpu` or `cuda:N`");
        number.map(Self::Cuda).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl JsonSchema for Device {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Where a model computes: `auto`, `cpu` or `cuda:N`.",
            "type": "string",
            "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$",
        })
    }
}

impl LoadedModel {
    /// Its tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        self.directory.tokenizer()
    }

    /// The token that ends a document: the one of that name, or what the model's files tell.
    pub(crate) fn eos_id(&self, named: Option<&str>) -> Result<u32, Failure> {
        self.directory
            .eos_id(named)
            .map_err(|error| failure_of(&error))
    }

    /// The losses of the same sequences under several models, by model.
    pub(crate) fn losses_together(
        models: &[Arc<Self>],
        sequences: &[&[u32]],
    ) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
        let on_processor: Option<Vec<&CausalModel>> = models
            .iter()
            .map(|model| match &model.model {
                Model::OnProcessor(model) => Some(model.as_ref()),
                Model::OnDevice(_) => None,
            })
            .collect();
        let losses = match on_processor {
            Some(models) => losses_together(&models, sequences),
            None => models.iter().map(|model| model.losses(sequences)).collect(),
        };
        losses.map_err(|error| failure_of(&error))
    }

    fn losses(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        match &self.model {
            Model::OnProcessor(model) => model.losses(sequences),
            Model::OnDevice(model) => model.losses(sequences),
        }
    }

    /// The first ids of texts, on the threads that models run on.
    pub(crate) fn encode(
        &self,
        texts: &[&str],
        n_ids_max: usize,
    ) -> Vec<Result<Encoded, ModelError>> {
        let encode = || self.tokenizer().encode_each(texts, n_ids_max);
        match &self.model {
            Model::OnProcessor(model) => model.pool().install(encode),
            Model::OnDevice(_) => encode(),
        }
    }

    /// Bytes of its weights, and of the buffers of one thread.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.need.bytes(1)
    }
}

/// How a model is loaded for losses.
pub(crate) fn load_options(
    dtype: Dtype,
    context: u32,
    memory_bytes_max: Option<u64>,
) -> LoadOptions {
    LoadOptions {
        weights: match dtype {
            Dtype::F32 => WeightType::F32,
            Dtype::Bf16 => WeightType::Bf16,
            Dtype::F16 => WeightType::F16,
        },
        context: Some(context as usize),
        memory_bytes_max,
        ..LoadOptions::default()
    }
}

/// The model whose files are the side inputs below `name`; loaded once per worker. `options` say
/// what it may take; one that was loaded already is taken as it is.
pub(crate) fn load(
    side_inputs: &dyn SideInputs,
    name: &str,
    device: Device,
    options: &LoadOptions,
) -> Result<Arc<LoadedModel>, Failure> {
    // What it may take changes no loss.
    let purpose = LoadOptions {
        memory_bytes_max: None,
        ..options.clone()
    };
    let purpose = format!("losses on {device} {purpose:?}");
    let derived = side_inputs.directory(name, &purpose, &mut |path| {
        let model = LoadedModel::read(path, device, options).map_err(|error| {
            let failure = failure_of(&error);
            // A smaller task needs the same memory.
            let kind = match failure.kind {
                FailureKind::Memory => FailureKind::Permanent,
                kind => kind,
            };
            Failure::new(kind, told_of(&failure.message, path, name))
        })?;
        let bytes = model.need.total_bytes();
        let value = Arc::new(model);
        Ok(Derived { value, bytes })
    })?;
    let loaded = derived.value.downcast::<LoadedModel>();
    loaded.map_err(|_| permanent(format!("the side input {name} is no model")))
}

/// What is said of the copy of a model in the directory `path`, said of the model itself.
pub(crate) fn told_of(message: &str, path: &Path, name: &str) -> String {
    let path = path.display().to_string();
    let message = message.replace(&format!("{path}/"), "");
    let message = message.replace(&path, "its directory");
    format!("the model {name}: {message}")
}

impl LoadedModel {
    fn read(path: &Path, device: Device, options: &LoadOptions) -> Result<Self, ModelError> {
        let directory = ModelDirectory::open(path)?;
        let (model, need) = match device.name() {
            Some(name) => {
                let model = DeviceModel::load(&directory, &name, options.weights)?;
                let nothing = MemoryNeed {
                    weights_bytes: 0,
                    working_bytes_per_thread: 0,
                    n_threads: 1,
                };
                (Model::OnDevice(Box::new(model)), nothing)
            }
            None => {
                let need = directory.memory(options)?;
                (Model::OnProcessor(Box::new(directory.load(options)?)), need)
            }
        };
        Ok(Self {
            directory,
            model,
            need,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_model_is_told_of_as_the_model() {
        let check = |message: &str, expected: &str| {
            assert_eq!(told_of(message, Path::new("/cache/0af"), "prior"), expected);
        };
        check(
            "tensor a of /cache/0af/model.safetensors: value 3 is NaN",
            "the model prior: tensor a of model.safetensors: value 3 is NaN",
        );
        check(
            "nothing in /cache/0af",
            "the model prior: nothing in its directory",
        );
    }
}
