//! Values of parameters that may be written in more than one way.

use std::borrow::Cow;
use std::ops::Deref;

use gleaner_schemas::job::TextsVisitor;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::model::Features;

/// One name or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Names(Vec<String>);

impl Deref for Names {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor).map(Self)
    }
}

impl JsonSchema for Names {
    fn schema_name() -> Cow<'static, str> {
        "Names".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A name or a list of names.",
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" }, "minItems": 1 },
            ],
        })
    }
}

/// How much of the input the raw side is counted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FitSample {
    /// [`FitSample::NGRAMS_PER_BUCKET`] n-grams per bucket.
    #[default]
    Auto,
    /// Everything.
    All,
    /// About so many n-grams.
    Ngrams(u64),
}

impl FitSample {
    /// As the reference's "auto".
    pub const NGRAMS_PER_BUCKET: u64 = 100_000;
    /// Bytes of text per token, with the space or punctuation beside it: about that of English
    /// prose. It turns a number of n-grams into bytes of text; being off by half makes the
    /// sample larger or smaller by half, no more.
    pub const BYTES_PER_TOKEN: u64 = 5;

    /// Bytes of text to count; `None` for all.
    #[must_use]
    pub fn text_bytes(self, features: &Features) -> Option<u64> {
        let n_ngrams = match self {
            Self::All => return None,
            Self::Auto => Self::NGRAMS_PER_BUCKET * u64::from(features.buckets),
            Self::Ngrams(n_ngrams) => n_ngrams,
        };
        // A token starts one n-gram of each length.
        let n_tokens = n_ngrams.div_ceil(u64::from(features.ngrams.max(1)));
        Some(n_tokens.saturating_mul(Self::BYTES_PER_TOKEN))
    }
}

impl Serialize for FitSample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::All => serializer.serialize_str("all"),
            Self::Ngrams(n_ngrams) => serializer.serialize_u64(*n_ngrams),
        }
    }
}

impl<'de> Deserialize<'de> for FitSample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FitSampleVisitor;

        impl Visitor<'_> for FitSampleVisitor {
            type Value = FitSample;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto`, `all` or a number of n-grams")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<FitSample, E> {
                match text {
                    "auto" => Ok(FitSample::Auto),
                    "all" => Ok(FitSample::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<FitSample, E> {
                if number == 0 {
                    return Err(E::invalid_value(de::Unexpected::Unsigned(0), &self));
                }
                Ok(FitSample::Ngrams(number))
            }
        }

        deserializer.deserialize_any(FitSampleVisitor)
    }
}

impl JsonSchema for FitSample {
    fn schema_name() -> Cow<'static, str> {
        "FitSample".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`auto`, `all` or a number of n-grams.",
            "anyOf": [
                { "enum": ["auto", "all"] },
                { "type": "integer", "minimum": 1 },
            ],
        })
    }
}
