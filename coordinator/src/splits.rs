//! Smaller tasks in place of tasks that no worker could finish.
//!
//! A split is recorded in the output once, and every plan that contains the task heeds it: the
//! next run does not try the large task again, and two coordinators cut it the same way.

use std::collections::BTreeSet;

use gleaner_schemas::{Failure, FailureKind, PhasePlan, Shard, Task, TaskId, TaskSplit};
use gleaner_storage::{Output, OutputError, layout};

use crate::planner;

/// A piece may be split again, and so on; a shard of 2^64 rows has not more levels.
const LEVELS_MAX: usize = 64;

/// The plan's shards with the pieces of those that were split.
///
/// # Errors
///
/// Of the store, or if a record is not one that this build reads.
pub async fn heed(
    output: &Output,
    plan: &PhasePlan,
    shards: Vec<Shard>,
) -> Result<Vec<Shard>, OutputError> {
    let listed = output.list(layout::SPLITS).await?;
    let split: BTreeSet<TaskId> = listed
        .iter()
        .filter_map(|object| layout::parse_split(&object.path))
        .collect();
    if split.is_empty() {
        return Ok(shards);
    }
    let mut shards = shards;
    for _ in 0..LEVELS_MAX {
        let mut pieces = Vec::new();
        let mut is_changed = false;
        for shard in shards {
            let task = plan.task_id(&shard);
            if split.contains(&task)
                && let Some(record) = read(output, &task).await?
            {
                pieces.extend(record.into_pieces());
                is_changed = true;
            } else {
                pieces.push(shard);
            }
        }
        shards = pieces;
        if !is_changed {
            break;
        }
    }
    Ok(shards)
}

async fn read(output: &Output, task: &TaskId) -> Result<Option<TaskSplit>, OutputError> {
    const EXPECTED: &str = "record of a split task";
    let key = layout::split(task);
    let record: Option<TaskSplit> = output.get_json(&key, EXPECTED).await?;
    match record {
        Some(record) if record.format != TaskSplit::FORMAT || record.task != *task => {
            Err(OutputError::Malformed {
                uri: output.uri_of(&key),
                expected: EXPECTED,
                message: format!(
                    "it has format {} and is of task {}; this program reads format {}",
                    record.format,
                    record.task,
                    TaskSplit::FORMAT
                ),
            })
        }
        other => Ok(other),
    }
}

/// Splits a task for good. `false` if it cannot be split, or if that would not help: what is wrong
/// with the contents of one file is wrong with its halves.
///
/// # Errors
///
/// Of the store.
pub async fn store(output: &Output, task: &Task, failure: &Failure) -> Result<bool, OutputError> {
    let has_one_file = {
        let files: BTreeSet<&str> = task
            .shard
            .slices
            .iter()
            .map(|slice| slice.file.uri.as_str())
            .collect();
        files.len() < 2
    };
    if failure.kind != FailureKind::Memory && has_one_file {
        return Ok(false);
    }
    let Some(pieces) = planner::split(&task.shard) else {
        return Ok(false);
    };
    let record = TaskSplit::new(task.id.clone(), failure.clone(), pieces);
    // Whoever was first is right: the pieces are the same, the failure may differ.
    output
        .create_json(&layout::split(&task.id), "record of a split task", record)
        .await?;
    Ok(true)
}
