//! Map `sample`: texts with a key that puts them into a random order, whatever order they are read
//! in.

use std::sync::Arc;

use arrow::array::{Array as _, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_schemas::columns::{REASON, TEXT, with_field_ids};
use gleaner_schemas::{Failure, Fingerprint, Lanes};

use crate::batch_columns::{arrow_failure, text_at, text_views, texts};
use crate::stage::{Emit, MapStage};

/// Position in the random order; equal texts have the same.
pub(super) const KEY: &str = "key";

/// The map over documents.
#[derive(Debug)]
pub(super) struct SampleStage {
    seed: u64,
    schema: SchemaRef,
    lanes: Lanes,
}

impl SampleStage {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            schema: with_field_ids(&Schema::new(vec![
                Field::new(KEY, DataType::UInt64, false),
                Field::new(TEXT, DataType::Utf8, false),
            ])),
            lanes: Lanes::default(),
        }
    }
}

fn key(seed: u64, text: &str) -> u64 {
    let fingerprint = Fingerprint::of("sample", &(seed, text)).to_string();
    // Sixteen hexadecimal digits always are a u64.
    u64::from_str_radix(&fingerprint[..16], 16).unwrap_or_default()
}

impl MapStage for SampleStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure> {
        let text = text_views(batch, TEXT)?;
        let reasons = texts(batch, REASON)?;
        let (mut keys, mut kept) = (Vec::new(), Vec::new());
        self.lanes.rows_in += batch.num_rows() as u64;
        for row in 0..batch.num_rows() {
            if text_at(&reasons, row).is_some() || text.is_null(row) {
                self.lanes.rejected += 1;
                continue;
            }
            let text = text.value(row);
            if text.is_empty() {
                self.lanes.ineligible += 1;
                continue;
            }
            self.lanes.ok += 1;
            keys.push(key(self.seed, text));
            kept.push(text);
        }
        let columns = vec![
            Arc::new(UInt64Array::from(keys)) as _,
            Arc::new(StringArray::from_iter_values(kept)) as _,
        ];
        emit(RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow_failure)?)
    }

    fn finish(&mut self, _emit: Emit<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}
