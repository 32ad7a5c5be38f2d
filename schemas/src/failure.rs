//! What went wrong, in a form that survives the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the receiver of a failure must do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// Store, network, throttling: what is outside cannot be reached. Try again, later; nothing is
    /// wrong with the task, so a run does not publish without it.
    Transient,
    /// The task took too long, or no worker that took it was heard of again: try again, a few times.
    Timeout,
    /// The slot's memory budget was exceeded: try with a smaller shard or a larger budget.
    Memory,
    /// Parameters, columns or contents: trying again cannot help.
    Permanent,
    /// This process may not read what the task needs: credentials, permissions. Another may, so it
    /// says nothing of the task.
    Access,
    /// A language-model server answers nobody: credentials, quota, a model that it does not have,
    /// or it is down. No other task would fare better, so the run ends, to be resumed.
    Endpoint,
    /// What the job may spend is spent: the run ends, to be resumed with more.
    Budget,
}

impl FailureKind {
    /// Whether it may not happen again when the very same is tried.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Transient | Self::Timeout)
    }

    /// Whether the run ends for it, whatever task it happened to.
    #[must_use]
    pub fn ends_run(self) -> bool {
        matches!(self, Self::Endpoint | Self::Budget)
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient => "transient",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::Permanent => "permanent",
            Self::Access => "access",
            Self::Endpoint => "endpoint",
            Self::Budget => "budget",
        })
    }
}

/// Where in the input a failure or a rejected row stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Name of the file, as the job names it.
    pub file: String,
    /// Row group within the file, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_group: Option<u32>,
    /// Row within the file, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
}

impl Place {
    /// A place that is a whole file.
    #[must_use]
    pub fn file(name: impl Into<String>) -> Self {
        Self {
            file: name.into(),
            row_group: None,
            row: None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(row_group) = self.row_group {
            write!(f, ", row group {row_group}")?;
        }
        if let Some(row) = self.row {
            write!(f, ", row {row}")?;
        }
        Ok(())
    }
}

/// The failure of one attempt at a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{message}", self.place_shown())]
pub struct Failure {
    /// What to do about it.
    pub kind: FailureKind,
    /// What was tried and what was found, with all causes.
    pub message: String,
    /// Where it happened, if it concerns the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

impl Failure {
    /// A failure without a place.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            place: None,
        }
    }

    /// The place, unless the message begins with it.
    fn place_shown(&self) -> String {
        let place = self.place.as_ref().map(ToString::to_string);
        place
            .filter(|place| !self.message.starts_with(place))
            .map_or_else(String::new, |place| format!("{place}: "))
    }

    /// The same failure, at `place` unless it names one already.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }
}

/// Joins an error and its sources into one line: `message: cause: cause`.
///
/// A source whose text the message before it repeats already is left out.
#[must_use]
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
