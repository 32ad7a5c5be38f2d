//! A request with everything that its answer depends on, and the hash of that.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Raised when the same request would be keyed in another way.
const KEY_VERSION: u32 = 1;
/// Tokens that a server puts around each message, at most.
const TOKENS_PER_MESSAGE: u64 = 16;

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
pub struct RequestKey([u8; 32]);

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
        let mut value = self.expanded();
        value["version"] = json!(KEY_VERSION);
        value["url"] = json!(url.trim_end_matches('/'));
        value["model"] = json!(self.model_or(model));
        let mut text = String::new();
        write_canonical(&value, &mut text);
        RequestKey(*blake3::hash(text.as_bytes()).as_bytes())
    }

    /// The model that is asked, at an endpoint of `model`.
    #[must_use]
    pub fn model_or<'a>(&'a self, model: &'a str) -> &'a str {
        self.model.as_deref().unwrap_or(model)
    }

    /// The request as JSON with sorted keys and all defaults, for people and for the record.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        let mut text = String::new();
        write_canonical(&self.expanded(), &mut text);
        text
    }

    fn expanded(&self) -> Value {
        let Parameters {
            temperature,
            top_p,
            max_tokens,
            seed,
            stop,
            extra,
        } = &self.parameters;
        let (kind, prompt) = match &self.prompt {
            Prompt::Chat(messages) => ("chat", json!(messages)),
            Prompt::Text(text) => ("completion", json!(text)),
        };
        let schema = self
            .schema
            .as_ref()
            .map(|it| json!({ "name": it.name, "schema": it.schema }));
        let mut value = json!({
            "kind": kind,
            "prompt": prompt,
            "parameters": {
                "temperature": temperature,
                "top_p": top_p,
                "max_tokens": max_tokens,
                "seed": seed,
                "stop": stop,
                "extra": extra,
            },
            "schema": schema,
            "stage": self.stage,
            "sample": self.sample,
        });
        if let Some(model) = &self.model {
            value["model"] = json!(model);
        }
        value
    }

    /// Tokens that it takes at most.
    #[must_use]
    pub fn token_bound(&self) -> TokenBound {
        let prompt = match &self.prompt {
            Prompt::Text(text) => text.len() as u64,
            Prompt::Chat(messages) => messages
                .iter()
                .map(|it| (it.content.len() + it.role.len()) as u64 + TOKENS_PER_MESSAGE)
                .sum(),
        };
        // Some servers put the schema into the prompt.
        let schema = self
            .schema
            .as_ref()
            .map_or(0, |it| it.schema.to_string().len() as u64);
        TokenBound {
            prompt: prompt + schema + TOKENS_PER_MESSAGE,
            completion: u64::from(self.parameters.max_tokens),
        }
    }
}

/// JSON without spaces and with sorted keys, whatever order a map keeps.
fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(entries) => {
            let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
            text.push('{');
            for (idx, (key, value)) in sorted.into_iter().enumerate() {
                if idx > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> CompletionRequest {
        CompletionRequest {
            prompt: Prompt::Chat(vec![ChatMessage {
                role: "user".to_owned(),
                content: "What is it?".to_owned(),
            }]),
            parameters: Parameters::default(),
            schema: Some(ResponseSchema {
                name: "answer".to_owned(),
                schema: json!({ "type": "object" }),
            }),
            stage: "queries".to_owned(),
            sample: 0,
            model: None,
        }
    }

    #[test]
    fn a_key_is_the_same_for_ever() {
        let key = request().key("http://host/v1/", "model");
        assert_eq!(key, request().key("http://host/v1", "model"));
        assert_eq!(
            request().canonical_json(),
            r#"{"kind":"chat","parameters":{"extra":{},"max_tokens":1024,"seed":null,"stop":[],"temperature":1.0,"top_p":null},"prompt":[{"content":"What is it?","role":"user"}],"sample":0,"schema":{"name":"answer","schema":{"type":"object"}},"stage":"queries"}"#
        );
    }

    #[test]
    fn whatever_the_answer_depends_on_is_in_the_key() {
        let key = request().key("http://host/v1", "model");
        let changed = |change: fn(&mut CompletionRequest)| {
            let mut request = request();
            change(&mut request);
            request.key("http://host/v1", "model")
        };
        let others = [
            request().key("http://host/v2", "model"),
            request().key("http://host/v1", "other"),
            changed(|it| it.prompt = Prompt::Text("What is it?".to_owned())),
            changed(|it| it.parameters.temperature = 0.5),
            changed(|it| it.parameters.top_p = Some(1.0)),
            changed(|it| it.parameters.max_tokens = 1),
            changed(|it| it.parameters.seed = Some(0)),
            changed(|it| it.parameters.stop = vec!["x".to_owned()]),
            changed(|it| {
                it.parameters.extra.insert("top_k".to_owned(), json!(1));
            }),
            changed(|it| it.schema = None),
            changed(|it| it.stage = "judge".to_owned()),
            changed(|it| it.sample = 1),
            changed(|it| it.model = Some("third".to_owned())),
        ];
        for (idx, other) in others.iter().enumerate() {
            assert_ne!(*other, key, "{idx}");
            assert_eq!(others.iter().filter(|it| *it == other).count(), 1, "{idx}");
        }
    }

    #[test]
    fn tokens_are_bounded_by_bytes() {
        let bound = request().token_bound();
        assert!(bound.prompt > "What is it?".len() as u64);
        assert_eq!(bound.completion, 1024);
    }
}
