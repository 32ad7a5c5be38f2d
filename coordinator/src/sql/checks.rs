//! The tables `gleaner.guardrails` and `gleaner.drift`: how a version compares with the one before it,
//! and how far its input is from what its models were fitted on.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, StringArray, UInt64Array};
use gleaner_schemas::{Beyond, Check, ColumnSums, Version};
use gleaner_workers::importance_weights::{DriftFacts, ScoreDrift};

use super::system::Columns;

/// One row for each figure that was compared when the version was published.
pub(super) fn guardrails(version: &Version) -> Columns {
    let checks = || version.checks.iter();
    let numbers = |of: fn(&Check) -> Option<f64>| floats(checks().map(of));
    let beyond = checks().map(|check| match check.beyond {
        Beyond::Warn => "warn",
        Beyond::Stop => "stop",
    });
    let is_crossed = checks().map(|check| Some(check.is_crossed));
    vec![
        (
            "stage",
            texts(checks().map(|check| check.stage.as_deref())),
            true,
        ),
        (
            "figure",
            Arc::new(StringArray::from_iter_values(
                checks().map(|check| check.figure.as_str()),
            )),
            false,
        ),
        (
            "detail",
            texts(checks().map(|check| check.of.as_deref())),
            true,
        ),
        ("before", numbers(|check| check.before), true),
        ("now", numbers(|check| check.now), true),
        ("least", numbers(|check| check.least), true),
        ("most", numbers(|check| check.most), true),
        (
            "beyond",
            Arc::new(StringArray::from_iter_values(beyond)),
            false,
        ),
        (
            "is_crossed",
            Arc::new(BooleanArray::from_iter(is_crossed)),
            false,
        ),
    ]
}

struct DriftRow<'a> {
    stage: &'a str,
    fitted_by: Option<u64>,
    facts: DriftFacts,
    column: String,
    scores: ScoreDrift,
}

/// One row for each column of weights of each stage.
pub(super) fn drift(version: &Version) -> Columns {
    let mut rows = Vec::new();
    for stage in &version.stage_order {
        let Some(facts) = version
            .stages
            .get(stage)
            .and_then(|of| DriftFacts::read(&of.facts))
        else {
            continue;
        };
        let model = version.tables.get(&format!("{stage}_model"));
        for (column, scores) in &facts.scores {
            rows.push(DriftRow {
                stage,
                fitted_by: model.map(|table| table.since_version),
                facts: facts.clone(),
                column: column.clone(),
                scores: *scores,
            });
        }
    }
    let all = || rows.iter();
    let counts = |of: fn(&DriftRow<'_>) -> Option<u64>| -> ArrayRef {
        Arc::new(UInt64Array::from_iter(all().map(of)))
    };
    let numbers = |of: fn(&DriftRow<'_>) -> Option<f64>| floats(all().map(of));
    let sums = |of: fn(&ColumnSums) -> Option<f64>, is_now: bool| {
        floats(all().map(|row| {
            let sums = if is_now {
                &row.scores.now
            } else {
                &row.scores.at_fit
            };
            of(sums)
        }))
    };
    vec![
        ("stage", texts(all().map(|row| Some(row.stage))), false),
        ("fitted_by_version", counts(|row| row.fitted_by), true),
        ("kl", numbers(|row| row.facts.kl), true),
        ("kl_noise", numbers(|row| row.facts.kl_noise), true),
        ("unseen_share", numbers(|row| row.facts.unseen_share), true),
        ("n_texts", counts(|row| Some(row.facts.n_texts)), false),
        ("n_ngrams", counts(|row| Some(row.facts.n_ngrams)), false),
        (
            "column_name",
            texts(all().map(|row| Some(row.column.as_str()))),
            false,
        ),
        ("mean_at_fit", sums(ColumnSums::mean, false), true),
        ("deviation_at_fit", sums(ColumnSums::deviation, false), true),
        ("mean_now", sums(ColumnSums::mean, true), true),
        ("shift", numbers(|row| row.scores.shift()), true),
    ]
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(Float64Array::from_iter(values))
}
