//! What runs keep to make later ones cheap: no result depends on it, and it is written over.

use gleaner_schemas::TaskId;

/// What files of the corpus told of themselves, kept for the next run. Whoever publishes writes it anew;
/// it is no part of any version.
pub const FOOTERS: &str = "_gleaner/footers.json";

/// Folder of what reduces keep for those of later runs. It is written anew by whoever has more; no manifest
/// or version names any of it.
pub const KEPT: &str = "_gleaner/kept";

/// Key of the copies of a phase's objects.
#[must_use]
pub fn copies(stage: &str, phase: &str) -> String {
    format!("{KEPT}/{stage}/{phase}.parquet")
}

/// Key of what the objects of a phase add up to.
#[must_use]
pub fn sums(stage: &str, phase: &str) -> String {
    format!("{KEPT}/{stage}/{phase}.sums.parquet")
}

/// The stage whose reduces keep what lies at `key`.
#[must_use]
pub fn parse_kept(key: &str) -> Option<&str> {
    key.strip_prefix(KEPT)?.strip_prefix('/')?.split('/').next()
}

/// Folder of the states of long computations.
pub const CHECKPOINTS: &str = "_gleaner/checkpoints";

/// Key of the state of a task's computation.
#[must_use]
pub fn checkpoint(task: &TaskId) -> String {
    format!("{CHECKPOINTS}/{task}")
}

/// The task whose computation's state lies at `key`.
#[must_use]
pub fn parse_checkpoint(key: &str) -> Option<TaskId> {
    key.strip_prefix(CHECKPOINTS)?
        .strip_prefix('/')?
        .parse()
        .ok()
}
