//! The computation of a task, around its stage: read batches, hand them over, encode what comes.
//!
//! It runs on a blocking thread from start to end, so that decoding, the stage and encoding share
//! one core's caches and no asynchronous thread is ever held.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use gleaner_schemas::{
    Failure, FailureKind, PhasePlan, Reader, Slice, SourceFile, Task, TaskId, metric,
};
use gleaner_storage::documents::{BatchLimits, DocumentReader, PredicateCompiler};
use gleaner_storage::lookup::CorpusLookup;
use gleaner_storage::table::{BlockingIo, TableReader};
use gleaner_storage::{LocalCopies, Output, TableEncoder, checkpoints, layout};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::attempt::TaskExecutor;
use crate::endpoint::access::{Endpoints, Exchanges};
use crate::hung_threads::HungThreads;
use crate::plan_cache::PlannedTask;
use crate::registry;
use crate::side_inputs::{SideInputCache, TaskSideInputs};
use crate::stage::{Checkpoints, DocumentLookup, MapContext, StageKind};

/// Runs the stages of the registry.
#[derive(Debug)]
pub struct StageExecutor {
    shared: Arc<Shared>,
    hung: HungThreads,
}

#[derive(Debug)]
struct Shared {
    io: BlockingIo,
    predicates: Arc<dyn PredicateCompiler>,
    side_inputs: SideInputCache,
    copies: LocalCopies,
    exchanges: Exchanges,
}

impl StageExecutor {
    /// An executor that reads through `io`. `predicates` compiles the `where` of job files,
    /// `exchanges` ask language-model servers.
    #[must_use]
    pub fn new(
        io: BlockingIo,
        predicates: Arc<dyn PredicateCompiler>,
        exchanges: Exchanges,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                io,
                predicates,
                side_inputs: SideInputCache::default(),
                copies: LocalCopies::from_env(),
                exchanges,
            }),
            hung: HungThreads::default(),
        }
    }
}

#[async_trait]
impl TaskExecutor for StageExecutor {
    async fn execute(
        &self,
        planned: &PlannedTask,
        cancel: CancellationToken,
    ) -> Result<Bytes, Failure> {
        let (shared, planned) = (Arc::clone(&self.shared), planned.clone());
        let span = tracing::Span::current();
        let (_waiting, running) = self.hung.watch();
        let thread = tokio::task::spawn_blocking(move || {
            let _running = running;
            let _entered = span.entered();
            // A panic is a bug of ours, and one document must not take the worker down with it.
            std::panic::catch_unwind(AssertUnwindSafe(|| shared.run(&planned, &cancel)))
                .unwrap_or_else(|panic| {
                    Err(Failure::new(
                        FailureKind::Permanent,
                        format!(
                            "the stage panicked, which is a bug of Gleaner: {}",
                            panic_text(&*panic)
                        ),
                    ))
                })
        });
        match thread.await {
            Ok(result) => result,
            Err(error) => Err(Failure::new(
                FailureKind::Transient,
                format!("the thread of the task ended: {error}"),
            )),
        }
    }

    fn refuses(&self, plan: &PhasePlan) -> Option<Failure> {
        known_kind(plan).err()
    }

    fn silent_store(&self, span: Duration) -> Option<String> {
        self.shared.io.stores.silent_for(span)
    }

    fn n_hung(&self) -> usize {
        self.hung.count()
    }

    async fn finish(&self, limit: Duration) {
        self.shared.exchanges.finish(limit).await;
    }
}

/// The kind of the plan's stage, if this build computes what whoever planned means by it.
fn known_kind(plan: &PhasePlan) -> Result<&'static dyn StageKind, Failure> {
    let Some(kind) = registry::kind(&plan.kind) else {
        return Err(Failure::new(
            FailureKind::Permanent,
            format!(
                "this worker does not know stages of kind {}; run workers and coordinator of the \
                 same version",
                plan.kind
            ),
        ));
    };
    if kind.code_version() != plan.code_version {
        return Err(Failure::new(
            FailureKind::Permanent,
            format!(
                "this worker has version {} of {}, the coordinator has version {}; run workers and \
                 coordinator of the same version",
                kind.code_version(),
                plan.kind,
                plan.code_version
            ),
        ));
    }
    Ok(kind)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

impl Shared {
    fn run(&self, planned: &PlannedTask, cancel: &CancellationToken) -> Result<Bytes, Failure> {
        let PlannedTask { output, plan, task } = planned;
        let kind = known_kind(plan)?;
        // Whatever is read for the task ends when the task is cancelled.
        let io = self.io.until(cancel.clone());
        let limits = BatchLimits::for_memory(plan.memory_bytes);
        let lookup: Arc<dyn DocumentLookup> = Arc::new(Lookup {
            corpus: CorpusLookup::new(io.clone(), limits),
            cancel: cancel.clone(),
        });
        let mut stage = kind.open(&MapContext {
            phase: &plan.phase,
            params: &plan.params,
            decision: &plan.decision,
            task,
            side_inputs: &TaskSideInputs {
                io: &io,
                cache: &self.side_inputs,
                copies: &self.copies,
                side_inputs: &plan.side_inputs,
                memory_bytes: plan.memory_bytes,
            },
            documents: lookup,
            endpoints: Endpoints {
                exchanges: &self.exchanges,
                output,
                handle: self.io.handle(),
            },
            memory_bytes: plan.memory_bytes,
            cancel: cancel.clone(),
            checkpoints: Arc::new(StoredCheckpoints {
                // Who is cancelled keeps how far it is.
                io: self.io.clone(),
                output: output.clone(),
                task: task.id.clone(),
            }),
        })?;
        // Half of what the stage leaves of the slot's memory is for the output, the rest for input.
        let left_bytes = plan.memory_bytes.saturating_sub(stage.memory_bytes());
        let schema = stage.output();
        let mut encoder = TableEncoder::new(Arc::clone(&schema), left_bytes / 2)?;
        if !plan.folder.starts_with(layout::PRIVATE) {
            encoder = encoder.with_figures(&schema);
        }
        let mut excluded = 0;
        for slice in &task.shard.slices {
            let mut batches = self.open_slice(&io, plan, slice)?;
            let mut part = None;
            while let Some(batch) = batches.next_batch()? {
                stop_if(cancel)?;
                let of_batch = batches.row_group();
                if part.replace(of_batch).is_some_and(|part| part != of_batch) {
                    stage.part_ended(&mut |rows| encoder.write(&rows))?;
                }
                stage.process(&batch, &mut |rows| encoder.write(&rows))?;
            }
            stage.part_ended(&mut |rows| encoder.write(&rows))?;
            excluded += batches.rows_excluded();
        }
        stage.finish(&mut |rows| {
            stop_if(cancel)?;
            encoder.write(&rows)
        })?;
        for (key, value) in stage.told() {
            encoder.tell(key, value);
        }
        let mut lanes = stage.lanes();
        lanes.excluded = excluded;
        metrics::counter!(metric::TASK_ROWS_IN, "stage_kind" => plan.kind.clone())
            .increment(lanes.rows_in);
        metrics::counter!(metric::TASK_ROWS_OUT, "stage_kind" => plan.kind.clone())
            .increment(encoder.rows());
        encoder.finish(&lanes, &provenance(plan, task))
    }

    fn open_slice(
        &self,
        io: &BlockingIo,
        plan: &PhasePlan,
        slice: &Slice,
    ) -> Result<Batches, Failure> {
        match &plan.reader {
            Reader::Documents { columns, predicate } => {
                let limits = BatchLimits::for_memory(plan.memory_bytes);
                let predicate = predicate
                    .as_deref()
                    .map(|sql| (sql, self.predicates.as_ref()));
                Ok(Batches::Documents(DocumentReader::open(
                    io, slice, columns, predicate, limits,
                )?))
            }
            Reader::Table { columns } => Ok(Batches::Table(TableReader::open(
                io,
                &slice.file.uri,
                Some(columns),
            )?)),
        }
    }
}

enum Batches {
    Documents(DocumentReader),
    Table(TableReader),
}

impl Batches {
    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        match self {
            Self::Documents(reader) => reader.next_batch(),
            Self::Table(reader) => reader.next_batch(),
        }
    }

    /// The row group that the last batch is of, where files have them.
    fn row_group(&self) -> Option<u32> {
        match self {
            Self::Documents(reader) => reader.row_group(),
            Self::Table(_) => None,
        }
    }

    fn rows_excluded(&self) -> u64 {
        match self {
            Self::Documents(reader) => reader.rows_excluded(),
            Self::Table(_) => 0,
        }
    }
}

#[derive(Debug)]
struct Lookup {
    corpus: CorpusLookup,
    cancel: CancellationToken,
}

impl DocumentLookup for Lookup {
    fn for_each(
        &self,
        file: &SourceFile,
        rows: &[u64],
        schema: &arrow::datatypes::SchemaRef,
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.corpus.for_each(file, rows, schema, &mut |batch| {
            stop_if(&self.cancel)?;
            each(batch)
        })
    }
}

#[derive(Debug)]
struct StoredCheckpoints {
    io: BlockingIo,
    output: Output,
    task: TaskId,
}

impl Checkpoints for StoredCheckpoints {
    fn latest(&self) -> Result<Option<Bytes>, Failure> {
        checkpoints::read(&self.io, &self.output, &self.task)
    }

    fn keep(&self, state: Bytes) -> Result<(), Failure> {
        checkpoints::write(&self.io, &self.output, &self.task, state)
    }
}

fn stop_if(cancel: &CancellationToken) -> Result<(), Failure> {
    if cancel.is_cancelled() {
        return Err(Failure::new(FailureKind::Transient, "cancelled"));
    }
    Ok(())
}

/// What made the object. Nothing random and no time, so that equal tasks give equal bytes.
fn provenance(plan: &PhasePlan, task: &Task) -> serde_json::Value {
    let inputs: Vec<_> = task
        .shard
        .slices
        .iter()
        .map(|slice| json!({ "identity": slice.file.identity, "row_groups": slice.row_groups }))
        .collect();
    let mut provenance = json!({
        "task": task.id,
        "kind": plan.kind,
        "code_version": plan.code_version,
        "phase": plan.phase,
        "params": plan.params,
        "inputs": inputs,
    });
    // Of what was decided, what the task's id depends on, and no more.
    if !plan.decision.is_null() {
        match &task.shard.effect {
            Some(effect) => provenance["effect"] = json!(effect),
            None => provenance["decision"] = plan.decision.clone(),
        }
    }
    provenance
}
