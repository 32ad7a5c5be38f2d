//! How a stage's table is shown to other programs.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// As what a stage's table is published, besides its Parquet objects and the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// A Delta table over the same objects: `OUTPUT/<stage>/_delta_log` gets one commit per version.
    Delta,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delta => f.write_str("delta"),
        }
    }
}
