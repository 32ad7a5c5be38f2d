//! What workers told about the attempts at a version's tasks. For people: where a record is
//! missing or cannot be read, the rest is still worth showing.

use std::collections::{BTreeSet, HashMap};

use gleaner_schemas::{AttemptId, AttemptRecord, TaskId, Version};
use gleaner_storage::{Output, layout};

/// Objects read at a time.
const AT_A_TIME: usize = 32;

/// The attempts at each task, by stage and task.
#[derive(Debug, Default)]
pub(crate) struct Attempts(HashMap<(String, TaskId), TaskAttempts>);

/// The attempts at one task.
#[derive(Debug, Default)]
struct TaskAttempts {
    /// The attempt that the version names; of a quarantined task there is none.
    pinned: Option<AttemptId>,
    /// Workers and times: a record that was written twice is one attempt.
    known: BTreeSet<(String, String)>,
    /// The pinned attempt's record; of a quarantined task the latest.
    shown: Option<AttemptRecord>,
}

impl Attempts {
    /// Reads the records of all runs, and keeps those of the version's tasks.
    pub(crate) async fn read(output: &Output, version: &Version) -> Self {
        let mut attempts = Self::of_tasks(version);
        let objects = match output.list(layout::RUNS).await {
            Ok(objects) => objects,
            Err(error) => {
                tracing::warn!(%error, "cannot list what workers told about their attempts");
                return attempts;
            }
        };
        let paths: Vec<String> = objects
            .into_iter()
            .map(|object| object.path)
            .filter(|path| layout::parse_attempt_records(path).is_some())
            .collect();
        for paths in paths.chunks(AT_A_TIME) {
            let read = Output::map_concurrently(paths.to_vec(), AT_A_TIME, |path| async move {
                Ok::<_, gleaner_storage::OutputError>(output.get(&path).await.unwrap_or_else(
                    |error| {
                        tracing::warn!(%error, "cannot read what a worker told");
                        None
                    },
                ))
            });
            for text in read.await.unwrap_or_default().into_iter().flatten() {
                attempts.add_lines(&String::from_utf8_lossy(&text));
            }
        }
        attempts
    }

    fn of_tasks(version: &Version) -> Self {
        let mut attempts = Self::default();
        for (name, table) in &version.tables {
            for file in &table.files {
                if let Some(task) = &file.task {
                    let of_task = attempts.0.entry((name.clone(), task.clone()));
                    of_task.or_default().pinned =
                        layout::parse_attempt(&file.path).map(|(_, attempt)| attempt);
                }
            }
        }
        for (name, stage) in &version.stages {
            for quarantined in &stage.quarantined {
                let key = (name.clone(), quarantined.task.clone());
                attempts.0.entry(key).or_default();
            }
        }
        attempts
    }

    fn add_lines(&mut self, text: &str) {
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str::<AttemptRecord>(line).ok())
            .filter(|record| record.format == AttemptRecord::FORMAT);
        for record in records {
            let key = (record.stage.clone(), record.task.clone());
            if let Some(of_task) = self.0.get_mut(&key) {
                of_task.add(record);
            }
        }
    }

    fn of(&self, stage: &str, task: &TaskId) -> Option<&TaskAttempts> {
        self.0.get(&(stage.to_owned(), task.clone()))
    }

    /// How many attempts are known, if any is.
    pub(crate) fn count(&self, stage: &str, task: &TaskId) -> Option<u32> {
        let n_known = self.of(stage, task)?.known.len();
        (n_known > 0).then(|| u32::try_from(n_known).unwrap_or(u32::MAX))
    }

    /// The record of the attempt whose object the version names; of a quarantined task that of
    /// the latest.
    pub(crate) fn shown(&self, stage: &str, task: &TaskId) -> Option<&AttemptRecord> {
        self.of(stage, task)?.shown.as_ref()
    }
}

impl TaskAttempts {
    fn add(&mut self, record: AttemptRecord) {
        let known = (record.worker.clone(), record.started_at.clone());
        if !self.known.insert(known) {
            return;
        }
        let is_shown = match (&self.pinned, &self.shown) {
            (Some(pinned), _) => record.attempt.as_ref() == Some(pinned),
            (None, Some(shown)) => shown.started_at < record.started_at,
            (None, None) => true,
        };
        if is_shown {
            self.shown = Some(record);
        }
    }
}
