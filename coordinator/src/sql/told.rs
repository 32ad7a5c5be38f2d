//! What workers told of their attempts, for `gleaner.tasks`. Nothing depends on it: records that
//! are lost, or that cannot be read, are nulls.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use gleaner_schemas::{AttemptOutcome, AttemptRecord};
use gleaner_storage::{Output, layout};

/// Objects with records that are read, the latest first; older ones are not worth the requests.
const OBJECTS_MAX: usize = 20_000;
/// Objects read at a time.
const READS: usize = 32;

/// The attempts at a task.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// How many there were, of all runs.
    pub(crate) n_attempts: u32,
    /// The last one that was committed, else the last one.
    pub(crate) last: AttemptRecord,
}

/// Reads the records of an output, by task.
pub(crate) async fn told(output: &Output) -> BTreeMap<String, Told> {
    let objects = match output.list(layout::RUNS).await {
        Ok(objects) => objects,
        Err(error) => {
            tracing::warn!(%error, "cannot read what workers told of their attempts");
            return BTreeMap::new();
        }
    };
    let mut objects: Vec<_> = objects
        .into_iter()
        .filter(|object| layout::parse_attempt_records(&object.path).is_some())
        .collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.modified_ms));
    objects.truncate(OBJECTS_MAX);
    let mut reads = futures::stream::iter(objects)
        .map(|object| async move { output.get(&object.path).await })
        .buffer_unordered(READS);
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    while let Some(read) = reads.next().await {
        let bytes = match read {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot read what workers told of their attempts");
                continue;
            }
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            if let Ok(record) = serde_json::from_slice::<AttemptRecord>(line)
                && record.format == AttemptRecord::FORMAT
            {
                add(&mut told, record);
            }
        }
    }
    told
}

fn add(told: &mut BTreeMap<String, Told>, record: AttemptRecord) {
    match told.get_mut(record.task.as_str()) {
        None => {
            let task = record.task.to_string();
            let first = Told {
                n_attempts: 1,
                last: record,
            };
            told.insert(task, first);
        }
        Some(known) => {
            known.n_attempts += 1;
            let rank = |record: &AttemptRecord| {
                let is_committed = record.outcome == AttemptOutcome::Committed;
                (is_committed, record.started_at.clone())
            };
            if rank(&record) > rank(&known.last) {
                known.last = record;
            }
        }
    }
}
