//! Whether the coordinator may read what a worker may not.
//!
//! A worker that is denied what a task reads cannot tell whether others are. The coordinator has
//! read the corpus when it planned: where it still may, the worker is at fault, and the task waits
//! for another one; where it may not either, the task is given up with that cause.

use std::collections::BTreeSet;

use gleaner_schemas::{Failure, FailureKind, PhasePlan, Place, Task, TaskMessage};
use gleaner_storage::probe_read;

use super::Dispatcher;

/// Files that are tried; a task that reads more of them is not given up here.
const FILES_MAX: usize = 64;

impl Dispatcher<'_> {
    /// Why the task of `message` is denied to this process as well; `None` if it is not, or if
    /// that cannot be told.
    pub(super) async fn denied_too(
        &self,
        plan: &PhasePlan,
        tasks: &[Task],
        message: &TaskMessage,
    ) -> Option<Failure> {
        let task = usize::try_from(message.task_idx)
            .ok()
            .and_then(|idx| tasks.get(idx))
            .filter(|task| task.id == message.task)?;
        let slices = task.shard.slices.iter().map(|slice| &slice.file);
        let files = slices.chain(&task.shard.companions);
        let files = files.map(|file| (file.uri.as_str(), Some(file.name.as_str())));
        let side_inputs = plan.side_inputs.iter().map(|it| (it.uri.as_str(), None));
        let reads: BTreeSet<(&str, Option<&str>)> = side_inputs.chain(files).collect();
        for (uri, name) in reads.into_iter().take(FILES_MAX) {
            let Err(error) = probe_read(self.stores, uri).await else {
                continue;
            };
            if error.kind() == FailureKind::Access {
                let place = Place::file(name.unwrap_or(uri));
                let failure = error.into_failure(place);
                return Some(Failure {
                    kind: FailureKind::Permanent,
                    ..failure
                });
            }
        }
        None
    }
}
