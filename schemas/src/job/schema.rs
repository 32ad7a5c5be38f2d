//! The JSON Schema of the job file, for editors.

use schemars::{Schema, schema_for};
use serde_json::{Value, json};

use super::file::PUBLISH;
use super::{JobFile, Publish};

/// The schema of the whole job file, given the schema of each stage kind's parameters.
#[must_use]
pub fn json_schema(stage_kinds: Vec<(&str, Schema)>) -> Value {
    let mut schema = schema_for!(JobFile).to_value();
    let mut definitions = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("$defs"))
        .unwrap_or_else(|| json!({}));
    let mut publish = schema_for!(Publish).to_value();
    if let (Some(publish_schema), Some(all)) =
        (publish.as_object_mut(), definitions.as_object_mut())
    {
        publish_schema.remove("$schema");
        all.insert("Publish".to_owned(), publish);
    }
    let publish = json!({
        "description": "Publishes the stage's table in a further form, which other programs read.",
        "$ref": "#/$defs/Publish",
    });
    let mut kinds = Vec::new();
    for (kind, params) in stage_kinds {
        let mut params = params.to_value();
        let Some(object) = params.as_object_mut() else {
            continue;
        };
        object.remove("$schema");
        if let (Some(Value::Object(own)), Some(all)) =
            (object.remove("$defs"), definitions.as_object_mut())
        {
            all.extend(own);
        }
        let properties = object.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert("kind".to_owned(), json!({ "const": kind }));
            properties.insert(PUBLISH.to_owned(), publish.clone());
        }
        let required = object.entry("required").or_insert_with(|| json!([]));
        if let Some(required) = required.as_array_mut() {
            required.insert(0, json!("kind"));
        }
        kinds.push(params);
    }
    if let Some(definitions) = definitions.as_object_mut() {
        definitions.insert(
            "Stages".to_owned(),
            json!({
                "description": "Stages by name, in order.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": { "oneOf": kinds },
            }),
        );
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$defs".to_owned(), definitions);
        schema.insert("title".to_owned(), json!("Gleaner job file"));
    }
    schema
}
