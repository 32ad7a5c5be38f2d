//! How much was done.

use gleaner_schemas::{PhaseManifest, Shard, Task, TaskId};

/// What a run did for a stage itself: not what was there before, and not what others gave up.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Work {
    /// Rows that its tasks read, in all phases.
    pub rows: u64,
    /// Uncompressed bytes that its tasks read, in all phases.
    pub bytes: u64,
    /// Wall time of the stage, if anything was done for it.
    pub seconds: f64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

/// Tasks of which an attempt was there before.
#[derive(Debug, Clone, Default)]
pub(super) struct Reused {
    /// Sorted.
    tasks: Vec<TaskId>,
}

impl Reused {
    /// Tasks by their numbers.
    pub(super) fn of(tasks: &[Task], indices: &[usize]) -> Self {
        let mut tasks: Vec<TaskId> = indices.iter().map(|&idx| tasks[idx].id.clone()).collect();
        tasks.sort_unstable();
        Self { tasks }
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.tasks.len() as u64
    }

    /// The work of the attempts that came since: rows as the objects tell them, since not every
    /// format tells beforehand.
    pub(super) fn work_since(&self, tasks: &[Task], manifest: &PhaseManifest) -> Work {
        let mut work = Work::default();
        let mut tasks = tasks.iter();
        for pinned in &manifest.attempts {
            // Both are in the plan's order; tasks that were given up are passed over.
            let Some(task) = tasks.find(|task| task.id == pinned.task) else {
                break;
            };
            if self.tasks.binary_search(&task.id).is_err() {
                let rows_read = pinned.lanes.rows_in + pinned.lanes.excluded;
                work.rows += task.shard.n_rows().unwrap_or(rows_read);
                work.bytes += task.shard.bytes();
            }
        }
        work
    }
}

/// Rows and bytes of some tasks, by their numbers, as far as they are known beforehand.
pub(super) fn sum(tasks: &[Task], indices: &[usize]) -> (u64, u64) {
    let shards = || indices.iter().map(|&idx| &tasks[idx].shard);
    let rows = shards().filter_map(Shard::n_rows).sum();
    (rows, shards().map(Shard::bytes).sum())
}
