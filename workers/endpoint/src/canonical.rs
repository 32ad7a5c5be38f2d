//! A request as JSON with sorted keys and all defaults: the one form that its key, the bound of its
//! tokens and the record of it are made from.

use serde::Serialize;
use serde_json::Value;

use crate::request::{CompletionRequest, Prompt, RequestKey, TokenBound};

/// Raised when the same request would be keyed in another way.
const KEY_VERSION: u32 = 1;
/// Tokens that a server puts around each message, at most.
const TOKENS_PER_MESSAGE: u64 = 16;

/// A request as JSON with sorted keys and all defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalRequest {
    text: String,
    /// Where an endpoint's model belongs, if the request names none.
    model_at: Option<usize>,
    bound: TokenBound,
}

impl CanonicalRequest {
    pub(crate) fn of(request: &CompletionRequest) -> Self {
        let mut text = Vec::with_capacity(4096);
        let mut prompt_tokens = TOKENS_PER_MESSAGE;
        text.extend_from_slice(match request.prompt {
            Prompt::Chat(_) => b"{\"kind\":\"chat\",",
            Prompt::Text(_) => b"{\"kind\":\"completion\",",
        });
        let model_at = match &request.model {
            Some(model) => {
                push_entry(&mut text, "model", model);
                text.push(b',');
                None
            }
            None => Some(text.len()),
        };
        push_parameters(&mut text, request);
        text.extend_from_slice(b",\"prompt\":");
        match &request.prompt {
            Prompt::Chat(messages) => {
                text.push(b'[');
                for (idx, message) in messages.iter().enumerate() {
                    text.extend_from_slice(if idx > 0 { b",{" } else { b"{" });
                    push_entry(&mut text, "content", &message.content);
                    text.push(b',');
                    push_entry(&mut text, "role", &message.role);
                    text.push(b'}');
                    let bytes = message.content.len() + message.role.len();
                    prompt_tokens += bytes as u64 + TOKENS_PER_MESSAGE;
                }
                text.push(b']');
            }
            Prompt::Text(prompt) => {
                push(&mut text, prompt);
                prompt_tokens += prompt.len() as u64;
            }
        }
        text.push(b',');
        push_entry(&mut text, "sample", &request.sample);
        text.extend_from_slice(b",\"schema\":");
        match &request.schema {
            Some(schema) => {
                text.push(b'{');
                push_entry(&mut text, "name", &schema.name);
                text.extend_from_slice(b",\"schema\":");
                let start = text.len();
                push_canonical(&mut text, &schema.schema);
                // Some servers put the schema into the prompt.
                prompt_tokens += (text.len() - start) as u64;
                text.push(b'}');
            }
            None => text.extend_from_slice(b"null"),
        }
        text.push(b',');
        push_entry(&mut text, "stage", &request.stage);
        text.push(b'}');
        Self {
            // Every part of it is text.
            text: String::from_utf8(text).unwrap_or_default(),
            model_at,
            bound: TokenBound {
                prompt: prompt_tokens,
                completion: u64::from(request.parameters.max_tokens),
            },
        }
    }

    /// The JSON, for people and for the record.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Tokens that the request takes at most.
    #[must_use]
    pub fn token_bound(&self) -> TokenBound {
        self.bound
    }

    /// The key of the request at an endpoint.
    #[must_use]
    pub fn key(&self, url: &str, model: &str) -> RequestKey {
        let bytes = self.text.as_bytes();
        let (before, after) = bytes.split_at(self.model_at.unwrap_or(0));
        let mut named = Vec::new();
        if self.model_at.is_some() {
            push_entry(&mut named, "model", &model);
            named.push(b',');
        }
        let mut end = vec![b','];
        push_entry(&mut end, "url", &url.trim_end_matches('/'));
        end.push(b',');
        push_entry(&mut end, "version", &KEY_VERSION);
        end.push(b'}');
        let mut hasher = blake3::Hasher::new();
        let after = after.strip_suffix(b"}").unwrap_or(after);
        for part in [before, named.as_slice(), after, end.as_slice()] {
            hasher.update(part);
        }
        RequestKey(*hasher.finalize().as_bytes())
    }
}

fn push_parameters(text: &mut Vec<u8>, request: &CompletionRequest) {
    let parameters = &request.parameters;
    text.extend_from_slice(b"\"parameters\":{\"extra\":{");
    for (idx, (key, value)) in parameters.extra.iter().enumerate() {
        if idx > 0 {
            text.push(b',');
        }
        push(text, key);
        text.push(b':');
        push_canonical(text, value);
    }
    text.extend_from_slice(b"},");
    push_entry(text, "max_tokens", &parameters.max_tokens);
    text.push(b',');
    push_entry(text, "seed", &parameters.seed);
    text.push(b',');
    push_entry(text, "stop", &parameters.stop);
    text.push(b',');
    push_entry(text, "temperature", &parameters.temperature);
    text.push(b',');
    push_entry(text, "top_p", &parameters.top_p);
    text.push(b'}');
}

/// Appends a value as JSON. What requests are made of can always be written.
pub(crate) fn push<T: Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) {
    if serde_json::to_writer(&mut *text, value).is_err() {
        text.extend_from_slice(b"null");
    }
}

/// Appends a key and its value.
pub(crate) fn push_entry<T: Serialize + ?Sized>(text: &mut Vec<u8>, key: &str, value: &T) {
    push(text, key);
    text.push(b':');
    push(text, value);
}

/// JSON without spaces and with sorted keys, whatever order a map keeps.
fn push_canonical(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Object(entries) => {
            let mut sorted: Vec<(&String, &Value)> = entries.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            text.push(b'{');
            for (idx, (key, value)) in sorted.into_iter().enumerate() {
                if idx > 0 {
                    text.push(b',');
                }
                push(text, key);
                text.push(b':');
                push_canonical(text, value);
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (idx, item) in items.iter().enumerate() {
                if idx > 0 {
                    text.push(b',');
                }
                push_canonical(text, item);
            }
            text.push(b']');
        }
        other => push(text, other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::request::{ChatMessage, Parameters, ResponseSchema};

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
        assert_eq!(key, reference_key(&request(), "http://host/v1", "model"));
        assert_eq!(
            request().canonical().as_str(),
            r#"{"kind":"chat","parameters":{"extra":{},"max_tokens":1024,"seed":null,"stop":[],"temperature":1.0,"top_p":null},"prompt":[{"content":"What is it?","role":"user"}],"sample":0,"schema":{"name":"answer","schema":{"type":"object"}},"stage":"queries"}"#
        );
    }

    /// The key as it is defined: of a value with sorted keys.
    fn reference_key(request: &CompletionRequest, url: &str, model: &str) -> RequestKey {
        let Parameters {
            temperature,
            top_p,
            max_tokens,
            seed,
            stop,
            extra,
        } = &request.parameters;
        let (kind, prompt) = match &request.prompt {
            Prompt::Chat(messages) => ("chat", json!(messages)),
            Prompt::Text(text) => ("completion", json!(text)),
        };
        let schema = request.schema.as_ref();
        let value = json!({
            "version": 1, "url": url, "model": request.model_or(model), "kind": kind,
            "prompt": prompt, "stage": request.stage, "sample": request.sample,
            "schema": schema.map(|it| json!({ "name": it.name, "schema": it.schema })),
            "parameters": {
                "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens,
                "seed": seed, "stop": stop, "extra": extra,
            },
        });
        let mut text = Vec::new();
        push_canonical(&mut text, &value);
        RequestKey(*blake3::hash(&text).as_bytes())
    }

    #[test]
    fn a_key_is_that_of_sorted_json() {
        let check = |change: fn(&mut CompletionRequest)| {
            let mut request = request();
            change(&mut request);
            let url = "https://host/\u{e9}?a=\"b\"";
            let expected = reference_key(&request, url, "a \"model\"");
            assert_eq!(request.key(url, "a \"model\""), expected, "{request:?}");
            let text: Value = serde_json::from_str(request.canonical().as_str()).expect("JSON");
            assert_eq!(text["sample"], request.sample);
            assert_eq!(text.get("model").is_some(), request.model.is_some());
        };
        check(|_| {});
        check(|it| it.model = Some("third".to_owned()));
        check(|it| it.prompt = Prompt::Text("\u{1f469} \n\t\\ \"\u{0}".to_owned()));
        check(|it| it.schema = None);
        check(|it| it.stage = "a \"stage\"".to_owned());
        check(|it| {
            it.parameters = Parameters {
                temperature: 1e-7,
                top_p: Some(0.1 + 0.2),
                max_tokens: u32::MAX,
                seed: Some(u64::MAX),
                stop: vec!["\n".to_owned(), String::new()],
                extra: [
                    ("z", json!({ "b": [1, 2.5], "a": null })),
                    ("a", json!("x")),
                ]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
            };
        });
        check(|it| it.parameters.temperature = f64::NAN);
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
        let bound = request().canonical().token_bound();
        let bytes = "What is it?user{\"type\":\"object\"}".len() as u64;
        assert_eq!(bound.prompt, bytes + 2 * TOKENS_PER_MESSAGE);
        assert_eq!(bound.completion, 1024);
    }
}
