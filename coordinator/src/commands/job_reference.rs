//! The reference of the job file in Markdown, from its JSON Schema.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Longest default that is shown.
const DEFAULT_CHARS_MAX: usize = 60;

const INTRODUCTION: &str = "\
<!-- Made by `gleaner schema --format markdown`; a test compares the two. -->

# The job file

A job is one file of YAML (JSON is YAML). Unknown keys are errors that name the line and the nearest known key. `gleaner schema` prints
the same as JSON Schema, for editors; `--set path=value` overrides any value on the command line. Relative paths start from the folder of
the job file. No secret belongs in it: credentials of stores come from the environment, and keys of servers from the variables that the
job names.

Keys without a default that are not marked **required** may be left out.
";

/// The reference, given the schema.
#[must_use]
pub fn render(schema: &Value) -> String {
    let mut text = INTRODUCTION.to_owned();
    let definitions = schema.get("$defs").and_then(Value::as_object);
    let empty = Map::new();
    let definitions = definitions.unwrap_or(&empty);
    section(&mut text, "Top level", schema, definitions);
    text.push_str("\n# Kinds of stages\n\n`stages` is a map of names to stages, in order. Each has a `kind`, and the keys of that kind:\n");
    let kinds = definitions
        .get("Stages")
        .and_then(|stages| stages.pointer("/additionalProperties/oneOf"))
        .and_then(Value::as_array);
    for kind in kinds.into_iter().flatten() {
        let name = kind.pointer("/properties/kind/const");
        let name = name.and_then(Value::as_str).unwrap_or_default();
        section(&mut text, name, kind, definitions);
    }
    text.push_str("\n# Types\n");
    for (name, definition) in definitions.iter().filter(|(name, _)| *name != "Stages") {
        section(&mut text, name, definition, definitions);
    }
    text
}

/// A section about a type: its description, and its keys or its values.
fn section(text: &mut String, title: &str, schema: &Value, definitions: &Map<String, Value>) {
    let _ = writeln!(text, "\n## {title}\n");
    let description = description(schema);
    if !description.is_empty() && title != "Top level" {
        let _ = writeln!(text, "{description}\n");
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        keys(text, schema, properties, definitions);
    } else if let Some(values) = schema.get("oneOf").and_then(Value::as_array) {
        for value in values {
            let name = value.get("const").map(shown).unwrap_or_default();
            let _ = writeln!(text, "- `{name}`: {}", self::description(value));
        }
    } else if let Some(forms) = schema.get("anyOf").and_then(Value::as_array) {
        text.push_str("One of\n\n");
        for form in forms {
            let description = self::description(form);
            let colon = if description.is_empty() { "" } else { ": " };
            let _ = writeln!(text, "- {}{colon}{description}", type_of(form));
        }
    } else {
        let _ = writeln!(text, "Written as {}.", type_of(schema));
    }
}

fn keys(
    text: &mut String,
    schema: &Value,
    properties: &Map<String, Value>,
    definitions: &Map<String, Value>,
) {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |key: &str| required.is_some_and(|keys| keys.iter().any(|it| it == key));
    let mut keys: Vec<(&String, &Value)> = properties
        .iter()
        .filter(|(_, property)| property.get("const").is_none())
        .collect();
    keys.sort_by_key(|(key, _)| !is_required(key));
    if keys.is_empty() {
        return;
    }
    text.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    for (key, property) in keys {
        let default = match property.get("default") {
            _ if is_required(key) => "**required**".to_owned(),
            Some(default) => default_of(default, property, definitions),
            None => String::new(),
        };
        let _ = writeln!(
            text,
            "| `{key}` | {} | {default} | {} |",
            cell(&type_of(property)),
            cell(&description(property))
        );
    }
}

/// What a key is when it is left out; nothing where that says nothing.
fn default_of(default: &Value, property: &Value, definitions: &Map<String, Value>) -> String {
    let is_empty = match default {
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        _ => false,
    };
    let text = shown(default);
    let is_of_section = property
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|target| definitions.get(target.rsplit('/').next()?))
        .is_some_and(|definition| definition.get("properties").is_some());
    if is_empty || is_of_section || text.chars().count() > DEFAULT_CHARS_MAX {
        // Its own section tells.
        return String::new();
    }
    format!("`{}`", cell(&text))
}

/// A value as YAML has it in a line.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries = entries.iter();
            let entries: Vec<String> = entries
                .map(|(key, value)| format!("{key}: {}", shown(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// What a value looks like, in words.
fn type_of(schema: &Value) -> String {
    if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
        let name = target.rsplit('/').next().unwrap_or(target);
        return match name {
            "Stages" => "[stages](#kinds-of-stages)".to_owned(),
            name => format!("[{name}](#{})", name.to_ascii_lowercase()),
        };
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().map(|it| format!("`{}`", shown(it))).collect();
        return values.join(", ");
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(forms) = schema.get(key).and_then(Value::as_array) {
            let forms: Vec<String> = forms
                .iter()
                .filter(|form| form.get("type") != Some(&Value::from("null")))
                .map(type_of)
                .collect();
            return forms.join(" or ");
        }
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let types = types.into_iter().filter(|name| *name != "null");
    let types: Vec<String> = types.map(|name| type_named(name, schema)).collect();
    match types.is_empty() {
        true => "anything".to_owned(),
        false => types.join(" or "),
    }
}

fn type_named(name: &str, schema: &Value) -> String {
    match name {
        "string" => "text".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "integer" => format!("whole number{}", range(schema)),
        "number" => format!("number{}", range(schema)),
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_of(items)),
            None => "list".to_owned(),
        },
        "object" => match schema.get("additionalProperties") {
            Some(values @ Value::Object(_)) => format!("map of names to {}", type_of(values)),
            _ => match schema.get("properties").and_then(Value::as_object) {
                Some(properties) => {
                    let keys: Vec<String> = properties
                        .iter()
                        .map(|(key, value)| format!("`{key}` ({})", type_of(value)))
                        .collect();
                    format!("map of {}", keys.join(", "))
                }
                None => "map".to_owned(),
            },
        },
        other => other.to_owned(),
    }
}

fn range(schema: &Value) -> String {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    // The limits of machine words are none of the user's.
    let highest = limit("maximum").filter(|max| *max != 255.0 && *max != 65535.0 && *max != 127.0);
    match (limit("minimum"), limit("exclusiveMinimum"), highest) {
        (Some(min), _, Some(max)) => format!(" from {min} to {max}"),
        (Some(min), _, None) if min > 0.0 => format!(", {min} or more"),
        (_, Some(min), _) => format!(" above {min}"),
        (_, _, Some(max)) => format!(", {max} at most"),
        _ => String::new(),
    }
}

/// The description of a type or a key, in one line.
fn description(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str);
    let words: Vec<&str> = text.unwrap_or_default().split_whitespace().collect();
    // Links within the code lead nowhere here.
    words.join(" ").replace("[`", "`").replace("`]", "`")
}

/// A text within a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_told_with_type_default_and_meaning() {
        let schema = json!({
            "properties": {
                "name": {"type": "string", "description": "A name."},
                "size": {"$ref": "#/$defs/Size", "default": "1|2"},
                "rate": {"type": ["integer", "null"], "minimum": 1},
                "among": {"type": "array", "items": {"enum": ["a", "b"]}, "default": []},
            },
            "required": ["name"],
            "$defs": {"Size": {"type": ["string"], "description": "A size\nof [`it`]."}},
        });
        let text = render(&schema);
        for line in [
            "| `name` | text | **required** | A name. |",
            "| `size` | [Size](#size) | `1\\|2` |  |",
            "| `rate` | whole number, 1 or more |  |  |",
            "| `among` | list of `a`, `b` |  |  |",
            "A size of `it`.",
            "Written as text.",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
    }

    #[test]
    fn no_type_is_without_a_section() {
        let schema: Value =
            serde_json::from_str(&crate::commands::schema::job_schema().unwrap()).unwrap();
        let text = render(&schema);
        for link in text.split("](#").skip(1) {
            let anchor = link.split(')').next().unwrap();
            let heading = |line: &str| {
                let title = line.trim_start_matches('#').trim().to_ascii_lowercase();
                line.starts_with('#') && title.replace(' ', "-") == anchor
            };
            assert!(text.lines().any(heading), "{anchor}");
        }
        assert!(!text.contains("anything"), "{text}");
    }
}
