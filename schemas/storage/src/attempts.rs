//! Attempts of many tasks, listed folder by folder.

use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::{AttemptId, TaskId};

use crate::output::{ListedAttempt, Output, OutputError};

/// Folders listed at a time.
const FOLDERS_AT_A_TIME: usize = 32;

/// Attempts by task. There may be a million: they lie side by side, without a map around them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    /// By task, smallest attempt id first; none is there twice.
    sorted: Vec<(TaskId, ListedAttempt)>,
}

impl Attempts {
    fn new(mut attempts: Vec<(TaskId, ListedAttempt)>) -> Self {
        attempts.sort_unstable();
        attempts.dedup();
        Self { sorted: attempts }
    }

    /// Tasks that have an attempt, in order.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskId> {
        let of_same_task = self
            .sorted
            .chunk_by(|(task, _), (next_task, _)| task == next_task);
        of_same_task.filter_map(|attempts| attempts.first().map(|(task, _)| task))
    }

    /// The attempts of a task, the smallest id first.
    pub fn of_task<'a>(&'a self, task: &'a TaskId) -> impl Iterator<Item = &'a ListedAttempt> {
        let first_idx = self.sorted.partition_point(|(it, _)| it < task);
        let attempts = self.sorted[first_idx..].iter();
        attempts
            .take_while(move |(it, _)| it == task)
            .map(|(_, attempt)| attempt)
    }

    /// An attempt, if it is there.
    #[must_use]
    pub fn find(&self, task: &TaskId, attempt: &AttemptId) -> Option<&ListedAttempt> {
        let first_idx = self.sorted.partition_point(|(it, _)| it < task);
        let of_task = self.sorted[first_idx..]
            .iter()
            .take_while(|(it, _)| it == task);
        let mut attempts = of_task.map(|(_, listed)| listed);
        attempts.find(|listed| listed.attempt == *attempt)
    }

    /// The attempt of a task that has the smallest id.
    #[must_use]
    pub fn smallest(&self, task: &TaskId) -> Option<&ListedAttempt> {
        let idx = self.sorted.partition_point(|(it, _)| it < task);
        let (found, attempt) = self.sorted.get(idx)?;
        (found == task).then_some(attempt)
    }
}

impl Output {
    /// The attempts that lie below some folders.
    ///
    /// # Errors
    ///
    /// Of the store: all folders were listed, or nothing is returned.
    pub async fn attempts_in(&self, folders: Vec<String>) -> Result<Attempts, OutputError> {
        Ok(Attempts::new(self.listed_in(folders).await?))
    }

    async fn listed_in(
        &self,
        folders: Vec<String>,
    ) -> Result<Vec<(TaskId, ListedAttempt)>, OutputError> {
        futures::stream::iter(folders)
            .map(|folder| async move { self.list(&folder).await })
            .buffer_unordered(FOLDERS_AT_A_TIME)
            .try_fold(Vec::new(), |mut attempts, objects| async {
                attempts.extend(ListedAttempt::of(objects));
                Ok(attempts)
            })
            .await
    }

    /// The attempts below a folder that may have very many objects in folders of its own: these
    /// are listed side by side.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn attempts_spread(&self, folder: &str) -> Result<Attempts, OutputError> {
        let (folders, objects) = self.children(folder).await?;
        let mut attempts = self.listed_in(folders).await?;
        attempts.extend(ListedAttempt::of(objects));
        Ok(Attempts::new(attempts))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gleaner_schemas::{ContentHash, Fingerprint};
    use object_store::memory::InMemory;

    use super::*;
    use crate::layout;
    use crate::stores::Stores;

    #[tokio::test]
    async fn the_smallest_attempt_of_each_task_is_found_wherever_it_lies() {
        let stores = Stores::from_env().with("test://store", Arc::new(InMemory::new()) as _);
        let output = Output::open(&stores, "test://store/out").unwrap();
        let task = |number: u64| TaskId::from(Fingerprint::of("task", &number));
        let attempt = |nonce: u32| AttemptId::new(nonce, &ContentHash::of(b"rows"));
        // One folder for all, and one for each two digits, as after a change of the plan's size.
        for (number, nonce, n_tasks) in [(1, 7, 1), (1, 3, 5000), (1, 5, 1), (2, 9, 5000)] {
            let key = layout::attempt("stage", &task(number), &attempt(nonce), n_tasks);
            output.put(&key, "rows".into()).await.unwrap();
        }
        output.put("stage/notes.txt", "mine".into()).await.unwrap();
        let attempts = output.attempts_spread("stage").await.unwrap();
        let mut tasks = [task(1), task(2)];
        tasks.sort_unstable();
        assert!(attempts.tasks().eq(&tasks));
        for (number, nonce) in [(1, 3), (2, 9)] {
            let smallest = attempts.smallest(&task(number)).unwrap();
            assert_eq!(smallest.attempt, attempt(nonce));
            assert_eq!(smallest.bytes, 4);
        }
        assert_eq!(attempts.smallest(&task(3)), None);
    }
}
