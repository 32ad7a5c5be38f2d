//! How the language-model servers of a job are used now. No row depends on it, so it stands apart
//! from plans and tasks: a later run may be given more money, another key or another pace, and goes
//! on with the same tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::RunId;
use crate::job::Endpoint;

/// `_gleaner/endpoints/<N>.json`: the highest number counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// Version of this format: [`EndpointSettings::FORMAT`].
    pub format: u32,
    /// The run that wrote them.
    pub run: RunId,
    /// When that run began: milliseconds since 1970. Budgets of time count from here.
    pub started_ms: i64,
    /// Endpoints by the name that stages use. Keys are named, not held.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl EndpointSettings {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 1;
}
