//! A request with everything that its answer depends on, and the hash of that.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical::CanonicalRequest;

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// What the model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Messages, for `/chat/completions`.
    Chat(Vec<ChatMessage>),
    /// A text to go on with, for `/completions`.
    Text(String),
}

/// Parameters of sampling.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// 0 takes the likeliest token each time.
    pub temperature: f64,
    /// Only the likeliest tokens up to this probability.
    pub top_p: Option<f64>,
    /// Longest completion.
    pub max_tokens: u32,
    /// Seed, where the server heeds one.
    pub seed: Option<u64>,
    /// Texts that end a completion.
    pub stop: Vec<String>,
    /// Further parameters, sent as they are.
    pub extra: BTreeMap<String, Value>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: None,
            max_tokens: 1024,
            seed: None,
            stop: Vec::new(),
            extra: BTreeMap::new(),
        }
    }
}

/// The schema that the answer should have.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseSchema {
    /// Letters, digits and underscores.
    pub name: String,
    /// JSON Schema.
    pub schema: Value,
}

/// Everything that an answer depends on, apart from the endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// What the model is given.
    pub prompt: Prompt,
    /// How it samples.
    pub parameters: Parameters,
    /// The form of the answer.
    pub schema: Option<ResponseSchema>,
    /// What it is asked for: requests of two purposes are never the same.
    pub stage: String,
    /// Which one of several answers to the same question.
    pub sample: u32,
    /// Another model of the same server than the endpoint's.
    pub model: Option<String>,
}

/// Tokens that a request takes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBound {
    /// Of the prompt: a token has at least one byte.
    pub prompt: u64,
    /// Of the completion.
    pub completion: u64,
}

/// A hash of everything that an answer depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKey(pub(crate) [u8; 32]);

/// As 64 hexadecimal digits.
impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestKey({self})")
    }
}

impl CompletionRequest {
    /// Its key at an endpoint. Neither worker nor attempt, key, deadlines, concurrency or the
    /// dialect of schemas are in it.
    #[must_use]
    pub fn key(&self, url: &str, model: &str) -> RequestKey {
        self.canonical().key(url, model)
    }

    /// The model that is asked, at an endpoint of `model`.
    #[must_use]
    pub fn model_or<'a>(&'a self, model: &'a str) -> &'a str {
        self.model.as_deref().unwrap_or(model)
    }

    /// The request as JSON with sorted keys and all defaults.
    #[must_use]
    pub fn canonical(&self) -> CanonicalRequest {
        CanonicalRequest::of(self)
    }
}
