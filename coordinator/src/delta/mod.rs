//! Stages that are published as Delta tables too (`publish: delta`).
//!
//! A Delta table is Parquet objects in a folder, and a log of numbered commits beside them that says
//! which of the objects are the table. The objects are those of the version; only the log is written:
//!
//! 1. When a version is published, and never before, [`bring_up_to_date`] reads the log ([`Log`]).
//! 2. [`commit::next`] is the commit that takes the table from there to the newest version: what came
//!    is added, what went is removed. It carries the version's number and run, so that nobody commits
//!    a version twice.
//! 3. The commit is created under the next number, by the same conditional create that publishes
//!    versions. Whoever comes second reads the log again.
//!
//! A run that dies between 1 and 3 leaves a table of the version before; the next run, one without
//! other work too, finds that ([`is_up_to_date`]) and goes on here.
//!
//! Never written are checkpoints: they are Parquet objects, and whoever reads a stage's folder by
//! `**/*.parquet` would take them for rows. Those of other programs are read.

mod actions;
mod checkpoint;
mod commit;
mod log;
mod schema;

use gleaner_schemas::Version;
use gleaner_storage::{Created, Output, OutputError, layout};
use gleaner_workers::shutdown::Shutdown;

use crate::progress::Progress;
use crate::retry::retrying;
use crate::run_error::RunError;
pub(crate) use log::Log;

/// Others may commit this often while one commit is made.
const RACES_MAX: usize = 100;

/// Takes the Delta tables of an output to its newest version, where they are not there yet.
///
/// # Errors
///
/// Of the store; if another program has made of a table what this one cannot go on with.
pub async fn bring_up_to_date(
    output: &Output,
    shutdown: &Shutdown,
    progress: &dyn Progress,
    version: &Version,
) -> Result<(), RunError> {
    for table in version.delta_tables() {
        let written = bring_table_up_to_date(output, shutdown, progress, version, table).await;
        written.map_err(|error| explained(error, version.number, table))?;
    }
    Ok(())
}

async fn bring_table_up_to_date(
    output: &Output,
    shutdown: &Shutdown,
    progress: &dyn Progress,
    version: &Version,
    table: &str,
) -> Result<(), RunError> {
    for _ in 0..RACES_MAX {
        let log = retrying(shutdown, || Log::read(output, table)).await?;
        // After the log: a version that the log knows is among these.
        let newest = retrying(shutdown, || output.version_numbers()).await?.pop();
        let newer = match newest.filter(|newest| *newest > version.number) {
            Some(newer) => retrying(shutdown, || output.version(newer)).await?,
            None => None,
        };
        let version = newer.as_ref().unwrap_or(version);
        // A newer version may be of a job that does not ask for it any more.
        if log.is_of(version) || !version.delta_tables().any(|name| name == table) {
            return Ok(());
        }
        let commit = commit::next(&log, table, version)
            .map_err(|refusal| refusal.at(&output.uri_of(&layout::delta_log(table))))?;
        let key = layout::delta_commit(table, log.next_number());
        let created = retrying(shutdown, || output.create(&key, commit.bytes.clone())).await?;
        if created == Created::Stored {
            let (n_added, n_removed) = (commit.n_added, commit.n_removed);
            let version = version.number;
            tracing::info!(table, version, n_added, n_removed, "committed to Delta");
            if let Some(left_out) = commit.left_out {
                progress.note(&format!(
                    "the Delta table {table} is without {left_out}: Delta has no such types, or \
                     not all of its readers read them"
                ));
            }
            return Ok(());
        }
    }
    Err(RunError::Unreachable(format!(
        "{RACES_MAX} times another program has committed to {} before this run could; does one \
         write there without a pause?",
        output.uri_of(&layout::delta_log(table))
    )))
}

/// Whether the Delta tables of an output are at this version, its newest.
///
/// # Errors
///
/// Of the store.
pub async fn is_up_to_date(output: &Output, version: &Version) -> Result<bool, OutputError> {
    for table in version.delta_tables() {
        if !log::is_newest_commit_of(output, table, version).await?
            && !Log::read(output, table).await?.is_of(version)
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The error of a commit, for who may think that nothing is published.
fn explained(error: RunError, version: u64, table: &str) -> RunError {
    let explained = |message: String| {
        format!(
            "version {version} is published, but its Delta table {table} is not up to date: {message}"
        )
    };
    match error {
        RunError::Unreachable(message) => RunError::Unreachable(explained(message)),
        RunError::Usage { message, help } => RunError::Usage {
            message: explained(message),
            help,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests;
