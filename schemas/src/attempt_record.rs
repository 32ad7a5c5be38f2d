//! What a worker tells about an attempt, for people: durations, bytes, memory, failures.
//!
//! Nothing depends on it, and no version contains it: a record that is lost loses nothing but
//! what it told.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::identity::{AttemptId, TaskId};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The store holds its object.
    Committed,
    /// It came to nothing; the failure tells why.
    Failed,
    /// The worker was told to stop.
    Cancelled,
}

impl AttemptOutcome {
    /// The name in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How often a worker's process was held back since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttled {
    /// Answers of stores that asked for fewer requests.
    #[serde(default)]
    pub by_stores: u64,
    /// Answers of endpoints that asked for fewer requests.
    #[serde(default)]
    pub by_endpoints: u64,
    /// Requests to endpoints that waited for the job's own rates per minute.
    #[serde(default)]
    pub by_rates: u64,
}

impl std::ops::AddAssign for Throttled {
    fn add_assign(&mut self, other: Self) {
        self.by_stores += other.by_stores;
        self.by_endpoints += other.by_endpoints;
        self.by_rates += other.by_rates;
    }
}

/// One line of the attempts that a worker records with a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Version of this format: [`AttemptRecord::FORMAT`].
    pub format: u32,
    /// The task.
    pub task: TaskId,
    /// The attempt, if it has an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// Which process it was: host, process id and random digits.
    pub worker: String,
    /// When it began, by the worker's clock: RFC 3339, UTC.
    pub started_at: String,
    /// How long it took.
    pub seconds: f64,
    /// Rows to read, where the plan knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Uncompressed bytes to read.
    pub bytes_in: u64,
    /// Bytes of the object, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// The most memory that the worker's process, with all its slots, had used by the end of
    /// the attempt since it started; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_peak_memory_bytes: Option<u64>,
    /// How often the worker's process had been held back by the end of the attempt since it
    /// started; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_throttled: Option<Throttled>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl AttemptRecord {
    /// The version of the format that this build writes and reads. Readers skip lines of others.
    pub const FORMAT: u32 = 1;
}
