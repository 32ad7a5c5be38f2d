//! How much was done.

use gleaner_schemas::{Shard, Task};

/// Work that was done, and how long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Work {
    /// Rows of the tasks, where footers told them.
    pub rows: u64,
    /// Uncompressed bytes of the tasks.
    pub bytes: u64,
    /// From the first offer to the last attempt.
    pub seconds: f64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

/// The work of some tasks, by their numbers.
pub(super) fn sum(tasks: &[Task], indices: &[usize]) -> Work {
    let shards = || indices.iter().map(|&idx| &tasks[idx].shard);
    Work {
        rows: shards().filter_map(|shard| shard.n_rows()).sum(),
        bytes: shards().map(Shard::bytes).sum(),
        seconds: 0.0,
    }
}
