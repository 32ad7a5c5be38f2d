//! Columns of batches by name, as the type that a stage computes with.

use std::sync::Arc;

use arrow::array::{
    Array, BooleanArray, Float64Array, RecordBatch, StringArray, StringViewArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use gleaner_schemas::{Failure, FailureKind};

/// A failure that trying again cannot help.
pub(crate) fn permanent(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Permanent, message)
}

/// For batches that we build ourselves: an error is a bug or a type that does not fit.
pub(crate) fn arrow_failure(error: ArrowError) -> Failure {
    permanent(format!("cannot build rows: {error}"))
}

/// The column as `T`, cast if it has another type; `None` if there is no such column.
pub(crate) fn optional<T: Array + Clone + 'static>(
    batch: &RecordBatch,
    name: &str,
    data_type: &DataType,
) -> Result<Option<T>, Failure> {
    let Some(column) = batch.column_by_name(name) else {
        return Ok(None);
    };
    let column = if column.data_type() == data_type {
        Arc::clone(column)
    } else {
        cast(column, data_type).map_err(|error| {
            permanent(format!(
                "column {name} cannot be read as {data_type}: {error}"
            ))
        })?
    };
    Ok(column.as_any().downcast_ref::<T>().cloned())
}

fn required<T: Array + Clone + 'static>(
    batch: &RecordBatch,
    name: &str,
    data_type: &DataType,
) -> Result<T, Failure> {
    optional(batch, name, data_type)?
        .ok_or_else(|| permanent(format!("a batch has no column {name}")))
}

pub(crate) fn texts(batch: &RecordBatch, name: &str) -> Result<StringArray, Failure> {
    required(batch, name, &DataType::Utf8)
}

pub(crate) fn optional_texts(
    batch: &RecordBatch,
    name: &str,
) -> Result<Option<StringArray>, Failure> {
    optional(batch, name, &DataType::Utf8)
}

pub(crate) fn text_views(batch: &RecordBatch, name: &str) -> Result<StringViewArray, Failure> {
    required(batch, name, &DataType::Utf8View)
}

pub(crate) fn numbers(batch: &RecordBatch, name: &str) -> Result<UInt64Array, Failure> {
    required(batch, name, &DataType::UInt64)
}

pub(crate) fn optional_numbers(
    batch: &RecordBatch,
    name: &str,
) -> Result<Option<UInt64Array>, Failure> {
    optional(batch, name, &DataType::UInt64)
}

pub(crate) fn floats(batch: &RecordBatch, name: &str) -> Result<Float64Array, Failure> {
    required(batch, name, &DataType::Float64)
}

pub(crate) fn optional_booleans(
    batch: &RecordBatch,
    name: &str,
) -> Result<Option<BooleanArray>, Failure> {
    optional(batch, name, &DataType::Boolean)
}

/// The value of a row that may be null.
pub(crate) fn text_at(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}
