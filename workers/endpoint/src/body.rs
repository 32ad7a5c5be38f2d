//! The body of a request, in the dialect that the server understands.

use serde_json::{Map, Value, json};

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
pub(crate) fn body(request: &CompletionRequest, model: &str, dialect: Dialect) -> Value {
    let parameters = &request.parameters;
    let mut body = Map::new();
    // First what the user added: our own keys win.
    for (key, value) in &parameters.extra {
        body.insert(key.clone(), value.clone());
    }
    let mut set = |key: &str, value: Value| body.insert(key.to_owned(), value);
    set("model", json!(request.model_or(model)));
    match &request.prompt {
        Prompt::Chat(messages) => set("messages", json!(messages)),
        Prompt::Text(text) => set("prompt", json!(text)),
    };
    set("temperature", json!(parameters.temperature));
    set("max_tokens", json!(parameters.max_tokens));
    if let Some(top_p) = parameters.top_p {
        set("top_p", json!(top_p));
    }
    if let Some(seed) = parameters.seed {
        set("seed", json!(seed));
    }
    if !parameters.stop.is_empty() {
        set("stop", json!(parameters.stop));
    }
    if let Some(format) = response_format(request, dialect) {
        set("response_format", format);
    }
    Value::Object(body)
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
