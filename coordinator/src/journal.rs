//! What a run tells about itself in the output, for `gleaner status` on any machine.
//!
//! A run does not begin before its start is written: others that end beside it leave alone what
//! it may be pinning (see [`crate::losers`]). Nothing else depends on the journal: the run goes on
//! when it cannot be written.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, SecondsFormat, Utc};
use gleaner_schemas::{PlanId, RunId};
use gleaner_storage::{Output, OutputError, layout};
use serde::{Deserialize, Serialize};

/// `start.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStarted {
    /// The run.
    pub run: RunId,
    /// Name of the job.
    pub job: String,
    /// Stages in order.
    pub stages: Vec<String>,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Process id, for those on the same machine.
    pub pid: u32,
}

/// `phase-<NNN>.json`, written when the phase's tasks are about to be offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseStarted {
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// Its plan.
    pub plan: PlanId,
    /// Folder of its attempts.
    pub folder: String,
    /// Number of tasks.
    pub n_tasks: u64,
    /// Tasks of which an attempt was there already.
    pub n_reused: u64,
    /// Rows to read, where known.
    pub n_rows: Option<u64>,
    /// Uncompressed bytes to read.
    pub bytes: u64,
    /// RFC 3339, UTC.
    pub started_at: String,
}

/// `end.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnded {
    /// Exit code of the program.
    pub exit_code: u8,
    /// How it ended, in a sentence.
    pub message: String,
    /// Published version, if one was.
    pub version: Option<u64>,
    /// RFC 3339, UTC.
    pub ended_at: String,
}

/// Writes the journal of one run.
#[derive(Debug)]
pub struct Journal {
    output: Output,
    run: RunId,
    n_phases: AtomicU32,
}

impl Journal {
    /// The journal of `run`.
    #[must_use]
    pub fn new(output: Output, run: RunId) -> Self {
        Self {
            output,
            run,
            n_phases: AtomicU32::new(0),
        }
    }

    /// Writes `start.json`.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn started(&self, event: &RunStarted) -> Result<(), OutputError> {
        let key = layout::run_event(&self.run, layout::RUN_STARTED);
        self.output.put_json(&key, "event of a run", event).await
    }

    /// Writes the next `phase-<NNN>.json`.
    pub async fn phase_started(&self, event: &PhaseStarted) {
        let number = self.n_phases.fetch_add(1, Ordering::Relaxed);
        self.write(&format!("phase-{number:03}"), event).await;
    }

    /// Writes `end.json`.
    pub async fn ended(&self, event: &RunEnded) {
        self.write(layout::RUN_ENDED, event).await;
    }

    async fn write<T: Serialize>(&self, event: &str, value: &T) {
        let key = layout::run_event(&self.run, event);
        if let Err(error) = self.output.put_json(&key, "event of a run", value).await {
            tracing::warn!(%error, event, "cannot write the run's journal");
        }
    }
}

/// A time as all documents of an output write it.
#[must_use]
pub fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
