//! Looks at the store: which tasks are done, which failed, and what the queue has given up.

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::{Failure, FailureKind, PhasePlan, RunId, Task, TaskId};
use gleaner_storage::{Attempts, Output, OutputError, layout};

use super::Dispatcher;
use super::watch::Watch;
use crate::ledger::Ledger;

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Numbers of the tasks that are known to be done since this look.
    pub(super) news: Vec<usize>,
    /// Whether any failure was news.
    pub(super) has_failures: bool,
    /// A failure that is news, of a task that could not reach what it reads or writes.
    pub(super) out_of_reach: Option<Failure>,
    /// A failure for which the run ends, whatever task it happened to.
    pub(super) ends_run: Option<Failure>,
    /// Attempts of all tasks, if the whole phase was looked at.
    pub(super) whole: Option<Attempts>,
}

impl Dispatcher<'_> {
    /// Looks at the whole phase, or at the folders of the tasks that are offered: tasks are
    /// offered in the order in which their attempts are stored, so these are few.
    ///
    /// # Errors
    ///
    /// Of the store; the ledger is as it was.
    pub(super) async fn look(
        &self,
        plan: &PhasePlan,
        tasks: &[Task],
        ledger: &mut Ledger,
        is_whole: bool,
    ) -> Result<Look, OutputError> {
        let attempts = if is_whole {
            self.output.attempts_spread(&plan.folder).await?
        } else {
            let folders: BTreeSet<String> = ledger
                .offered()
                .map(|idx| layout::attempt_folder(&plan.folder, &tasks[idx].id, plan.n_tasks))
                .collect();
            self.output
                .attempts_in(folders.into_iter().collect())
                .await?
        };
        let failures = failures(self.output, self.run, ledger).await?;
        // From here on nothing can fail: a ledger that knew of more than the listing that is
        // returned would end the phase without these tasks.
        let now = self.started.elapsed();
        let news = attempts
            .tasks()
            .filter_map(|task| ledger.attempt_seen(task, now))
            .collect();
        let n_open = ledger.counts();
        let ends_run = failures
            .values()
            .map(|(_, failure)| failure)
            .find(|failure| failure.kind.ends_run())
            .cloned();
        let mut out_of_reach = None;
        for (task, (n_failures, failure)) in failures {
            let is_news = ledger.failures_seen(&task, n_failures, &failure, now);
            if is_news && failure.kind == FailureKind::Transient {
                out_of_reach = Some(failure);
            }
        }
        Ok(Look {
            news,
            out_of_reach,
            ends_run,
            has_failures: n_open != ledger.counts(),
            whole: is_whole.then_some(attempts),
        })
    }

    /// Records the failures of tasks that the queue has given up, so that they are seen by the
    /// next look: nobody who took them was heard of again. What workers refuse is noted only: the
    /// task waits for another worker, unless nobody may read what it reads.
    ///
    /// # Errors
    ///
    /// Of the queue or the store. What was not recorded comes again.
    pub(super) async fn record_given_up(
        &self,
        plan: &PhasePlan,
        tasks: &[Task],
        ledger: &Ledger,
        watch: &mut Watch,
    ) -> Result<(), Failure> {
        for delivery in self.queue.given_up(self.run).await? {
            let task = &delivery.task.task;
            if let Some(failure) = &delivery.task.refusal {
                let may_be_denied = failure.kind == FailureKind::Access && ledger.is_open(task);
                let denied = match may_be_denied {
                    true => self.denied_too(plan, tasks, &delivery.task).await,
                    false => None,
                };
                match denied {
                    Some(failure) => self.record_failure(task, &failure).await?,
                    None => watch.refused(failure),
                }
            } else if ledger.is_open(task) {
                let failure = Failure::new(
                    FailureKind::Memory,
                    "every worker that took the task was lost before it ended; was it out of \
                     memory? lower `task_bytes`, raise the workers' memory above `memory` times \
                     their slots, or see their logs",
                );
                self.record_failure(task, &failure).await?;
                tracing::warn!(%task, "the queue has given the task up: its workers were lost");
            }
            delivery.ack().await?;
        }
        Ok(())
    }

    async fn record_failure(&self, task: &TaskId, failure: &Failure) -> Result<(), OutputError> {
        let nonce = (self.entropy.next_u64() >> 32) as u32;
        let key = layout::failure(self.run, task, nonce);
        self.output.put_json(&key, "failure", failure).await
    }
}

/// The failure records of a run: how many each open task has, and one of them. One that trying again
/// cannot help outweighs others, and one that is no fault of the task one that took too long.
pub(super) async fn failures(
    output: &Output,
    run: &RunId,
    ledger: &Ledger,
) -> Result<BTreeMap<TaskId, (u32, Failure)>, OutputError> {
    let mut failures: BTreeMap<TaskId, (u32, Failure)> = BTreeMap::new();
    for object in output.list(&layout::failures(run)).await? {
        let Some(task) = layout::parse_failure(&object.path) else {
            continue;
        };
        if !ledger.is_open(&task) {
            continue;
        }
        let record: Option<Failure> = output.get_json(&object.path, "failure").await?;
        let Some(failure) = record else { continue };
        failures
            .entry(task)
            .and_modify(|(n_failures, kept)| {
                *n_failures += 1;
                if !failure.kind.may_pass() || kept.kind == FailureKind::Timeout {
                    *kept = failure.clone();
                }
            })
            .or_insert_with(|| (1, failure.clone()));
    }
    Ok(failures)
}
