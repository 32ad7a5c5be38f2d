//! `gleaner gc`: removes what no published version needs.
//!
//! Kept are: every version, or the newest few, and what they name; the work of the newest run, if
//! that run did not publish (it will go on where it was); everything of the stages of runs that may be
//! going on; and the inner results of the run that published the newest version, which make the next
//! refresh cheap. Everything else is work that lost or that nobody will ask for. Versions, manifests and
//! results go before the objects that they name, so that a `gc` that is killed leaves nothing that names
//! what is not there.
//!
//! A run may publish, and end, between any two looks of `gc`. So it looks at the runs first and at the
//! versions then: a run that has ended has published before, and its version is among those that are
//! read; of one that has not, everything stays that it may come upon, which may be older than the last
//! publication (a job whose parameters were set back). Runs that begin later wait ([`crate::sweep`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;

use gleaner_schemas::{PlanId, ReduceResult, RunId, Version};
use gleaner_storage::output::ListedObject;
use gleaner_storage::{Output, OutputError, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::language_model::{ModelFacts, ModelPlace};
use serde::{Deserialize as _, Serialize};

use crate::commands::gc_runs::Runs;
use crate::journal::{PhaseStarted, RunEnded, RunStarted};
use crate::progress::{bytes, count};
use crate::run_error::RunError;
use crate::sweep::Sweep;

/// Objects read or removed at a time.
const AT_A_TIME: usize = 32;

/// Looks at an output in which runs publish all the time.
const LOOKS_MAX: usize = 10;

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
    /// Runs that may be going on: what their stages wrote stays.
    pub at_work: Vec<RunId>,
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
    entropy: &dyn Entropy,
) -> Result<GcReport, RunError> {
    if dry_run {
        let found = Found::look(output, n_versions).await?;
        let removable = found.removable.iter().flatten().cloned().collect();
        return Ok(found.report(removable, true));
    }
    let mut sweep = Sweep::announce(output, entropy).await?;
    let swept = sweep_output(output, n_versions, &mut sweep, entropy).await;
    sweep.end(output).await?;
    // Writers beside it rename such files while they are looked at; those that stay go the next time.
    if let Err(error) = output.remove_staged(STAGED_AGE).await {
        tracing::warn!(%error, "cannot remove what writers that were killed left half-written");
    }
    swept
}

async fn sweep_output(
    output: &Output,
    n_versions: Option<NonZeroUsize>,
    sweep: &mut Sweep,
    entropy: &dyn Entropy,
) -> Result<GcReport, RunError> {
    let mut removed = Vec::new();
    for _ in 0..LOOKS_MAX {
        let found = Found::look(output, n_versions).await?;
        let removal = found.remove(output, sweep, entropy, &mut removed);
        if let Removal::Done = removal.await? {
            return Ok(found.report(removed, false));
        }
    }
    Err(RunError::usage(
        format!("runs have published {LOOKS_MAX} times while gc looked at the output"),
        "nothing that is needed was removed; run gc again when there is less going on",
    ))
}

/// How far a removal came.
enum Removal {
    Done,
    /// Another version was published: what is needed has to be found out anew.
    Outdated,
}

/// What is needed, and what is not.
struct Found {
    keep: Keep,
    /// Not needed; those of the first group name those of the second.
    removable: [Vec<ListedObject>; 2],
    n_kept: u64,
}

impl Found {
    async fn look(output: &Output, n_versions: Option<NonZeroUsize>) -> Result<Self, RunError> {
        // In this order: what appears after the listing is not looked at.
        let objects = output.list("").await?;
        let mut keep = Keep::read(output, n_versions).await?;
        keep.read_manifests(output, &objects).await?;
        keep.reduces = newest_of_each_folder(&objects, layout::REDUCES);
        let (mut first, mut then) = (Vec::new(), Vec::new());
        let mut n_kept = 0;
        for object in objects {
            // This one's own, or of a `gc` that was killed: they hold runs up for a while at most.
            if object.path.starts_with(layout::SWEEPS) {
                continue;
            }
            let path = object.path.as_str();
            if keep.may_need(&object) || keep.is_at_work(path) || keep.keeps(output, path).await? {
                n_kept += 1;
            } else if object.path.ends_with(".json")
                && layout::parse_manifest_chunk(&object.path).is_none()
            {
                first.push(object);
            } else {
                then.push(object);
            }
        }
        Ok(Self {
            keep,
            removable: [first, then],
            n_kept,
        })
    }

    /// Removes what is not needed, and adds it to `removed`.
    async fn remove(
        &self,
        output: &Output,
        sweep: &mut Sweep,
        entropy: &dyn Entropy,
        removed: &mut Vec<ListedObject>,
    ) -> Result<Removal, RunError> {
        if self.is_outdated(output).await? {
            return Ok(Removal::Outdated);
        }
        for objects in self.removable.iter().flat_map(|it| it.chunks(AT_A_TIME)) {
            // Before each deletion: a store that is slow or throttles takes its time.
            if sweep.is_old() {
                let next = Sweep::announce(output, entropy).await?;
                std::mem::replace(sweep, next).end(output).await?;
                if self.is_outdated(output).await? {
                    return Ok(Removal::Outdated);
                }
            }
            let paths = objects.iter().map(|object| object.path.clone()).collect();
            Output::map_concurrently(paths, AT_A_TIME, |path| async move {
                output.delete(&path).await
            })
            .await?;
            removed.extend_from_slice(objects);
        }
        Ok(Removal::Done)
    }

    /// Whether a version was published, or removed, since.
    ///
    /// # Errors
    ///
    /// Of the store, or if a run has begun. Those that begin from now on wait for the sweep's end.
    async fn is_outdated(&self, output: &Output) -> Result<bool, RunError> {
        let runs = Runs::read(output).await?;
        if runs
            .started_ms
            .keys()
            .any(|it| !self.keep.known.contains(it))
        {
            return Err(RunError::usage(
                "a run has begun while gc looked at the output; nothing that it may need was removed",
                "run gc again when the run has begun its work, or has ended",
            ));
        }
        let mut numbers = output.version_numbers().await?;
        // Those that are removed themselves.
        numbers.retain(|number| !self.keep.outlived.contains(number));
        Ok(!numbers.iter().eq(&self.keep.versions))
    }

    fn report(self, removed: Vec<ListedObject>, dry_run: bool) -> GcReport {
        GcReport {
            dry_run,
            bytes: removed.iter().map(|object| object.bytes).sum(),
            removed: removed.into_iter().map(|object| object.path).collect(),
            n_kept: self.n_kept,
            at_work: self.keep.at_work.into_iter().collect(),
        }
    }
}

/// What stays.
#[derive(Debug, Default)]
struct Keep {
    versions: BTreeSet<u64>,
    /// Versions that do not stay.
    outlived: BTreeSet<u64>,
    /// Stages of versions that stay.
    published: BTreeSet<String>,
    paths: BTreeSet<String>,
    /// Folders in which everything stays.
    folders: BTreeSet<String>,
    plans: BTreeSet<PlanId>,
    runs: BTreeSet<RunId>,
    /// All runs that had been announced.
    known: BTreeSet<RunId>,
    /// Runs that may be going on, and their stages.
    at_work: BTreeSet<RunId>,
    stages: BTreeSet<String>,
    /// Manifests of phases, and their chunks.
    manifests: BTreeSet<String>,
    /// The newest result of each reduce.
    reduces: BTreeSet<String>,
    /// Since when objects may be named by a run that goes on: the newest, if it did not publish,
    /// and those that are alive.
    since_ms: Option<i64>,
}

impl Keep {
    async fn read(output: &Output, n_versions: Option<NonZeroUsize>) -> Result<Self, RunError> {
        let mut keep = Self::default();
        // In this order: what a run published before it ended is there when the versions are read.
        let runs = Runs::read(output).await?;
        let mut numbers = output.version_numbers().await?;
        if let Some(n_versions) = n_versions {
            let outlived = numbers.drain(..numbers.len().saturating_sub(n_versions.get()));
            keep.outlived = outlived.collect();
        }
        keep.versions = numbers.iter().copied().collect();
        let versions =
            Output::map_concurrently(numbers, AT_A_TIME, |number| output.version(number)).await?;
        let versions: Vec<Version> = versions.into_iter().flatten().collect();
        let stages = versions.iter().flat_map(|version| version.stages.keys());
        keep.published = stages.cloned().collect();
        for table in versions.iter().flat_map(|version| version.tables.values()) {
            keep.paths
                .extend(table.files.iter().map(|file| file.path.clone()));
        }
        let facts = versions
            .iter()
            .flat_map(|version| version.stages.values())
            .filter(|stage| stage.kind == "train_language_model");
        for stage in facts {
            // What cannot be read is not taken for nothing.
            let facts = stage.facts.get("model").cloned().unwrap_or_default();
            let model = ModelFacts::deserialize(facts).map_err(|error| {
                RunError::usage(
                    format!("cannot read what a version says of a language model: {error}"),
                    "use the program version that wrote it",
                )
            })?;
            for file in model.files {
                if let ModelPlace::Path(path) = file.place {
                    keep.paths.insert(path);
                }
            }
        }
        if let Some(newest) = versions.iter().max_by_key(|version| version.number) {
            keep.runs.insert(newest.run.clone());
            for phase in phases(output, &newest.run).await? {
                keep.plans.insert(phase.plan);
                keep.folders.insert(phase.folder);
            }
        }
        keep.known = runs.started_ms.keys().cloned().collect();
        keep.at_work = runs.alive().cloned().collect();
        for run in &keep.at_work {
            let start = layout::run_event(run, layout::RUN_STARTED);
            let started: Option<RunStarted> = output.get_json(&start, "event of a run").await?;
            keep.stages
                .extend(started.into_iter().flat_map(|it| it.stages));
        }
        let mut unfinished = keep.at_work.clone();
        for run in &runs.newest() {
            keep.runs.insert(run.clone());
            let end = layout::run_event(run, layout::RUN_ENDED);
            let ended: Option<RunEnded> = output.get_json(&end, "event of a run").await?;
            if ended.is_none_or(|ended| ended.version.is_none()) {
                unfinished.insert(run.clone());
            }
        }
        let published_ms: Vec<i64> = output
            .list(layout::VERSIONS)
            .await?
            .iter()
            .map(|version| version.modified_ms)
            .collect();
        for run in &unfinished {
            keep.runs.insert(run.clone());
            // Runs before it may have done what it goes on with.
            let since_ms = runs.works_with_since(run, &published_ms);
            keep.since_ms = Some(keep.since_ms.map_or(since_ms, |it| it.min(since_ms)));
            for phase in phases(output, run).await? {
                keep.plans.insert(phase.plan);
                keep.folders.insert(phase.folder);
            }
        }
        // Folders of tables hold attempts of every version; only an unfinished run may need
        // what no version names.
        let is_published_table = |folder: &String| {
            !folder.starts_with(layout::PRIVATE)
                && versions
                    .iter()
                    .any(|version| version.tables.contains_key(folder))
        };
        if unfinished.is_empty() {
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
        if let Some(number) = layout::parse_card(path) {
            return Ok(self.versions.contains(&number));
        }
        if let Some(stage) = layout::parse_kept(path) {
            return Ok(self.published.contains(stage));
        }
        if private("runs") || private("failures") {
            let run = path.split('/').nth(2).and_then(|run| run.parse().ok());
            return Ok(run.is_some_and(|run| self.runs.contains(&run)));
        }
        if private("plans") {
            let plan = path.split('/').nth(4).and_then(|plan| plan.parse().ok());
            return Ok(plan.is_some_and(|plan| self.plans.contains(&plan)));
        }
        if private("checkpoints") {
            // A run that will go on goes on from there; others have no use for it.
            return Ok(self.since_ms.is_some());
        }
        if private("manifests") {
            return Ok(self.manifests.contains(path));
        }
        if private("reduces") {
            let result: Option<ReduceResult> = output.get_json(path, "result of a reduce").await?;
            return Ok(result.is_some_and(|result| {
                // Nothing but facts is soon found again, and no version names it.
                let is_more = !result.tables.is_empty() || !result.files.is_empty();
                let mut tables = result.tables.values();
                (is_more || self.reduces.contains(path))
                    && tables.all(|file| self.keeps_object(&file.path))
            }));
        }
        // What is not ours is not touched.
        let is_ours = layout::parse_attempt(path).is_some()
            || layout::is_model_file(path)
            || private("inner");
        Ok(!is_ours || self.keeps_object(path))
    }

    /// Finds out which manifests stay: those all of whose objects do. Their chunks stay with them,
    /// and no others, which belong to a manifest that lost against another one.
    async fn read_manifests(
        &mut self,
        output: &Output,
        objects: &[ListedObject],
    ) -> Result<(), OutputError> {
        let manifests = objects.iter().filter(|object| {
            object.path.starts_with(layout::MANIFESTS)
                && layout::parse_manifest_chunk(&object.path).is_none()
        });
        for object in manifests {
            let chunks = match output.phase_manifest(&object.path).await {
                Ok(Some(manifest)) => {
                    let mut paths = manifest.attempts.iter().map(layout::pinned);
                    let is_kept = self.may_need(object) || paths.all(|it| self.keeps_object(&it));
                    match is_kept {
                        true => output.manifest_chunks(&object.path).await?,
                        false => continue,
                    }
                }
                Ok(None) => continue,
                // Whoever comes upon it could not go on.
                Err(error @ OutputError::Malformed { .. }) => {
                    tracing::warn!(%error, "a damaged manifest is of no use");
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.manifests.extend(chunks);
            self.manifests.insert(object.path.clone());
        }
        Ok(())
    }

    /// Whether the object is of a stage of a run that may be going on: it may come upon whatever is
    /// there, however old.
    fn is_at_work(&self, path: &str) -> bool {
        let mut stages = self.stages.iter();
        stages.any(|stage| layout::is_of_stage(path, stage))
    }

    /// Whether a run that goes on may name the object, or read it.
    fn may_need(&self, object: &ListedObject) -> bool {
        self.since_ms
            .is_some_and(|since| object.modified_ms >= since)
    }

    fn keeps_object(&self, path: &str) -> bool {
        self.paths.contains(path)
            || self.folders.iter().any(|folder| {
                path.strip_prefix(folder)
                    .is_some_and(|rest| rest.starts_with('/'))
            })
    }
}

fn newest_of_each_folder(objects: &[ListedObject], below: &str) -> BTreeSet<String> {
    let mut newest: BTreeMap<&str, &ListedObject> = BTreeMap::new();
    for object in objects.iter().filter(|it| it.path.starts_with(below)) {
        let folder = layout::folder_of(&object.path);
        let found = newest.entry(folder).or_insert(object);
        if (object.modified_ms, &object.path) > (found.modified_ms, &found.path) {
            *found = object;
        }
    }
    let paths = newest.into_values().map(|object| object.path.clone());
    paths.collect()
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
        for run in &self.at_work {
            let _ = writeln!(
                text,
                "run {run} may be going on: what its stages wrote stays"
            );
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

#[cfg(test)]
mod tests;
