//! Language-model servers as the job file names them.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::units::HumanDuration;

/// Most requests that one worker may have in flight.
const CONCURRENCY_MAX: u32 = 4096;

/// A language-model server.
///
/// Rows depend on `url` and `model` alone; everything else may be changed between runs, and what
/// was answered before is not asked again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Base URL of an OpenAI-compatible server; or the local directory of a causal language model,
    /// relative to the job file, which each worker then serves to itself.
    pub url: String,
    /// Name of the model.
    pub model: String,
    /// Environment variable that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Requests in flight, of each worker process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Requests per minute, of all workers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of all workers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Money per million tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What the job may spend: money, or several limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How the server is asked for JSON.
    #[serde(default)]
    pub structured_output: StructuredOutput,
    /// How long it may take. Half an hour for a model of a directory, unless other times than the
    /// usual stand here.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Times that a request is sent while its failures pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
}

/// Money per million tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Of prompts.
    pub input: f64,
    /// Of completions.
    pub output: f64,
}

/// How a server is asked to answer in JSON of a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StructuredOutput {
    /// Found out with the first requests.
    #[default]
    Auto,
    /// `{"type": "json_schema", "json_schema": {...}}`, as OpenAI, vLLM and llama-server take it.
    JsonSchema,
    /// `{"type": "json_object", "schema": {...}}`, as llama-cpp-python takes it.
    JsonObject,
    /// Only by the words of the prompt.
    None,
}

/// How long a request may take, each from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until there is a connection.
    pub connect: HumanDuration,
    /// Until the first byte of the answer.
    pub first_byte: HumanDuration,
    /// Until its last byte.
    pub total: HumanDuration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |seconds| HumanDuration::new(Duration::from_secs(seconds));
        Self {
            connect: seconds(10),
            first_byte: seconds(120),
            total: seconds(180),
        }
    }
}

/// A model that a worker serves to itself answers when a completion is whole, at the pace of its
/// processor: what is slow there is not lost.
const OWN_MODEL_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// What a job may spend at an endpoint. Written as a number, it is money.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Money, in the currency of the price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Tokens of prompts and completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// Time since the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<HumanDuration>,
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BudgetVisitor)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    money: Option<f64>,
    tokens: Option<u64>,
    requests: Option<u64>,
    time: Option<HumanDuration>,
}

struct BudgetVisitor;

impl<'de> Visitor<'de> for BudgetVisitor {
    type Value = Budget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount of money, or a map of `money`, `tokens`, `requests`, `time`")
    }

    fn visit_f64<E: de::Error>(self, money: f64) -> Result<Budget, E> {
        Ok(Budget {
            money: Some(money),
            ..Budget::default()
        })
    }

    fn visit_u64<E: de::Error>(self, money: u64) -> Result<Budget, E> {
        self.visit_f64(money as f64)
    }

    fn visit_i64<E: de::Error>(self, money: i64) -> Result<Budget, E> {
        self.visit_f64(money as f64)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Budget, A::Error> {
        let limits = Limits::deserialize(de::value::MapAccessDeserializer::new(entries))?;
        Ok(Budget {
            money: limits.money,
            tokens: limits.tokens,
            requests: limits.requests,
            time: limits.time,
        })
    }
}

impl JsonSchema for Budget {
    fn schema_name() -> Cow<'static, str> {
        "Budget".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let time = generator.subschema_for::<HumanDuration>();
        json_schema!({
            "description": "What the job may spend: money, or several limits.",
            "anyOf": [
                { "type": "number", "exclusiveMinimum": 0 },
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "money": { "type": "number", "exclusiveMinimum": 0 },
                        "tokens": { "type": "integer", "minimum": 1 },
                        "requests": { "type": "integer", "minimum": 1 },
                        "time": time,
                    },
                },
            ],
        })
    }
}

/// What is behind the scheme in the URL of a web server.
pub(super) fn server_of(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let is_web = ["http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known));
    (is_web && !rest.is_empty() && !rest.starts_with('/')).then_some(rest)
}

/// Whether a URL holds what may be a secret: a user, a password, parameters.
pub(super) fn may_hold_secret(url: &str) -> bool {
    url.contains(['@', '?', '#'])
}

/// Whether an environment variable may have this name.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Endpoint {
    /// How long its requests may take.
    #[must_use]
    pub fn deadlines(&self) -> Timeouts {
        let mut deadlines = self.timeouts.clone();
        if self.model_directory().is_some() {
            let usual = Timeouts::default();
            for (deadline, usual) in [
                (&mut deadlines.first_byte, usual.first_byte),
                (&mut deadlines.total, usual.total),
            ] {
                if *deadline == usual {
                    *deadline = HumanDuration::new(OWN_MODEL_DEADLINE);
                }
            }
        }
        deadlines
    }

    /// The directory of the model, where the endpoint is no server but a model that each worker
    /// serves to itself.
    #[must_use]
    pub fn model_directory(&self) -> Option<PathBuf> {
        match self.url.split_once("://") {
            // A server whose scheme was forgotten: `localhost:8000/v1`.
            None if self.url.split('/').next()?.contains(':') => None,
            None => Some(PathBuf::from(&self.url)),
            Some(("file", path)) => match url::Url::parse(&self.url) {
                Ok(url) => url.to_file_path().ok(),
                Err(_) => Some(PathBuf::from(path)),
            },
            Some(_) => None,
        }
        .filter(|path| !path.as_os_str().is_empty())
    }

    /// What is wrong with an endpoint, as key, message and advice.
    pub(super) fn check(&self, name: &str) -> Vec<(&'static str, String, String)> {
        let mut errors = Vec::new();
        let mut refuse = |key, message: String, help: &str| {
            errors.push((key, message, help.to_owned()));
        };
        match server_of(&self.url) {
            Some(server) if may_hold_secret(server) => refuse(
                "url",
                format!(
                    "the URL of endpoint `{name}` has a user, a password or parameters in it, and \
                     is copied into the output"
                ),
                "name the environment variable that holds the key: `api_key_env: LLM_API_KEY`",
            ),
            Some(_) => {}
            None if self.model_directory().is_some() => {}
            None => refuse(
                "url",
                if may_hold_secret(&self.url) {
                    format!("the `url` of endpoint `{name}` is not the URL of a server")
                } else {
                    format!("{:?} is not the URL of a server", self.url)
                },
                "write the base URL with its version, for example http://127.0.0.1:8000/v1, or the \
                 local directory of a causal language model",
            ),
        }
        if self.model.is_empty() {
            refuse(
                "model",
                "the model has no name".to_owned(),
                "name it as the server does",
            );
        }
        if self
            .api_key_env
            .as_deref()
            .is_some_and(|name| !is_variable(name))
        {
            // Its text may be the key itself, so it is not repeated.
            refuse(
                "api_key_env",
                "`api_key_env` is not the name of an environment variable".to_owned(),
                "write the variable's name, for example LLM_API_KEY; the key itself must not stand \
                 in a job file",
            );
        }
        if self
            .concurrency
            .is_some_and(|n| n == 0 || n > CONCURRENCY_MAX)
        {
            refuse(
                "concurrency",
                "that many requests in flight are not possible".to_owned(),
                "write a number from 1 to 4096",
            );
        }
        for (key, rate) in [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
        ] {
            if rate == Some(0) {
                refuse(
                    key,
                    format!("`{key}` is zero"),
                    "leave it out where there is no limit",
                );
            }
        }
        if self.attempts == Some(0) {
            refuse(
                "attempts",
                "`attempts` is zero".to_owned(),
                "write 1 or more",
            );
        }
        if let Some(price) = &self.price
            && ![price.input, price.output]
                .iter()
                .all(|price| price.is_finite() && *price >= 0.0 && *price <= 1e6)
        {
            refuse(
                "price",
                "that is not a price".to_owned(),
                "write money per million tokens, 0 or more",
            );
        }
        self.check_budget(&mut refuse);
        errors
    }

    fn check_budget(&self, refuse: &mut impl FnMut(&'static str, String, &str)) {
        let Some(budget) = &self.budget else { return };
        let is_money = |money: f64| money.is_finite() && money > 0.0 && money <= 1e9;
        if budget.money.is_some_and(|money| !is_money(money)) {
            refuse(
                "budget",
                "that is not an amount of money".to_owned(),
                "write a number above 0, or leave it out",
            );
        }
        if budget.money.is_some() && self.price.is_none() {
            refuse(
                "budget",
                "money is budgeted, but nothing tells what a token costs".to_owned(),
                "write `price: {input: ..., output: ...}` in money per million tokens, or budget \
                 `tokens` or `requests`",
            );
        }
        if budget.tokens == Some(0)
            || budget.requests == Some(0)
            || budget.time.is_some_and(|time| time.duration().is_zero())
        {
            refuse(
                "budget",
                "a budget of zero buys nothing".to_owned(),
                "write more, or nothing",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_a_directory_has_more_time_unless_the_job_says_otherwise() {
        let check = |url: &str, timeouts: &str, expected: [u64; 3]| {
            let json = format!(r#"{{"url": "{url}", "model": "m", "timeouts": {timeouts}}}"#);
            let endpoint: Endpoint = serde_json::from_str(&json).unwrap();
            let found = endpoint.deadlines();
            let found = [found.connect, found.first_byte, found.total];
            let found = found.map(|deadline| deadline.duration().as_secs());
            assert_eq!(found, expected, "{url} {timeouts}");
        };
        check("http://localhost:8000/v1", "{}", [10, 120, 180]);
        check("localhost:8000/v1", "{}", [10, 120, 180]);
        check("models/small", "{}", [10, 1800, 1800]);
        check("file:///models/small", "{}", [10, 1800, 1800]);
        check("models/small", r#"{"total": "10min"}"#, [10, 1800, 600]);
        let both = r#"{"first_byte": "5s", "total": "20s", "connect": "1s"}"#;
        check("models/small", both, [1, 5, 20]);
    }
}
