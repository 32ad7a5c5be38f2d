//! Outputs and their versions as commands name them.

use std::path::PathBuf;

use gleaner_schemas::Version;
use gleaner_storage::{Output, Stores, stores};

use crate::run_error::RunError;
use crate::sql::{Session, SqlError};

/// Versions that an error lists.
const LISTED_MAX: usize = 10;

/// A published version of an output.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What URIs are resolved by.
    pub stores: Stores,
    /// The output.
    pub output: Output,
    /// The version.
    pub version: Version,
}

impl Opened {
    /// A version of the output that a user names; without a number the newest.
    ///
    /// # Errors
    ///
    /// If there is no such version, or of the store.
    pub async fn new(output: &str, number: Option<u64>) -> Result<Self, RunError> {
        let output = open_output(output)?;
        let version = version(&output, number).await?;
        Ok(Self {
            stores: Stores::from_env(),
            output,
            version,
        })
    }

    /// A session over it.
    ///
    /// # Errors
    ///
    /// If no store serves the corpus.
    pub async fn session(&self) -> Result<Session, SqlError> {
        Session::open(&self.stores, &self.output, &self.version).await
    }
}

/// The output that a user names.
///
/// # Errors
///
/// If no store serves it.
pub fn open_output(output: &str) -> Result<Output, RunError> {
    let uri = stores::absolute_uri(output, &current_dir()?)
        .map_err(|error| RunError::usage(error.to_string(), "give a directory or a URI"))?;
    Ok(Output::open(&Stores::from_env(), &uri)?)
}

/// Where the program was started.
///
/// # Errors
///
/// If there is no such place.
pub fn current_dir() -> Result<PathBuf, RunError> {
    std::env::current_dir()
        .map_err(|error| RunError::Internal(format!("there is no current directory: {error}")))
}

/// A version of an output; without a number the newest.
///
/// # Errors
///
/// If there is no such version, or of the store.
pub async fn version(output: &Output, number: Option<u64>) -> Result<Version, RunError> {
    let version = match number {
        None => output.latest_version().await?,
        Some(number) => output.version(number).await?,
    };
    if let Some(version) = version {
        return Ok(version);
    }
    let Some(number) = number else {
        return Err(no_version(output));
    };
    let numbers = output.version_numbers().await?;
    if numbers.is_empty() {
        return Err(no_version(output));
    }
    let first_shown = numbers.len().saturating_sub(LISTED_MAX);
    let shown: Vec<String> = numbers[first_shown..].iter().map(u64::to_string).collect();
    let earlier = match first_shown {
        0 => String::new(),
        n => format!(", and {n} earlier ones"),
    };
    Err(RunError::usage(
        format!("{} has no version {number}", output.uri()),
        format!(
            "it has {}{earlier}; `gleaner gc --keep` removes old ones",
            shown.join(", ")
        ),
    ))
}

/// The error of an output that was never published.
#[must_use]
pub fn no_version(output: &Output) -> RunError {
    RunError::usage(
        format!("{} holds no published version", output.uri()),
        "`gleaner run` publishes one at its end; `gleaner status` tells how far a run is",
    )
}
