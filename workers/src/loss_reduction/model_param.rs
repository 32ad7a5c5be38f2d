//! A model as the job file names it: a text, or a server.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::rows::{CONDITIONAL, PRIOR};
use crate::generation::EndpointIdentity;

/// A model of the stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ModelParam {
    /// An earlier stage that trains one, a directory in the Hugging Face layout, `train(SIZE)` or
    /// `continue(MODEL, DATASET)`.
    Text(String),
    /// A model that a server computes.
    Server(ServerParam),
}

/// A model that a server computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerParam {
    /// Name of an entry of `endpoints`; its server must tell log-probabilities of prompts.
    pub endpoint: String,
    /// Another model of that server than the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How the server is asked for them.
    #[serde(default, skip_serializing_if = "LogProbabilities::is_auto")]
    pub log_probabilities: LogProbabilities,
}

/// How a server is asked for the log-probabilities of a prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogProbabilities {
    /// The first of the others that the server knows.
    #[default]
    Auto,
    /// `prompt_logprobs` (vLLM).
    PromptLogprobs,
    /// `echo` with `logprobs` (OpenAI's legacy completions, llama-cpp-python, SGLang, vLLM).
    Echo,
}

impl LogProbabilities {
    fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// Untagged enums tell nothing of what is wrong inside a variant.
impl<'de> Deserialize<'de> for ModelParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Model;
        impl<'de> Visitor<'de> for Model {
            type Value = ModelParam;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a stage, a directory, `train(SIZE)`, `continue(MODEL, DATASET)`, or \
                     `{endpoint: NAME}`",
                )
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<ModelParam, E> {
                Ok(ModelParam::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ModelParam, A::Error> {
                ServerParam::deserialize(MapAccessDeserializer::new(map)).map(ModelParam::Server)
            }
        }
        deserializer.deserialize_any(Model)
    }
}

/// A server's model as rows depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServedModel {
    pub(crate) endpoint: EndpointIdentity,
    /// Where it is another one than the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    pub(crate) log_probabilities: LogProbabilities,
}

/// What a model's text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ModelName {
    /// An earlier stage of the job.
    Stage(String),
    /// A directory.
    Directory(String),
    /// `train(SIZE)`
    Train(String),
    /// `continue(MODEL, DATASET)`
    Continue(String, String),
    /// A server.
    Server(ServedModel),
}

impl ModelName {
    /// What a text means by itself; `None` if a call has other arguments than it takes.
    pub(super) fn of(text: &str) -> Option<Self> {
        let call = |name: &str| {
            let arguments = text.trim().strip_prefix(name)?.trim_start();
            let arguments = arguments.strip_prefix('(')?.strip_suffix(')')?;
            Some(arguments.split(',').map(str::trim).collect::<Vec<_>>())
        };
        if let Some(arguments) = call("train") {
            let [size] = arguments[..] else { return None };
            return Some(Self::Train(size.to_owned()));
        }
        if let Some(arguments) = call("continue") {
            let [model, dataset] = arguments[..] else {
                return None;
            };
            return Some(Self::Continue(model.to_owned(), dataset.to_owned()));
        }
        Some(Self::Directory(text.to_owned()))
    }

    /// The server, if it is one.
    pub(super) fn server(&self) -> Option<&ServedModel> {
        match self {
            Self::Server(server) => Some(server),
            _ => None,
        }
    }
}

/// Where the job file names a model of stage `name`.
pub(super) fn place_of(name: &str, model: &str) -> String {
    format!("stages.{name}.{}", key_of(model))
}

/// The key of a model below its stage.
pub(super) fn key_of(model: &str) -> String {
    match model {
        PRIOR | CONDITIONAL => model.to_owned(),
        _ => format!("models.{model}"),
    }
}
