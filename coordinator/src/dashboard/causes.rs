//! Why tasks were given up: few causes, however many tasks.

use std::collections::BTreeMap;

use gleaner_schemas::{Failure, Task};
use gleaner_storage::redact;
use serde::Serialize;

/// Causes that are told apart; what comes later is counted only.
const CAUSES_MAX: usize = 200;
/// Causes that are shown.
const SHOWN_MAX: usize = 20;
/// Tasks that are named with each.
const EXAMPLES_MAX: usize = 3;
/// Characters of a message.
const MESSAGE_MAX: usize = 400;
/// Characters of a place: those at its end tell more.
const PLACE_MAX: usize = 160;

/// The causes of a stage's phases.
#[derive(Debug, Clone, Default)]
pub(super) struct Causes {
    /// By phase, kind, and message without its numbers.
    causes: BTreeMap<(String, String, String, String), Cause>,
    n_others: u64,
}

/// Why some tasks were given up.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cause {
    stage: String,
    phase: String,
    kind: String,
    /// The first one's.
    message: String,
    n_tasks: u64,
    /// Where it happened.
    examples: Vec<String>,
}

/// What is shown of the causes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct CausesView {
    causes: Vec<Cause>,
    /// Tasks that were given up for other causes.
    n_others: u64,
}

impl Causes {
    /// A task of a phase was given up.
    pub(super) fn add(&mut self, stage: &str, phase: &str, task: &Task, failure: &Failure) {
        let kind = failure.kind.to_string();
        let message = without_numbers(&failure.message);
        let key = (stage.to_owned(), phase.to_owned(), kind.clone(), message);
        if !self.causes.contains_key(&key) && self.causes.len() >= CAUSES_MAX {
            self.n_others += 1;
            return;
        }
        let cause = self.causes.entry(key).or_insert_with(|| Cause {
            stage: stage.to_owned(),
            phase: phase.to_owned(),
            kind,
            message: begin(&redact::redact(&failure.message), MESSAGE_MAX),
            n_tasks: 0,
            examples: Vec::new(),
        });
        cause.n_tasks += 1;
        if cause.examples.len() < EXAMPLES_MAX {
            let file = || task.shard.slices.first().map(|it| it.file.name.clone());
            let place = failure.place.as_ref().map(ToString::to_string);
            if let Some(place) = place.or_else(file) {
                cause.examples.push(end(&redact::redact(&place), PLACE_MAX));
            }
        }
    }

    /// Forgets what was given up in a phase, since it is counted again.
    pub(super) fn forget(&mut self, stage: &str, phase: &str) {
        let is_of = |it: &Cause| it.stage == stage && it.phase == phase;
        self.causes.retain(|_, cause| !is_of(cause));
    }

    /// The most frequent causes.
    pub(super) fn view(&self) -> CausesView {
        let mut causes: Vec<Cause> = self.causes.values().cloned().collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.n_tasks));
        let others = causes.split_off(causes.len().min(SHOWN_MAX));
        CausesView {
            n_others: self.n_others + others.iter().map(|cause| cause.n_tasks).sum::<u64>(),
            causes,
        }
    }
}

/// The text with each run of digits, and of hexadecimal ones that have a digit, as one sign: what
/// differs between tasks that fail for one reason.
fn without_numbers(message: &str) -> String {
    let mut text = String::new();
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric());
        let word = &rest[..word.unwrap_or(rest.len())];
        let length = if word.is_empty() {
            text.push(first);
            first.len_utf8()
        } else if word.contains(|c: char| c.is_ascii_digit()) {
            text.push('#');
            word.len()
        } else {
            text.push_str(word);
            word.len()
        };
        rest = &rest[length..];
        if text.len() >= MESSAGE_MAX {
            break;
        }
    }
    text
}

/// The first characters of a text.
pub(super) fn begin(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The last characters of a text.
fn end(text: &str, length: usize) -> String {
    let n_chars = text.chars().count();
    if n_chars <= length {
        return text.to_owned();
    }
    let rest: String = text.chars().skip(n_chars - length).collect();
    format!("…{rest}")
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::{FailureKind, Fingerprint, Shard};

    use super::*;

    fn task(number: u64) -> Task {
        Task {
            id: Fingerprint::of("task", &number).into(),
            shard: Shard {
                slices: Vec::new(),
                companions: Vec::new(),
                effect: None,
            },
        }
    }

    #[test]
    fn tasks_that_fail_alike_have_one_cause() {
        let mut causes = Causes::default();
        for number in 0..1000 {
            let message = format!("cannot read corpus/part-{number}.parquet: page {number} is bad");
            let failure = Failure::new(FailureKind::Permanent, message);
            causes.add("weights", "score", &task(number), &failure);
        }
        let failure = Failure::new(FailureKind::Memory, "out of memory");
        causes.add("weights", "score", &task(0), &failure);
        let view = causes.view();
        assert_eq!(view.causes.len(), 2);
        assert_eq!(view.causes[0].n_tasks, 1000);
        assert_eq!(view.causes[1].message, "out of memory");
        assert_eq!(view.n_others, 0);
        causes.forget("weights", "score");
        assert_eq!(causes.view().causes.len(), 0);
    }

    #[test]
    fn any_number_of_causes_is_bounded_and_counted() {
        let mut causes = Causes::default();
        for number in 0..1000_u32 {
            let letters: String = (0..10)
                .map(|bit| if (number >> bit) & 1 == 0 { 'a' } else { 'b' })
                .collect();
            let failure = Failure::new(FailureKind::Permanent, letters.repeat(100));
            causes.add("weights", "score", &task(0), &failure);
        }
        let view = causes.view();
        assert_eq!(view.causes.len(), SHOWN_MAX);
        let shown: u64 = view.causes.iter().map(|cause| cause.n_tasks).sum();
        assert_eq!(shown + view.n_others, 1000);
        assert!(view.causes[0].message.chars().count() <= MESSAGE_MAX + 1);
    }

    #[test]
    fn secrets_are_not_told() {
        let mut causes = Causes::default();
        let message = "GET https://user:hunter2@host/x?X-Amz-Signature=abcdef failed";
        let failure = Failure::new(FailureKind::Permanent, message);
        causes.add("weights", "score", &task(0), &failure);
        let text = serde_json::to_string(&causes.view()).unwrap();
        assert!(
            !text.contains("hunter2") && !text.contains("abcdef"),
            "{text}"
        );
    }
}
