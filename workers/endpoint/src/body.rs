//! The body of a request, in the dialect that the server understands.

use serde_json::{Value, json};

use crate::canonical::{push, push_entry};
use crate::config::Dialect;
use crate::request::{CompletionRequest, Prompt};

/// The path below the base URL.
pub(crate) fn path(request: &CompletionRequest) -> &'static str {
    match request.prompt {
        Prompt::Chat(_) => "chat/completions",
        Prompt::Text(_) => "completions",
    }
}

/// The body.
pub(crate) fn body(request: &CompletionRequest, model: &str, dialect: Dialect) -> Vec<u8> {
    let parameters = &request.parameters;
    let mut body = Body {
        text: Vec::with_capacity(4096),
        keys: Vec::new(),
    };
    body.set("model", request.model_or(model));
    match &request.prompt {
        Prompt::Chat(messages) => body.set("messages", messages),
        Prompt::Text(text) => body.set("prompt", text),
    }
    body.set("temperature", &parameters.temperature);
    body.set("max_tokens", &parameters.max_tokens);
    if let Some(top_p) = parameters.top_p {
        body.set("top_p", &top_p);
    }
    if let Some(seed) = parameters.seed {
        body.set("seed", &seed);
    }
    if !parameters.stop.is_empty() {
        body.set("stop", &parameters.stop);
    }
    if let Some(format) = response_format(request, dialect) {
        body.set("response_format", &format);
    }
    for (key, value) in &parameters.extra {
        body.add(key, value);
    }
    body.text.push(b'}');
    body.text
}

struct Body {
    text: Vec<u8>,
    keys: Vec<&'static str>,
}

impl Body {
    fn set<T: serde::Serialize + ?Sized>(&mut self, key: &'static str, value: &T) {
        self.text
            .push(if self.keys.is_empty() { b'{' } else { b',' });
        push_entry(&mut self.text, key, value);
        self.keys.push(key);
    }

    /// What the user added: our own keys win.
    fn add(&mut self, key: &str, value: &Value) {
        if self.keys.contains(&key) {
            return;
        }
        self.text.push(b',');
        push(&mut self.text, key);
        self.text.push(b':');
        push(&mut self.text, value);
    }
}

fn response_format(request: &CompletionRequest, dialect: Dialect) -> Option<Value> {
    let schema = request.schema.as_ref()?;
    match dialect {
        Dialect::Auto | Dialect::JsonSchema => Some(json!({
            "type": "json_schema",
            "json_schema": { "name": schema.name, "strict": true, "schema": schema.schema },
        })),
        Dialect::JsonObject => Some(json!({ "type": "json_object", "schema": schema.schema })),
        Dialect::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{ChatMessage, Parameters, ResponseSchema};

    #[test]
    fn a_body_has_what_is_asked_and_our_own_keys_win() {
        let request = CompletionRequest {
            prompt: Prompt::Chat(vec![ChatMessage {
                role: "user".to_owned(),
                content: "a \"b\"".to_owned(),
            }]),
            parameters: Parameters {
                seed: Some(7),
                extra: [("top_k", json!(5)), ("model", json!("theirs"))]
                    .map(|(key, value)| (key.to_owned(), value))
                    .into(),
                ..Parameters::default()
            },
            schema: Some(ResponseSchema {
                name: "answer".to_owned(),
                schema: json!({ "type": "object" }),
            }),
            stage: "queries".to_owned(),
            sample: 3,
            model: None,
        };
        let check = |dialect, format: Option<Value>| {
            let body = body(&request, "ours", dialect);
            let found: Value = serde_json::from_slice(&body).expect("JSON");
            let mut expected = json!({
                "model": "ours", "messages": [{ "role": "user", "content": "a \"b\"" }],
                "temperature": 1.0, "max_tokens": 1024, "seed": 7, "top_k": 5,
            });
            if let Some(format) = format {
                expected["response_format"] = format;
            }
            assert_eq!(found, expected, "{dialect:?}");
            // A key stands there once.
            let text = String::from_utf8_lossy(&body).into_owned();
            assert_eq!(text.matches("\"model\"").count(), 1, "{text}");
        };
        let schema = json!({ "type": "object" });
        let strict = json!({
            "type": "json_schema",
            "json_schema": { "name": "answer", "strict": true, "schema": schema },
        });
        check(Dialect::JsonSchema, Some(strict));
        let object = json!({ "type": "json_object", "schema": schema });
        check(Dialect::JsonObject, Some(object));
        check(Dialect::None, None);
    }
}
