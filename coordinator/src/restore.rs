//! Objects that a manifest or a result names and that somebody removed.
//!
//! Their bytes are a function of what made them, so they are made again and put under their old names:
//! every version that names them is whole again. Where the world answers differently now, the object
//! gets a new name, and the next version names that.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::{PhaseManifest, RunId, TableFile, Version, VersionStage};
use gleaner_storage::{Created, Output, OutputError, layout};
use gleaner_workers::language_model::{ModelFacts, ModelPlace};
use gleaner_workers::train_language_model;
use serde::Deserialize as _;

use crate::losers;

/// Which files of one folder are gone, or have another size than they had.
///
/// # Errors
///
/// Of the store.
pub async fn lost<'f>(
    output: &Output,
    files: &'f [TableFile],
) -> Result<Vec<&'f TableFile>, OutputError> {
    let folders = files.iter().map(|it| layout::folder_of(&it.path)).collect();
    let sizes = sizes(output, folders).await?;
    let is_lost = |file: &&TableFile| sizes.get(&file.path) != Some(&file.bytes);
    Ok(files.iter().filter(is_lost).collect())
}

/// Whether any of these objects, paths and sizes, is gone or has another size than it had.
///
/// # Errors
///
/// Of the store.
pub async fn are_lost(output: &Output, objects: &[(&str, u64)]) -> Result<bool, OutputError> {
    let folders = objects.iter().map(|(path, _)| layout::folder_of(path));
    let sizes = sizes(output, folders.collect()).await?;
    let mut objects = objects.iter();
    Ok(objects.any(|(path, bytes)| sizes.get(*path) != Some(bytes)))
}

/// Sizes of all objects below folders.
async fn sizes(
    output: &Output,
    folders: BTreeSet<&str>,
) -> Result<BTreeMap<String, u64>, OutputError> {
    let mut sizes = BTreeMap::new();
    for folder in folders {
        let listed = output.list(folder).await?;
        sizes.extend(listed.into_iter().map(|object| (object.path, object.bytes)));
    }
    Ok(sizes)
}

/// Numbers of a manifest's attempts whose objects are gone, or have another size than they had.
///
/// # Errors
///
/// Of the store.
pub async fn lost_attempts(
    output: &Output,
    folder: &str,
    manifest: &PhaseManifest,
) -> Result<Vec<usize>, OutputError> {
    let listed = output.attempts_spread(folder).await?;
    let is_lost = |(_, pinned): &(usize, &gleaner_schemas::PinnedAttempt)| {
        let found = listed.find(&pinned.task, &pinned.attempt);
        found.is_none_or(|found| found.bytes != pinned.bytes)
    };
    let attempts = manifest.attempts.iter().enumerate();
    Ok(attempts.filter(is_lost).map(|(idx, _)| idx).collect())
}

/// Puts attempts that were made again under the names of those that were lost. Returns whether all of
/// them are the same as before.
///
/// # Errors
///
/// Of the store.
pub async fn put_back(
    output: &Output,
    run: &RunId,
    folder: &str,
    manifest: &PhaseManifest,
    lost: &[usize],
) -> Result<bool, OutputError> {
    let listed = output.attempts_spread(folder).await?;
    let mut copied = Vec::new();
    let mut is_whole = true;
    for pinned in lost.iter().map(|idx| &manifest.attempts[*idx]) {
        let same = listed.of_task(&pinned.task).find(|attempt| {
            attempt.attempt != pinned.attempt
                && attempt.attempt.content() == pinned.attempt.content()
        });
        let Some(same) = same else {
            is_whole = false;
            continue;
        };
        let from = same.path(&pinned.task);
        let Some(bytes) = output.get(&from).await? else {
            is_whole = false;
            continue;
        };
        match output.create(&layout::pinned(pinned), bytes).await? {
            Created::Stored => copied.push(from),
            Created::Exists(_) => is_whole = false,
        }
    }
    losers::remove_copies(output, run, &manifest.stage, copied).await?;
    Ok(is_whole)
}

/// The language model that a stage of a version trained.
#[must_use]
pub fn trained_model(stage: &VersionStage) -> Option<ModelFacts> {
    let facts = (stage.kind == train_language_model::KIND).then(|| stage.facts.get("model"))??;
    ModelFacts::deserialize(facts).ok()
}

/// Stages whose published model, which stays as it is, is gone.
///
/// # Errors
///
/// Of the store.
pub async fn lost_models(
    output: &Output,
    version: &Version,
) -> Result<BTreeSet<String>, OutputError> {
    let mut stages = BTreeSet::new();
    for (name, table) in &version.tables {
        if let Some(stage) = name.strip_suffix("_model")
            && version.stages.contains_key(stage)
            && !lost(output, &table.files).await?.is_empty()
        {
            stages.insert(stage.to_owned());
        }
    }
    for (name, stage) in &version.stages {
        let Some(model) = trained_model(stage) else {
            continue;
        };
        let files = model.files.iter().filter_map(|file| match &file.place {
            ModelPlace::Path(path) => Some((path.as_str(), file.bytes)),
            ModelPlace::Uri(_) => None,
        });
        let table = version.tables.get(name).into_iter();
        let table = table
            .flat_map(|it| &it.files)
            .map(|it| (it.path.as_str(), it.bytes));
        if are_lost(output, &files.chain(table).collect::<Vec<_>>()).await? {
            stages.insert(name.clone());
        }
    }
    Ok(stages)
}
