//! How an endpoint is reached.

use std::fmt;
use std::time::Duration;

/// A text that never prints itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text secret.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// How a server is asked for JSON of a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The first of the others that the server understands.
    #[default]
    Auto,
    /// `response_format: {type: json_schema, json_schema: {...}}`.
    JsonSchema,
    /// `response_format: {type: json_object, schema: {...}}`.
    JsonObject,
    /// By the words of the prompt alone.
    None,
}

/// How long a sending may take, each from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until the head of the answer.
    pub first_byte: Duration,
    /// Until its last byte.
    pub total: Duration,
}

/// Where an endpoint is and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Name, for messages.
    pub name: String,
    /// Base URL with the version, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// Name of the model.
    pub model: String,
    /// Key that is sent as a bearer token.
    pub api_key: Option<Secret>,
    /// How JSON is asked for.
    pub dialect: Dialect,
    /// Requests in flight at most; fewer while the server is overloaded.
    pub concurrency: usize,
    /// Deadlines of a sending.
    pub timeouts: Timeouts,
    /// Sendings of a request whose failures may pass, apart from those that were told to wait.
    pub attempts_max: u32,
    /// A server that tells everybody to wait is given up when it has answered nobody for this long.
    pub patience: Duration,
}
