//! YAML to JSON values: as many documents as there are, aliases and merge keys resolved.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Value};

/// The documents of a text.
///
/// # Errors
///
/// What is wrong with it, and where.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: BTreeMap::new(),
    };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(_) => {
                let event = reader.next()?;
                documents.push(reader.value(event)?);
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: BTreeMap<usize, Value>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, String> {
        match self.parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, event: Event<'a>) -> Result<Value, String> {
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style)),
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break (anchor, Value::Array(items)),
                        event => items.push(self.value(event)?),
                    }
                }
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Object(self.mapping()?)),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                return value.ok_or_else(|| "an alias is not defined".to_owned());
            }
            other => return Err(format!("a value is missing: {other:?}")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn mapping(&mut self) -> Result<Map<String, Value>, String> {
        let (mut entries, mut merged) = (Map::new(), Map::new());
        loop {
            let name = match self.next()? {
                Event::MappingEnd => break,
                Event::Scalar(name, ..) => name.into_owned(),
                other => return Err(format!("a key is no plain text: {other:?}")),
            };
            let event = self.next()?;
            match (name.as_str(), self.value(event)?) {
                ("<<", Value::Object(others)) => merged.extend(others),
                ("<<", _) => return Err("what is merged is no mapping".to_owned()),
                (_, value) => {
                    if entries.insert(name.clone(), value).is_some() {
                        return Err(format!("the key {name} stands there twice"));
                    }
                }
            }
        }
        // What stands there itself has precedence.
        merged.append(&mut entries);
        Ok(merged)
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::from(text);
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => Value::from(number),
            (_, Ok(number)) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                Value::from(number)
            }
            _ => Value::from(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_become_values() {
        let check = |text: &str, expect: &[Value]| {
            assert_eq!(documents(text).unwrap(), expect, "{text}");
        };
        check("", &[]);
        check(
            "a: 1\n---\nb: [x, \"1\", 1.5, true, ~]\n",
            &[json!({"a": 1}), json!({"b": ["x", "1", 1.5, true, null]})],
        );
        check(
            "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n",
            &[json!({"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}})],
        );
        check(
            "a: 0.1.0\nb: 4Gi\nc: 1e\n",
            &[json!({"a": "0.1.0", "b": "4Gi", "c": "1e"})],
        );
    }

    #[test]
    fn what_is_no_yaml_is_refused() {
        for text in ["a: [", "a: 1\na: 2\n", "a: *x\n", "{<<: 1}", "? [a]\n: b\n"] {
            assert!(documents(text).is_err(), "{text}");
        }
    }
}
