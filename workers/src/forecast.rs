//! What is known of stages before a run: what they imply, what their models will be, what memory and
//! time their tasks will take, and whether they can work at all.
//!
//! [`Stage::forecast`](crate::stage::Stage::forecast) is asked once the inputs of a job have been
//! looked at, stage by stage, by whatever runs, plans or validates a job. It computes nothing and
//! changes no row: only how tasks are cut follows from it ([`Forecast::task_bytes_max`]).

use std::collections::BTreeMap;

use gleaner_models::Architecture;
use gleaner_schemas::Shard;
use gleaner_schemas::job::{Job, JobError, StageSpec};

use crate::language_model::InspectedModel;

/// A stage that another one needs before itself and that the job file does not spell out.
#[derive(Debug, Clone, PartialEq)]
pub struct ImpliedStage {
    /// Its name.
    pub name: String,
    /// Its kind and parameters.
    pub spec: StageSpec,
    /// The dotted path of the value in the job file that asks for it: errors point there.
    pub asked_at: String,
}

/// What is known when a stage makes its forecast.
#[derive(Debug)]
pub struct BeforeRun<'a> {
    /// The job, for errors with their place.
    pub job: &'a Job,
    /// Directories of language models, by the text of [`Need::Model`](crate::stage::Need::Model).
    pub models: &'a BTreeMap<String, InspectedModel>,
    /// Forecasts of the stages before this one.
    pub stages: &'a BTreeMap<String, Forecast>,
    /// Bytes of the corpus.
    pub corpus_bytes: u64,
    /// Bytes of datasets by name.
    pub dataset_bytes: &'a BTreeMap<String, u64>,
    /// Where tasks will run.
    pub workers: ExpectedWorkers,
}

/// Where tasks will run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedWorkers {
    /// In this process: so many slots share so many threads.
    Here {
        /// Tasks at a time.
        n_slots: usize,
        /// Threads that models compute on.
        n_threads: usize,
    },
    /// In other processes, whose machines are not known.
    Elsewhere,
}

impl ExpectedWorkers {
    /// Threads that compute for one slot.
    #[must_use]
    pub fn threads_per_slot(self) -> usize {
        match self {
            Self::Here { n_slots, n_threads } => n_threads.div_ceil(n_slots.max(1)).max(1),
            // As many slots as cores is what workers start with.
            Self::Elsewhere => 1,
        }
    }
}

/// What a stage will be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forecast {
    /// The model that it yields, if it trains one.
    pub model: Option<ExpectedModel>,
    /// Memory that one of its tasks takes.
    pub memory: Option<MemoryForecast>,
    /// Uncompressed bytes of input that one of its tasks should have at most, where `task_bytes`
    /// would make it last too long. A function of the job and its models alone, as tasks are.
    pub task_bytes_max: Option<u64>,
    /// How fast its tasks go at least.
    pub speed: Option<Speed>,
    /// Sentences for whoever plans: what will be slow, or other than one may think.
    pub notes: Vec<String>,
}

/// How fast a slot goes at least, told low: on a processor without wide vectors, beside others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// What is not looked at of a row, in tokens; `None`: all of it is.
    pub row_tokens_max: Option<u64>,
}

/// Bytes of text per token, told low: English has four and more.
const BYTES_PER_TOKEN: u64 = 3;
/// Seconds that a task of a loss stage should last at most, by the speed that is told low; it
/// usually takes a third of that.
const TASK_SECONDS: f64 = 600.0;
/// No task is cut smaller than that: each has costs of its own.
const TASK_BYTES_MIN: u64 = 64 << 10;

impl Speed {
    /// Seconds that a shard takes at most.
    #[must_use]
    pub fn seconds(&self, shard: &Shard) -> f64 {
        let mut n_tokens = shard.bytes() / BYTES_PER_TOKEN;
        if let (Some(row_tokens_max), Some(n_rows)) = (self.row_tokens_max, shard.n_rows()) {
            n_tokens = n_tokens.min(n_rows.saturating_mul(row_tokens_max));
        }
        n_tokens as f64 / self.tokens_per_second
    }

    /// Bytes of input that a task should have at most: a power of two, so that small differences of
    /// a model cut nothing anew.
    #[must_use]
    pub fn task_bytes_max(&self) -> u64 {
        let bytes = (self.tokens_per_second * TASK_SECONDS) as u64 * BYTES_PER_TOKEN;
        let power = bytes.max(1).ilog2();
        (1 << power).max(TASK_BYTES_MIN)
    }
}

/// Memory that a task takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryForecast {
    /// All together.
    pub bytes: u64,
    /// What it is made of, with figures.
    pub parts: Vec<(&'static str, u64)>,
}

impl MemoryForecast {
    /// The sum of its parts.
    #[must_use]
    pub fn of(parts: Vec<(&'static str, u64)>) -> Self {
        let bytes = parts
            .iter()
            .fold(0, |sum: u64, part| sum.saturating_add(part.1));
        Self { bytes, parts }
    }

    /// Says that it is more than a slot has, at a place of the job file, and that `enough_bytes`
    /// would do.
    ///
    /// # Errors
    ///
    /// If it is.
    pub fn check(
        &self,
        job: &Job,
        place: &str,
        what: &str,
        enough_bytes: u64,
        help: &str,
    ) -> Result<(), JobError> {
        let memory = job.file.memory;
        if self.bytes <= memory.bytes() {
            return Ok(());
        }
        let message = format!(
            "{what} takes {} of memory ({self}), a slot has {memory}",
            size(self.bytes)
        );
        let help = format!(
            "raise `memory` to {} or more{help}",
            whole_size(enough_bytes)
        );
        Err(job.error_at(place, message, Some(help)))
    }
}

impl std::fmt::Display for MemoryForecast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (idx, (what, bytes)) in self.parts.iter().enumerate() {
            let comma = if idx == 0 { "" } else { ", " };
            write!(f, "{comma}{what} {}", size(*bytes))?;
        }
        Ok(())
    }
}

/// A model that is there, or will be.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedModel {
    /// What it computes.
    pub architecture: Architecture,
    /// What its tokenizer is.
    pub tokenizer: ExpectedTokenizer,
    /// Its files tell which token ends a document.
    pub has_eos: bool,
}

/// A tokenizer that is there, or will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedTokenizer {
    /// One with this fingerprint.
    Known(String),
    /// One that will be trained.
    Trained {
        /// On this input, for so many tokens.
        from: (String, u64),
        /// On which part of it.
        sample: (u64, u64),
    },
}

/// Whether two models have one tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameTokenizer {
    /// They have.
    Yes,
    /// They have not.
    No,
    /// Only if two samples hold the same texts.
    Unlikely,
}

impl ExpectedTokenizer {
    /// Whether this is that.
    #[must_use]
    pub fn same(&self, other: &Self) -> SameTokenizer {
        match (self, other) {
            (a, b) if a == b => SameTokenizer::Yes,
            (Self::Trained { from: a, .. }, Self::Trained { from: b, .. }) if a == b => {
                SameTokenizer::Unlikely
            }
            _ => SameTokenizer::No,
        }
    }
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for name in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = name;
    }
    if unit == "B" {
        return format!("{bytes} B");
    }
    format!("{value:.1} {unit}")
}

/// The next larger size that a job file would give.
fn whole_size(bytes: u64) -> String {
    let unit = if bytes > 1 << 30 {
        (30, "GiB")
    } else {
        (20, "MiB")
    };
    format!("{}{}", bytes.div_ceil(1 << unit.0), unit.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_for_people_and_up_for_job_files() {
        let check = |bytes: u64, shown: &str, asked: &str| {
            assert_eq!(
                (size(bytes).as_str(), whole_size(bytes).as_str()),
                (shown, asked)
            );
        };
        check(17, "17 B", "1MiB");
        check(3 << 20, "3.0 MiB", "3MiB");
        check((3 << 20) + 1, "3.0 MiB", "4MiB");
        check((5 << 30) + (1 << 29), "5.5 GiB", "6GiB");
    }

    #[test]
    fn threads_beyond_the_slots_are_shared_out() {
        let here = |n_slots, n_threads| ExpectedWorkers::Here { n_slots, n_threads };
        assert_eq!(here(4, 4).threads_per_slot(), 1);
        assert_eq!(here(3, 4).threads_per_slot(), 2);
        assert_eq!(here(8, 4).threads_per_slot(), 1);
        assert_eq!(ExpectedWorkers::Elsewhere.threads_per_slot(), 1);
    }
}
