//! Where events about runs go.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{is_variable, may_hold_secret, server_of};
use crate::units::HumanDuration;

/// Where events about runs go, in the form of OpenLineage. No row depends on it, and no run waits
/// for it or fails because of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// URL of a receiver, such as `http://marquez:5000`; without a path, events are posted to
    /// `/api/v1/lineage`.
    pub url: String,
    /// Namespace of the jobs.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Environment variable that holds the key, which is sent as a bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// How long the receiver may take for an event.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
}

fn default_namespace() -> String {
    Lineage::NAMESPACE.to_owned()
}

fn default_timeout() -> HumanDuration {
    HumanDuration::new(Lineage::TIMEOUT)
}

impl Lineage {
    /// Namespace of jobs that name none.
    pub const NAMESPACE: &str = "gleaner";
    /// How long a receiver may take that nothing else is said of.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// What is wrong with it, as key, message and advice.
    pub(super) fn check(&self) -> Vec<(&'static str, String, String)> {
        let mut errors = Vec::new();
        let mut refuse = |key, message: &str, help: &str| {
            errors.push((key, message.to_owned(), help.to_owned()));
        };
        match server_of(&self.url) {
            Some(server) if may_hold_secret(server) => refuse(
                "url",
                "the URL of `lineage` has a user, a password or parameters in it",
                "name the environment variable that holds the key: `api_key_env: \
                 OPENLINEAGE_API_KEY`",
            ),
            Some(_) => {}
            None => refuse(
                "url",
                "that is not the URL of a server",
                "write it like http://marquez:5000",
            ),
        }
        if self.namespace.is_empty() {
            refuse("namespace", "the namespace has no name", "leave it out");
        }
        if self
            .api_key_env
            .as_deref()
            .is_some_and(|name| !is_variable(name))
        {
            refuse(
                "api_key_env",
                "`api_key_env` is not the name of an environment variable",
                "write the variable's name, for example OPENLINEAGE_API_KEY; the key itself must \
                 not stand in a job file",
            );
        }
        if self.timeout.duration().is_zero() {
            refuse(
                "timeout",
                "in no time nothing can be sent",
                "write for example 5s",
            );
        }
        errors
    }
}
