//! Did it work? Map `measure` counts the n-grams of what was chosen, the reduce compares.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use gleaner_algorithms::measure::kl_reduction;
use gleaner_schemas::{Failure, Lanes};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::choose::{by_place, chunks};
use super::chosen_documents::ChosenDocuments;
use crate::batch_columns::{arrow_failure, numbers};
use crate::importance_weights::{CHUNK_START, Counted, Counter, Features, MODEL, ModelFacts};
use crate::stage::{Emit, MapContext, MapStage, ReduceInputs};

/// Parameters of the map `measure`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeasureParams {
    pub(crate) features: Features,
    /// Column of the text: in the selection, or in the corpus if texts are looked up.
    pub(crate) text: String,
    /// Whether the selection holds texts.
    pub(crate) is_materialized: bool,
}

/// The map over the selection.
#[derive(Debug)]
pub(crate) struct MeasureStage {
    params: MeasureParams,
    counter: Counter,
    documents: ChosenDocuments,
    chosen: Vec<RecordBatch>,
    lanes: Lanes,
}

impl MeasureStage {
    pub(crate) fn new(params: MeasureParams, context: &MapContext<'_>) -> Result<Self, Failure> {
        Ok(Self {
            counter: Counter::new(&params.features)?,
            documents: ChosenDocuments::of(context),
            params,
            chosen: Vec::new(),
            lanes: Lanes::default(),
        })
    }
}

fn add(counter: &mut Counter, texts: &dyn Array) -> Result<(), Failure> {
    let texts = cast(texts, &DataType::Utf8).map_err(arrow_failure)?;
    for text in texts.as_string::<i32>().iter().flatten() {
        counter.add(text);
    }
    Ok(())
}

impl MapStage for MeasureStage {
    fn output(&self) -> SchemaRef {
        self.counter.schema()
    }

    fn process(&mut self, batch: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        self.lanes.rows_in += batch.num_rows() as u64;
        self.lanes.ok += batch.num_rows() as u64;
        if self.params.is_materialized {
            return match batch.column_by_name(&self.params.text) {
                Some(texts) => add(&mut self.counter, texts),
                None => Ok(()),
            };
        }
        self.chosen.push(batch.clone());
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        let chosen = std::mem::take(&mut self.chosen);
        if let Some(first) = chosen.first() {
            let all = concat_batches(&first.schema(), &chosen).map_err(arrow_failure)?;
            let (own, places) = by_place(&all)?;
            let text = Field::new(&self.params.text, DataType::Utf8, true);
            let schema = Arc::new(Schema::new(vec![text]));
            let counter = &mut self.counter;
            self.documents
                .for_each(&places, &schema, &mut |range, documents| {
                    if own.column_by_name(CHUNK_START).is_none() {
                        return add(counter, documents.column(0));
                    }
                    let own = own.slice(range.start, range.len());
                    add(counter, &chunks(&own, documents.column(0))?)
                })?;
        }
        self.counter.finish(emit)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// KL reduction in nats by target, the mean over them, and the n-grams that were counted.
pub(crate) fn measure(
    facts: &ModelFacts,
    inputs: &mut dyn ReduceInputs,
    phase: &str,
) -> Result<Value, Failure> {
    let selected = Counted::read(inputs, phase, &facts.features)?;
    let model = inputs.side_input(MODEL)?;
    let column = |name: &str| -> Result<Vec<u64>, Failure> {
        let mut values = Vec::new();
        for batch in &model {
            values.extend_from_slice(numbers(batch, name)?.values());
        }
        Ok(values)
    };
    let raw = column("raw_count")?;
    let selected_counts = selected.counts.to_vec();
    let mut by_target: BTreeMap<String, Option<f64>> = BTreeMap::new();
    for (name, suffix) in facts.columns() {
        let target = column(&format!("target_count{suffix}"))?;
        by_target.insert(name, kl_reduction(&target, &raw, &selected_counts));
    }
    let known: Vec<f64> = by_target.values().copied().flatten().collect();
    let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    Ok(json!({
        "kl_reduction": mean,
        "kl_reduction_by_target": by_target,
        "n_documents": selected.facts.n_documents,
        "n_tokens": selected.facts.n_tokens,
        "n_ngrams": selected.facts.n_ngrams,
    }))
}
