//! Types of Arrow as Delta knows them.
//!
//! The objects stay as they are, so a column is in the table only if readers take its bytes for what
//! Delta says they are. Unsigned integers of up to 32 bits are the next larger signed ones: Parquet
//! marks them, and readers widen them. Those of 64 bits have no such type (a decimal is none to
//! polars), so columns of them are left out, like nanoseconds and lists of a fixed size.

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use serde_json::{Value, json};

/// Digits of the largest decimals of Delta.
const DECIMAL_DIGITS_MAX: u8 = 38;

/// The schema of a Delta table.
#[derive(Debug)]
pub(super) struct DeltaSchema {
    /// As `metaData` has it.
    pub(super) fields: Value,
    /// Columns that are not in it, each with its type.
    pub(super) left_out: Vec<String>,
    /// Whether it has times without a zone, which readers must know of.
    pub(super) has_local_times: bool,
}

impl DeltaSchema {
    /// That of a table.
    pub(super) fn of(schema: &Schema) -> Self {
        let mut fields = Vec::new();
        let mut left_out = Vec::new();
        for field in schema.fields() {
            match delta_field(field) {
                Some(field) => fields.push(field),
                None => left_out.push(format!("{} ({})", field.name(), field.data_type())),
            }
        }
        let fields = json!({ "type": "struct", "fields": fields });
        Self {
            has_local_times: has_local_times(&fields),
            fields,
            left_out,
        }
    }
}

fn delta_field(field: &Field) -> Option<Value> {
    Some(json!({
        "name": field.name(),
        "type": delta_type(field.data_type())?,
        "nullable": field.is_nullable(),
        "metadata": {},
    }))
}

fn delta_type(data_type: &DataType) -> Option<Value> {
    let name = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string",
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => "binary",
        DataType::Boolean => "boolean",
        DataType::Int8 => "byte",
        DataType::Int16 | DataType::UInt8 => "short",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "long",
        DataType::Float32 => "float",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Timestamp(TimeUnit::Millisecond | TimeUnit::Microsecond, zone) => match zone {
            Some(_) => "timestamp",
            None => LOCAL_TIME,
        },
        DataType::Decimal32(digits, scale)
        | DataType::Decimal64(digits, scale)
        | DataType::Decimal128(digits, scale) => {
            let is_known = *digits <= DECIMAL_DIGITS_MAX
                && u8::try_from(*scale).is_ok_and(|scale| scale <= *digits);
            return is_known.then(|| json!(format!("decimal({digits},{scale})")));
        }
        DataType::Dictionary(_, values) => return delta_type(values),
        DataType::List(item) | DataType::LargeList(item) => {
            return Some(json!({
                "type": "array",
                "elementType": delta_type(item.data_type())?,
                "containsNull": item.is_nullable(),
            }));
        }
        DataType::Struct(fields) => return delta_struct(fields),
        DataType::Map(entries, _) => return delta_map(entries),
        _ => return None,
    };
    Some(json!(name))
}

const LOCAL_TIME: &str = "timestamp_ntz";

fn delta_struct(fields: &Fields) -> Option<Value> {
    let fields = fields.iter().map(|field| delta_field(field));
    let fields: Vec<Value> = fields.collect::<Option<_>>()?;
    (!fields.is_empty()).then(|| json!({ "type": "struct", "fields": fields }))
}

fn delta_map(entries: &Field) -> Option<Value> {
    let DataType::Struct(fields) = entries.data_type() else {
        return None;
    };
    let [key, value] = fields.as_ref() else {
        return None;
    };
    Some(json!({
        "type": "map",
        "keyType": delta_type(key.data_type())?,
        "valueType": delta_type(value.data_type())?,
        "valueContainsNull": value.is_nullable(),
    }))
}

/// Only types are looked at: a column may be called anything.
fn has_local_times(value: &Value) -> bool {
    const TYPES: [&str; 4] = ["type", "elementType", "keyType", "valueType"];
    let mut of_types = TYPES.iter().filter_map(|key| value.get(key));
    let fields = value.get("fields").and_then(Value::as_array);
    let mut of_fields = fields.into_iter().flatten();
    value == LOCAL_TIME || of_types.any(has_local_times) || of_fields.any(has_local_times)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(data_type: DataType, expected: Option<Value>) {
        assert_eq!(delta_type(&data_type), expected, "{data_type}");
    }

    #[test]
    fn types_are_those_that_readers_take_the_bytes_for() {
        let item = |data_type: DataType| Arc::new(Field::new_list_field(data_type, true));
        for (data_type, name) in [
            (DataType::Utf8View, "string"),
            (DataType::FixedSizeBinary(4), "binary"),
            (DataType::UInt8, "short"),
            (DataType::UInt16, "integer"),
            (DataType::UInt32, "long"),
            (DataType::Decimal128(20, 2), "decimal(20,2)"),
            (
                DataType::Timestamp(TimeUnit::Millisecond, Some("Europe/Berlin".into())),
                "timestamp",
            ),
            (DataType::Timestamp(TimeUnit::Microsecond, None), LOCAL_TIME),
            (
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
                "string",
            ),
        ] {
            check(data_type, Some(json!(name)));
        }
        check(
            DataType::List(item(DataType::UInt32)),
            Some(json!({"type": "array", "elementType": "long", "containsNull": true})),
        );
        let entries = Fields::from(vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int32, true),
        ]);
        let entries = Arc::new(Field::new("entries", DataType::Struct(entries), false));
        check(
            DataType::Map(entries, false),
            Some(json!({
                "type": "map", "keyType": "string", "valueType": "integer",
                "valueContainsNull": true,
            })),
        );
        for data_type in [
            DataType::UInt64,
            DataType::Float16,
            DataType::Date64,
            DataType::Time64(TimeUnit::Microsecond),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Decimal128(5, -2),
            DataType::Decimal256(40, 0),
            DataType::FixedSizeList(item(DataType::Float32), 3),
            DataType::List(item(DataType::UInt64)),
            DataType::Struct(vec![Field::new("x", DataType::UInt64, true)].into()),
        ] {
            check(data_type, None);
        }
    }

    #[test]
    fn what_has_no_type_is_left_out_and_named() {
        let local = DataType::Timestamp(TimeUnit::Microsecond, None);
        let schema = Schema::new(vec![
            Field::new("doc_id", DataType::Utf8, false),
            Field::new("input_row", DataType::UInt64, true),
            Field::new(LOCAL_TIME, DataType::Utf8, true),
        ]);
        let delta = DeltaSchema::of(&schema);
        assert_eq!(delta.left_out, ["input_row (UInt64)"]);
        assert!(!delta.has_local_times);
        assert_eq!(
            delta.fields["fields"][0],
            json!({"name": "doc_id", "type": "string", "nullable": false, "metadata": {}})
        );
        let nested = DataType::List(Arc::new(Field::new_list_field(local, true)));
        let schema = Schema::new(vec![Field::new("seen", nested, true)]);
        assert!(DeltaSchema::of(&schema).has_local_times);
    }
}
