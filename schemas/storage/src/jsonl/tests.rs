use arrow::array::{Array as _, AsArray as _};
use arrow::datatypes::{DataType, Field, Int64Type};

use super::*;

#[test]
fn a_value_that_does_not_fit_costs_nothing_but_itself() {
    let fields = [("text", DataType::Utf8), ("n", DataType::Int64)];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let lines = [
        r#"{"text": "one", "n": 1}"#,
        r#"{"text": {"en": "two"}, "n": 2}"#,
        "no JSON",
        "[4]",
        r#"{"n": {"x": 1}, "text": "five", "more": [1]}"#,
    ];
    let lines = lines.map(|line| line.as_bytes().to_vec());
    let batch = decode_lines(&schema, &lines).unwrap();
    let texts: Vec<_> = batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("one"), None, None, None, Some("five")]);
    let numbers: Vec<_> = batch.column(1).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(numbers, [Some(1), Some(2), None, None, None]);
    assert_eq!(
        decode_lines(&schema, &[]).map_or(0, |batch| batch.column(0).len()),
        0
    );
}
