//! Objects of an output as listings show them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::{AttemptId, TaskId};

use crate::layout;

/// An object of an attempt, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedAttempt {
    /// The attempt; first, so that the smallest attempt id sorts first.
    pub attempt: AttemptId,
    /// Folder of its object, relative to the output; shared with its neighbours, of which there
    /// may be a million.
    pub folder: Arc<str>,
    /// Size in bytes.
    pub bytes: u64,
}

impl ListedAttempt {
    /// Key of its object, relative to the output.
    #[must_use]
    pub fn path(&self, task: &TaskId) -> String {
        layout::attempt_in(&self.folder, task, &self.attempt)
    }

    /// The objects that are attempts, with their tasks.
    pub(crate) fn of(objects: Vec<ListedObject>) -> impl Iterator<Item = (TaskId, Self)> {
        let mut last: Arc<str> = Arc::from("");
        objects.into_iter().filter_map(move |object| {
            let (task, attempt) = layout::parse_attempt(&object.path)?;
            let folder = layout::folder_of(&object.path);
            if *last != *folder {
                last = folder.into();
            }
            let listed = Self {
                attempt,
                folder: Arc::clone(&last),
                bytes: object.bytes,
            };
            Some((task, listed))
        })
    }

    /// The objects that are attempts, by task, smallest attempt id first.
    pub(crate) fn by_task(objects: Vec<ListedObject>) -> BTreeMap<TaskId, Vec<Self>> {
        let mut attempts: BTreeMap<TaskId, Vec<Self>> = BTreeMap::new();
        for (task, listed) in Self::of(objects) {
            attempts.entry(task).or_default().push(listed);
        }
        for of_task in attempts.values_mut() {
            of_task.sort_unstable();
        }
        attempts
    }
}

/// An object of an output, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Key relative to the output.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// When it was written: milliseconds since 1970, by the store's clock.
    pub modified_ms: i64,
}
