//! The removal of attempts that lost, when a run ends.
//!
//! Another coordinator may share tasks with this run without sharing a plan: its corpus has one
//! file more. It has listed the attempts of a task, chosen one, and not stored yet which. To
//! remove that one would leave a version that names what is gone. This is why it cannot happen:
//!
//! 1. Every coordinator pins the smallest attempt that it sees. So only attempts *above* the
//!    pinned one are removed here: whoever lists while the pinned attempt is there chooses it or
//!    a smaller one. The pinned one itself is named by a manifest and stays.
//! 2. Who lists before the pinned attempt is there may choose one above it. Such a coordinator
//!    had started before, and announced that before it listed anything. So nothing is removed
//!    while any run but this one has started and not ended, unless the pinned attempt is older
//!    than [`SAFE_AGE_MS`] by the store's clock: from a coordinator's last look to its manifest
//!    it takes minutes at most, since it gives up when the store is unreachable for longer.
//! 3. What it stored before it ended, or within that time, is read after looking at the runs, and
//!    stays.
//!
//! What is left behind (a smaller attempt that came too late, or losers beside a run that was
//! killed a moment ago) is removed by a later run or by `gleaner gc`. A coordinator that was put
//! to sleep for longer, between its look and its manifest, may still name what is gone: readers
//! and `gleaner verify` then say so.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::{AttemptId, RunId, TaskId};
use gleaner_storage::{Output, OutputError, layout};

use crate::driver::FinishedStage;

/// A coordinator that has looked at the store stores what it pins long before this time is over,
/// or never. In milliseconds.
pub const SAFE_AGE_MS: i64 = 60 * 60 * 1000;

/// Removes attempts that lost against a pinned one, in the folders that the run's phases use.
/// What any manifest or version names stays, whoever wrote it; phases with quarantined tasks are
/// left alone, since another run may be completing them. Objects of other tasks are left to
/// `gleaner gc`: an older version may name them. Returns how many were removed.
///
/// # Errors
///
/// Of the store.
pub async fn remove(
    output: &Output,
    run: &RunId,
    stages: &BTreeMap<String, FinishedStage>,
) -> Result<u64, OutputError> {
    let mut losers = Vec::new();
    for (folder, tasks) in pinned(stages) {
        losers.extend(above_pinned(output, folder, &tasks).await?);
    }
    if losers.is_empty() {
        return Ok(0);
    }
    // In this order: what a run stored before it ended is there when the manifests are read.
    let others = others(output, run).await?;
    losers.retain(|loser| others.allow(loser.pinned_ms));
    let named = named_objects(output, stages.keys().map(String::as_str)).await?;
    losers.retain(|loser| !named.contains(&loser.path));
    for loser in &losers {
        output.delete(&loser.path).await?;
    }
    Ok(losers.len() as u64)
}

/// Removes attempts whose bytes now lie under the name of another one, unless somebody may have chosen
/// them.
///
/// # Errors
///
/// Of the store.
pub async fn remove_copies(
    output: &Output,
    run: &RunId,
    stage: &str,
    copies: Vec<String>,
) -> Result<(), OutputError> {
    if copies.is_empty() || others(output, run).await?.may_be_alive {
        return Ok(());
    }
    let named = named_objects(output, std::iter::once(stage)).await?;
    for copy in copies.iter().filter(|copy| !named.contains(*copy)) {
        output.delete(copy).await?;
    }
    Ok(())
}

type Pinned<'a> = BTreeMap<&'a TaskId, &'a AttemptId>;

/// The attempt that is pinned for each task, by folder; the smallest, should phases differ.
fn pinned(stages: &BTreeMap<String, FinishedStage>) -> BTreeMap<&str, Pinned<'_>> {
    let mut folders: BTreeMap<&str, Pinned<'_>> = BTreeMap::new();
    let manifests = stages.values().flat_map(|finished| &finished.manifests);
    for (folder, manifest) in manifests.filter(|(_, it)| it.quarantined.is_empty()) {
        let tasks = folders.entry(folder).or_default();
        for pinned in &manifest.attempts {
            let smallest = tasks.entry(&pinned.task).or_insert(&pinned.attempt);
            *smallest = (*smallest).min(&pinned.attempt);
        }
    }
    folders
}

struct Loser {
    path: String,
    /// When the attempt was written that it lost against.
    pinned_ms: i64,
}

async fn above_pinned(
    output: &Output,
    folder: &str,
    pinned: &Pinned<'_>,
) -> Result<Vec<Loser>, OutputError> {
    let mut pinned_ms: BTreeMap<TaskId, i64> = BTreeMap::new();
    let mut above = Vec::new();
    for object in output.list(folder).await? {
        let Some((task, attempt)) = layout::parse_attempt(&object.path) else {
            continue;
        };
        match pinned.get(&task) {
            Some(smallest) if attempt == **smallest => {
                pinned_ms.insert(task, object.modified_ms);
            }
            Some(smallest) if attempt > **smallest => above.push((task, object.path)),
            _ => {}
        }
    }
    let losers = above.into_iter().filter_map(|(task, path)| {
        // Without the attempt that won there is none that lost.
        let pinned_ms = *pinned_ms.get(&task)?;
        Some(Loser { path, pinned_ms })
    });
    Ok(losers.collect())
}

/// Runs beside this one.
struct Others {
    may_be_alive: bool,
    /// The store's clock, not later than now.
    now_ms: i64,
}

impl Others {
    fn allow(&self, pinned_ms: i64) -> bool {
        !self.may_be_alive || self.now_ms.saturating_sub(pinned_ms) >= SAFE_AGE_MS
    }
}

async fn others(output: &Output, run: &RunId) -> Result<Others, OutputError> {
    let events = output.list(layout::RUNS).await?;
    let paths: BTreeSet<&str> = events.iter().map(|event| event.path.as_str()).collect();
    let may_be_alive = paths.iter().any(|path| {
        layout::parse_run_event(path).is_some_and(|(other, _)| {
            other != *run && !paths.contains(layout::run_event(&other, layout::RUN_ENDED).as_str())
        })
    });
    Ok(Others {
        may_be_alive,
        now_ms: events
            .iter()
            .map(|event| event.modified_ms)
            .max()
            .unwrap_or(i64::MIN),
    })
}

/// What versions, and manifests of the same stages, name.
async fn named_objects(
    output: &Output,
    stages: impl Iterator<Item = &str>,
) -> Result<BTreeSet<String>, OutputError> {
    let mut named = BTreeSet::new();
    for stage in stages {
        for object in output.list(&layout::manifests(stage)).await? {
            named.extend(output.named_by_manifest(&object.path).await?);
        }
    }
    for number in output.version_numbers().await? {
        let Some(version) = output.version(number).await? else {
            continue;
        };
        let files = version.tables.into_values().flat_map(|table| table.files);
        named.extend(files.map(|file| file.path));
    }
    Ok(named)
}

#[cfg(test)]
mod tests;
