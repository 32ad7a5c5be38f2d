//! Map `count-*`: how often each bucket occurs. Its rows depend on nothing but documents and
//! features, so another target or another `min_tokens` reuses the counts of the corpus.
//!
//! Rows: first the totals (`bucket` null, `n_documents` and `n_tokens` set, `count` = all
//! n-grams), then every bucket that occurs, ascending.

use std::collections::BTreeSet;
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
use crate::stage::{Emit, MapStage, ReadObject, ReduceInputs};

/// Sums over fewer objects are not kept: these are read as fast.
const OBJECTS_KEPT_MIN: usize = 64;

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
        emit_counts(&self.schema, &self.counts, &self.facts, emit)
    }
}

fn emit_counts(
    schema: &SchemaRef,
    counts: &BucketCounts,
    facts: &SideFacts,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    let totals = RecordBatch::try_new(
        Arc::clone(schema),
        vec![
            Arc::new(UInt32Array::from(vec![None])),
            Arc::new(UInt64Array::from(vec![facts.n_ngrams])),
            Arc::new(UInt64Array::from(vec![facts.n_documents])),
            Arc::new(UInt64Array::from(vec![facts.n_tokens])),
        ],
    );
    emit(totals.map_err(arrow_failure)?)?;
    let mut nonzero = counts.nonzero().peekable();
    while nonzero.peek().is_some() {
        let (buckets, values): (Vec<u32>, Vec<u64>) = nonzero.by_ref().take(BATCH_ROWS).unzip();
        let none: UInt64Array = vec![None::<u64>; buckets.len()].into();
        let batch = RecordBatch::try_new(
            Arc::clone(schema),
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
    fn new(features: &Features) -> Self {
        Self {
            counts: BucketCounts::new(features.buckets),
            facts: SideFacts::default(),
        }
    }

    /// Reads and adds up a counting phase. Where an earlier run did so over most of the same objects, only
    /// what came and what went since is read.
    pub(crate) fn read(
        inputs: &mut dyn ReduceInputs,
        phase: &str,
        features: &Features,
    ) -> Result<Self, Failure> {
        let objects: BTreeSet<ReadObject> = inputs.objects(phase)?.into_iter().collect();
        let counted = match Self::carried(inputs, phase, features, &objects) {
            Some(carried) => carried,
            None => {
                let mut counted = Self::new(features);
                inputs.for_each(phase, &mut |batch| counted.apply(&batch, true))?;
                counted
            }
        };
        if objects.len() >= OBJECTS_KEPT_MIN {
            let mut sums = Vec::new();
            let (counts, facts) = (&counted.counts, &counted.facts);
            emit_counts(&counts_schema(), counts, facts, &mut |batch| {
                sums.push(batch);
                Ok(())
            })?;
            inputs.keep_sums(phase, &sums);
        }
        Ok(counted)
    }

    /// The sums of an earlier run, with what has changed since. `None` where they are not there, would not
    /// be less work, or do not come out: then everything is counted, and what is wrong is told there.
    fn carried(
        inputs: &mut dyn ReduceInputs,
        phase: &str,
        features: &Features,
        now: &BTreeSet<ReadObject>,
    ) -> Option<Self> {
        if now.len() < OBJECTS_KEPT_MIN {
            return None;
        }
        let kept = inputs.kept_sums(phase)?;
        let before: BTreeSet<ReadObject> = kept.objects.into_iter().collect();
        let came: Vec<ReadObject> = now.difference(&before).cloned().collect();
        let went: Vec<ReadObject> = before.difference(now).cloned().collect();
        if came.len() + went.len() >= now.len() {
            return None;
        }
        let mut counted = Self::new(features);
        for batch in &kept.sums {
            counted.apply(batch, true).ok()?;
        }
        for (objects, is_added) in [(&came, true), (&went, false)] {
            let mut each = |batch: RecordBatch| counted.apply(&batch, is_added);
            inputs.for_each_in(objects, &mut each).ok()?;
        }
        Some(counted)
    }

    /// Adds the rows of an object, or takes them away.
    fn apply(&mut self, batch: &RecordBatch, is_added: bool) -> Result<(), Failure> {
        let missing = |name: &str| permanent(format!("counts have no column {name}"));
        let buckets = optional_numbers(batch, "bucket")?.ok_or_else(|| missing("bucket"))?;
        let counts = numbers(batch, "count")?;
        let n_documents = numbers(batch, "n_documents")?;
        let n_tokens = numbers(batch, "n_tokens")?;
        for row in 0..batch.num_rows() {
            if buckets.is_null(row) {
                let facts = &mut self.facts;
                for (sum, n) in [
                    (&mut facts.n_documents, n_documents.value(row)),
                    (&mut facts.n_tokens, n_tokens.value(row)),
                    (&mut facts.n_ngrams, counts.value(row)),
                ] {
                    let changed = match is_added {
                        true => sum.checked_add(n),
                        false => sum.checked_sub(n),
                    };
                    *sum = changed.ok_or_else(|| permanent("counts do not add up"))?;
                }
                continue;
            }
            let bucket = u32::try_from(buckets.value(row)).unwrap_or(u32::MAX);
            let count = counts.value(row);
            let is_counted = match is_added {
                true => self.counts.add_count(bucket, count),
                false => self.counts.take_count(bucket, count),
            };
            if !is_counted {
                return Err(permanent(format!("bucket {bucket} is out of range")));
            }
        }
        Ok(())
    }
}
