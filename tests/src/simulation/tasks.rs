//! What tasks of a simulation are, and what becomes of them on a worker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use gleaner_coordinator::planner;
use gleaner_schemas::{
    Failure, FailureKind, FileFormat, Lanes, PhasePlan, Reader, Shard, Slice, SourceFile, Task,
    TaskId,
};
use gleaner_storage::{TableEncoder, layout};
use gleaner_workers::attempt::TaskExecutor;
use gleaner_workers::plan_cache::PlannedTask;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::faults::Faults;
use super::world::STAGE;

/// An attempt may take this long.
const TASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Rows that a worker can hold; a single file has fewer.
const ROWS_MAX: u64 = 25;

/// A phase of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Inner,
    Table,
}

/// Shards of several files each, some of which have more rows than a worker can hold.
pub(super) fn large_shards(faults: &Faults) -> Vec<Shard> {
    let mut files = 0..;
    (0..1 + faults.pick(0..8))
        .map(|_| Shard {
            slices: files
                .by_ref()
                .take(1 + faults.pick(0..4) as usize)
                .flat_map(|number| shard(faults, number).slices)
                .collect(),
            companions: Vec::new(),
            effect: None,
        })
        .collect()
}

pub(super) fn shards(faults: &Faults) -> Vec<Shard> {
    let n_tasks = 1 + faults.pick(0..12);
    (0..n_tasks).map(|number| shard(faults, number)).collect()
}

pub(super) fn shard(faults: &Faults, number: u64) -> Shard {
    let n_rows = 1 + faults.pick(0..20);
    let name = format!("file-{number}");
    let file = SourceFile {
        uri: format!("sim://corpus/{name}"),
        format: FileFormat::Parquet,
        bytes: n_rows,
        identity: name.clone(),
        etag: None,
        name,
    };
    Shard {
        slices: vec![Slice {
            file: Arc::new(file),
            row_groups: None,
            first_row: 0,
            n_rows: Some(n_rows),
            bytes: n_rows,
            row_group_facts: Vec::new(),
        }],
        companions: Vec::new(),
        effect: None,
    }
}

pub(super) fn plan(
    phase: Phase,
    params: &serde_json::Value,
    shards: Vec<Shard>,
) -> (PhasePlan, Vec<Task>) {
    let name = if phase == Phase::Inner {
        "inner"
    } else {
        "table"
    };
    let mut plan = PhasePlan {
        format: PhasePlan::FORMAT,
        stage: STAGE.to_owned(),
        kind: "simulated".to_owned(),
        code_version: 1,
        phase: name.to_owned(),
        params: params.clone(),
        decision: serde_json::Value::Null,
        side_inputs: Vec::new(),
        reader: Reader::Table {
            columns: Vec::new(),
        },
        folder: match phase {
            Phase::Inner => layout::inner_folder(STAGE, name),
            Phase::Table => layout::table_folder(STAGE),
        },
        n_tasks: 0,
        n_rows: None,
        bytes: 0,
        memory_bytes: 1 << 20,
        task_timeout_ms: TASK_TIMEOUT.as_millis() as u64,
        is_whole: false,
    };
    let tasks = planner::tasks(&mut plan, shards);
    (plan, tasks)
}

pub(super) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("task", DataType::Utf8, false)]))
}

/// The object of a task: as many rows as its shard has.
pub(crate) fn object(task: &Task) -> Bytes {
    let n_rows = task.shard.n_rows().unwrap();
    let column = StringArray::from_iter_values((0..n_rows).map(|_| task.id.to_string()));
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(column)]).unwrap();
    let mut encoder = TableEncoder::new(schema(), 1 << 20).unwrap();
    encoder.write(&batch).unwrap();
    let lanes = Lanes {
        rows_in: n_rows,
        ok: n_rows,
        ..Lanes::default()
    };
    encoder.finish(&lanes, &json!({ "task": task.id })).unwrap()
}

/// Computes objects, in its own time; fails now and then, and always on poison.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) faults: Arc<Faults>,
    pub(super) poisoned: Arc<BTreeSet<TaskId>>,
}

#[async_trait]
impl TaskExecutor for Executor {
    async fn execute(
        &self,
        planned: &PlannedTask,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure> {
        let task = &planned.task;
        let mut span = self.faults.time(1..40_000);
        if self.faults.happens(0.02) {
            span = 2 * TASK_TIMEOUT;
        }
        tokio::select! {
            () = tokio::time::sleep(span) => {}
            () = cancel.cancelled() => {
                return Err(Failure::new(FailureKind::Transient, "cancelled"));
            }
        }
        if self.poisoned.contains(&task.id) {
            return Err(Failure::new(FailureKind::Permanent, "poison"));
        }
        if task.shard.n_rows().unwrap() > ROWS_MAX {
            return Err(Failure::new(FailureKind::Memory, "too many rows"));
        }
        if self.faults.happens(0.05) {
            return Err(Failure::new(
                FailureKind::Transient,
                "the model server went away",
            ));
        }
        Ok(object(task))
    }
}
