//! What files of the corpus told when an earlier run looked at them: an unchanged one is not opened again.
//!
//! The facts lie in one object of the output, which whoever publishes writes anew. They are known by the
//! identity of a file, so that they hold wherever they come from; a file whose size, etag or time is
//! another one has another identity. Only what was read of the very version that was listed is noted: a
//! file may be replaced in between, and put back later. Where the object is missing or damaged, files are
//! read, and nothing else changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{FileFormat, KnownFooter, KnownFooters, RowGroupFacts, SourceFile};
use gleaner_storage::footer::Footer;
use gleaner_storage::{Output, layout};

use crate::inputs::InputSet;

/// Schemas beside which one that was read is held: corpora have few, and a search through many would
/// take longer than it saves.
const SCHEMAS_COMPARED: usize = 32;

/// What is known of files of the corpus, if anything is.
pub async fn read(output: &Output) -> Option<KnownFooters> {
    let read = output.get_json(layout::FOOTERS, "footers of the corpus");
    match read.await {
        Ok(known) => known.filter(|known: &KnownFooters| known.format == KnownFooters::FORMAT),
        Err(error) => {
            tracing::info!(error = error_chain(&error), "files are looked at again");
            None
        }
    }
}

/// Keeps what the files of the corpus told. No run depends on it.
pub async fn write(output: &Output, corpus: &InputSet) {
    let footers = corpus.noted.footers(corpus);
    let written = match serde_json::to_vec(&footers) {
        Ok(bytes) => output.put(layout::FOOTERS, bytes.into()).await,
        Err(error) => {
            tracing::warn!(%error, "cannot note what files of the corpus told");
            return;
        }
    };
    if let Err(error) = written {
        let error = error_chain(&error);
        tracing::warn!(
            error,
            "cannot keep what files of the corpus told; the next run reads them"
        );
    }
}

/// What a file told: its footer that was read now, or what is known of it.
#[derive(Debug)]
pub(crate) enum Told {
    Read(Footer),
    Known {
        /// Number of its schema among those that are known.
        schema: usize,
        row_groups: Option<Vec<RowGroupFacts>>,
    },
}

impl Told {
    /// What is known of a file.
    pub(crate) fn known(known: Option<&KnownFooters>, file: &SourceFile) -> Option<Self> {
        let (schema, footer) = known?.get(file)?;
        let row_groups = footer.row_groups.as_ref().map(|row_groups| {
            let row_groups = row_groups.iter();
            row_groups
                .map(|&(n_rows, bytes)| RowGroupFacts { n_rows, bytes })
                .collect()
        });
        Some(Self::Known { schema, row_groups })
    }

    /// Whether there is a row group, or anything else that has to have columns.
    pub(crate) fn has_row_groups(&self) -> bool {
        match self {
            Self::Read(footer) => !footer.row_groups.is_empty(),
            Self::Known { row_groups, .. } => row_groups.as_ref().is_some_and(|it| !it.is_empty()),
        }
    }

    /// Rows of each row group and bytes of some columns; `None` for formats without row groups.
    pub(crate) fn into_facts(
        self,
        format: FileFormat,
        columns: &[&str],
    ) -> Option<Vec<RowGroupFacts>> {
        let footer = match self {
            Self::Known { row_groups, .. } => return row_groups,
            Self::Read(footer) => footer,
        };
        (format == FileFormat::Parquet).then(|| {
            let row_groups = footer.row_groups.iter();
            row_groups
                .map(|row_group| RowGroupFacts {
                    n_rows: row_group.n_rows,
                    bytes: row_group.bytes_of(&footer.schema, columns),
                })
                .collect()
        })
    }
}

/// Schemas of files, each once.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    schemas: Vec<SchemaRef>,
    /// By file: the number of its schema, and whether to note what the file told.
    of_file: Vec<Option<(u32, bool)>>,
    /// Whether a schema belongs to a file that is there.
    is_used: Vec<bool>,
}

impl Noted {
    /// Nothing yet of any file. Schemas keep the numbers by which they are known.
    pub(crate) fn new(known: Option<&KnownFooters>) -> Self {
        let schemas = known.map_or_else(Vec::new, |known| known.schemas.clone());
        Self {
            of_file: Vec::new(),
            is_used: vec![false; schemas.len()],
            schemas,
        }
    }

    /// Notes the next file. Returns its schema if no file before has the same one.
    pub(crate) fn add(&mut self, told: Option<&Told>) -> Option<SchemaRef> {
        let (schema, is_noted) = match told {
            None => {
                self.of_file.push(None);
                return None;
            }
            Some(Told::Known { schema, .. }) => (*schema, true),
            Some(Told::Read(footer)) => (self.number_of(&footer.schema), footer.is_as_listed),
        };
        // Of as many schemas as there are files, of which memory holds fewer.
        let number = u32::try_from(schema).unwrap_or(u32::MAX);
        self.of_file.push(Some((number, is_noted)));
        let is_first = !std::mem::replace(&mut self.is_used[schema], true);
        is_first.then(|| Arc::clone(&self.schemas[schema]))
    }

    fn number_of(&mut self, schema: &Schema) -> usize {
        let compared = self.schemas.iter().enumerate().rev().take(SCHEMAS_COMPARED);
        let mut same = compared.filter(|(_, known)| known.fields() == schema.fields());
        if let Some((number, _)) = same.next() {
            return number;
        }
        // What else a file says of itself has no meaning here.
        self.schemas
            .push(Arc::new(Schema::new(schema.fields().clone())));
        self.is_used.push(false);
        self.schemas.len() - 1
    }

    /// The schema of a file, by its number among those that were added.
    pub(crate) fn schema_of(&self, file: usize) -> Option<&Schema> {
        let (schema, _) = (*self.of_file.get(file)?)?;
        Some(self.schemas.get(schema as usize)?)
    }

    fn footers(&self, corpus: &InputSet) -> KnownFooters {
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        let mut footers = KnownFooters {
            format: KnownFooters::FORMAT,
            columns: corpus
                .needed_columns()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            schemas: Vec::new(),
            files: BTreeMap::new(),
        };
        for (file, noted) in corpus.files.iter().zip(&self.of_file) {
            let (Some((schema, true)), Some(key)) = (noted, KnownFooters::key(&file.file)) else {
                continue;
            };
            let number = *numbers.entry(*schema).or_insert_with(|| {
                footers
                    .schemas
                    .push(Arc::clone(&self.schemas[*schema as usize]));
                footers.schemas.len() as u32 - 1
            });
            let row_groups = file.row_groups.as_ref().map(|row_groups| {
                let row_groups = row_groups.iter();
                row_groups
                    .map(|facts| (facts.n_rows, facts.bytes))
                    .collect()
            });
            let known = KnownFooter {
                schema: number,
                row_groups,
            };
            footers.files.insert(key, known);
        }
        footers
    }
}
