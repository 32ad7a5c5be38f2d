//! The inputs of a job as they are now: files, footers, schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_predicate::DataFusionPredicates;
use gleaner_schemas::job::{Corpus, Job};
use gleaner_schemas::{DocumentColumns, FileFormat, RowGroupFacts, SourceFile};
use gleaner_storage::documents::PredicateCompiler as _;
use gleaner_storage::footer::{self, Footer};
use gleaner_storage::listing;
use gleaner_storage::{ReadError, Stores};

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

    /// Bytes of the files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file.bytes).sum()
    }
}

/// Lists the files of an input and reads their footers.
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
    let footers: Vec<(SourceFile, Result<Footer, String>)> = futures::stream::iter(sources)
        .map(|source| async move {
            match footer::read_footer(stores, &source).await {
                Ok(footer) => Ok((source, Ok(footer))),
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
    let mut schemas: Vec<(&str, &Schema)> = Vec::new();
    for (source, footer) in &footers {
        match footer {
            Ok(footer) => schemas.push((&source.name, &footer.schema)),
            Err(reason) => {
                unreadable.insert(source.name.clone(), reason.clone());
            }
        }
    }
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
                footers.len(),
                reasons.join("; ")
            ),
            "are they complete, and are they what their names say?",
        ));
    }
    let columns = resolve_columns(input, &schema);
    for (source, footer) in &footers {
        if let Ok(footer) = footer {
            let columns = match source.format {
                FileFormat::Parquet => columns.clone(),
                _ => columns_of_lines(&columns, &footer.schema, &schema),
            };
            footer
                .check_columns(&source.name, &columns)
                .map_err(|error| at("columns", chain(&error), COLUMNS_HELP))?;
        }
    }
    if let Some(predicate) = &input.predicate {
        check_predicate(predicate, &schemas)
            .map_err(|message| at("where", message, PREDICATE_HELP))?;
    }
    let needed = needed_columns(&columns);
    let files = footers
        .into_iter()
        .map(|(file, footer)| InputFile {
            row_groups: footer
                .ok()
                .and_then(|footer| row_groups(&file, &footer, &needed)),
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

fn row_groups(file: &SourceFile, footer: &Footer, needed: &[&str]) -> Option<Vec<RowGroupFacts>> {
    if file.format != FileFormat::Parquet {
        return None;
    }
    Some(
        footer
            .row_groups
            .iter()
            .map(|row_group| RowGroupFacts {
                n_rows: row_group.n_rows,
                bytes: row_group.bytes_of(&footer.schema, needed),
            })
            .collect(),
    )
}
