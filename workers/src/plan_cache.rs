//! Plans that a worker has read. A message names a task; what the task is stands in the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use gleaner_schemas::{Failure, FailureKind, PhasePlan, PlanId, Task, TaskMessage};
use gleaner_storage::{Output, Stores, layout};
use serde_json::Value;

use crate::unsettled::{Blame, Unsettled};

/// Chunks of plans kept in memory; a chunk has [`PhasePlan::TASKS_PER_CHUNK`] tasks of about a
/// kilobyte each.
const CHUNKS_KEPT: usize = 16;

/// Where a task's plan was read from, with its plan.
#[derive(Debug, Clone)]
pub struct PlannedTask {
    /// The output that the task belongs to.
    pub output: Output,
    /// The plan of its phase.
    pub plan: Arc<PhasePlan>,
    /// The task.
    pub task: Arc<Task>,
}

/// Reads plans and keeps the latest.
#[derive(Debug)]
pub struct PlanCache {
    stores: Stores,
    chunks: Mutex<VecDeque<Arc<Chunk>>>,
}

#[derive(Debug)]
struct Chunk {
    plan_id: PlanId,
    chunk_idx: u64,
    output: Output,
    plan: Arc<PhasePlan>,
    tasks: Vec<Arc<Task>>,
}

impl PlanCache {
    /// An empty cache that reads through `stores`.
    #[must_use]
    pub fn new(stores: Stores) -> Self {
        Self {
            stores,
            chunks: Mutex::default(),
        }
    }

    /// The task that `message` names.
    ///
    /// # Errors
    ///
    /// As the reads; permanent if the plan is missing, of another format, or holds another task.
    pub async fn find(&self, message: &TaskMessage) -> Result<PlannedTask, Unsettled> {
        let tasks_per_chunk = PhasePlan::TASKS_PER_CHUNK as u64;
        let chunk_idx = message.task_idx / tasks_per_chunk;
        let chunk = match self.cached(message, chunk_idx) {
            Some(chunk) => chunk,
            None => self.load(message, chunk_idx).await?,
        };
        // The remainder is below the chunk's size, so it fits.
        let within = (message.task_idx % tasks_per_chunk) as usize;
        match chunk.tasks.get(within) {
            Some(task) if task.id == message.task => Ok(PlannedTask {
                output: chunk.output.clone(),
                plan: Arc::clone(&chunk.plan),
                task: Arc::clone(task),
            }),
            _ => Err(of_message(format!(
                "plan {} of {}/{} does not hold task {} as number {}",
                message.plan, message.stage, message.phase, message.task, message.task_idx
            ))),
        }
    }

    fn cached(&self, message: &TaskMessage, chunk_idx: u64) -> Option<Arc<Chunk>> {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks
            .iter()
            .find(|chunk| {
                chunk.plan_id == message.plan
                    && chunk.chunk_idx == chunk_idx
                    && chunk.output.uri() == message.output
            })
            .map(Arc::clone)
    }

    async fn load(&self, message: &TaskMessage, chunk_idx: u64) -> Result<Arc<Chunk>, Unsettled> {
        let output = Output::open(&self.stores, &message.output)?;
        let plan_key = layout::plan(&message.stage, &message.phase, &message.plan);
        let plan: Value = output
            .get_json(&plan_key, "plan")
            .await?
            .ok_or_else(|| missing(&output, &plan_key))?;
        let plan = parse_plan(plan, &output, &plan_key)?;
        let chunk_key =
            layout::plan_chunk(&message.stage, &message.phase, &message.plan, chunk_idx);
        let tasks: Vec<Arc<Task>> = output
            .get_json(&chunk_key, "chunk of a plan")
            .await?
            .ok_or_else(|| missing(&output, &chunk_key))?;
        let chunk = Arc::new(Chunk {
            plan_id: message.plan.clone(),
            chunk_idx,
            output,
            plan: Arc::new(plan),
            tasks,
        });
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.push_back(Arc::clone(&chunk));
        if chunks.len() > CHUNKS_KEPT {
            chunks.pop_front();
        }
        Ok(chunk)
    }
}

/// The format is looked at first: a plan of another one need not have the same fields.
fn parse_plan(plan: Value, output: &Output, key: &str) -> Result<PhasePlan, Unsettled> {
    let format = plan.get("format").and_then(Value::as_u64);
    let known = PhasePlan::FORMAT..=PhasePlan::FORMAT_WITH_DECISION;
    if let Some(format) = format
        && !known.clone().map(u64::from).any(|it| it == format)
    {
        let message = format!(
            "{} has plan format {format}, this worker reads formats {} to {}; run workers and \
             coordinator of the same version",
            output.uri_of(key),
            known.start(),
            known.end()
        );
        return Err(Unsettled {
            failure: Failure::new(FailureKind::Permanent, message),
            blame: Blame::Worker,
        });
    }
    serde_json::from_value(plan)
        .map_err(|error| of_message(format!("{} is not a plan: {error}", output.uri_of(key))))
}

fn missing(output: &Output, key: &str) -> Unsettled {
    of_message(format!(
        "{} is missing; was the output removed?",
        output.uri_of(key)
    ))
}

fn of_message(what: String) -> Unsettled {
    Unsettled {
        failure: Failure::new(FailureKind::Permanent, what),
        blame: Blame::Message,
    }
}
