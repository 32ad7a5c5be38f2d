//! Reduce `fit`: counts to log ratios. Reduce `adopt`: another output's model becomes this one's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, UInt32Array, UInt64Array};
use gleaner_algorithms::BucketCounts;
use gleaner_algorithms::importance::{FitError, fit};
use gleaner_schemas::Failure;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::count::{BATCH_ROWS, Counted};
use super::model::{
    Features, MODEL, ModelFacts, TargetFacts, TargetMode, check_features, model_schema, suffixes,
};
use crate::batch_columns::{arrow_failure, permanent};
use crate::stage::{ReduceInputs, ReduceOutput};

const COLUMNS_HELP: &str = "are `paths`, `columns: {text: ...}` and `where` what you meant?";

/// Parameters of the reduce `fit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FitParams {
    pub(crate) features: Features,
    pub(crate) mode: TargetMode,
    pub(crate) pseudo_count: f64,
    /// Name of each target and of the phase that counted it.
    pub(crate) targets: Vec<(String, String)>,
    pub(crate) raw_phase: String,
    pub(crate) fitted_with: Value,
}

/// Fits the model. An empty side is an error, also with a pseudo-count: a uniform target would
/// be a silent answer to a question that nobody asked.
pub(crate) fn fit_model(
    params: &FitParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<ReduceOutput, Failure> {
    let raw = Counted::read(inputs, &params.raw_phase, &params.features)?;
    if raw.facts.n_ngrams == 0 {
        return Err(permanent(format!("{}; {COLUMNS_HELP}", FitError::EmptyRaw)));
    }
    let mut facts = ModelFacts {
        features: params.features,
        mode: params.mode,
        targets: Vec::new(),
        raw: raw.facts,
        pseudo_count: params.pseudo_count,
        fitted_with: params.fitted_with.clone(),
    };
    let mut sides: Vec<BucketCounts> = Vec::new();
    for (name, phase) in &params.targets {
        let counted = Counted::read(inputs, phase, &params.features)?;
        if counted.facts.n_ngrams == 0 {
            return Err(permanent(match counted.facts.n_documents {
                0 => format!(
                    "the target `{name}` is empty: it has no document with a text; {COLUMNS_HELP}"
                ),
                n => format!(
                    "the target `{name}` has no usable token in {n} documents; {COLUMNS_HELP}"
                ),
            }));
        }
        facts.targets.push(TargetFacts {
            name: name.clone(),
            counted: counted.facts,
        });
        match sides
            .first_mut()
            .filter(|_| params.mode == TargetMode::Pooled)
        {
            None => sides.push(counted.counts),
            Some(pool) => {
                for (bucket, count) in counted.counts.nonzero() {
                    // Both have the same number of buckets.
                    let _ = pool.add_count(bucket, count);
                }
            }
        }
    }
    let raw = raw.counts.to_vec();
    let sides: Vec<Vec<u64>> = sides.iter().map(BucketCounts::to_vec).collect();
    let mut log_ratios = Vec::new();
    for side in &sides {
        let ratios =
            fit(&raw, side, params.pseudo_count).map_err(|error| permanent(error.to_string()))?;
        log_ratios.push(ratios);
    }
    let table = model_table(&facts, &raw, &sides, &log_ratios)?;
    Ok(ReduceOutput {
        files: BTreeMap::new(),
        facts: json!(facts),
        tables: BTreeMap::from([(MODEL.to_owned(), table)]),
    })
}

fn model_table(
    facts: &ModelFacts,
    raw: &[u64],
    sides: &[Vec<u64>],
    log_ratios: &[Vec<f64>],
) -> Result<Vec<RecordBatch>, Failure> {
    let names = facts.targets.iter().map(|target| target.name.as_str());
    let schema = model_schema(&facts.features, &suffixes(facts.mode, names))?;
    let n_buckets = facts.features.buckets as usize;
    let batch = |rows: Range<usize>| {
        let (start, end) = (rows.start as u32, rows.end as u32);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(start..end)),
            Arc::new(UInt64Array::from(raw[rows.clone()].to_vec())),
        ];
        for (side, ratios) in sides.iter().zip(log_ratios) {
            columns.push(Arc::new(UInt64Array::from(side[rows.clone()].to_vec())));
            columns.push(Arc::new(Float64Array::from(ratios[rows.clone()].to_vec())));
        }
        RecordBatch::try_new(Arc::clone(&schema), columns).map_err(arrow_failure)
    };
    (0..n_buckets)
        .step_by(BATCH_ROWS)
        .map(|start| batch(start..(start + BATCH_ROWS).min(n_buckets)))
        .collect()
}

/// Copies a model, so that this output has one of its own and can be read without the other.
pub(crate) fn adopt_model(
    facts: &Value,
    inputs: &mut dyn ReduceInputs,
) -> Result<ReduceOutput, Failure> {
    let model = ModelFacts::read(Some(facts), "the named stage")?;
    let schema = model_schema(&model.features, &model.suffixes())?;
    let mut table = Vec::new();
    for batch in inputs.side_input(MODEL)? {
        check_features(&batch, &model.features)?;
        let columns: Option<Vec<ArrayRef>> = schema
            .fields()
            .iter()
            .map(|field| {
                let column = batch.column_by_name(field.name())?;
                (column.data_type() == field.data_type() && column.null_count() == 0)
                    .then(|| Arc::clone(column))
            })
            .collect();
        let columns =
            columns.ok_or_else(|| permanent("the table of the named model is not a model"))?;
        table.push(RecordBatch::try_new(Arc::clone(&schema), columns).map_err(arrow_failure)?);
    }
    Ok(ReduceOutput {
        files: BTreeMap::new(),
        facts: facts.clone(),
        tables: BTreeMap::from([(MODEL.to_owned(), table)]),
    })
}
