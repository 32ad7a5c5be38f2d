//! The end of a phase: one attempt per task is pinned, and the manifest created.

use std::collections::BTreeMap;

use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{
    Lanes, PhaseManifest, PhasePlan, PinnedAttempt, PlanId, QuarantinedTask, SourceFile, Task,
    TaskId,
};
use gleaner_storage::output::ListedAttempt;
use gleaner_storage::{Output, OutputError, encode, layout};

use super::Dispatcher;
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
        ledger: &Ledger,
        attempts: &BTreeMap<TaskId, Vec<ListedAttempt>>,
    ) -> Result<PhaseManifest, RunError> {
        // Owned: a closure over borrowed pairs is not general enough for a future that is sent.
        let chosen: Vec<(usize, ListedAttempt)> = tasks
            .iter()
            .enumerate()
            .filter_map(|(idx, task)| Some((idx, attempts.get(&task.id)?.first()?.clone())))
            .collect();
        let pinned = retrying(self.shutdown, || {
            Output::map_concurrently(chosen.clone(), FOOTER_READS, |(idx, attempt)| {
                self.pin(&tasks[idx], attempt)
            })
        })
        .await?;
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
            format: PhaseManifest::FORMAT,
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
            let content = gleaner_schemas::Fingerprint::of("partial", &manifest);
            layout::partial_manifest(&plan.stage, &plan.phase, plan_id, &content)
        };
        retrying(self.shutdown, || {
            self.output
                .create_json(&key, "phase manifest", manifest.clone())
        })
        .await
    }

    async fn pin(&self, task: &Task, attempt: ListedAttempt) -> Result<PinnedAttempt, OutputError> {
        let path = self.output.path_of(&attempt.path);
        let facts = encode::read_facts(self.output.store(), &path, attempt.bytes)
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => OutputError::Malformed {
                    uri: self.output.uri_of(&attempt.path),
                    expected: "object of a task",
                    message: format!("{}; remove it and run the job again", error_chain(&error)),
                },
                _ => OutputError::Store {
                    operation: "read the footer of",
                    uri: self.output.uri_of(&attempt.path),
                    source: error.into(),
                },
            })?;
        Ok(PinnedAttempt {
            task: task.id.clone(),
            attempt: attempt.attempt,
            path: attempt.path,
            rows: facts.rows,
            bytes: attempt.bytes,
            lanes: facts.lanes,
            inputs: inputs_of(task),
        })
    }
}

/// The corpus files that a task's rows come from: its companions, or the files that it reads.
fn inputs_of(task: &Task) -> Vec<SourceFile> {
    if !task.shard.companions.is_empty() {
        return task.shard.companions.clone();
    }
    let mut files: Vec<SourceFile> = Vec::new();
    for slice in &task.shard.slices {
        if files.last() != Some(&slice.file) {
            files.push(slice.file.clone());
        }
    }
    files
}
