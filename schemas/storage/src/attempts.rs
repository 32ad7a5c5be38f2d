//! Attempts of many tasks, listed folder by folder.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_schemas::TaskId;

use crate::output::{ListedAttempt, Output, OutputError};

/// Folders listed at a time.
const FOLDERS_AT_A_TIME: usize = 32;

impl Output {
    /// The attempts that lie below some folders, by task, smallest attempt id first.
    ///
    /// # Errors
    ///
    /// Of the store: all folders were listed, or nothing is returned.
    pub async fn attempts_in(
        &self,
        folders: Vec<String>,
    ) -> Result<BTreeMap<TaskId, Vec<ListedAttempt>>, OutputError> {
        let listed: Vec<_> = futures::stream::iter(folders)
            .map(|folder| async move { self.attempts(&folder).await })
            .buffer_unordered(FOLDERS_AT_A_TIME)
            .try_collect()
            .await?;
        let mut attempts: BTreeMap<TaskId, Vec<ListedAttempt>> = BTreeMap::new();
        for folder in listed {
            for (task, mut more) in folder {
                let of_task = attempts.entry(task).or_default();
                of_task.append(&mut more);
                of_task.sort_unstable();
                of_task.dedup();
            }
        }
        Ok(attempts)
    }

    /// The same as [`Output::attempts`], where a folder may have very many objects in folders of
    /// its own: these are listed side by side.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn attempts_spread(
        &self,
        folder: &str,
    ) -> Result<BTreeMap<TaskId, Vec<ListedAttempt>>, OutputError> {
        let (folders, objects) = self.children(folder).await?;
        let mut attempts = self.attempts_in(folders).await?;
        for (task, attempt) in objects.into_iter().filter_map(ListedAttempt::of) {
            let of_task = attempts.entry(task).or_default();
            of_task.push(attempt);
            of_task.sort_unstable();
        }
        Ok(attempts)
    }
}
