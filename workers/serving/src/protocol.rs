//! Requests and answers as OpenAI's API has them. What is not known is left aside, as its clients
//! send more from version to version.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Completion, FinishReason, Form, Message, Sampling, ServingError};

/// Tokens of an answer where the request does not tell.
const MAX_TOKENS: usize = 1024;

/// A request of either path.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub model: String,
    #[serde(default)]
    pub messages: Vec<Message>,
    #[serde(default)]
    pub prompt: Option<String>,
    #[serde(default)]
    temperature: Option<f32>,
    #[serde(default)]
    top_p: Option<f32>,
    #[serde(default)]
    max_tokens: Option<usize>,
    #[serde(default)]
    max_completion_tokens: Option<usize>,
    #[serde(default)]
    seed: Option<u64>,
    #[serde(default)]
    stop: Option<StopTexts>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    n: Option<u32>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    logprobs: Option<Value>,
    #[serde(default)]
    response_format: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum StopTexts {
    One(String),
    Several(Vec<String>),
}

impl Request {
    /// How tokens are drawn; `seed` is for requests that name none.
    pub(crate) fn sampling(&self, seed: u64) -> Sampling {
        let stop = match &self.stop {
            None => Vec::new(),
            Some(StopTexts::One(text)) => vec![text.clone()],
            Some(StopTexts::Several(texts)) => texts.clone(),
        };
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        Sampling {
            temperature: self.temperature.unwrap_or(1.0).max(0.0),
            top_p: self.top_p.unwrap_or(1.0),
            max_tokens: max_tokens.unwrap_or(MAX_TOKENS),
            seed: self.seed.unwrap_or(seed),
            stop: stop.into_iter().filter(|text| !text.is_empty()).collect(),
        }
    }

    /// The form of the answer, if it is to have one.
    pub(crate) fn form(&self) -> Result<Option<Form>, ServingError> {
        let Some(format) = &self.response_format else {
            return Ok(None);
        };
        let schema = match format["type"].as_str() {
            None | Some("text") => return Ok(None),
            Some("json_schema") => &format["json_schema"]["schema"],
            Some("json_object") => &format["schema"],
            Some(other) => {
                let problem = format!("the type {other:?} is not supported");
                return Err(ServingError::Schema(problem));
            }
        };
        Form::of(schema).map(Some)
    }

    /// What it asks for that is not there.
    pub(crate) fn unsupported(&self) -> Option<&'static str> {
        let says =
            |value: &Option<Value>| !matches!(value, None | Some(Value::Null | Value::Bool(false)));
        let asks = [
            (self.stream == Some(true), "stream"),
            (self.n.is_some_and(|n| n != 1), "n"),
            (self.echo == Some(true), "echo"),
            (says(&self.logprobs), "logprobs"),
        ];
        asks.into_iter()
            .find_map(|(is_asked, name)| is_asked.then_some(name))
    }
}

/// A completion, as the answer to a chat or to a text.
pub(crate) fn answer(model: &str, completion: &Completion, is_chat: bool, id: u64) -> Value {
    let finish_reason = match completion.finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    };
    let text = &completion.text;
    let (id, object, choice) = if is_chat {
        let message = json!({ "role": "assistant", "content": text });
        let choice = json!({ "index": 0, "message": message, "finish_reason": finish_reason });
        (format!("chatcmpl-{id:016x}"), "chat.completion", choice)
    } else {
        let choice = json!({ "index": 0, "text": text, "finish_reason": finish_reason });
        (format!("cmpl-{id:016x}"), "text_completion", choice)
    };
    json!({
        "id": id,
        "object": object,
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": completion.prompt_tokens,
            "completion_tokens": completion.completion_tokens,
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    })
}

/// An error in the form that clients read.
pub(crate) fn error(message: &str, kind: &str, code: Option<&str>) -> Value {
    json!({ "error": { "message": message, "type": kind, "code": code } })
}
