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
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{
    Failure, Lanes, PhaseManifest, ReduceResult, Resource, SourceFile, TableFile, Task, Version,
};
use serde_json::Value;

/// A kind of stage. Kinds are stateless and stand in one list, [`crate::registry::KINDS`].
pub trait StageKind: Debug + Send + Sync {
    /// The `kind:` of the job file.
    fn name(&self) -> &'static str;

    /// Raised whenever the same parameters would give other rows than before; makes all tasks new.
    fn code_version(&self) -> u32;

    /// JSON Schema of the stage's parameters, for editors and `gleaner schema`.
    fn params_schema(&self) -> schemars::Schema;

    /// What its tasks need: the workers that have it are offered them.
    fn resource(&self) -> Resource {
        Resource::Cpu
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

    /// What the stage reads besides the corpus.
    fn needs(&self) -> Vec<Need>;

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
    /// An entry of `datasets`.
    Dataset(String),
    /// An earlier stage of the job.
    Stage(String),
    /// A stage of another output, as `<output>/<stage>`.
    Published(String),
}

/// What is known when a stage decides its next step.
#[derive(Debug)]
pub struct Completed<'a> {
    /// Manifests of the stage's own completed map phases by phase name.
    pub maps: &'a BTreeMap<String, PhaseManifest>,
    /// Results of its completed reduces by phase name.
    pub reduces: &'a BTreeMap<String, ReduceResult>,
    /// The newest published version of this output, if there is one.
    pub published: Option<&'a Version>,
    /// Published versions of other outputs, by the text of [`Need::Published`].
    pub others: &'a BTreeMap<String, Version>,
    /// Earlier stages of this run by name.
    pub stages: &'a BTreeMap<String, CompletedStage>,
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
    /// Tables that every task loads whole.
    pub side_inputs: Vec<(String, SideTable)>,
    /// Whether its rows are the stage's table (the last map) or an inner result.
    pub is_table: bool,
}

/// A map phase that is known before what it depends on is complete.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpectedPhase {
    /// Its name.
    pub name: String,
    /// What it will read; of an earlier stage's table, the columns are left out.
    pub input: PhaseInput,
    /// Whether its rows will be the stage's table.
    pub is_table: bool,
}

/// What a map phase reads.
#[derive(Debug, Clone, PartialEq)]
pub enum PhaseInput {
    /// Documents.
    Documents {
        /// From where.
        from: DocumentSource,
        /// Only some row groups, whole ones, picked by a hash of (seed, file, row group).
        sample: Option<Sample>,
    },
    /// Rows of an earlier stage's table, or of this stage's own (after its table phase).
    Table {
        /// Name of the stage.
        stage: String,
        /// Columns to read, in this order.
        columns: Vec<String>,
        /// Whether tasks look documents up in the corpus ([`MapContext::documents`]).
        with_documents: bool,
    },
}

/// Where documents come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DocumentSource {
    /// The job's corpus.
    Corpus,
    /// An entry of `datasets`.
    Dataset(String),
    /// The table of a stage that holds the corpus columns (a materialised selection).
    Stage(String),
}

/// A sample of whole row groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Seed of the hash.
    pub seed: u64,
    /// Row groups are taken in the order of their hashes until this many bytes of text
    /// (uncompressed) are reached.
    pub bytes: u64,
}

/// A table that serves as a side input.
#[derive(Debug, Clone, PartialEq)]
pub enum SideTable {
    /// A table of a reduce of this stage.
    Reduce {
        /// Name of the reduce phase.
        phase: String,
        /// Name of the table in [`ReduceOutput::tables`].
        table: String,
    },
    /// A table of one file, of this output.
    Own(TableFile),
    /// A table of one file, of another output.
    Other {
        /// As in [`Need::Published`].
        need: String,
        /// The file.
        file: TableFile,
    },
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

/// The objects that a reduce reads, in the order of the plan's tasks.
pub trait ReduceInputs {
    /// Calls `each` with every batch of every pinned object of a map phase.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `each` returns.
    fn for_each(
        &mut self,
        phase: &str,
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// The batches of a side input.
    ///
    /// # Errors
    ///
    /// Of the reads.
    fn side_input(&mut self, name: &str) -> Result<Vec<RecordBatch>, Failure>;
}

/// The result of a reduce.
#[derive(Debug, Clone, Default)]
pub struct ReduceOutput {
    /// Small facts; they are stored as JSON and come back in [`Completed::reduces`].
    pub facts: Value,
    /// Tables by name; each becomes one Parquet object.
    pub tables: BTreeMap<String, Vec<RecordBatch>>,
}

/// What a task of a map phase is given.
#[derive(Debug)]
pub struct MapContext<'a> {
    /// Name of the phase.
    pub phase: &'a str,
    /// [`MapPhase::params`].
    pub params: &'a Value,
    /// The task.
    pub task: &'a Task,
    /// Its side inputs.
    pub side_inputs: &'a dyn SideInputs,
    /// Documents of the shard's companions. Cheap to clone, to be kept by the stage.
    pub documents: Arc<dyn DocumentLookup>,
    /// Budget of memory for the slot, in bytes.
    pub memory_bytes: u64,
}

/// A value that a stage made of a side input.
pub type Derived = Arc<dyn Any + Send + Sync>;

/// Makes a value of the batches of a side input.
pub type Build<'a> = &'a mut dyn FnMut(&[RecordBatch]) -> Result<Derived, Failure>;

/// Side inputs of a task. Loaded once per worker and shared by its slots.
pub trait SideInputs: Debug + Send + Sync {
    /// What `build` makes of the side input's batches, kept for later tasks with the same content.
    /// `purpose` tells apart different values made of one side input.
    ///
    /// # Errors
    ///
    /// Of the reads, or what `build` returns.
    fn derived(&self, name: &str, purpose: &str, build: Build<'_>) -> Result<Derived, Failure>;
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

    /// Called once, after the last batch.
    ///
    /// # Errors
    ///
    /// As [`MapStage::process`].
    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure>;

    /// Where the input rows of all batches so far ended up. `rows_in` and `excluded` need not be
    /// counted by stages that read documents: the reader knows them.
    fn lanes(&self) -> Lanes;
}
