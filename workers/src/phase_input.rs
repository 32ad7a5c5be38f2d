//! What the phases of a stage read, and what was decided before.

use gleaner_schemas::{Fingerprint, TableFile};
use serde_json::Value;

use crate::language_model::ModelFile;

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
        /// Whether tasks look documents up in the corpus ([`MapContext::documents`](crate::stage::MapContext::documents)).
        with_documents: bool,
    },
    /// All rows of an earlier map of this stage.
    Inner {
        /// Name of the map.
        phase: String,
        /// Columns to read, in this order.
        columns: Vec<String>,
        /// Whether one task reads all objects; else there is a task for each.
        in_one_task: bool,
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
        /// Name of the table in [`ReduceOutput::tables`](crate::stage::ReduceOutput::tables).
        table: String,
    },
    /// A table of one file, of this output.
    Own(TableFile),
    /// A table of one file, of another output.
    Other {
        /// As in [`Need::Published`](crate::stage::Need::Published).
        need: String,
        /// The file.
        file: TableFile,
    },
    /// A file of a language model ([`SideInputs::directory`](crate::stage::SideInputs::directory)).
    ModelFile(ModelFile),
}

/// Something that the rows of a map depend on, of which each task feels a part only: where a
/// selection ends. When it moves, only the tasks that feel it are new.
#[derive(Debug, Clone)]
pub struct Decision {
    /// What tasks are told.
    pub value: Value,
    /// What it comes to in each shard, in their order: of equal shards, equal effects must mean equal
    /// rows. Where that is not known, every task depends on the whole value.
    pub effects: Option<Vec<Fingerprint>>,
}

/// An object that a reduce may ask for what it tells beside its rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadObject {
    /// Key relative to the output.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
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
