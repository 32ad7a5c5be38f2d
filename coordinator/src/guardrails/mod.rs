//! Is the version that a run would publish like the one before it? What changes more than the job file
//! allows is not published.
//!
//! A stage is compared while its own parameters, and those of the stages that it reads, are what they
//! were: who edits the job file asks for another result. Nothing here reads a row: the figures are
//! sums that tasks told ([`crate::told`]), rows and lanes are those of the manifests.

mod render;

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::figures::rejected_share;
use gleaner_schemas::job::Guardrails;
use gleaner_schemas::{Beyond, Check, ColumnSums, Figure, Figures, TableVersion, Version};
use gleaner_workers::importance_weights::DriftFacts;
use gleaner_workers::stage::Need;
use serde_json::Value;

use crate::checked_job::{CheckedJob, CheckedStage};
use crate::driver::FinishedStage;

pub use render::{line, table};

/// Columns that tell how long a text is, the most exact first.
const LENGTHS: [&str; 4] = ["n_bytes", "text", "query", "n_tokens"];

/// Figures of the tables of finished stages, by stage; without those whose objects do not tell.
pub type StageFigures = BTreeMap<String, Figures>;

/// Compares the stages that are finished with a published version, if there is one, and their inputs
/// with what their models were fitted on.
#[must_use]
pub fn checks(
    job: &CheckedJob,
    published: Option<&Version>,
    stages: &BTreeMap<String, FinishedStage>,
    figures: &StageFigures,
) -> Vec<Check> {
    let rules = &job.job.file.guardrails;
    let mut checks = Vec::new();
    let mut changed = BTreeSet::new();
    for checked in &job.stages {
        let Some(finished) = stages.get(&checked.name) else {
            continue;
        };
        if let Some(published) = published {
            if is_changed(checked, finished, published, &changed) {
                changed.insert(checked.name.as_str());
            } else {
                let beside = Beside {
                    rules,
                    name: &checked.name,
                    finished,
                    published,
                    figures: figures.get(&checked.name),
                };
                checks.extend(beside.checks());
            }
        }
        checks.extend(drift(rules, &checked.name, finished));
    }
    checks
}

/// Whether a stage is asked for something else than before.
fn is_changed(
    checked: &CheckedStage,
    finished: &FinishedStage,
    published: &Version,
    changed: &BTreeSet<&str>,
) -> bool {
    let Some(before) = published.stages.get(&checked.name) else {
        return true;
    };
    let reads_changed = checked
        .stage
        .needs()
        .iter()
        .any(|need| matches!(need, Need::Stage(stage) if changed.contains(stage.as_str())));
    let now = &finished.completed;
    reads_changed
        || before.kind != now.kind
        || without_refit(&before.params) != without_refit(&now.params)
}

/// To fit a model anew is no other question.
fn without_refit(params: &Value) -> Value {
    let mut params = params.clone();
    if let Some(params) = params.as_object_mut() {
        params.remove("refit");
    }
    params
}

/// A stage beside what it was.
struct Beside<'a> {
    rules: &'a Guardrails,
    name: &'a str,
    finished: &'a FinishedStage,
    published: &'a Version,
    figures: Option<&'a Figures>,
}

impl Beside<'_> {
    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        let Some(before) = self.published.tables.get(self.name) else {
            return checks;
        };
        checks.extend(self.rows(before));
        checks.extend(self.rejected());
        if let (Some(then), Some(now)) = (&before.figures, self.figures) {
            checks.extend(self.nulls(then, now));
            checks.extend(self.length(then, now));
            checks.extend(self.scores(then, now));
            checks.extend(self.sources(then, now));
        }
        checks
    }

    fn check(&self, figure: Figure, of: Option<&str>, before: f64, now: f64) -> Check {
        Check {
            stage: Some(self.name.to_owned()),
            figure,
            of: of.map(str::to_owned),
            before: Some(before),
            now: Some(now),
            least: None,
            most: None,
            beyond: Beyond::Stop,
            is_crossed: false,
        }
    }

    fn rows(&self, before: &TableVersion) -> Option<Check> {
        let (lost, gained) = (self.rules.rows_lost.value(), self.rules.rows_gained.value());
        if lost.is_none() && gained.is_none() {
            return None;
        }
        let files = self.finished.completed.tables.get(self.name)?;
        let now: u64 = files.iter().map(|file| file.rows).sum();
        let then = before.rows as f64;
        let mut check = self.check(Figure::Rows, None, then, now as f64);
        check.least = lost.map(|share| least_rows(then, share));
        check.most = gained.map(|times| then * (1.0 + times));
        // From nothing, everything is a gain.
        Some(judged(check, before.rows > 0))
    }

    fn rejected(&self) -> Option<Check> {
        let rise = self.rules.rejected_rise.value()?;
        let before = rejected_share(&self.published.stages.get(self.name)?.lanes);
        let now = rejected_share(&self.finished.completed.lanes);
        let mut check = self.check(Figure::RejectedShare, None, before, now);
        check.most = Some(before + rise);
        Some(judged(check, true))
    }

    fn nulls(&self, then: &Figures, now: &Figures) -> Vec<Check> {
        let Some(rise) = self.rules.null_rise.value() else {
            return Vec::new();
        };
        if then.rows == 0 || now.rows == 0 {
            return Vec::new();
        }
        let share = |figures: &Figures, column: &str| {
            figures.nulls.get(column).copied().unwrap_or(0) as f64 / figures.rows as f64
        };
        let columns: BTreeSet<&String> = then.nulls.keys().chain(now.nulls.keys()).collect();
        let checks = columns.into_iter().map(|column| {
            let (before, share_now) = (share(then, column), share(now, column));
            let mut check = self.check(Figure::NullShare, Some(column), before, share_now);
            let variance = |share: f64, rows: u64| share * (1.0 - share) / rows as f64;
            let variance = variance(before, then.rows) + variance(share_now, now.rows);
            check.most = Some(before + rise.max(ERRORS * variance.sqrt()));
            judged(check, true)
        });
        checks.collect()
    }

    fn length(&self, then: &Figures, now: &Figures) -> Option<Check> {
        let change = self.rules.length_change.value()?;
        if self.finished.completed.kind == "select" {
            // The ends of what is compared already: a few texts, of any length.
            return None;
        }
        LENGTHS.iter().find_map(|column| {
            let (then, now) = (then.sums.get(*column)?, now.sums.get(*column)?);
            let before = then.mean()?;
            let mut check = self.check(Figure::MeanLength, Some(column), before, now.mean()?);
            let by = (before * change).max(chance(then, now)?);
            check.least = Some((before - by).max(0.0));
            check.most = Some(before + by);
            Some(judged(check, true))
        })
    }

    fn scores(&self, then: &Figures, now: &Figures) -> Vec<Check> {
        let Some(shift) = self.rules.score_shift.value() else {
            return Vec::new();
        };
        if !self.has_same_models() {
            return Vec::new();
        }
        let columns = score_columns(&self.finished.completed.kind, then);
        let checks = columns.into_iter().filter_map(|column| {
            let (then, now) = (then.sums.get(column)?, now.sums.get(column)?);
            let before = then.mean()?;
            let mut check = self.check(Figure::MeanScore, Some(column), before, now.mean()?);
            // What lies in one point has no width to measure by.
            let by = Some(then.deviation()?).filter(|by| *by > 0.0)? * shift;
            let by = by.max(chance(then, now)?);
            check.least = Some(before - by);
            check.most = Some(before + by);
            Some(judged(check, true))
        });
        checks.collect()
    }

    /// Scores of another model cannot be compared.
    fn has_same_models(&self) -> bool {
        let name = format!("{}_model", self.name);
        let before = self.published.tables.get(&name).map(|table| &table.files);
        before == self.finished.completed.tables.get(&name)
    }

    fn sources(&self, then: &Figures, now: &Figures) -> Vec<Check> {
        let Some(shift) = self.rules.source_shift.value() else {
            return Vec::new();
        };
        if self.finished.completed.kind != "select" || then.rows == 0 || now.rows == 0 {
            return Vec::new();
        }
        let share = |figures: &Figures, source: &str| {
            figures.sources.get(source).copied().unwrap_or(0) as f64 / figures.rows as f64
        };
        let sources: BTreeSet<&String> = then.sources.keys().chain(now.sources.keys()).collect();
        let checks = sources.into_iter().map(|source| {
            let before = share(then, source);
            let mut check = self.check(
                Figure::SourceShare,
                Some(source),
                before,
                share(now, source),
            );
            check.least = Some((before - shift).max(0.0));
            check.most = Some((before + shift).min(1.0));
            judged(check, true)
        });
        checks.collect()
    }
}

/// The least rows of a table that may lose a share of them: few rows come and go by chance, but not all.
fn least_rows(before: f64, share: f64) -> f64 {
    if share >= 1.0 {
        return 0.0;
    }
    let lost = (before * share).max(ERRORS * before.sqrt());
    (before - lost).max(1.0)
}

/// Standard errors that are taken for chance.
const ERRORS: f64 = 4.0;

/// How far two means of few values may be from each other by chance: four standard errors.
fn chance(then: &ColumnSums, now: &ColumnSums) -> Option<f64> {
    let variance = |sums: &ColumnSums| Some(sums.deviation()?.powi(2) / sums.n as f64);
    Some(ERRORS * (variance(then)? + variance(now)?).sqrt())
}

/// The columns of scores that a kind of stage has.
fn score_columns<'a>(kind: &str, figures: &'a Figures) -> Vec<&'a str> {
    let is_score = |column: &str| match kind {
        "importance_weights" => {
            column.starts_with("log_weight") && !column.starts_with("log_weight_per_token")
        }
        "loss_reduction" => column == "loss_reduction",
        // Those of a selection are the ends of what is compared already.
        _ => false,
    };
    let columns = figures.sums.keys().map(String::as_str);
    columns.filter(|column| is_score(column)).collect()
}

/// Today's input beside what the stage's model was fitted on.
fn drift(rules: &Guardrails, name: &str, finished: &FinishedStage) -> Vec<Check> {
    let Some(facts) = DriftFacts::read(&finished.completed.facts) else {
        return Vec::new();
    };
    let rules = &rules.drift;
    let check = |figure, of: Option<&str>, before: f64, now: Option<f64>, most: Option<f64>| {
        let check = Check {
            stage: Some(name.to_owned()),
            figure,
            of: of.map(str::to_owned),
            before: Some(before),
            now: Some(now?),
            least: None,
            most: Some(most?),
            beyond: rules.action,
            is_crossed: false,
        };
        Some(judged(check, true))
    };
    let kl_most = rules
        .kl
        .value()
        .map(|most| most + facts.kl_noise.unwrap_or(0.0));
    let mut checks: Vec<Check> = [
        check(Figure::DriftKl, None, 0.0, facts.kl, kl_most),
        check(
            Figure::DriftUnseen,
            None,
            0.0,
            facts.unseen_share,
            rules.unseen.value(),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (column, scores) in &facts.scores {
        let shift = scores.shift();
        let mut found = check(
            Figure::DriftScore,
            Some(column),
            0.0,
            shift,
            rules.score_shift.value(),
        );
        if let Some(found) = &mut found {
            found.least = found.most.map(|most| -most);
            *found = judged(found.clone(), true);
        }
        checks.extend(found);
    }
    checks
}

/// What sums of floats may differ in without meaning anything.
const ROUNDING: f64 = 1e-9;

fn judged(mut check: Check, is_comparable: bool) -> Check {
    let now = check.now.unwrap_or_default();
    let slack = ROUNDING * now.abs().max(1.0);
    let is_less = check.least.is_some_and(|least| now < least - slack);
    let is_more = check.most.is_some_and(|most| now > most + slack);
    check.is_crossed = is_comparable && (is_less || is_more);
    check
}

/// Whether a table that had rows has none left: whatever reads it would be computed for nothing.
#[must_use]
pub fn is_emptied(checks: &[Check]) -> bool {
    let is_rows = |check: &&Check| check.figure == Figure::Rows && check.stops();
    checks.iter().filter(is_rows).any(|it| it.now == Some(0.0))
}

/// The corpus that is gone: a job without input cannot run, but what happened is the same.
#[must_use]
pub fn corpus_files(rules: &Guardrails, before: usize, now: usize) -> Check {
    let before = before as f64;
    let check = Check {
        stage: None,
        figure: Figure::CorpusFiles,
        of: None,
        before: Some(before),
        now: Some(now as f64),
        least: rules
            .rows_lost
            .value()
            .map(|share| before * (1.0 - share).max(0.0)),
        most: None,
        beyond: Beyond::Stop,
        is_crossed: false,
    };
    judged(check, before > 0.0)
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::job::Bound;

    use super::*;

    fn check(now: f64, least: Option<f64>, most: Option<f64>) -> Check {
        let check = Check {
            stage: Some("s".to_owned()),
            figure: Figure::Rows,
            of: None,
            before: Some(1.0),
            now: Some(now),
            least,
            most,
            beyond: Beyond::Stop,
            is_crossed: false,
        };
        judged(check, true)
    }

    #[test]
    fn a_bound_itself_is_let_pass() {
        for (now, is_crossed) in [
            (4.9, true),
            (5.0, false),
            (7.0, false),
            (10.0, false),
            (10.1, true),
        ] {
            assert_eq!(
                check(now, Some(5.0), Some(10.0)).is_crossed,
                is_crossed,
                "{now}"
            );
        }
        assert!(!check(1e9, Some(5.0), None).is_crossed);
        assert!(!check(-1e9, None, Some(5.0)).is_crossed);
    }

    #[test]
    fn a_table_of_few_rows_may_lose_more_of_them_but_not_all() {
        assert_eq!(least_rows(120.0, 0.5), 60.0);
        assert_eq!(least_rows(16.0, 0.5), 1.0);
        assert_eq!(least_rows(1e6, 0.2), 8e5);
        assert_eq!(least_rows(1e6, 1.0), 0.0);
    }

    #[test]
    fn a_corpus_that_is_gone_is_beyond_the_usual_bound() {
        let rules = Guardrails::default();
        assert!(corpus_files(&rules, 4, 0).stops());
        assert!(corpus_files(&rules, 4, 1).stops());
        assert!(!corpus_files(&rules, 4, 2).stops());
        let off = Guardrails {
            rows_lost: Bound::OFF,
            ..rules
        };
        assert!(!corpus_files(&off, 4, 0).stops());
    }
}
