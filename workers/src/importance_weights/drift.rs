//! Reduce `drift`: today's input beside what the model was fitted on. It reads what scoring tasks
//! told of themselves ([`super::ngram_counts`]), and no text: where a published version holds the
//! sums over most of the tasks, only what came is added and what went is taken away.
//!
//! The divergence is taken over buckets that the model saw, `sum p ln(p / q)` with both sides
//! normalised there, so that it is zero for the same corpus and finite for any; what the model never
//! saw is the other number, the unseen share. Two samples of one distribution diverge by about
//! `(K - 1) / 2 (1 / n + 1 / m)` for `K` buckets, `n` and `m` n-grams: the noise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use gleaner_schemas::columns::with_field_ids;
use gleaner_schemas::{ColumnSums, Failure, TableFile, Version};
use gleaner_storage::encode::NGRAMS;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{Features, MODEL, ModelFacts};
use super::ngram_counts::{NgramSums, Seen, n_folded};
use super::{KIND, SCORE};
use crate::batch_columns::{arrow_failure, numbers, permanent};
use crate::stage::{Completed, ReadObject, ReduceInputs, ReduceOutput};

/// Name of the table of the reduce.
pub(super) const NGRAMS_TABLE: &str = "ngrams";

/// Parameters of the reduce.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftParams {
    pub(super) stage: String,
    pub(super) features: Features,
    pub(super) suffixes: Vec<String>,
}

/// The fact `drift` of a stage: how far its input is from what its model was fitted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftFacts {
    /// Kullback-Leibler divergence of today's n-grams from those of the fit, in nats.
    pub kl: Option<f64>,
    /// What sampling alone would give of it.
    pub kl_noise: Option<f64>,
    /// Share of today's n-grams that the fit never saw.
    pub unseen_share: Option<f64>,
    /// Texts that were scored.
    pub n_texts: u64,
    /// Their n-grams.
    pub n_ngrams: u64,
    /// Those of them that the fit never saw.
    pub n_unseen: u64,
    /// Weights per token, by column of weights.
    pub scores: BTreeMap<String, ScoreDrift>,
}

/// Weights per token of eligible texts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreDrift {
    /// When the model was fitted, or first used here.
    pub at_fit: ColumnSums,
    /// Today.
    pub now: ColumnSums,
}

impl ScoreDrift {
    /// How far the mean is from what it was, in standard deviations of then.
    #[must_use]
    pub fn shift(&self) -> Option<f64> {
        let by = self.now.mean()? - self.at_fit.mean()?;
        let deviation = self.at_fit.deviation()?;
        if deviation > 0.0 {
            Some(by / deviation)
        } else {
            (by == 0.0).then_some(0.0)
        }
    }
}

impl DriftFacts {
    /// Reads the fact `drift`; nothing where an older program published.
    #[must_use]
    pub fn read(facts: &BTreeMap<String, Value>) -> Option<Self> {
        Self::deserialize(facts.get("drift")?).ok()
    }
}

/// What the reduce found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    seen: Seen,
    kl: Option<f64>,
    kl_noise: Option<f64>,
}

/// Sums what tasks told, and compares it with the model.
pub(super) fn drift(
    params: &DriftParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<ReduceOutput, Failure> {
    let sums = match carried(params, inputs)? {
        Some(sums) => Some(sums),
        None => counted_anew(params, inputs)?,
    };
    let Some(sums) = sums else {
        // An object of an older program: nothing is known, and the table is empty.
        let empty = NgramSums::new(params.features.buckets, params.suffixes.len());
        return output(&empty, None);
    };
    let raw = folded_raw_counts(params, inputs)?;
    output(&sums, Some(&raw))
}

fn output(sums: &NgramSums, raw: Option<&[u64]>) -> Result<ReduceOutput, Failure> {
    let (kl, kl_noise) = match raw.and_then(|raw| divergence(&sums.counts, raw)) {
        Some((kl, noise)) => (Some(kl), Some(noise)),
        None => (None, None),
    };
    Ok(ReduceOutput {
        files: BTreeMap::new(),
        facts: json!(Found {
            seen: sums.seen.clone(),
            kl,
            kl_noise,
        }),
        tables: BTreeMap::from([(NGRAMS_TABLE.to_owned(), vec![ngrams_table(&sums.counts)?])]),
    })
}

/// Sums over all tasks. `None` if a task tells nothing.
fn counted_anew(
    params: &DriftParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<Option<NgramSums>, Failure> {
    let mut sums = NgramSums::new(params.features.buckets, params.suffixes.len());
    let objects = inputs.objects(SCORE)?;
    Ok(add(&mut sums, inputs, &objects, true)?.then_some(sums))
}

/// Objects whose texts are held at a time.
const OBJECTS_AT_A_TIME: usize = 1024;

/// Whether all could be added, or taken away.
fn add(
    sums: &mut NgramSums,
    inputs: &mut dyn ReduceInputs,
    objects: &[ReadObject],
    is_added: bool,
) -> Result<bool, Failure> {
    for objects in objects.chunks(OBJECTS_AT_A_TIME) {
        for told in inputs.told(objects, NGRAMS)? {
            let Some(told) = told else { return Ok(false) };
            if !sums.apply(&told, is_added)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The sums of the published version, with what has changed since. `None` where that is not there,
/// or would not be less work.
fn carried(
    params: &DriftParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<Option<NgramSums>, Failure> {
    let Some((before, table, seen)) = inputs.published().and_then(|it| published(params, it))
    else {
        return Ok(None);
    };
    let now: BTreeSet<ReadObject> = inputs.objects(SCORE)?.into_iter().collect();
    let came: Vec<ReadObject> = now.difference(&before).cloned().collect();
    let went: Vec<ReadObject> = before.difference(&now).cloned().collect();
    if came.len() + went.len() >= now.len() {
        return Ok(None);
    }
    // What went may be gone by now, and the table with it: then everything is counted anew.
    let Ok(batches) = inputs.published_table(&table) else {
        return Ok(None);
    };
    let mut sums = NgramSums::new(params.features.buckets, params.suffixes.len());
    sums.seen = seen;
    for batch in &batches {
        let (buckets, counts) = (numbers(batch, "bucket")?, numbers(batch, "count")?);
        for (bucket, count) in buckets.values().iter().zip(counts.values()) {
            let sum = usize::try_from(*bucket)
                .ok()
                .and_then(|bucket| sums.counts.get_mut(bucket));
            match sum {
                Some(sum) => *sum = *count,
                None => return Ok(None),
            }
        }
    }
    let is_whole = matches!(add(&mut sums, inputs, &went, false), Ok(true));
    Ok((is_whole && add(&mut sums, inputs, &came, true)?).then_some(sums))
}

/// Objects of the published scores, the table of their sums, and what else was summed.
fn published(
    params: &DriftParams,
    version: &Version,
) -> Option<(BTreeSet<ReadObject>, TableFile, Seen)> {
    let stage = version.stages.get(&params.stage)?;
    let model = ModelFacts::read(stage.facts.get("model"), &params.stage).ok()?;
    if stage.kind != KIND
        || model.features != params.features
        || model.suffixes() != params.suffixes
    {
        return None;
    }
    let table = version
        .tables
        .get(&format!("{}_{NGRAMS_TABLE}", params.stage))?;
    let [file] = table.files.as_slice() else {
        return None;
    };
    let facts = DriftFacts::read(&stage.facts)?;
    facts.kl?;
    let scores = params.suffixes.iter();
    let scores: Option<Vec<ColumnSums>> = scores
        .map(|suffix| Some(facts.scores.get(&column(suffix))?.now))
        .collect();
    let seen = Seen {
        n_texts: facts.n_texts,
        n_ngrams: facts.n_ngrams,
        n_unseen: facts.n_unseen,
        scores: scores?,
    };
    let objects = version.tables.get(&params.stage)?.files.iter();
    let objects = objects.map(|file| ReadObject {
        path: file.path.clone(),
        bytes: file.bytes,
    });
    Some((objects.collect(), file.clone(), seen))
}

fn column(suffix: &str) -> String {
    format!("log_weight_per_token{suffix}")
}

fn folded_raw_counts(
    params: &DriftParams,
    inputs: &mut dyn ReduceInputs,
) -> Result<Vec<u64>, Failure> {
    let n_folded = n_folded(params.features.buckets);
    let mut raw = vec![0_u64; n_folded as usize];
    for batch in inputs.side_input(MODEL)? {
        let (buckets, counts) = (numbers(&batch, "bucket")?, numbers(&batch, "raw_count")?);
        for (bucket, count) in buckets.values().iter().zip(counts.values()) {
            // Below the number of folded buckets, as it is folded here.
            raw[(bucket % u64::from(n_folded)) as usize] += count;
        }
    }
    Ok(raw)
}

/// The divergence of today's counts from those of the fit, and what sampling alone would give of it;
/// nothing where one of them is empty.
fn divergence(today: &[u64], raw: &[u64]) -> Option<(f64, f64)> {
    let seen = || today.iter().zip(raw).filter(|(_, raw)| **raw > 0);
    let n_today: u64 = seen().map(|(today, _)| today).sum();
    let n_raw: u64 = raw.iter().sum();
    if n_today == 0 || n_raw == 0 {
        return None;
    }
    let terms = seen().filter(|(today, _)| **today > 0).map(|(today, raw)| {
        let p = *today as f64 / n_today as f64;
        let q = *raw as f64 / n_raw as f64;
        p * (p / q).ln()
    });
    let kl: f64 = terms.sum();
    let n_buckets = seen().count().saturating_sub(1) as f64;
    let noise = n_buckets / 2.0 * (1.0 / n_today as f64 + 1.0 / n_raw as f64);
    Some((kl.max(0.0), noise))
}

fn ngrams_table(counts: &[u64]) -> Result<RecordBatch, Failure> {
    let schema = with_field_ids(&Schema::new(vec![
        Field::new("bucket", DataType::UInt32, false),
        Field::new("count", DataType::UInt64, false),
    ]));
    let occurring = || (0_u32..).zip(counts).filter(|(_, count)| **count > 0);
    RecordBatch::try_new(
        schema,
        vec![
            Arc::new(UInt32Array::from_iter_values(
                occurring().map(|(bucket, _)| bucket),
            )),
            Arc::new(UInt64Array::from_iter_values(
                occurring().map(|(_, count)| *count),
            )),
        ],
    )
    .map_err(arrow_failure)
}

/// The fact of a stage: what the reduce found, beside how scores were when the model was fitted.
pub(super) fn facts(
    found: &Value,
    params: &DriftParams,
    at_fit: Option<&DriftFacts>,
) -> Result<DriftFacts, Failure> {
    let found = Found::deserialize(found)
        .map_err(|error| permanent(format!("the result of a reduce: {error}")))?;
    let share = |n: u64| n as f64 / found.seen.n_ngrams as f64;
    let scores = params.suffixes.iter().zip(&found.seen.scores);
    let scores = scores.map(|(suffix, now)| {
        let column = column(suffix);
        let before = at_fit.and_then(|facts| facts.scores.get(&column));
        let drift = ScoreDrift {
            at_fit: before.map_or(*now, |it| it.at_fit),
            now: *now,
        };
        (column, drift)
    });
    Ok(DriftFacts {
        kl: found.kl,
        kl_noise: found.kl_noise,
        unseen_share: (found.kl.is_some() && found.seen.n_ngrams > 0)
            .then(|| share(found.seen.n_unseen)),
        n_texts: found.seen.n_texts,
        n_ngrams: found.seen.n_ngrams,
        n_unseen: found.seen.n_unseen,
        scores: scores.collect(),
    })
}

/// How scores were when the frozen model was fitted, as the published version tells; nothing if what
/// is scored was changed since.
pub(super) fn published_facts(
    completed: &Completed<'_>,
    stage: &str,
    params: &Value,
) -> Option<DriftFacts> {
    let stage = completed.published?.stages.get(stage)?;
    let without_refit = |params: &Value| {
        let mut params = params.clone();
        if let Some(params) = params.as_object_mut() {
            params.remove("refit");
        }
        params
    };
    (stage.kind == KIND && without_refit(&stage.params) == without_refit(params))
        .then(|| DriftFacts::read(&stage.facts))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divergence_is_that_of_the_formula() {
        let (kl, noise) = divergence(&[30, 10, 5], &[1, 1, 0]).unwrap();
        let expected = 0.75 * (0.75_f64 / 0.5).ln() + 0.25 * (0.25_f64 / 0.5).ln();
        assert!((kl - expected).abs() < 1e-12);
        assert!((noise - 0.5 * (1.0 / 40.0 + 0.5)).abs() < 1e-12);
        assert_eq!(divergence(&[7, 0, 14], &[1, 0, 2]).unwrap().0, 0.0);
        assert_eq!(divergence(&[0, 9], &[1, 0]), None);
        assert_eq!(divergence(&[1], &[0]), None);
    }

    #[test]
    fn shifts_are_in_deviations_of_then() {
        let sums = |values: &[f64]| {
            let mut sums = ColumnSums::default();
            values.iter().for_each(|value| sums.add_value(*value));
            sums
        };
        let drift = |then: &[f64], now: &[f64]| ScoreDrift {
            at_fit: sums(then),
            now: sums(now),
        };
        let shift = drift(&[-1.0, 1.0], &[0.5]).shift().unwrap();
        assert!((shift - 0.5).abs() < 1e-9);
        assert_eq!(drift(&[2.0], &[2.0]).shift(), Some(0.0));
        assert_eq!(drift(&[2.0], &[3.0]).shift(), None);
        assert_eq!(drift(&[], &[3.0]).shift(), None);
    }
}
