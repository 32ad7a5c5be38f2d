//! What the dataset card of an output says that nobody can compute.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use super::file::TextsVisitor;

/// What the dataset card says that cannot be computed. No row depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Card {
    /// Title; absent: the name of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A few sentences, in Markdown, that follow the title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Licence of the output, as dataset hubs abbreviate it (`odc-by`, `cc-by-4.0`, `other`), or
    /// several; absent: those of the corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<Texts>,
    /// Name of a licence that has no abbreviation (`license: other`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_name: Option<String>,
    /// Where that licence can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_link: Option<String>,
    /// Languages of the texts, as two-letter codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<Texts>,
    /// Further tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Texts>,
}

/// One text or a list of texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Texts(Vec<String>);

impl std::ops::Deref for Texts {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor).map(Self)
    }
}

impl JsonSchema for Texts {
    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A text or a list of texts.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}
