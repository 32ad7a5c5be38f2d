//! How far a stage's input is from what its model was fitted on.

use std::collections::BTreeMap;

use gleaner_workers::importance_weights::DriftFacts;
use gleaner_workers::stage::CompletedStage;
use serde::Serialize;

/// The input of a stage beside what its model was fitted on.
#[derive(Debug, Clone, Serialize)]
pub struct DriftSummary {
    /// Kullback-Leibler divergence of today's n-grams from those of the fit, in nats.
    pub kl: Option<f64>,
    /// What sampling alone would give of it.
    pub kl_noise: Option<f64>,
    /// Share of today's n-grams that the fit never saw.
    pub unseen_share: Option<f64>,
    /// Change of the mean weight per token since the fit, in standard deviations of then, by column.
    pub score_shift: BTreeMap<String, Option<f64>>,
}

/// What a stage told of it, if it has a model.
pub(crate) fn of(completed: &CompletedStage) -> Option<DriftSummary> {
    let facts = DriftFacts::read(&completed.facts)?;
    let shifts = facts.scores.iter();
    Some(DriftSummary {
        kl: facts.kl,
        kl_noise: facts.kl_noise,
        unseen_share: facts.unseen_share,
        score_shift: shifts
            .map(|(column, scores)| (column.clone(), scores.shift()))
            .collect(),
    })
}

impl DriftSummary {
    /// In one line.
    #[must_use]
    pub fn render(&self) -> String {
        let number = |value: Option<f64>| {
            value.map_or_else(|| "unknown".to_owned(), |value| format!("{value:.4}"))
        };
        let unseen = self.unseen_share.map_or_else(
            || "unknown".to_owned(),
            |share| format!("{:.2}%", 100.0 * share),
        );
        let shifts = self.score_shift.iter().map(|(column, shift)| {
            let suffix = column
                .strip_prefix("log_weight_per_token")
                .unwrap_or(column)
                .trim_start_matches('_');
            let of = if suffix.is_empty() {
                String::new()
            } else {
                format!(" ({suffix})")
            };
            let shift = shift.map_or_else(|| "unknown".to_owned(), |it| format!("{it:+.3}"));
            format!(", scores {shift} deviations{of}")
        });
        format!(
            "since the fit: KL {} nats (noise {}), {unseen} of n-grams unseen{}",
            number(self.kl),
            number(self.kl_noise),
            shifts.collect::<String>()
        )
    }
}
