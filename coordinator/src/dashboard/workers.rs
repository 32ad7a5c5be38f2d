//! Who works on a run: what workers told of their attempts, those of this process at once, others
//! when they recorded them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gleaner_schemas::{AttemptOutcome, AttemptRecord, Throttled};
use gleaner_workers::activity::Activity;
use gleaner_workers::throttling;
use serde::Serialize;

use super::causes::begin;
use super::times::{Times, TimesView};

/// Workers that are shown; others are counted.
const SHOWN_MAX: usize = 40;
/// Slots of this process that are shown.
const SLOTS_MAX: usize = 32;
/// Characters of a task's id that are shown.
const ID_LENGTH: usize = 12;
/// Characters of names that are shown.
const NAME_LENGTH: usize = 80;

/// The workers of a run.
#[derive(Debug, Default)]
pub(super) struct Workers {
    known: BTreeMap<String, Known>,
    times: HashMap<(String, String), Times>,
    /// The worker in this process: its name, its slots, what they do.
    here: Option<(String, usize, Arc<Activity>)>,
}

#[derive(Debug, Default)]
struct Known {
    n_done: u64,
    n_failed: u64,
    seconds: f64,
    phase: String,
    heard_at: DateTime<Utc>,
    peak_memory_bytes: Option<u64>,
    throttled: Throttled,
}

/// A slot of this process.
#[derive(Debug, Clone, Serialize)]
struct SlotView {
    slot: usize,
    /// What it does; absent while it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    doing: Option<DoingView>,
}

#[derive(Debug, Clone, Serialize)]
struct DoingView {
    stage: String,
    phase: String,
    task: String,
    seconds: f64,
}

/// A worker, by what it told.
#[derive(Debug, Clone, Serialize)]
struct WorkerView {
    name: String,
    /// Whether it is in this process.
    is_here: bool,
    n_done: u64,
    n_failed: u64,
    /// Mean of its attempts.
    mean_seconds: f64,
    /// What its last attempt was at.
    last: String,
    /// How long ago that ended, by its clock.
    seconds_ago: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
}

/// The workers in short.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WorkersView {
    /// Slots of this process.
    n_slots_here: usize,
    /// What they do: the first of them.
    slots: Vec<SlotView>,
    /// Workers that told of an attempt.
    n: usize,
    /// Those with failures first, then by name.
    workers: Vec<WorkerView>,
}

impl Workers {
    /// There is a worker in this process.
    pub(super) fn here(&mut self, name: &str, n_slots: usize) -> Arc<Activity> {
        let activity = Arc::new(Activity::default());
        self.here = Some((name.to_owned(), n_slots, Arc::clone(&activity)));
        activity
    }

    /// Whether a worker is in this process.
    pub(super) fn is_here(&self, name: &str) -> bool {
        self.here.as_ref().is_some_and(|(here, ..)| here == name)
    }

    /// An attempt has ended.
    pub(super) fn attempt_ended(&mut self, record: &AttemptRecord) {
        let known = self.known.entry(record.worker.clone()).or_default();
        match record.outcome {
            AttemptOutcome::Committed => {
                known.n_done += 1;
                let of_phase = (record.stage.clone(), record.phase.clone());
                self.times.entry(of_phase).or_default().add(record.seconds);
            }
            AttemptOutcome::Failed => known.n_failed += 1,
            AttemptOutcome::Cancelled => {}
        }
        known.seconds += record.seconds;
        known.peak_memory_bytes = known.peak_memory_bytes.max(record.worker_peak_memory_bytes);
        if let Some(throttled) = record.worker_throttled {
            let so_far = &mut known.throttled;
            so_far.by_stores = so_far.by_stores.max(throttled.by_stores);
            so_far.by_endpoints = so_far.by_endpoints.max(throttled.by_endpoints);
            so_far.by_rates = so_far.by_rates.max(throttled.by_rates);
        }
        let started = DateTime::parse_from_rfc3339(&record.started_at);
        let lasted = chrono::TimeDelta::try_milliseconds((record.seconds * 1e3) as i64);
        if let (Ok(started), Some(lasted)) = (started, lasted)
            && let Some(ended) = started.to_utc().checked_add_signed(lasted)
            && ended >= known.heard_at
        {
            known.heard_at = ended;
            known.phase = format!("{} / {}", record.stage, record.phase);
        }
    }

    /// How often all of them were held back.
    pub(super) fn throttled(&self) -> Throttled {
        let mut sum = throttling::so_far().unwrap_or_default();
        for (name, known) in &self.known {
            if !self.is_here(name) {
                sum += known.throttled;
            }
        }
        sum
    }

    /// The times of a phase's tasks.
    pub(super) fn times(&self, stage: &str, phase: &str) -> Option<TimesView> {
        let times = self.times.get(&(stage.to_owned(), phase.to_owned()))?;
        times.view(stage, phase)
    }

    /// The workers in short.
    pub(super) fn view(&self, now: DateTime<Utc>) -> WorkersView {
        let mut names: Vec<(&String, &Known)> = self.known.iter().collect();
        names.sort_by_key(|(_, known)| std::cmp::Reverse(known.n_failed));
        let view = |(name, known): (&String, &Known)| WorkerView {
            is_here: self.is_here(name),
            name: begin(name, NAME_LENGTH),
            n_done: known.n_done,
            n_failed: known.n_failed,
            mean_seconds: known.seconds / ((known.n_done + known.n_failed).max(1) as f64),
            last: begin(&known.phase, NAME_LENGTH),
            seconds_ago: (now - known.heard_at).num_milliseconds().max(0) as f64 / 1e3,
            peak_memory_bytes: known.peak_memory_bytes,
        };
        WorkersView {
            n_slots_here: self.here.as_ref().map_or(0, |(_, n_slots, _)| *n_slots),
            slots: self.slots(),
            n: names.len(),
            workers: names.into_iter().take(SHOWN_MAX).map(view).collect(),
        }
    }

    fn slots(&self) -> Vec<SlotView> {
        let Some((_, n_slots, activity)) = &self.here else {
            return Vec::new();
        };
        let mut doing = activity.now();
        doing.resize(*n_slots, None);
        let slots = doing.into_iter().take(SLOTS_MAX).enumerate();
        slots
            .map(|(slot, doing)| SlotView {
                slot,
                doing: doing.map(|doing| DoingView {
                    stage: begin(&doing.stage, NAME_LENGTH),
                    phase: begin(&doing.phase, NAME_LENGTH),
                    task: doing.task.to_string().chars().take(ID_LENGTH).collect(),
                    seconds: doing.since.elapsed().as_secs_f64(),
                }),
            })
            .collect()
    }
}
