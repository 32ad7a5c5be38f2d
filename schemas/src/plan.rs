//! What is to be done: source files, slices, shards, tasks, the plan of a phase, the message.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::identity::{ContentHash, Fingerprint, PlanId, RunId, TaskId};
use crate::job::Priority;

/// Format of an input file, told from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Apache Parquet; read by row group.
    Parquet,
    /// One JSON object per line; read whole.
    Jsonl,
    /// The same, compressed by gzip.
    JsonlGzip,
    /// The same, compressed by Zstandard.
    JsonlZstd,
}

impl FileFormat {
    /// The format that a file name's ending tells, if it is one that can be read.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        if ends(&[".parquet", ".pq"]) {
            Some(Self::Parquet)
        } else if ends(&[".jsonl", ".ndjson"]) {
            Some(Self::Jsonl)
        } else if ends(&[".jsonl.gz", ".ndjson.gz"]) {
            Some(Self::JsonlGzip)
        } else if ends(&[".jsonl.zst", ".ndjson.zst"]) {
            Some(Self::JsonlZstd)
        } else {
            None
        }
    }
}

/// One version of one file: what a task's shard refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// The file as the job names it; goes into the `input_file` column and derived ids.
    pub name: String,
    /// Where to read it: an absolute URI (`file:///...`, `s3://...`, `https://...`).
    pub uri: String,
    /// Its format.
    pub format: FileFormat,
    /// Its size in bytes.
    pub bytes: u64,
    /// Text that changes whenever the content may have changed. For inputs: URI, size and etag
    /// (or modification time); for Gleaner's own objects: task id and content hash.
    pub identity: String,
    /// The etag that every read must find; absent where the store has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What a footer tells of a row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowGroupFacts {
    /// Rows.
    pub n_rows: u64,
    /// Uncompressed bytes of the columns that will be read.
    pub bytes: u64,
}

/// Some row groups of a file, or all of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The file; shared by its slices and by what is told of their tasks.
    pub file: Arc<SourceFile>,
    /// First row group and the one after the last; absent for the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_groups: Option<(u32, u32)>,
    /// Number within the file of the slice's first row.
    pub first_row: u64,
    /// Number of rows, where a footer told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_rows: Option<u64>,
    /// Uncompressed bytes of the columns that are read, where a footer told them; else the
    /// file's size.
    pub bytes: u64,
    /// Its row groups in order, where a footer told them: what a split of the slice goes by. Only
    /// whoever planned knows them; they are no part of a stored plan, and no task depends on them.
    #[serde(skip)]
    pub row_group_facts: Vec<RowGroupFacts>,
}

/// The part of the input that one task reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// In the order in which they are read.
    pub slices: Vec<Slice>,
    /// Further files that rows of the slices point to (`input_file`), for stages that look
    /// documents up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub companions: Vec<Arc<SourceFile>>,
    /// What the plan's [decision](PhasePlan::decision) comes to here: of equal slices, equal effects
    /// mean equal rows, whatever was decided. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Fingerprint>,
}

impl Shard {
    /// Number of rows, if all slices know theirs.
    #[must_use]
    pub fn n_rows(&self) -> Option<u64> {
        self.slices.iter().map(|slice| slice.n_rows).sum()
    }

    /// Uncompressed bytes to read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.bytes).sum()
    }
}

/// Which columns of a document file mean what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentColumns {
    /// Column of the document id; absent: ids are derived as `<file>#<row>`.
    pub id: Option<String>,
    /// Column of the text.
    pub text: String,
    /// Column of the source, if there is one.
    pub source: Option<String>,
}

/// How the slices of a phase are read into batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// Documents, as batches of [`crate::columns::document_schema`].
    Documents {
        /// What the columns mean.
        columns: DocumentColumns,
        /// SQL predicate over the file's columns; other rows are not part of the input.
        #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
        predicate: Option<String>,
    },
    /// A table that Gleaner wrote, as it is.
    Table {
        /// Columns to read, in this order.
        columns: Vec<String>,
    },
}

/// A small object that every task of a phase loads whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideInput {
    /// Name by which the stage asks for it.
    pub name: String,
    /// Absolute URI of the object.
    pub uri: String,
    /// Hash of its bytes; checked when it is loaded.
    pub content: ContentHash,
}

/// One piece of work: a shard of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// See [`PhasePlan::task_id`].
    pub id: TaskId,
    /// What it reads.
    pub shard: Shard,
}

/// The plan of a map phase, without its tasks, which are stored beside it in chunks of
/// [`PhasePlan::TASKS_PER_CHUNK`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhasePlan {
    /// Version of this format: [`PhasePlan::FORMAT`].
    pub format: u32,
    /// Name of the stage in the job.
    pub stage: String,
    /// Kind of the stage.
    pub kind: String,
    /// Version of the code that computes the phase; a change makes all tasks new.
    pub code_version: u32,
    /// Name of the phase.
    pub phase: String,
    /// The parameters that the rows of this phase depend on, defaults expanded.
    pub params: Value,
    /// What was decided over the whole input, such as where a selection ends. The rows of a task
    /// depend on it by the [effect](Shard::effect) on its shard alone, where that is known.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub decision: Value,
    /// Side inputs of all tasks.
    pub side_inputs: Vec<SideInput>,
    /// How slices are read.
    pub reader: Reader,
    /// Folder of the attempts, relative to the output.
    pub folder: String,
    /// Number of tasks.
    pub n_tasks: u64,
    /// Number of rows to read, if all slices know theirs.
    pub n_rows: Option<u64>,
    /// Uncompressed bytes to read.
    pub bytes: u64,
    /// Budget of memory for one slot, in bytes.
    pub memory_bytes: u64,
    /// Longest time that one attempt may take, in milliseconds.
    pub task_timeout_ms: u64,
    /// Whether a task must see its whole shard: it is given up rather than split.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_whole: bool,
}

impl PhasePlan {
    /// The version of the format of plans without a decision. It is told apart from the next one, so
    /// that these plans keep their ids, and workers that know of no decisions work on them.
    pub const FORMAT: u32 = 1;
    /// The version of the format of plans with a decision.
    pub const FORMAT_WITH_DECISION: u32 = 2;
    /// Tasks in one chunk object.
    pub const TASKS_PER_CHUNK: usize = 1024;

    /// The version of the format of a plan with this decision.
    #[must_use]
    pub fn format_of(decision: &Value) -> u32 {
        match decision {
            Value::Null => Self::FORMAT,
            _ => Self::FORMAT_WITH_DECISION,
        }
    }

    /// The id of the task that reads `shard` in this phase. Depends on nothing but what the rows
    /// depend on: not on names of stages, on places of our own objects or timeouts. The budget of
    /// memory is a part where documents are read, since it decides which are too large.
    #[must_use]
    pub fn task_id(&self, shard: &Shard) -> TaskId {
        let contents: Vec<_> = self
            .side_inputs
            .iter()
            .map(|side_input| (&side_input.name, &side_input.content))
            .collect();
        let slices: Vec<_> = shard
            .slices
            .iter()
            .map(|slice| (named(&slice.file), slice.row_groups))
            .collect();
        let companions: Vec<_> = shard.companions.iter().map(|file| named(file)).collect();
        let reads_documents = matches!(self.reader, Reader::Documents { .. });
        let task = (
            (&self.kind, self.code_version, &self.phase),
            &self.params,
            contents,
            &self.reader,
            reads_documents.then_some(self.memory_bytes),
            slices,
            companions,
        );
        if self.decision.is_null() {
            return Fingerprint::of("task", &task).into();
        }
        let decision = shard.effect.is_none().then_some(&self.decision);
        Fingerprint::of("decided task", &(task, &shard.effect, decision)).into()
    }

    /// The id of the plan that consists of these tasks: a hash of everything in it, so that a
    /// stored plan with this id is this plan.
    #[must_use]
    pub fn plan_id<'a>(&self, tasks: impl Iterator<Item = &'a TaskId>) -> PlanId {
        Fingerprint::of_head_and_list("plan", self, tasks).into()
    }
}

/// `_gleaner/splits/<task id>.json`: smaller tasks that took the place of one that no worker could
/// finish. Created once, and heeded by every later plan: a task that was too large is not tried
/// again by the next run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSplit {
    /// Version of this format: [`TaskSplit::FORMAT`].
    pub format: u32,
    /// The task.
    pub task: TaskId,
    /// Why it was split.
    pub failure: Failure,
    /// What takes its place; together they read what it would have read.
    pub pieces: Vec<Shard>,
    /// What is known of the row groups of each slice of each piece, which shards do not carry
    /// themselves: a piece may have to be split again.
    pub row_group_facts: Vec<Vec<Vec<RowGroupFacts>>>,
}

impl TaskSplit {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 1;

    /// A split of `task` into `pieces`.
    #[must_use]
    pub fn new(task: TaskId, failure: Failure, pieces: Vec<Shard>) -> Self {
        let facts_of = |piece: &Shard| {
            let slices = piece.slices.iter();
            slices.map(|slice| slice.row_group_facts.clone()).collect()
        };
        Self {
            format: Self::FORMAT,
            task,
            failure,
            row_group_facts: pieces.iter().map(facts_of).collect(),
            pieces,
        }
    }

    /// The pieces, with what is known of their row groups.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Shard> {
        let mut pieces = self.pieces;
        for (piece, facts) in pieces.iter_mut().zip(self.row_group_facts) {
            for (slice, facts) in piece.slices.iter_mut().zip(facts) {
                slice.row_group_facts = facts;
            }
        }
        pieces
    }
}

/// What a task needs of the machine that it runs on; decides which workers are offered it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A core.
    #[default]
    Cpu,
    /// A GPU or the like.
    Accelerator,
    /// A connection to a language-model server; hardly any core.
    Network,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Accelerator, Self::Network];

    /// The name in options and in names of queues.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Accelerator => "accelerator",
            Self::Network => "network",
        }
    }
}

/// Where a task is offered: to workers that have the resource, before or after other jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What the task needs.
    pub resource: Resource,
    /// The job's priority.
    pub priority: Priority,
}

/// What travels on the queue: where to find the task. Below 1 KB for outputs with URIs of usual
/// length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskMessage {
    /// Version of the message: [`TaskMessage::FORMAT`].
    pub format: u32,
    /// The run that published it.
    pub run: RunId,
    /// URI of the output.
    pub output: String,
    /// Name of the stage.
    pub stage: String,
    /// Kind of the stage, for workers that take some kinds only.
    pub kind: String,
    /// Name of the phase.
    pub phase: String,
    /// Id of the plan.
    pub plan: PlanId,
    /// Number of the task within the plan.
    pub task_idx: u64,
    /// Id of the task.
    pub task: TaskId,
    /// Where it is offered.
    pub route: Route,
    /// How often workers left it to others since its coordinator offered it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_passed_on: u32,
    /// Why a worker leaves the task to others, in the copy of the message that tells so; nothing in
    /// an offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Failure>,
}

impl TaskMessage {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 4;
    /// Beyond this many times a message is no longer passed on: whoever published it is likely to
    /// be gone. A coordinator that is not offers the task again.
    pub const PASSED_ON_MAX: u32 = 1000;
}

/// What rows depend on of a file: they hold its name, and ids made of it.
fn named(file: &SourceFile) -> (&String, &String) {
    (&file.name, &file.identity)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, identity: &str) -> Arc<SourceFile> {
        Arc::new(SourceFile {
            name: name.to_owned(),
            uri: "file:///corpus/a.parquet".to_owned(),
            format: FileFormat::Parquet,
            bytes: 1,
            identity: identity.to_owned(),
            etag: None,
        })
    }

    /// Rows hold the names of files, and ids made of them.
    #[test]
    fn a_task_depends_on_names_and_versions_of_its_files() {
        let plan = PhasePlan {
            format: PhasePlan::FORMAT,
            stage: "stage".to_owned(),
            kind: "kind".to_owned(),
            code_version: 1,
            phase: "phase".to_owned(),
            params: Value::Null,
            decision: Value::Null,
            side_inputs: Vec::new(),
            reader: Reader::Table {
                columns: Vec::new(),
            },
            folder: "stage".to_owned(),
            n_tasks: 1,
            n_rows: None,
            bytes: 1,
            memory_bytes: 1,
            task_timeout_ms: 1,
            is_whole: false,
        };
        let id = |file: Arc<SourceFile>, companion: Arc<SourceFile>| {
            let slice = Slice {
                file,
                row_groups: None,
                first_row: 0,
                n_rows: None,
                bytes: 1,
                row_group_facts: Vec::new(),
            };
            plan.task_id(&Shard {
                slices: vec![slice],
                companions: vec![companion],
                effect: None,
            })
        };
        let of = |names: [&str; 2], identities: [&str; 2]| {
            id(file(names[0], identities[0]), file(names[1], identities[1]))
        };
        let base = of(["a", "b"], ["1", "2"]);
        assert_eq!(of(["a", "b"], ["1", "2"]), base);
        for (names, identities) in [
            (["c", "b"], ["1", "2"]),
            (["a", "c"], ["1", "2"]),
            (["a", "b"], ["3", "2"]),
            (["a", "b"], ["1", "3"]),
        ] {
            assert_ne!(of(names, identities), base, "{names:?} {identities:?}");
        }
    }
}
