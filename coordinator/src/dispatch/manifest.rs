//! The end of a phase: one attempt per task is pinned, and the manifest created.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{
    Lanes, PhaseManifest, PhasePlan, PinnedAttempt, PlanId, QuarantinedTask, SourceFile, Task,
};
use gleaner_storage::output::ListedAttempt;
use gleaner_storage::{Attempts, OutputError, encode, layout};

use super::Dispatcher;
use super::pinned_before::PinnedBefore;
use crate::ledger::Ledger;
use crate::retry::retrying;
use crate::run_error::RunError;

/// Footers read at a time.
const FOOTER_READS: usize = 64;

impl Dispatcher<'_> {
    /// Pins the smallest attempt of each task and creates the manifest. Whoever comes second gets
    /// what is stored.
    ///
    /// # Errors
    ///
    /// Of the store, or if a task has no outcome.
    pub(super) async fn manifest(
        &self,
        plan: &PhasePlan,
        plan_id: &PlanId,
        tasks: &[Task],
        ledger: Ledger,
        attempts: Attempts,
    ) -> Result<PhaseManifest, RunError> {
        let quarantined: Vec<QuarantinedTask> = ledger
            .quarantined()
            .map(|(idx, failure, attempts)| QuarantinedTask {
                task: tasks[idx].id.clone(),
                failure: failure.clone(),
                attempts,
                inputs: inputs_of(&tasks[idx]),
                rows: tasks[idx].shard.n_rows(),
            })
            .collect();
        // It has said all that it knows, and with a million tasks what follows takes its memory.
        drop(ledger);
        let before = PinnedBefore::read(self.output, plan, tasks.len()).await;
        // By numbers: a closure over borrowed pairs is not general enough for a future that is
        // sent.
        let chosen = (0..tasks.len()).filter_map(|idx| {
            let attempt = attempts.smallest(&tasks[idx].id)?.clone();
            Some((idx, attempt))
        });
        let before = &before;
        let mut pinned: Vec<PinnedAttempt> = futures::stream::iter(chosen)
            .map(|(idx, attempt)| async move {
                let task = &tasks[idx];
                if let Some((rows, lanes)) = before.get(&task.id, &attempt) {
                    return Ok(pinned_attempt(task, &attempt, rows, lanes));
                }
                retrying(self.shutdown, || self.pin(task, &attempt)).await
            })
            .buffered(FOOTER_READS)
            .try_collect()
            .await?;
        drop(attempts);
        pinned.shrink_to_fit();
        if pinned.len() + quarantined.len() != tasks.len() {
            return Err(RunError::Internal(format!(
                "stage {}, phase {}: {} of {} tasks have an outcome",
                plan.stage,
                plan.phase,
                pinned.len() + quarantined.len(),
                tasks.len()
            )));
        }
        let failed: u64 = quarantined.iter().filter_map(|task| task.rows).sum();
        let manifest = PhaseManifest {
            stage: plan.stage.clone(),
            phase: plan.phase.clone(),
            plan: plan_id.clone(),
            lanes: pinned.iter().map(|attempt| attempt.lanes).sum::<Lanes>()
                + Lanes {
                    rows_in: failed,
                    failed,
                    ..Lanes::default()
                },
            attempts: pinned,
            quarantined,
        };
        let key = if manifest.quarantined.is_empty() {
            layout::phase_manifest(&plan.stage, &plan.phase, plan_id)
        } else {
            let content = manifest.partial_content();
            layout::partial_manifest(&plan.stage, &plan.phase, plan_id, &content)
        };
        let stored = retrying(self.shutdown, || {
            self.output.create_phase_manifest(&key, &manifest)
        })
        .await?;
        Ok(stored.map_or(manifest, |stored| told_by(stored, tasks)))
    }

    async fn pin(
        &self,
        task: &Task,
        attempt: &ListedAttempt,
    ) -> Result<PinnedAttempt, OutputError> {
        let key = attempt.path(&task.id);
        let path = self.output.path_of(&key);
        let facts = encode::read_facts(self.output.store(), &path, attempt.bytes)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => OutputError::Malformed {
                    uri: self.output.uri_of(&key),
                    expected: "object of a task",
                    message: format!("{}; remove it and run the job again", error_chain(&error)),
                },
                _ => OutputError::Store {
                    operation: "read the footer of",
                    uri: self.output.uri_of(&key),
                    source: error.into(),
                },
            })?;
        Ok(pinned_attempt(task, attempt, facts.rows, facts.lanes))
    }
}

fn pinned_attempt(task: &Task, attempt: &ListedAttempt, rows: u64, lanes: Lanes) -> PinnedAttempt {
    PinnedAttempt {
        task: task.id.clone(),
        attempt: attempt.attempt.clone(),
        folder: Arc::clone(&attempt.folder),
        rows,
        bytes: attempt.bytes,
        lanes,
        inputs: inputs_of(task),
    }
}

/// The manifest with what its stored form leaves out: the corpus files that each task's rows come
/// from.
pub(super) fn told_by(mut manifest: PhaseManifest, tasks: &[Task]) -> PhaseManifest {
    let mut tasks = tasks.iter();
    for pinned in &mut manifest.attempts {
        // Both are in the plan's order; tasks that were given up are passed over.
        if let Some(task) = tasks.find(|task| task.id == pinned.task) {
            pinned.inputs = inputs_of(task);
        }
    }
    manifest
}

/// The corpus files that a task's rows come from: its companions, or the files that it reads.
fn inputs_of(task: &Task) -> Vec<Arc<SourceFile>> {
    if !task.shard.companions.is_empty() {
        return task.shard.companions.clone();
    }
    let mut files: Vec<Arc<SourceFile>> = Vec::with_capacity(1);
    for slice in &task.shard.slices {
        if files.last() != Some(&slice.file) {
            files.push(Arc::clone(&slice.file));
        }
    }
    files
}
