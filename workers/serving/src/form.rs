//! JSON schemas that answers are written by.

use serde_json::Value;

use crate::ServingError;

/// Deeper schemas are refused.
const DEPTH_MAX: usize = 16;

/// What an answer looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Exactly these members, in this order.
    Object(Vec<(String, Form)>),
    /// So many items of one form.
    Array {
        /// Form of each.
        items: Box<Form>,
        /// At least so many.
        n_min: usize,
        /// At most so many.
        n_max: usize,
    },
    /// Any text.
    Text {
        /// At most so many characters.
        chars_max: usize,
    },
    /// One of these values.
    OneOf(Vec<Value>),
    /// A whole number.
    Integer {
        /// At least this.
        min: i64,
        /// At most this.
        max: i64,
    },
}

impl Form {
    /// Reads a schema. What it does not ask for is left out; what cannot be written by is refused.
    ///
    /// # Errors
    ///
    /// If it has keywords that are not known here.
    pub fn of(schema: &Value) -> Result<Self, ServingError> {
        Self::at(schema, DEPTH_MAX)
    }

    fn at(schema: &Value, depth: usize) -> Result<Self, ServingError> {
        let refused = |problem: String| ServingError::Schema(problem);
        let Some(object) = schema.as_object() else {
            return Err(refused(format!("{schema} is no schema with a `type`")));
        };
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| refused(format!("more than {DEPTH_MAX} levels")))?;
        if let Some(value) = object.get("const") {
            return Ok(Self::OneOf(vec![value.clone()]));
        }
        if let Some(values) = object.get("enum") {
            let values = values.as_array().filter(|values| !values.is_empty());
            let values = values.ok_or_else(|| refused("an `enum` without values".to_owned()))?;
            return Ok(Self::OneOf(values.clone()));
        }
        let count = |key: &str| object.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let kind = object.get("type").and_then(Value::as_str);
        let known: &[&str] = match kind {
            Some("object") => &["properties", "required", "additionalProperties"],
            Some("array") => &["items", "minItems", "maxItems"],
            Some("string") => &["maxLength", "minLength"],
            Some("integer") => &["minimum", "maximum"],
            Some("boolean" | "null") => &[],
            _ => {
                let kind = object.get("type").unwrap_or(&Value::Null);
                return Err(refused(format!("the type {kind} is not supported")));
            }
        };
        let common = ["type", "title", "description", "default", "$schema"];
        let unknown = object
            .keys()
            .find(|key| !known.contains(&key.as_str()) && !common.contains(&key.as_str()));
        if let Some(key) = unknown {
            return Err(refused(format!("the keyword `{key}` is not supported")));
        }
        match kind {
            Some("object") => {
                let members = object.get("properties").and_then(Value::as_object);
                let members = members
                    .into_iter()
                    .flatten()
                    .map(|(name, schema)| Ok((name.clone(), Self::at(schema, depth)?)));
                Ok(Self::Object(members.collect::<Result<_, ServingError>>()?))
            }
            Some("array") => {
                let items = object
                    .get("items")
                    .ok_or_else(|| refused("an array without `items`".to_owned()))?;
                let n_min = count("minItems").unwrap_or(0);
                Ok(Self::Array {
                    items: Box::new(Self::at(items, depth)?),
                    n_min,
                    n_max: count("maxItems").unwrap_or(usize::MAX).max(n_min),
                })
            }
            Some("string") => Ok(Self::Text {
                chars_max: count("maxLength").unwrap_or(usize::MAX),
            }),
            Some("integer") => {
                let bound = |key: &str| object.get(key).and_then(Value::as_i64);
                let min = bound("minimum").unwrap_or(i64::MIN);
                Ok(Self::Integer {
                    min,
                    max: bound("maximum").unwrap_or(i64::MAX).max(min),
                })
            }
            Some("boolean") => Ok(Self::OneOf(vec![Value::from(false), Value::from(true)])),
            _ => Ok(Self::OneOf(vec![Value::Null])),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_are_read() {
        let schema = json!({
            "type": "object",
            "required": ["label"],
            "additionalProperties": false,
            "properties": {
                "label": { "type": "string", "enum": ["good", "bad"] },
                "text": { "type": "string", "maxLength": 400 },
                "marks": { "type": "array", "items": { "type": "integer", "minimum": 0 }, "maxItems": 3 },
                "sure": { "type": "boolean" },
            },
        });
        let Form::Object(members) = Form::of(&schema).unwrap() else {
            panic!();
        };
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 4);
        let of = |name: &str| {
            let member = members.iter().find(|(key, _)| key == name);
            member.unwrap().1.clone()
        };
        assert_eq!(of("label"), Form::OneOf(vec![json!("good"), json!("bad")]));
        assert_eq!(of("text"), Form::Text { chars_max: 400 });
        let marks = Form::Array {
            items: Box::new(Form::Integer {
                min: 0,
                max: i64::MAX,
            }),
            n_min: 0,
            n_max: 3,
        };
        assert_eq!(of("marks"), marks);
        assert_eq!(of("sure"), Form::OneOf(vec![json!(false), json!(true)]));
    }

    #[test]
    fn what_cannot_be_written_by_is_named() {
        let check = |schema: Value, part: &str| {
            let error = Form::of(&schema).unwrap_err().to_string();
            assert!(
                error.starts_with("response_format") && error.contains(part),
                "{error}"
            );
        };
        check(json!(true), "no schema");
        check(json!({}), "null is not supported");
        check(json!({ "type": "number" }), "number");
        check(json!({ "type": "string", "pattern": "a" }), "`pattern`");
        check(json!({ "enum": [] }), "without values");
        check(json!({ "type": "array" }), "without `items`");
        let mut deep = json!({ "type": "string" });
        for _ in 0..40 {
            deep = json!({ "type": "array", "items": deep });
        }
        check(deep, "levels");
    }
}
