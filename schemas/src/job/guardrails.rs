//! The part of the job file that says how much a refresh may change.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::figures::Beyond;
use crate::units::Ratio;

/// A number that must not be exceeded (`20%`, `1/5`, `0.2`), or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(Option<Ratio>);

impl Bound {
    /// Nothing is too much.
    pub const OFF: Self = Self(None);

    /// So many hundredths.
    const fn percent(n: u64) -> Self {
        Self(Some(Ratio::of_hundredths(n)))
    }

    /// The number, if there is one.
    #[must_use]
    pub fn value(self) -> Option<f64> {
        self.0.map(Ratio::as_f64)
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(ratio) => serializer.collect_str(&ratio),
            None => serializer.serialize_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BoundVisitor)
    }
}

struct BoundVisitor;

impl Visitor<'_> for BoundVisitor {
    type Value = Bound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a share such as 20%, or `off`")
    }

    fn visit_bool<E: de::Error>(self, is_on: bool) -> Result<Bound, E> {
        if is_on {
            return Err(E::invalid_value(de::Unexpected::Bool(true), &self));
        }
        Ok(Bound::OFF)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bound, E> {
        if text.trim() == "off" {
            return Ok(Bound::OFF);
        }
        text.parse()
            .map(|ratio| Bound(Some(ratio)))
            .map_err(|error: String| E::custom(format!("{error}, or `off`")))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }
}

impl JsonSchema for Bound {
    fn schema_name() -> Cow<'static, str> {
        "Bound".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "boolean"],
            "description": "A number or a share (20%, 1/5, 0.2), or off.",
        })
    }
}

/// How much may change from one version to the next. What changes more is not published, unless
/// the run is told to `--accept` it. A stage is compared while its parameters stay the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Guardrails {
    /// Share of its rows that a table may lose; also of the corpus's files.
    pub rows_lost: Bound,
    /// How many times its rows a table may gain: `1` lets it double.
    pub rows_gained: Bound,
    /// Rise of the share of rejected rows: `10%` lets it go from 1 % to 11 %.
    pub rejected_rise: Bound,
    /// Rise of the share of rows without a value, for every column.
    pub null_rise: Bound,
    /// Change of the mean length of texts, as a share of what it was.
    pub length_change: Bound,
    /// Change of the mean of scores, in standard deviations of what they were.
    pub score_shift: Bound,
    /// Change of a source's share of the rows of a selection: `20%` lets it go from 5 % to 25 %.
    pub source_shift: Bound,
    /// How far the corpus may be from what a frozen model was fitted on.
    pub drift: DriftBounds,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            rows_lost: Bound::percent(50),
            rows_gained: Bound::OFF,
            rejected_rise: Bound::percent(10),
            null_rise: Bound::percent(20),
            length_change: Bound::percent(50),
            score_shift: Bound::percent(100),
            source_shift: Bound::OFF,
            drift: DriftBounds::default(),
        }
    }
}

/// How far the corpus may be from what a frozen model was fitted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DriftBounds {
    /// Kullback-Leibler divergence of today's n-grams from the fitted ones in nats, beyond what the
    /// size of the two samples explains.
    pub kl: Bound,
    /// Share of today's n-grams that the model never saw.
    pub unseen: Bound,
    /// Change of the mean weight per token, in standard deviations of when the model was fitted.
    pub score_shift: Bound,
    /// What happens beyond one of these.
    pub action: Beyond,
}

impl Default for DriftBounds {
    fn default() -> Self {
        Self {
            kl: Bound::percent(10),
            unseen: Bound::percent(5),
            score_shift: Bound::percent(50),
            action: Beyond::Warn,
        }
    }
}
