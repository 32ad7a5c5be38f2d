//! Map `count-*`: how often each bucket occurs. Its rows depend on nothing but documents and
//! features, so another target or another `min_tokens` reuses the counts of the corpus.
//!
//! Rows: first the totals (`bucket` null, `n_documents` and `n_tokens` set, `count` = all
//! n-grams), then every bucket that occurs, ascending.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray, StringViewArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_algorithms::{BucketCounts, FeatureExtractor};
use gleaner_schemas::columns::{REASON, TEXT, with_field_ids};
use gleaner_schemas::{Failure, Lanes};

use super::model::{Features, SideFacts};
use crate::batch_columns::{
    arrow_failure, numbers, optional_numbers, permanent, text_views, texts,
};
use crate::stage::{Emit, MapStage, ReduceInputs};

/// Rows of one batch of the result.
pub(crate) const BATCH_ROWS: usize = 65_536;

/// Adds up documents. Used for corpus and targets, and by `select` for what it selected.
#[derive(Debug)]
pub(crate) struct Counter {
    schema: SchemaRef,
    extractor: FeatureExtractor,
    counts: BucketCounts,
    facts: SideFacts,
}

impl Counter {
    pub(crate) fn new(features: &Features) -> Result<Self, Failure> {
        let extractor = features.extractor()?;
        Ok(Self {
            schema: counts_schema(),
            extractor,
            counts: BucketCounts::new(features.buckets),
            facts: SideFacts::default(),
        })
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn add(&mut self, text: &str) {
        let features = self.extractor.extract(text);
        self.facts.n_documents += 1;
        self.facts.n_tokens += u64::from(features.n_tokens);
        self.facts.n_ngrams += features.buckets.len() as u64;
        self.counts.add(features.buckets);
    }

    /// Hands out the result.
    pub(crate) fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        let totals = RecordBatch::try_new(
            Arc::clone(&self.schema),
            vec![
                Arc::new(UInt32Array::from(vec![None])),
                Arc::new(UInt64Array::from(vec![self.facts.n_ngrams])),
                Arc::new(UInt64Array::from(vec![self.facts.n_documents])),
                Arc::new(UInt64Array::from(vec![self.facts.n_tokens])),
            ],
        );
        emit(totals.map_err(arrow_failure)?)?;
        let mut nonzero = self.counts.nonzero().peekable();
        while nonzero.peek().is_some() {
            let (buckets, values): (Vec<u32>, Vec<u64>) = nonzero.by_ref().take(BATCH_ROWS).unzip();
            let none: UInt64Array = vec![None::<u64>; buckets.len()].into();
            let batch = RecordBatch::try_new(
                Arc::clone(&self.schema),
                vec![
                    Arc::new(UInt32Array::from(buckets)),
                    Arc::new(UInt64Array::from(values)),
                    Arc::new(none.clone()),
                    Arc::new(none),
                ],
            );
            emit(batch.map_err(arrow_failure)?)?;
        }
        Ok(())
    }
}

fn counts_schema() -> SchemaRef {
    with_field_ids(&Schema::new(vec![
        Field::new("bucket", DataType::UInt32, true),
        Field::new("count", DataType::UInt64, false),
        Field::new("n_documents", DataType::UInt64, true),
        Field::new("n_tokens", DataType::UInt64, true),
    ]))
}

/// The map over documents.
#[derive(Debug)]
pub(crate) struct CountStage {
    counter: Counter,
    lanes: Lanes,
}

impl CountStage {
    pub(crate) fn new(features: &Features) -> Result<Self, Failure> {
        Ok(Self {
            counter: Counter::new(features)?,
            lanes: Lanes::default(),
        })
    }
}

impl MapStage for CountStage {
    fn output(&self) -> SchemaRef {
        self.counter.schema()
    }

    fn process(&mut self, batch: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let text: StringViewArray = text_views(batch, TEXT)?;
        let reason: StringArray = texts(batch, REASON)?;
        for row in 0..batch.num_rows() {
            self.lanes.rows_in += 1;
            if reason.is_valid(row) || text.is_null(row) {
                self.lanes.rejected += 1;
            } else {
                self.lanes.ok += 1;
                self.counter.add(text.value(row));
            }
        }
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        self.counter.finish(emit)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// The sum over all tasks of a counting phase.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) counts: BucketCounts,
    pub(crate) facts: SideFacts,
}

impl Counted {
    /// Reads and adds up a counting phase.
    pub(crate) fn read(
        inputs: &mut dyn ReduceInputs,
        phase: &str,
        features: &Features,
    ) -> Result<Self, Failure> {
        let mut counted = Self {
            counts: BucketCounts::new(features.buckets),
            facts: SideFacts::default(),
        };
        inputs.for_each(phase, &mut |batch| counted.add(&batch))?;
        Ok(counted)
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), Failure> {
        let missing = |name: &str| permanent(format!("counts have no column {name}"));
        let buckets = optional_numbers(batch, "bucket")?.ok_or_else(|| missing("bucket"))?;
        let counts = numbers(batch, "count")?;
        let n_documents = numbers(batch, "n_documents")?;
        let n_tokens = numbers(batch, "n_tokens")?;
        for row in 0..batch.num_rows() {
            if buckets.is_null(row) {
                self.facts.n_documents += n_documents.value(row);
                self.facts.n_tokens += n_tokens.value(row);
                self.facts.n_ngrams += counts.value(row);
                continue;
            }
            let bucket = u32::try_from(buckets.value(row)).unwrap_or(u32::MAX);
            if !self.counts.add_count(bucket, counts.value(row)) {
                return Err(permanent(format!("bucket {bucket} is out of range")));
            }
        }
        Ok(())
    }
}
