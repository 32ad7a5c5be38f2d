//! What an earlier manifest of the same phase knows of attempts: their footers need not be read again.

use std::collections::HashMap;

use gleaner_schemas::{AttemptId, Lanes, PhasePlan, TaskId};
use gleaner_storage::output::ListedAttempt;
use gleaner_storage::{Output, OutputError, layout};

/// Of fewer tasks, footers are read as fast as a manifest.
const TASKS_MIN: usize = 16;

/// Attempts that were pinned before, with what their footers told.
#[derive(Debug, Default)]
pub(super) struct PinnedBefore(HashMap<TaskId, (AttemptId, u64, u64, Lanes)>);

impl PinnedBefore {
    /// Of the newest manifest of the plan's phase. None is needed: without one, footers are read.
    pub(super) async fn read(output: &Output, plan: &PhasePlan, n_tasks: usize) -> Self {
        if n_tasks < TASKS_MIN {
            return Self::default();
        }
        match newest(output, plan).await {
            Ok(before) => before,
            Err(error) => {
                tracing::debug!(%error, "no earlier manifest can be read");
                Self::default()
            }
        }
    }

    /// Rows and lanes of an attempt, if they are known.
    pub(super) fn get(&self, task: &TaskId, attempt: &ListedAttempt) -> Option<(u64, Lanes)> {
        let (pinned, bytes, rows, lanes) = self.0.get(task)?;
        (*pinned == attempt.attempt && *bytes == attempt.bytes).then_some((*rows, *lanes))
    }
}

async fn newest(output: &Output, plan: &PhasePlan) -> Result<PinnedBefore, OutputError> {
    let folder = format!("{}/{}", layout::manifests(&plan.stage), plan.phase);
    let (_, manifests) = output.children(&folder).await?;
    let Some(newest) = manifests.iter().max_by_key(|it| (it.modified_ms, &it.path)) else {
        return Ok(PinnedBefore::default());
    };
    let manifest = output.phase_manifest(&newest.path).await?;
    let attempts = manifest.into_iter().flat_map(|manifest| manifest.attempts);
    let known = attempts.map(|pinned| {
        let facts = (pinned.attempt, pinned.bytes, pinned.rows, pinned.lanes);
        (pinned.task, facts)
    });
    Ok(PinnedBefore(known.collect()))
}
