//! What files of the corpus told of themselves, kept so that an unchanged file is not opened again.

use std::collections::BTreeMap;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::identity::Fingerprint;
use crate::plan::SourceFile;

/// Facts of files of the corpus, by their identity: they hold for that version of a file alone, so that
/// whoever reads them needs to know neither when they were noted nor by which run. No result depends on
/// whether they are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFooters {
    /// Version of this format: [`KnownFooters::FORMAT`].
    pub format: u32,
    /// Columns whose bytes are told.
    pub columns: Vec<String>,
    /// The schemas that occur.
    pub schemas: Vec<SchemaRef>,
    /// What is known, by [`KnownFooters::key`].
    pub files: BTreeMap<Fingerprint, KnownFooter>,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFooter {
    /// Number of its schema among [`KnownFooters::schemas`].
    #[serde(rename = "s")]
    pub schema: u32,
    /// Rows of each row group, and uncompressed bytes of its columns; absent for formats without row
    /// groups.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub row_groups: Option<Vec<(u64, u64)>>,
}

impl KnownFooters {
    /// Raised whenever a file would tell something else than before, such as when columns of jsonl files
    /// are inferred in another way: then all files are read again.
    pub const FORMAT: u32 = 1;

    /// What a file is known by: a hash of its identity, that is of its place, its size and its etag. `None`
    /// for a file without an etag, of which nobody can tell later whether it was this one that was read.
    #[must_use]
    pub fn key(file: &SourceFile) -> Option<Fingerprint> {
        file.etag.as_ref()?;
        Some(Fingerprint::of("input file", &file.identity))
    }

    /// What is known of a file, with its schema.
    #[must_use]
    pub fn get(&self, file: &SourceFile) -> Option<(usize, &KnownFooter)> {
        let known = self.files.get(&Self::key(file)?)?;
        let schema = known.schema as usize;
        (schema < self.schemas.len()).then_some((schema, known))
    }
}
