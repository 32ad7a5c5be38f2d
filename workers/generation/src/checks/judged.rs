//! What comes of verdicts: of a judge, and of a search for the document.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

/// Which rows are kept after a judge graded them. In a job file: `all`, `agree` or `within: n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// All; the judge's grade is noted.
    #[default]
    All,
    /// Those whose grade the judge gave too.
    Agree,
    /// Those whose grade is at most this far from the judge's.
    Within(u8),
}

impl Keep {
    /// Whether a row is kept. A row that the judge could not grade agrees with nothing: it is kept
    /// by [`Keep::All`] only.
    #[must_use]
    pub fn keeps(self, asked: i8, judged: Option<i8>) -> bool {
        let within = |distance: u8| judged.is_some_and(|judged| judged.abs_diff(asked) <= distance);
        match self {
            Self::All => true,
            Self::Agree => within(0),
            Self::Within(distance) => within(distance),
        }
    }
}

/// Whether a judge gave another grade than the one asked for.
#[must_use]
pub fn judge_disagrees(asked: i8, judged: Option<i8>) -> bool {
    judged.is_some_and(|judged| judged != asked)
}

/// Whether a query does not find its document among the first `top_k`; ranks count from 1, and no
/// rank says that it was not found at all.
#[must_use]
pub fn round_trip_miss(rank: Option<u32>, top_k: u32) -> bool {
    rank.is_none_or(|rank| rank > top_k)
}

const ALL: &str = "all";
const AGREE: &str = "agree";
const WITHIN: &str = "within";

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str(ALL),
            Self::Agree => serializer.serialize_str(AGREE),
            Self::Within(distance) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(WITHIN, distance)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeepVisitor;

        impl<'de> Visitor<'de> for KeepVisitor {
            type Value = Keep;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("`all`, `agree` or `within: n`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Keep, E> {
                match text {
                    ALL => Ok(Keep::All),
                    AGREE => Ok(Keep::Agree),
                    _ => Err(E::unknown_variant(text, &[ALL, AGREE, WITHIN])),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Keep, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    within: u8,
                }
                let Fields { within } =
                    Fields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Keep::Within(within))
            }
        }

        deserializer.deserialize_any(KeepVisitor)
    }
}

impl JsonSchema for Keep {
    fn schema_name() -> Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which rows are kept after a judge graded them.",
            "anyOf": [
                { "enum": [ALL, AGREE] },
                {
                    "type": "object",
                    "properties": { "within": { "type": "integer", "minimum": 0, "maximum": 255 } },
                    "required": ["within"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_by_the_distance_of_grades() {
        let check = |keep: Keep, asked: i8, judged: Option<i8>, expected: bool| {
            assert_eq!(
                keep.keeps(asked, judged),
                expected,
                "{keep:?} {asked} {judged:?}"
            );
        };
        check(Keep::All, 3, Some(0), true);
        check(Keep::All, 3, None, true);
        check(Keep::Agree, 3, Some(3), true);
        check(Keep::Agree, 3, Some(2), false);
        check(Keep::Agree, 3, None, false);
        check(Keep::Within(1), 2, Some(3), true);
        check(Keep::Within(1), 2, Some(1), true);
        check(Keep::Within(1), 3, Some(1), false);
        check(Keep::Within(1), 3, None, false);
    }

    #[test]
    fn verdicts() {
        assert!(judge_disagrees(3, Some(2)) && !judge_disagrees(3, Some(3)));
        assert!(!judge_disagrees(3, None), "no verdict is no disagreement");
        assert!(!round_trip_miss(Some(30), 30) && round_trip_miss(Some(31), 30));
        assert!(round_trip_miss(None, 30));
    }

    #[test]
    fn a_job_file_says_what_is_kept() {
        let check = |json: &str, expected: Keep| {
            assert_eq!(serde_json::from_str::<Keep>(json).unwrap(), expected);
            assert_eq!(serde_json::to_string(&expected).unwrap(), json);
        };
        check("\"all\"", Keep::All);
        check("\"agree\"", Keep::Agree);
        check("{\"within\":1}", Keep::Within(1));
        for wrong in ["\"some\"", "{\"within\":-1}", "{\"without\":1}", "1", "{}"] {
            assert!(serde_json::from_str::<Keep>(wrong).is_err(), "{wrong}");
        }
    }
}
