//! Scales in job files and in the parameters of tasks.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::{BUILT_IN, GRADES_MAX, GRADES_MIN, Grade, Scale};

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Definitions are written out even for built-in scales: they are part of what was asked,
        // so a task whose wording changed is another task.
        let mut scale = serializer.serialize_struct("Scale", 2)?;
        scale.serialize_field("name", &self.name)?;
        scale.serialize_field("grades", &self.grades)?;
        scale.end()
    }
}

/// The name of a scale that was given as a mere list of grades.
const CUSTOM: &str = "custom";

impl<'de> Deserialize<'de> for Scale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScaleVisitor;

        impl<'de> Visitor<'de> for ScaleVisitor {
            type Value = Scale;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(
                    formatter,
                    "one of {}, a list of grades, or {{name, grades}}",
                    BUILT_IN.join(", ")
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Scale, E> {
                Scale::built_in(name).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scale, A::Error> {
                let grades = Vec::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
                Scale::new(CUSTOM, grades).map_err(de::Error::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scale, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Fields {
                    #[serde(default)]
                    name: Option<String>,
                    grades: Vec<Grade>,
                }
                let Fields { name, grades } =
                    Fields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let name = name.unwrap_or_else(|| CUSTOM.to_owned());
                Scale::new(name, grades).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(ScaleVisitor)
    }
}

impl JsonSchema for Scale {
    fn schema_name() -> Cow<'static, str> {
        "Scale".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let grade = generator.subschema_for::<Grade>();
        let grades = json_schema!({
            "type": "array",
            "items": grade,
            "minItems": GRADES_MIN,
            "maxItems": GRADES_MAX,
        });
        json_schema!({
            "description": "Name of a built-in scale of relevance, or its grades.",
            "anyOf": [
                { "enum": BUILT_IN },
                grades,
                {
                    "type": "object",
                    "properties": { "name": { "type": "string" }, "grades": grades },
                    "required": ["grades"],
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
    fn a_job_file_names_a_scale_or_writes_it() {
        let read = |json: &str| serde_json::from_str::<Scale>(json);
        assert_eq!(read(r#""esci""#).unwrap(), Scale::esci());
        let list = r#"[{"grade":1,"label":"yes","definition":"d"},{"grade":0,"label":"no","definition":"d"}]"#;
        assert_eq!(read(list).unwrap().name(), "custom");
        let named = read(&format!(r#"{{"name":"mine","grades":{list}}}"#)).unwrap();
        assert_eq!(named.name(), "mine");
        let error = read(r#""trek""#).unwrap_err().to_string();
        assert!(
            error.contains("built in are trec, esci, wands, binary"),
            "{error}"
        );
        assert!(read(&format!(r#"{{"grade":{list}}}"#)).is_err());
        assert!(read("3").is_err());
    }

    #[test]
    fn a_written_scale_is_read_again() {
        for name in BUILT_IN {
            let scale = Scale::built_in(name).unwrap();
            let json = serde_json::to_string(&scale).unwrap();
            assert_eq!(serde_json::from_str::<Scale>(&json).unwrap(), scale);
        }
    }
}
