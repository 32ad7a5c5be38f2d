//! The removal of what lost, when a run has ended: attempts that no manifest pinned, and tables of
//! reduces that another coordinator had stored first.
//!
//! Another coordinator may share tasks with this run without sharing a plan: its corpus has one
//! file more. It has listed the attempts of a task, chosen one, and not stored yet which. To
//! remove that one would leave a version that names what is gone. This is why it cannot happen:
//!
//! 1. Every coordinator pins the smallest attempt that it sees. So attempts *above* the pinned one
//!    are never chosen by whoever lists while the pinned attempt is there, and that one stays,
//!    since a manifest names it.
//! 2. Who lists before the pinned attempt is there may choose one above it. Such a coordinator
//!    had started before, and announced that before it listed anything. So nothing is removed
//!    while any run but this one has started and not ended, unless the pinned attempt is older
//!    than [`SAFE_AGE_MS`] by the store's clock: from a coordinator's last look to its manifest
//!    it takes minutes at most, since it gives up when the store is unreachable for longer.
//! 3. Attempts *below* the pinned one, which came too late, and tables of reduces may also be
//!    chosen by who starts right now. They are removed under a sweep ([`crate::sweep`]), which runs
//!    that start wait for, and only when no other run may be going on.
//! 4. What another run stored before it ended is read after looking at the runs, and stays.
//!
//! A run says that it has ended before it looks at the others here. So of runs that end side by
//! side the last one finds that all have ended, and removes what is left of all of them. What stays
//! beside a run that was killed a moment ago, or that failed, is removed by a later run or by
//! `gleaner gc`. A coordinator that was put to sleep for longer, between its look and its manifest,
//! may still name what is gone: readers and `gleaner verify` then say so.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::{AttemptId, RunId, TableFile, TaskId};
use gleaner_storage::{Output, OutputError, layout};
use gleaner_workers::entropy::Entropy;

use crate::commands::gc_runs::Runs;
use crate::driver::FinishedStage;
use crate::sweep::Sweep;

/// A coordinator that has looked at the store stores what it pins long before this time is over,
/// or never. In milliseconds.
pub const SAFE_AGE_MS: i64 = 60 * 60 * 1000;

/// Removes what lost in the folders that the run's phases and reduces use. To be called when the
/// run has told that it ended. What any manifest or version names stays, whoever wrote it; phases
/// with quarantined tasks are left alone, since another run may be completing them. Objects of
/// other tasks are left to `gleaner gc`: an older version may name them. Returns how many were
/// removed.
///
/// # Errors
///
/// Of the store.
pub async fn remove(
    output: &Output,
    run: &RunId,
    stages: &[&(String, FinishedStage)],
    entropy: &dyn Entropy,
) -> Result<u64, OutputError> {
    let mut losers = Vec::new();
    for (folder, tasks) in chosen(stages) {
        losers.extend(not_chosen(output, &folder, &tasks).await?);
    }
    let (above, others): (Vec<Loser>, Vec<Loser>) =
        losers.into_iter().partition(|loser| loser.is_above);
    let mut n_removed = 0;
    if !above.is_empty() {
        n_removed += remove_above(output, run, stages, above).await?;
    }
    if !others.is_empty() {
        let sweep = Sweep::announce(output, entropy).await?;
        let removed = remove_under(&sweep, output, run, stages, others).await;
        sweep.end(output).await?;
        n_removed += removed?;
    }
    Ok(n_removed)
}

async fn remove_above(
    output: &Output,
    run: &RunId,
    stages: &[&(String, FinishedStage)],
    mut losers: Vec<Loser>,
) -> Result<u64, OutputError> {
    // In this order: what a run stored before it ended is there when the manifests are read.
    let others = others(output, run).await?;
    losers.retain(|loser| others.allow(loser.chosen_ms));
    let named = named_objects(output, names(stages)).await?;
    losers.retain(|loser| !named.contains(&loser.path));
    for loser in &losers {
        output.delete(&loser.path).await?;
    }
    Ok(losers.len() as u64)
}

async fn remove_under(
    sweep: &Sweep,
    output: &Output,
    run: &RunId,
    stages: &[&(String, FinishedStage)],
    mut losers: Vec<Loser>,
) -> Result<u64, OutputError> {
    if Runs::read(output).await?.alive().any(|other| other != run) {
        return Ok(0);
    }
    let named = named_objects(output, names(stages)).await?;
    losers.retain(|loser| !named.contains(&loser.path));
    let mut n_removed = 0;
    for loser in &losers {
        // Runs that begin wait no longer.
        if sweep.is_old() {
            break;
        }
        output.delete(&loser.path).await?;
        n_removed += 1;
    }
    Ok(n_removed)
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

fn names<'a>(stages: &[&'a (String, FinishedStage)]) -> impl Iterator<Item = &'a str> {
    stages.iter().map(|(name, _)| name.as_str())
}

/// What stands for a task.
struct Chosen {
    attempt: AttemptId,
    /// Whether a manifest pinned it, as the smallest that was there.
    is_pinned: bool,
}

type Tasks = BTreeMap<TaskId, Chosen>;

/// What stands for each task, by folder: the pinned attempt, the smallest should phases differ; or
/// the table that a reduce named.
fn chosen(stages: &[&(String, FinishedStage)]) -> BTreeMap<String, Tasks> {
    let mut folders: BTreeMap<String, Tasks> = BTreeMap::new();
    let manifests = stages.iter().flat_map(|(_, finished)| &finished.manifests);
    for (folder, manifest) in manifests.filter(|(_, it)| it.quarantined.is_empty()) {
        let tasks = folders.entry(folder.clone()).or_default();
        for pinned in &manifest.attempts {
            let smallest = tasks.entry(pinned.task.clone()).or_insert_with(|| Chosen {
                attempt: pinned.attempt.clone(),
                is_pinned: true,
            });
            if pinned.attempt < smallest.attempt {
                smallest.attempt = pinned.attempt.clone();
            }
        }
    }
    for (_, finished) in stages {
        for (name, files) in &finished.completed.tables {
            let folder = layout::table_folder(name);
            if finished.manifests.iter().any(|(other, _)| *other == folder) {
                continue;
            }
            let tasks = folders.entry(folder).or_default();
            tasks.extend(files.iter().filter_map(of_reduce));
        }
    }
    folders
}

fn of_reduce(file: &TableFile) -> Option<(TaskId, Chosen)> {
    let (task, attempt) = layout::parse_attempt(&file.path)?;
    let is_pinned = false;
    Some((task, Chosen { attempt, is_pinned }))
}

struct Loser {
    path: String,
    /// Whether it is above an attempt that is pinned: nobody who starts now would choose it.
    is_above: bool,
    /// When what won was written.
    chosen_ms: i64,
}

async fn not_chosen(
    output: &Output,
    folder: &str,
    tasks: &Tasks,
) -> Result<Vec<Loser>, OutputError> {
    let mut chosen_ms: BTreeMap<TaskId, i64> = BTreeMap::new();
    let mut not_chosen = Vec::new();
    for object in output.list(folder).await? {
        let Some((task, attempt)) = layout::parse_attempt(&object.path) else {
            continue;
        };
        match tasks.get(&task) {
            Some(chosen) if attempt == chosen.attempt => {
                chosen_ms.insert(task, object.modified_ms);
            }
            Some(chosen) => {
                let is_above = chosen.is_pinned && attempt > chosen.attempt;
                not_chosen.push((task, object.path, is_above));
            }
            None => {}
        }
    }
    let losers = not_chosen.into_iter().filter_map(|(task, path, is_above)| {
        // Without what won there is none that lost.
        let chosen_ms = *chosen_ms.get(&task)?;
        Some(Loser {
            path,
            is_above,
            chosen_ms,
        })
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
    fn allow(&self, chosen_ms: i64) -> bool {
        !self.may_be_alive || self.now_ms.saturating_sub(chosen_ms) >= SAFE_AGE_MS
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
