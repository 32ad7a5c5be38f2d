//! The interface of a stage: what the coordinator asks to plan it, what a worker asks to run it.
//!
//! A stage is a function from what has been completed to the next [`Step`]. It does no I/O of its
//! own to decide that, so a plan can be printed, resumed and tested without a run. The steps:
//!
//! - **map**: cut into tasks; each task streams its shard through a [`MapStage`] on a blocking
//!   thread of some worker and yields one Parquet object;
//! - **reduce**: small; runs in the coordinator over the pinned objects of earlier maps;
//! - **sql**: a query over earlier tables; runs in the coordinator.
//!
//! Reading, writing, back-pressure, timeouts, memory and cancellation are written once, around
//! the stage. What a stage never does: read a clock, draw unseeded randomness, name objects.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{
    Failure, Lanes, PhaseManifest, ReduceResult, Resource, SourceFile, TableFile, Task, Version,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::endpoint::access::Endpoints;
use crate::expected_requests::{RequestSample, StageRequests};
use crate::forecast::{BeforeRun, Forecast, ImpliedStage};
use crate::language_model::ModelFacts;
pub use crate::phase_input::{
    Decision, DocumentSource, ExpectedPhase, PhaseInput, ReadObject, Sample, SideTable,
};
pub use crate::reduce::{KeptSums, ReduceInputs, ReduceOutput};

/// A kind of stage. Kinds are stateless and stand in one list, [`crate::registry::KINDS`].
pub trait StageKind: Debug + Send + Sync {
    /// The `kind:` of the job file.
    fn name(&self) -> &'static str;

    /// Raised whenever the same parameters would give other rows than before; makes all tasks new.
    fn code_version(&self) -> u32;

    /// JSON Schema of the stage's parameters, for editors and `gleaner schema`.
    fn params_schema(&self) -> schemars::Schema;

    /// Stages that a stage of this kind needs before itself and that the job file does not spell
    /// out; each may name those before it.
    ///
    /// # Errors
    ///
    /// What is wrong with the part of the parameters that asks for them.
    fn implied(&self, _job: &Job, _name: &str) -> Result<Vec<ImpliedStage>, JobError> {
        Ok(Vec::new())
    }

    /// Parses and checks the parameters of stage `name` of `job`, before anything runs.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone, with its place in it.
    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError>;

    /// Opens a map phase for one task. Everything that the rows depend on is in `context`.
    ///
    /// # Errors
    ///
    /// Permanent for parameters or side inputs that do not fit, else as the side inputs' reads.
    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure>;
}

/// A stage of a job: checked parameters, and what to do next.
pub trait Stage: Debug + Send + Sync {
    /// Parameters with defaults expanded: what `gleaner.stages` shows.
    fn params(&self) -> Value;

    /// What its tasks need: the workers that have it are offered them.
    fn resource(&self) -> Resource {
        Resource::Cpu
    }

    /// What the tasks of one of its phases need, where that differs from phase to phase.
    fn resource_of(&self, _phase: &str) -> Resource {
        self.resource()
    }

    /// Uncompressed bytes of input per task of a phase, where a byte takes so long that the job's
    /// `task_bytes` would make tasks of hours. Row groups are not cut.
    fn task_bytes_max(&self, _phase: &str) -> Option<u64> {
        None
    }

    /// What the stage reads besides the corpus.
    fn needs(&self) -> Vec<Need>;

    /// What can be said of it before anything runs, once its inputs have been looked at.
    ///
    /// # Errors
    ///
    /// Whatever would keep its tasks from working, at its place in the job file.
    fn forecast(&self, _before: &BeforeRun<'_>) -> Result<Forecast, JobError> {
        Ok(Forecast::default())
    }

    /// What it will ask of language-model servers, by some of its items; no phase where it asks none.
    /// Items are those of the first phase of [`Stage::outlook`].
    ///
    /// # Errors
    ///
    /// If a prompt cannot be made.
    fn requests_for(&self, _sample: &RequestSample<'_>) -> Result<StageRequests, Failure> {
        Ok(StageRequests::default())
    }

    /// The next step, given what is complete. Must be a pure function.
    ///
    /// # Errors
    ///
    /// Where completed results make the stage impossible (an empty target).
    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure>;

    /// The map phases that every run goes through, in order, as far as they are known before any
    /// of them is complete. Only `gleaner plan` asks; what is done follows from [`Stage::next`].
    fn outlook(&self) -> Vec<ExpectedPhase>;

    /// Runs a reduce that [`Stage::next`] asked for, on a blocking thread. The result must be a
    /// function of the arguments: two coordinators compute the same bytes.
    ///
    /// # Errors
    ///
    /// As the reads of its inputs, or permanent where the method has no answer.
    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure>;
}

/// Something that a stage names and that must exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The job's corpus.
    Corpus,
    /// An entry of `datasets`, whose rows have a text.
    Dataset(String),
    /// An entry of `datasets`, whose rows have a text and a source: a pair of texts.
    Pairs(String),
    /// An earlier stage of the job.
    Stage(String),
    /// A stage of another output, as `<output>/<stage>`.
    Published(String),
    /// The directory of a language model: a path relative to the job file, or a URI.
    Model(String),
    /// The directory of an encoder of texts, named in the same way.
    Encoder(String),
}

/// What is known when a stage decides its next step.
#[derive(Debug)]
pub struct Completed<'a> {
    /// Manifests of the stage's own completed map phases by phase name.
    pub maps: &'a BTreeMap<String, Arc<PhaseManifest>>,
    /// Results of its completed reduces by phase name.
    pub reduces: &'a BTreeMap<String, ReduceResult>,
    /// The newest published version of this output, if there is one.
    pub published: Option<&'a Version>,
    /// Published versions of other outputs, by the text of [`Need::Published`].
    pub others: &'a BTreeMap<String, Version>,
    /// Earlier stages of this run by name.
    pub stages: &'a BTreeMap<String, CompletedStage>,
    /// Directories of models, by the text of [`Need::Model`] or [`Need::Encoder`].
    pub models: &'a BTreeMap<String, ModelFacts>,
    /// Arrow schema of the corpus: all columns of all files, string types unified to utf8.
    pub corpus_schema: &'a SchemaRef,
}

/// An earlier stage of this run.
#[derive(Debug, Clone)]
pub struct CompletedStage {
    /// Its kind.
    pub kind: String,
    /// Its parameters, defaults expanded.
    pub params: Value,
    /// Schema of its table.
    pub schema: SchemaRef,
    /// Its facts, as they will be published.
    pub facts: BTreeMap<String, Value>,
    /// Its tables by name (`<stage>`, `<stage>_model`).
    pub tables: BTreeMap<String, Vec<TableFile>>,
    /// Where input rows ended up.
    pub lanes: Lanes,
}

/// What to do next.
#[derive(Debug, Clone)]
pub enum Step {
    /// Run a map phase.
    Map(MapPhase),
    /// Run a reduce.
    Reduce(ReducePhase),
    /// Run a query over earlier stages' tables and the corpus; its rows become the stage's table.
    Sql(String),
    /// The stage is complete.
    Done(Outcome),
}

/// A map phase.
#[derive(Debug, Clone)]
pub struct MapPhase {
    /// Unique within the stage; lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// Everything that the rows depend on besides input, side inputs and code version.
    pub params: Value,
    /// What it reads.
    pub input: PhaseInput,
    /// What was decided over the whole input, where anything was.
    pub decision: Option<Decision>,
    /// Tables that every task loads whole.
    pub side_inputs: Vec<(String, SideTable)>,
    /// Whether its rows are the stage's table (the last map) or an inner result.
    pub is_table: bool,
}

/// A reduce.
#[derive(Debug, Clone)]
pub struct ReducePhase {
    /// Unique within the stage.
    pub name: String,
    /// Everything that the result depends on besides its inputs.
    pub params: Value,
    /// Map phases of this stage whose objects it reads.
    pub inputs: Vec<String>,
    /// Tables that it loads whole.
    pub side_inputs: Vec<(String, SideTable)>,
}

/// What a stage has produced.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The stage's own table, where no map writes it, and where the rows of its input ended up.
    pub table: Option<(OutcomeTable, Lanes)>,
    /// Further tables by full name (`<stage>_model`).
    pub tables: BTreeMap<String, OutcomeTable>,
    /// What later runs, later stages and reports need to know.
    pub facts: BTreeMap<String, Value>,
    /// Sentences for the summary ("the model fitted by version 3 stays frozen").
    pub notes: Vec<String>,
}

/// Where a further table comes from.
#[derive(Debug, Clone)]
pub enum OutcomeTable {
    /// A table of a reduce of this stage.
    Reduce {
        /// Name of the reduce phase.
        phase: String,
        /// Name of the table in [`ReduceOutput::tables`].
        table: String,
    },
    /// A table of the published version, carried over under the same name.
    Published,
}

/// What a task of a map phase is given.
#[derive(Debug)]
pub struct MapContext<'a> {
    /// Name of the phase.
    pub phase: &'a str,
    /// [`MapPhase::params`].
    pub params: &'a Value,
    /// [`Decision::value`], or nothing.
    pub decision: &'a Value,
    /// The task.
    pub task: &'a Task,
    /// Its side inputs.
    pub side_inputs: &'a dyn SideInputs,
    /// Documents of the shard's companions. Cheap to clone, to be kept by the stage.
    pub documents: Arc<dyn DocumentLookup>,
    /// Language-model servers.
    pub endpoints: Endpoints<'a>,
    /// Budget of memory for the slot, in bytes.
    pub memory_bytes: u64,
    /// What a long computation asks now and then, to end early.
    pub cancel: CancellationToken,
    /// Where a long computation keeps how far it is.
    pub checkpoints: Arc<dyn Checkpoints>,
}

/// States of one task's computation, kept beside its output until it is complete: whoever takes
/// the task next goes on from there. No row may depend on whether there was one.
pub trait Checkpoints: Debug + Send + Sync {
    /// The newest state that was kept.
    ///
    /// # Errors
    ///
    /// Of the store.
    fn latest(&self) -> Result<Option<Bytes>, Failure>;

    /// Keeps a state in place of earlier ones.
    ///
    /// # Errors
    ///
    /// Of the store.
    fn keep(&self, state: Bytes) -> Result<(), Failure>;
}

/// A value that a stage made of a side input, and the bytes of memory that it holds.
#[derive(Debug, Clone)]
pub struct Derived {
    /// The value.
    pub value: Arc<dyn Any + Send + Sync>,
    /// Its bytes, about.
    pub bytes: u64,
}

impl Derived {
    /// A value that takes a few times as much memory as the batches that it was made of.
    #[must_use]
    pub fn of_batches(value: Arc<dyn Any + Send + Sync>, batches: &[RecordBatch]) -> Self {
        /// Maps and texts of their own, instead of columns.
        const FACTOR: u64 = 3;
        let bytes: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        Self {
            value,
            bytes: (bytes as u64).saturating_mul(FACTOR),
        }
    }
}

/// Makes a value of the batches of a side input.
pub type Build<'a> = &'a mut dyn FnMut(&[RecordBatch]) -> Result<Derived, Failure>;

/// Makes a value of the files in a directory.
pub type BuildFromDirectory<'a> = &'a mut dyn FnMut(&Path) -> Result<Derived, Failure>;

/// Side inputs of a task. Loaded once per worker and shared by its slots.
pub trait SideInputs: Debug + Send + Sync {
    /// What `build` makes of the side input's batches, kept for later tasks with the same content.
    /// `purpose` tells apart different values made of one side input.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `build` returns.
    fn derived(&self, name: &str, purpose: &str, build: Build<'_>) -> Result<Derived, Failure>;

    /// What `build` makes of a directory that holds the side inputs whose names begin with
    /// `prefix` and a slash, under the rest of their names. Kept as by [`SideInputs::derived`].
    ///
    /// # Errors
    ///
    /// Of the reads, or what `build` returns.
    fn directory(
        &self,
        prefix: &str,
        purpose: &str,
        build: BuildFromDirectory<'_>,
    ) -> Result<Derived, Failure>;
}

/// Reads documents of the corpus by their place.
pub trait DocumentLookup: Debug + Send + Sync {
    /// Calls `each` with batches that hold the given rows of `file` (ascending, without
    /// repetition), in order, with the columns of `schema`; columns that the file does not have
    /// are null.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `each` returns.
    fn for_each(
        &self,
        file: &SourceFile,
        rows: &[u64],
        schema: &SchemaRef,
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure>;
}

/// Takes rows of a map stage, in order. Fails if the task was cancelled.
pub type Emit<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<(), Failure>;

/// One task's computation. Lives on a blocking thread and may use the CPU.
pub trait MapStage: Send {
    /// Schema of the rows. The same for all tasks of a phase.
    fn output(&self) -> SchemaRef;

    /// Takes the next batch of the shard and hands rows to `emit`, if there are any yet.
    ///
    /// # Errors
    ///
    /// Permanent for contents that make the task impossible; single rows are rejected, not failed.
    /// Errors of `emit` are passed on.
    fn process(&mut self, batch: &RecordBatch, emit: Emit<'_>) -> Result<(), Failure>;

    /// Called where a part of the input has been read to its end: a row group, or a file without
    /// row groups. No task has less than a part, however tasks are cut.
    ///
    /// # Errors
    ///
    /// As [`MapStage::process`].
    fn part_ended(&mut self, _emit: Emit<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// Bytes that the stage itself may hold of its slot's memory; the rest is for input and output.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Called once, after the last batch.
    ///
    /// # Errors
    ///
    /// As [`MapStage::process`].
    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure>;

    /// What is told of the task beside its rows, by key: texts that stand in the footer of its
    /// object. Called once, after the end. They must be a function of the task, as its rows are.
    fn told(&mut self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Where the input rows of all batches so far ended up. `rows_in` and `excluded` need not be
    /// counted by stages that read documents: the reader knows them.
    fn lanes(&self) -> Lanes;
}
