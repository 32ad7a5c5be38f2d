//! Reduce `publish`: from rows that hold pieces of files to the files, and the log as a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray as _, Float64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::{Bytes, BytesMut};
use gleaner_schemas::Failure;
use gleaner_schemas::columns::with_field_ids;
use serde_json::{Value, json};

use super::state::LogEntry;
use super::train::{CONTENT, FACTS, LOG, NAME};
use crate::batch_columns::{arrow_failure, permanent, texts};
use crate::stage::{ReduceInputs, ReduceOutput};

/// Puts the files of the map `phase` together.
pub(super) fn publish(phase: &str, inputs: &mut dyn ReduceInputs) -> Result<ReduceOutput, Failure> {
    let mut files: BTreeMap<String, BytesMut> = BTreeMap::new();
    inputs.for_each(phase, &mut |batch| {
        let names = texts(&batch, NAME)?;
        let contents = batch
            .column_by_name(CONTENT)
            .and_then(|it| it.as_binary_opt::<i32>());
        let contents = contents.ok_or_else(|| permanent("a trained model has no contents"))?;
        for row in 0..batch.num_rows() {
            let file = files.entry(names.value(row).to_owned()).or_default();
            file.extend_from_slice(contents.value(row));
        }
        Ok(())
    })?;
    let mut files: BTreeMap<String, Bytes> = files
        .into_iter()
        .map(|(name, bytes)| (name, bytes.freeze()))
        .collect();
    let mut take = |name: &str| {
        let missing = || permanent(format!("a trained model has no {name}"));
        files.remove(name).ok_or_else(missing)
    };
    let malformed = |error| permanent(format!("what was told of a training: {error}"));
    let facts: Value = serde_json::from_slice(&take(FACTS)?).map_err(malformed)?;
    let log: Vec<LogEntry> = serde_json::from_slice(&take(LOG)?).map_err(malformed)?;
    Ok(ReduceOutput {
        facts: json!(facts),
        tables: BTreeMap::from([(String::new(), vec![table(&log)?])]),
        files,
    })
}

fn table(log: &[LogEntry]) -> Result<RecordBatch, Failure> {
    let schema = with_field_ids(&Schema::new(vec![
        Field::new("step", DataType::UInt64, false),
        Field::new("tokens", DataType::UInt64, false),
        Field::new("learning_rate", DataType::Float64, true),
        Field::new("loss", DataType::Float64, true),
        Field::new("held_out_loss", DataType::Float64, true),
        Field::new("gradient_norm", DataType::Float64, true),
    ]));
    let floats = |value: fn(&LogEntry) -> Option<f64>| {
        Arc::new(log.iter().map(value).collect::<Float64Array>()) as _
    };
    RecordBatch::try_new(
        schema,
        vec![
            Arc::new(UInt64Array::from_iter_values(log.iter().map(|it| it.step))) as _,
            Arc::new(UInt64Array::from_iter_values(
                log.iter().map(|it| it.tokens),
            )) as _,
            floats(|it| it.learning_rate),
            floats(|it| it.loss),
            floats(|it| it.held_out_loss),
            floats(|it| it.gradient_norm),
        ],
    )
    .map_err(arrow_failure)
}
