//! `gleaner gc`: removes what no published version needs.
//!
//! Kept are: every version, or the newest few, and what they name; the work of the newest run, if that run did not
//! publish (it will go on where it was); and the inner results of the run that published the
//! newest version, which make the next refresh cheap. Everything else is work that lost or that
//! nobody will ask for. Versions, manifests and results go before the objects that they name, so that a
//! `gc` that is killed leaves nothing that names what is not there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use chrono::DateTime;
use gleaner_schemas::{PhaseManifest, PlanId, ReduceResult, RunId, Version};
use gleaner_storage::output::ListedObject;
use gleaner_storage::{Output, OutputError, layout};
use serde::Serialize;

use crate::commands::status::newest_run;
use crate::journal::PhaseStarted;
use crate::progress::{bytes, count};
use crate::run_error::RunError;

/// Objects read or removed at a time.
const AT_A_TIME: usize = 32;

/// A writer that has not written for this long was killed.
const STAGED_AGE: Duration = Duration::from_secs(60);

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// Objects.
    pub removed: Vec<String>,
    /// Their size in bytes.
    pub bytes: u64,
    /// Objects that stay.
    pub n_kept: u64,
}

/// Removes what is not needed by the newest `n_versions` versions; by all, if it is `None`.
///
/// # Errors
///
/// Of the store. What was removed until then was not needed.
pub async fn gc(
    output: &Output,
    n_versions: Option<NonZeroUsize>,
    dry_run: bool,
) -> Result<GcReport, RunError> {
    // In this order: what appears after the listing is not looked at.
    let objects = output.list("").await?;
    let keep = Keep::read(output, n_versions).await?;
    let (mut first, mut then) = (Vec::new(), Vec::new());
    let mut report = GcReport {
        dry_run,
        ..GcReport::default()
    };
    for object in objects {
        let may_be_needed = keep
            .since_ms
            .is_some_and(|since| object.modified_ms >= since);
        if may_be_needed || keep.keeps(output, &object.path).await? {
            report.n_kept += 1;
        } else if object.path.ends_with(".json") {
            first.push(object);
        } else {
            then.push(object);
        }
    }
    for objects in [first, then] {
        if !dry_run {
            let paths = objects.iter().map(|object| object.path.clone()).collect();
            Output::map_concurrently(paths, AT_A_TIME, |path| async move {
                output.delete(&path).await
            })
            .await?;
        }
        report.bytes += objects.iter().map(|object| object.bytes).sum::<u64>();
        report
            .removed
            .extend(objects.into_iter().map(|object: ListedObject| object.path));
    }
    if !dry_run {
        output.remove_staged(STAGED_AGE).await?;
    }
    Ok(report)
}

/// What stays.
#[derive(Debug, Default)]
struct Keep {
    versions: BTreeSet<u64>,
    paths: BTreeSet<String>,
    /// Folders in which everything stays.
    folders: BTreeSet<String>,
    plans: BTreeSet<PlanId>,
    runs: BTreeSet<RunId>,
    /// When the newest run began, if it did not publish: it may be running, and go on to name
    /// anything that was written since.
    since_ms: Option<i64>,
}

impl Keep {
    async fn read(output: &Output, n_versions: Option<NonZeroUsize>) -> Result<Self, RunError> {
        let mut keep = Self::default();
        let mut numbers = output.version_numbers().await?;
        if let Some(n_versions) = n_versions {
            numbers.drain(..numbers.len().saturating_sub(n_versions.get()));
        }
        keep.versions = numbers.iter().copied().collect();
        let versions =
            Output::map_concurrently(numbers, AT_A_TIME, |number| output.version(number)).await?;
        let versions: Vec<Version> = versions.into_iter().flatten().collect();
        for table in versions.iter().flat_map(|version| version.tables.values()) {
            keep.paths
                .extend(table.files.iter().map(|file| file.path.clone()));
        }
        if let Some(newest) = versions.iter().max_by_key(|version| version.number) {
            keep.runs.insert(newest.run.clone());
            for phase in phases(output, &newest.run).await? {
                keep.plans.insert(phase.plan);
                keep.folders.insert(phase.folder);
            }
        }
        if let Some(run) = newest_run(output).await? {
            keep.runs.insert(run.started.run.clone());
            let has_published = run
                .ended
                .as_ref()
                .is_some_and(|ended| ended.version.is_some());
            if !has_published {
                let started = DateTime::parse_from_rfc3339(&run.started.started_at);
                keep.since_ms = Some(started.map_or(0, |started| started.timestamp_millis()));
                for phase in run.phases {
                    keep.plans.insert(phase.started.plan);
                    keep.folders.insert(phase.started.folder);
                }
            }
        }
        // Folders of tables hold attempts of every version; only an unpublished run may need
        // what no version names.
        let is_published_table = |folder: &String| {
            !folder.starts_with(layout::PRIVATE)
                && versions
                    .iter()
                    .any(|version| version.tables.contains_key(folder))
        };
        let is_unfinished = newest_run(output)
            .await?
            .is_some_and(|run| run.ended.is_none_or(|ended| ended.version.is_none()));
        if !is_unfinished {
            keep.folders.retain(|folder| !is_published_table(folder));
        }
        Ok(keep)
    }

    async fn keeps(&self, output: &Output, path: &str) -> Result<bool, OutputError> {
        let private = |folder: &str| path.starts_with(&format!("{}/{folder}/", layout::PRIVATE));
        if path == layout::MANIFEST || path == layout::JOB {
            return Ok(true);
        }
        if private("versions") {
            // What is no version is not ours.
            let number = layout::parse_version(path);
            return Ok(number.is_none_or(|number| self.versions.contains(&number)));
        }
        if private("runs") || private("failures") {
            let run = path.split('/').nth(2).and_then(|run| run.parse().ok());
            return Ok(run.is_some_and(|run| self.runs.contains(&run)));
        }
        if private("plans") {
            let plan = path.split('/').nth(4).and_then(|plan| plan.parse().ok());
            return Ok(plan.is_some_and(|plan| self.plans.contains(&plan)));
        }
        if private("manifests") {
            let manifest: Option<PhaseManifest> = output.get_json(path, "phase manifest").await?;
            return Ok(manifest.is_some_and(|manifest| {
                manifest
                    .attempts
                    .iter()
                    .all(|attempt| self.keeps_object(&attempt.path))
            }));
        }
        if private("reduces") {
            let result: Option<ReduceResult> = output.get_json(path, "result of a reduce").await?;
            return Ok(result.is_some_and(|result| {
                result
                    .tables
                    .values()
                    .all(|file| self.keeps_object(&file.path))
            }));
        }
        // What is not ours is not touched.
        let is_ours = layout::parse_attempt(path).is_some() || private("inner");
        Ok(!is_ours || self.keeps_object(path))
    }

    fn keeps_object(&self, path: &str) -> bool {
        self.paths.contains(path)
            || self.folders.iter().any(|folder| {
                path.strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/'))
            })
    }
}

async fn phases(output: &Output, run: &RunId) -> Result<Vec<PhaseStarted>, OutputError> {
    let mut phases = Vec::new();
    for event in output.list(&format!("{}/{run}", layout::RUNS)).await? {
        if layout::parse_run_event(&event.path)
            .is_some_and(|(_, event)| event.starts_with("phase-"))
        {
            phases.extend(output.get_json(&event.path, "event of a run").await?);
        }
    }
    Ok(phases)
}

impl GcReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for path in &self.removed {
            let _ = writeln!(text, "{path}");
        }
        let _ = writeln!(
            text,
            "{} {} objects, {}; {} stay",
            if self.dry_run {
                "would remove"
            } else {
                "removed"
            },
            count(self.removed.len() as u64),
            bytes(self.bytes),
            count(self.n_kept)
        );
        text
    }
}
