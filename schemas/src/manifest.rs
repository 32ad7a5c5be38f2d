//! What has been done: pinned attempts, phase manifests, reduce results, published versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::figures::{Check, Figures};
use crate::identity::{AttemptId, ContentHash, Fingerprint, PlanId, RunId, TaskId};
use crate::lanes::Lanes;
use crate::plan::SourceFile;

/// The attempt that stands for a task. There may be a million, so that its place is told by what
/// is known of it anyway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedAttempt {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: AttemptId,
    /// Folder of its object, relative to the output; shared with its neighbours.
    pub folder: Arc<str>,
    /// Rows in the object.
    pub rows: u64,
    /// Size of the object in bytes.
    pub bytes: u64,
    /// Where the task's input rows ended up, recounted from the object.
    pub lanes: Lanes,
    /// The corpus files whose rows the object holds results of. A stored manifest leaves them out
    /// (they are a function of the task), and who reads it puts them in.
    pub inputs: Vec<Arc<SourceFile>>,
}

/// A pinned attempt as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAttempt {
    /// The task.
    pub task: TaskId,
    /// The attempt.
    pub attempt: AttemptId,
    /// Key of its object, relative to the output.
    pub path: String,
    /// Rows in the object.
    pub rows: u64,
    /// Size of the object in bytes.
    pub bytes: u64,
    /// Where the task's input rows ended up, recounted from the object.
    pub lanes: Lanes,
    /// What version 1 of the format said of the files that the rows come from.
    #[serde(default, skip_serializing)]
    pub inputs: Vec<Arc<SourceFile>>,
}

/// A task that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantinedTask {
    /// The task.
    pub task: TaskId,
    /// Its last failure.
    pub failure: Failure,
    /// Attempts made in the run that gave it up.
    pub attempts: u32,
    /// Files that it reads.
    pub inputs: Vec<Arc<SourceFile>>,
    /// Rows that it would have read, where a footer told them.
    pub rows: Option<u64>,
}

/// The outcome of a map phase: one attempt per task, or its quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseManifest {
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// The plan that is complete.
    pub plan: PlanId,
    /// In the order of the plan's tasks.
    pub attempts: Vec<PinnedAttempt>,
    /// Tasks without an attempt.
    pub quarantined: Vec<QuarantinedTask>,
    /// Sum over all tasks.
    pub lanes: Lanes,
}

impl PhaseManifest {
    /// A hash of what the phase produced, apart from names and places. Later phases derive
    /// their identity from it.
    #[must_use]
    pub fn content(&self) -> Fingerprint {
        let contents = self.attempts.iter();
        Fingerprint::of_list(
            "phase",
            contents.map(|pinned| (&pinned.task, pinned.attempt.content())),
        )
    }

    /// A hash of the outcome of a phase some of whose tasks were given up.
    #[must_use]
    pub fn partial_content(&self) -> Fingerprint {
        Fingerprint::of("partial", &(self.content(), &self.quarantined, self.lanes))
    }
}

/// A phase manifest as it is stored: with its attempts, or with the hashes of the objects in which
/// [`StoredPhaseManifest::ATTEMPTS_PER_CHUNK`] attempts each lie, which are stored before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPhaseManifest {
    /// Version of this format: [`StoredPhaseManifest::FORMAT`].
    pub format: u32,
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// The plan that is complete.
    pub plan: PlanId,
    /// In the order of the plan's tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<StoredAttempt>,
    /// Where there are many: chunks of attempts, in the order of the plan's tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<ContentHash>,
    /// Tasks without an attempt.
    pub quarantined: Vec<QuarantinedTask>,
    /// Sum over all tasks.
    pub lanes: Lanes,
}

impl StoredPhaseManifest {
    /// The version of the format that this build writes. It reads version 1 too, which has no
    /// chunks.
    pub const FORMAT: u32 = 2;
    /// Attempts in one chunk; a manifest of fewer has none.
    pub const ATTEMPTS_PER_CHUNK: usize = 4096;
}

/// The outcome of a reduce: small facts, and tables written by the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReduceResult {
    /// Version of this format: [`ReduceResult::FORMAT`].
    pub format: u32,
    /// Name of the stage.
    pub stage: String,
    /// Name of the phase.
    pub phase: String,
    /// Hash of parameters and inputs.
    pub id: Fingerprint,
    /// What the stage wants to know later (thresholds, totals).
    pub facts: Value,
    /// Tables by name, one object each.
    pub tables: BTreeMap<String, TableFile>,
    /// Files of a language model by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, StoredFile>,
}

impl ReduceResult {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 1;
}

/// An object that is no table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Key relative to the output.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its bytes.
    pub checksum: ContentHash,
}

/// One Parquet object of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableFile {
    /// Key relative to the output.
    pub path: String,
    /// Rows in the object.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its bytes.
    pub checksum: ContentHash,
    /// The task that made it; absent for tables written by the coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Where the task's input rows ended up.
    #[serde(default)]
    pub lanes: Lanes,
    /// Names of the corpus files whose rows it holds results of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
}

impl TableFile {
    /// What tasks that read it call it, which holds nothing random: equal objects have equal names.
    #[must_use]
    pub fn name(&self) -> String {
        self.task
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default()
    }
}

/// A published table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableVersion {
    /// Its Arrow schema; all files have the identical one.
    pub schema: arrow_schema::Schema,
    /// Its files.
    pub files: Vec<TableFile>,
    /// Sum of the files' rows.
    pub rows: u64,
    /// Sum of the files' bytes.
    pub bytes: u64,
    /// First version that had exactly these files.
    pub since_version: u64,
    /// When that version was published: RFC 3339, UTC.
    pub since: String,
    /// What its rows come to, where its objects tell: what the next version is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

/// How much of a stage was computed by the run that published the version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reuse {
    /// Tasks of all phases.
    pub n_tasks: u64,
    /// Tasks of which an attempt was there already.
    pub n_reused: u64,
}

/// A stage in a published version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionStage {
    /// Kind of the stage.
    pub kind: String,
    /// Version of the kind's code.
    pub code_version: u32,
    /// Parameters, defaults expanded.
    pub params: Value,
    /// Names of its tables: the stage's own, then others (`<stage>_model`).
    pub tables: Vec<String>,
    /// Where input rows ended up in the phase that wrote the stage's table.
    pub lanes: Lanes,
    /// Tasks that were given up, of any phase.
    pub quarantined: Vec<QuarantinedTask>,
    /// Facts of the stage's reduces by phase, which later runs and reports need (a frozen
    /// model, thresholds).
    pub facts: BTreeMap<String, Value>,
}

/// A published version of a whole output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Version of this format: [`Version::FORMAT`].
    pub format: u32,
    /// Number of the version, from 1.
    pub number: u64,
    /// Name of the job.
    pub job: String,
    /// The job file with defaults expanded.
    pub job_file: Value,
    /// The run that published it.
    pub run: RunId,
    /// When it was published: RFC 3339, UTC.
    pub published_at: String,
    /// Program version that published it.
    pub gleaner_version: String,
    /// Stages in the order of the job.
    pub stage_order: Vec<String>,
    /// Stages by name.
    pub stages: BTreeMap<String, VersionStage>,
    /// Tables by name.
    pub tables: BTreeMap<String, TableVersion>,
    /// Corpus files that the version covers.
    pub corpus: Vec<Arc<SourceFile>>,
    /// How it compared with the version before it when it was published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

impl Version {
    /// The version of the format that this build writes. It reads version 1 too, which has no
    /// figures and no checks.
    pub const FORMAT: u32 = 2;

    /// A hash of everything that a reader can see; equal hashes mean that nothing new is to be
    /// published.
    #[must_use]
    pub fn content(&self) -> Fingerprint {
        let tables: BTreeMap<_, _> = self
            .tables
            .iter()
            .map(|(name, table)| (name, (&table.schema, &table.files)))
            .collect();
        let seen = (
            &self.job,
            &self.stage_order,
            &self.stages,
            tables,
            &self.corpus,
        );
        let delta_tables: Vec<&str> = self.delta_tables().collect();
        match delta_tables.is_empty() {
            true => Fingerprint::of("version", &seen),
            false => Fingerprint::of("version", &(seen, delta_tables)),
        }
    }

    /// Whether another version has the same [content](Version::content). Of versions over many files, most
    /// is told without a hash of everything.
    #[must_use]
    pub fn has_content_of(&self, other: &Self) -> bool {
        if self.corpus != other.corpus {
            return false;
        }
        let mut tables = self.tables.iter().zip(&other.tables);
        let has_same_tables = self.tables.len() == other.tables.len()
            && tables.all(|((name, table), (its_name, its_table))| {
                name == its_name
                    && table.schema == its_table.schema
                    && table.files == its_table.files
            });
        (has_same_tables
            && self.job == other.job
            && self.stage_order == other.stage_order
            && self.stages == other.stages
            && self.delta_tables().eq(other.delta_tables()))
            || self.content() == other.content()
    }

    /// Names of the tables that are published as Delta tables too, as the job file asks for.
    pub fn delta_tables(&self) -> impl Iterator<Item = &str> {
        let stages = self.job_file.get("stages").and_then(Value::as_object);
        let asks = move |stage: &str| {
            let publish = stages.and_then(|stages| stages.get(stage)?.get("publish"));
            publish.is_some_and(|publish| publish == "delta")
        };
        let names = self.tables.keys().map(String::as_str);
        names.filter(move |name| self.stages.contains_key(*name) && asks(name))
    }
}
