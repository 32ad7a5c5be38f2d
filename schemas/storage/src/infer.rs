//! Columns of lines of JSON, from the values of the first ones.

use std::collections::HashMap;

use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_json::Value;

/// The columns that most lines agree on. A line that disagrees (an object where others have a
/// text) has no say; whoever reads it finds that it does not fit.
///
/// # Errors
///
/// If even these lines cannot be brought together.
pub(crate) fn infer_columns(values: &[Value]) -> Result<Schema, ArrowError> {
    let infer = |values: &[&Value]| infer_json_schema_from_iterator(values.iter().copied().map(Ok));
    let all: Vec<&Value> = values.iter().collect();
    let Err(_) = infer(&all) else {
        return infer(&all);
    };
    // Some lines do not even agree with themselves: an array of a number and an object.
    let sound: Vec<&Value> = all
        .into_iter()
        .filter(|value| infer(&[value]).is_ok())
        .collect();
    infer(&majority(&sound))
}

/// What types cannot be unified: objects with anything else. Numbers, texts and arrays can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Object,
    Other,
}

/// How many values at one place have which shape.
#[derive(Debug, Clone, Copy, Default)]
struct Votes {
    object: usize,
    other: usize,
}

/// Lines that have the shape of most lines at each place.
fn majority<'a>(values: &[&'a Value]) -> Vec<&'a Value> {
    let mut votes: HashMap<String, Votes> = HashMap::new();
    for value in values {
        each_shape(value, "", &mut |place, shape| {
            let votes = votes.entry(place.to_owned()).or_default();
            match shape {
                Shape::Object => votes.object += 1,
                Shape::Other => votes.other += 1,
            }
        });
    }
    let agrees = |value: &Value| {
        let mut agrees = true;
        each_shape(value, "", &mut |place, shape| {
            let votes = votes.get(place).copied().unwrap_or_default();
            let wanted = if votes.object > votes.other {
                Shape::Object
            } else {
                Shape::Other
            };
            agrees &= shape == wanted;
        });
        agrees
    };
    values
        .iter()
        .copied()
        .filter(|value| agrees(value))
        .collect()
}

/// Calls `each` with every place below a value and the shape of what is there; nulls have none.
fn each_shape(value: &Value, place: &str, each: &mut dyn FnMut(&str, Shape)) {
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            each(place, Shape::Object);
            for (name, field) in fields {
                each_shape(field, &format!("{place}\u{0}{name}"), each);
            }
        }
        // A scalar beside an array counts as an array of one, so both have the same places.
        Value::Array(items) => items.iter().for_each(|item| each_shape(item, place, each)),
        _ => each(place, Shape::Other),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use serde_json::json;

    use super::*;

    fn types(lines: &[Value]) -> Vec<(String, DataType)> {
        let schema = infer_columns(lines).unwrap();
        let fields = schema.fields().iter();
        let mut types: Vec<_> = fields
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect();
        types.sort_by(|a, b| a.0.cmp(&b.0));
        types
    }

    fn text(name: &str) -> (String, DataType) {
        (name.to_owned(), DataType::Utf8)
    }

    #[test]
    fn one_line_does_not_decide_for_all() {
        let good = json!({"text": "one", "lang": "en"});
        for odd in [
            json!({"text": {"en": "one"}, "lang": "en"}),
            json!({"text": "one", "lang": {"code": "en"}}),
            json!({"text": "one", "lang": "en", "meta": [1, {"a": 2}]}),
            json!({"text": "one", "lang": [{"code": "en"}]}),
        ] {
            for lines in [
                [odd.clone(), good.clone(), good.clone()],
                [good.clone(), good.clone(), odd.clone()],
            ] {
                assert_eq!(types(&lines), [text("lang"), text("text")], "{odd}");
            }
        }
    }

    #[test]
    fn nested_objects_vote_as_well() {
        let lines = [
            json!({"m": {"a": {"b": 1}}}),
            json!({"m": {"a": 5}}),
            json!({"m": {"a": {"b": 2}}}),
            json!({"m": null}),
        ];
        let found = types(&lines);
        assert!(
            matches!(&found[0].1, DataType::Struct(fields)
                if matches!(fields[0].data_type(), DataType::Struct(_))),
            "{found:?}"
        );
    }

    #[test]
    fn what_can_be_unified_is() {
        let lines = [json!({"a": 1}), json!({"a": "x"}), json!({"a": null})];
        assert_eq!(types(&lines), [text("a")]);
        assert_eq!(types(&[]), []);
    }
}
