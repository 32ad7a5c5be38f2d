//! The inputs of a job as they are now: files, footers, schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_predicate::DataFusionPredicates;
use gleaner_schemas::job::{Corpus, Job};
use gleaner_schemas::{DocumentColumns, FileFormat, KnownFooters, SourceFile};
use gleaner_storage::documents::PredicateCompiler as _;
use gleaner_storage::footer;
use gleaner_storage::listing;
use gleaner_storage::{ReadError, Stores};

use crate::known_footers::{Noted, Told};
use crate::planner::InputFile;
use crate::run_error::RunError;

/// Footers read at a time.
const FOOTER_READS: usize = 64;

/// A corpus or a dataset: what is there, and how to read it.
#[derive(Debug, Clone)]
pub struct InputSet {
    /// Its files by name.
    pub files: Vec<InputFile>,
    /// All columns of all files, string types unified.
    pub schema: SchemaRef,
    /// What the columns mean.
    pub columns: DocumentColumns,
    /// The `where` of the job file.
    pub predicate: Option<String>,
    /// Files whose footer cannot be read, with the reason; their tasks will be quarantined.
    pub unreadable: BTreeMap<String, String>,
    /// What is to be kept of their footers.
    pub noted: Noted,
}

impl InputSet {
    /// The files, without what footers told.
    #[must_use]
    pub fn sources(&self) -> Vec<Arc<SourceFile>> {
        self.files
            .iter()
            .map(|file| Arc::clone(&file.file))
            .collect()
    }

    /// Rows, if all files know theirs.
    #[must_use]
    pub fn n_rows(&self) -> Option<u64> {
        self.files
            .iter()
            .map(|file| {
                let row_groups = file.row_groups.as_ref()?;
                Some(row_groups.iter().map(|facts| facts.n_rows).sum::<u64>())
            })
            .sum()
    }

    /// Bytes of the columns that are read, uncompressed where footers told them.
    #[must_use]
    pub fn text_bytes(&self) -> u64 {
        self.files.iter().map(InputFile::bytes).sum()
    }

    /// The columns whose bytes are counted.
    pub(crate) fn needed_columns(&self) -> Vec<&str> {
        needed_columns(&self.columns)
    }

    /// Bytes of the files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file.bytes).sum()
    }
}

/// Lists the files of an input and reads the footers that are not known.
///
/// # Errors
///
/// If there are none, if a column is missing or has the wrong type, if `where` does not fit them,
/// or of the store. A file that is not what its name says is no error here: its rows are the only
/// ones lost.
pub async fn load(
    stores: &Stores,
    job: &Job,
    base_dir: &std::path::Path,
    path: &str,
    input: &Corpus,
    known: Option<&KnownFooters>,
) -> Result<InputSet, RunError> {
    let at = |key: &str, message: String, help: &str| {
        RunError::from(job.error_at(&format!("{path}.{key}"), message, Some(help.to_owned())))
    };
    let sources = listing::list_sources(stores, &input.paths, base_dir)
        .await
        .map_err(|error| {
            let help = match error {
                ReadError::Store { .. } => UNREADABLE_HELP,
                ReadError::NotListable { .. } => NOT_LISTABLE_HELP,
                _ => PATHS_HELP,
            };
            read_error(&error, |message| at("paths", message, help))
        })?;
    let told: Vec<(SourceFile, Result<Told, String>)> = futures::stream::iter(sources)
        .map(|source| async move {
            if let Some(told) = Told::known(known, &source) {
                return Ok((source, Ok(told)));
            }
            match footer::read_footer(stores, &source).await {
                Ok(footer) => Ok((source, Ok(Told::Read(footer)))),
                Err(error) if error.is_about_contents() => Ok((source, Err(chain(&error)))),
                Err(error) => Err(read_error(&error, |message| {
                    at("paths", message, UNREADABLE_HELP)
                })),
            }
        })
        .buffered(FOOTER_READS)
        .try_collect()
        .await?;
    let mut unreadable = BTreeMap::new();
    let mut noted = Noted::new(known);
    // By the first file of each: another one with the same has nothing to add.
    let mut schemas: Vec<(&str, SchemaRef)> = Vec::new();
    for (source, told) in &told {
        if let Err(reason) = told {
            unreadable.insert(source.name.clone(), reason.clone());
        }
        if let Some(schema) = noted.add(told.as_ref().ok()) {
            schemas.push((&source.name, schema));
        }
    }
    let schemas: Vec<(&str, &Schema)> = schemas
        .iter()
        .map(|(name, schema)| (*name, schema.as_ref()))
        .collect();
    let schema = footer::unify_schemas(schemas.iter().copied()).map_err(|error| {
        at(
            "paths",
            chain(&error),
            "give these files different datasets",
        )
    })?;
    if schemas.is_empty() {
        let reasons: Vec<_> = unreadable.values().take(3).cloned().collect();
        return Err(at(
            "paths",
            format!(
                "none of the {} files can be read: {}",
                told.len(),
                reasons.join("; ")
            ),
            "are they complete, and are they what their names say?",
        ));
    }
    let columns = resolve_columns(input, &schema);
    let needed = needed_columns(&columns);
    // What is known are the bytes of columns that were needed then.
    let is_of_others = known.is_some_and(|known| known.columns != needed);
    if is_of_others
        && told
            .iter()
            .any(|(_, told)| matches!(told, Ok(Told::Known { .. })))
    {
        return Box::pin(load(stores, job, base_dir, path, input, None)).await;
    }
    for (idx, (source, told)) in told.iter().enumerate() {
        if let (Ok(told), Some(own)) = (told, noted.schema_of(idx)) {
            let of_lines;
            let columns = match source.format {
                FileFormat::Parquet => &columns,
                _ => {
                    of_lines = columns_of_lines(&columns, own, &schema);
                    &of_lines
                }
            };
            footer::check_columns(&source.name, own, told.has_row_groups(), columns)
                .map_err(|error| at("columns", chain(&error), COLUMNS_HELP))?;
        }
    }
    if let Some(predicate) = &input.predicate {
        check_predicate(predicate, &schemas)
            .map_err(|message| at("where", message, PREDICATE_HELP))?;
    }
    let files = told
        .into_iter()
        .map(|(file, told)| InputFile {
            row_groups: told
                .ok()
                .and_then(|told| told.into_facts(file.format, &needed)),
            file: Arc::new(file),
            n_rows: None,
            companions: Vec::new(),
        })
        .collect();
    Ok(InputSet {
        files,
        schema: Arc::new(schema),
        columns,
        predicate: input.predicate.clone(),
        unreadable,
        noted,
    })
}

/// Compiles a predicate for every schema that occurs, as tasks will do file by file.
fn check_predicate(predicate: &str, schemas: &[(&str, &Schema)]) -> Result<(), String> {
    let mut seen: Vec<&Schema> = Vec::new();
    for (file, schema) in schemas {
        // A file without columns has no row that the predicate could speak of.
        if schema.fields().is_empty() || seen.iter().any(|known| known.fields == schema.fields) {
            continue;
        }
        DataFusionPredicates
            .compile(predicate, &Arc::new((*schema).clone()))
            .map_err(|message| format!("`where` does not fit {file}: {message}"))?;
        seen.push(schema);
    }
    Ok(())
}

const PATHS_HELP: &str = "relative paths start from the folder of the job file";
const NOT_LISTABLE_HELP: &str =
    "patterns work on local disks and on s3://, gs:// and az://; or copy the files there";
const UNREADABLE_HELP: &str = "is it there, and are you allowed to read it?";
const PREDICATE_HELP: &str =
    "write SQL that is true for the rows to keep, such as `where: \"lang = 'en'\"`";
const COLUMNS_HELP: &str = "name the columns: `columns: {id: ..., text: ..., source: ...}`";

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    gleaner_schemas::failure::error_chain(error)
}

fn read_error(error: &ReadError, usage: impl FnOnce(String) -> RunError) -> RunError {
    match error.kind() {
        gleaner_schemas::FailureKind::Transient => RunError::Unreachable(chain(error)),
        _ => usage(chain(error)),
    }
}

/// A column that the job does not name is used if the files have it under its usual name.
fn resolve_columns(input: &Corpus, schema: &Schema) -> DocumentColumns {
    let resolve = |named: &Option<String>, usual: &str| {
        named.clone().or_else(|| {
            let field = schema.field_with_name(usual).ok()?;
            is_usable(field.data_type()).then(|| usual.to_owned())
        })
    };
    DocumentColumns {
        id: resolve(&input.columns.id, "id"),
        text: input.columns.text.clone(),
        source: resolve(&input.columns.source, "source"),
    }
}

/// Any line may lack an id or a source, so all lines of a file may, if another file has them.
fn columns_of_lines(columns: &DocumentColumns, file: &Schema, all: &Schema) -> DocumentColumns {
    let is_checked = |name: &String| {
        let has = |schema: &Schema| schema.field_with_name(name).is_ok();
        has(file) || !has(all)
    };
    DocumentColumns {
        id: columns.id.clone().filter(is_checked),
        text: columns.text.clone(),
        source: columns.source.clone().filter(is_checked),
    }
}

fn is_usable(data_type: &DataType) -> bool {
    data_type.is_string() || data_type.is_integer()
}

fn needed_columns(columns: &DocumentColumns) -> Vec<&str> {
    [
        columns.id.as_deref(),
        Some(&columns.text),
        columns.source.as_deref(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
