//! Whether the datasets of a job can be used: their rows are read before anything runs.
//!
//! Datasets are small and were chosen on purpose: a target, few-shot examples, queries. A corpus
//! with a bad file or row goes on without it; a target that misses half of what it should be gives
//! other weights, and nothing of the result would show it. So:
//!
//! 1. [`read`] reads a dataset, or the first [`BYTES_READ_MAX`] bytes of its texts, and notes the
//!    rows that cannot be used, with their places.
//! 2. [`check`] ends the command if nothing can be used, or less than the job allows.
//!
//! Rows beyond those bytes are counted by the tasks that read them
//! ([`crate::allow::check_dataset`]).

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use gleaner_predicate::DataFusionPredicates;
use gleaner_schemas::columns::{INPUT_ROW, REASON, SOURCE, TEXT};
use gleaner_schemas::job::Job;
use gleaner_schemas::{Failure, FailureKind, Place, Slice};
use gleaner_storage::documents::{BatchLimits, DocumentReader};
use gleaner_storage::table::BlockingIo;
use serde::Serialize;

use crate::allow;
use crate::inputs::InputSet;
use crate::planner::InputFile;
use crate::run_error::RunError;

/// Bytes of text that are read before the rest is left to tasks.
const BYTES_READ_MAX: u64 = 64 << 20;
/// Rows that are told one by one.
const ROWS_TOLD: usize = 20;

/// What was found in the rows of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatasetRows {
    /// Rows that were read.
    pub n_rows: u64,
    /// Those of them that cannot be used.
    pub n_rejected: u64,
    /// The first of those.
    pub rejected: Vec<RejectedRow>,
    /// Whether all rows were read.
    pub is_whole: bool,
    /// Rows that `where` left out.
    #[serde(skip)]
    n_excluded: u64,
    #[serde(skip)]
    has_token: bool,
    #[serde(skip)]
    text_bytes: u64,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedRow {
    /// File, and line or row group and row.
    pub place: String,
    /// Why.
    pub reason: String,
}

impl DatasetRows {
    /// A sentence about the rows that cannot be used, if there are any.
    #[must_use]
    pub fn note(&self, name: &str) -> Option<String> {
        (self.n_rejected > 0).then(|| {
            format!(
                "dataset {name}: {} of {}{} rows cannot be used:{}",
                self.n_rejected,
                if self.is_whole { "" } else { "the first " },
                self.n_rows,
                self.told()
            )
        })
    }

    /// The rows that cannot be used, a line each.
    #[must_use]
    pub fn told(&self) -> String {
        let rows = self.rejected.iter();
        let mut text: String = rows
            .map(|row| format!("\n  {}: {}", row.place, row.reason))
            .collect();
        let more = self.n_rejected.saturating_sub(self.rejected.len() as u64);
        if more > 0 {
            text.push_str(&format!("\n  and {more} more"));
        }
        text
    }

    fn reject(&mut self, place: impl FnOnce() -> String, reason: &str) {
        self.n_rejected += 1;
        if self.rejected.len() < ROWS_TOLD {
            self.rejected.push(RejectedRow {
                place: place(),
                reason: reason.to_owned(),
            });
        }
    }

    fn is_enough(&self) -> bool {
        self.has_token && self.text_bytes >= BYTES_READ_MAX
    }
}

/// Reads the rows of a dataset. `has_pairs` tells whether each needs a source beside its text.
///
/// # Errors
///
/// If a file cannot be read to its end, unless the job allows it: then it stands among those of
/// the set that cannot be read.
pub async fn read(
    io: &BlockingIo,
    job: &Job,
    path: &str,
    set: &mut InputSet,
    has_pairs: bool,
) -> Result<DatasetRows, RunError> {
    let limits = BatchLimits::for_memory(job.file.memory.bytes());
    let mut rows = DatasetRows {
        is_whole: true,
        ..DatasetRows::default()
    };
    let mut unreadable = std::mem::take(&mut set.unreadable);
    for file in &set.files {
        if rows.is_enough() {
            rows.is_whole = false;
            break;
        }
        let name = &file.file.name;
        if unreadable.contains_key(name) {
            continue;
        }
        let reading = Reading {
            io: io.clone(),
            slice: whole(file),
            columns: set.columns.clone(),
            predicate: set.predicate.clone(),
            limits,
            has_pairs,
        };
        let before = rows.clone();
        let read = tokio::task::spawn_blocking(move || reading.run(rows)).await;
        let read = read.map_err(|error| {
            RunError::Internal(format!("reading the dataset {path} panicked: {error}"))
        })?;
        rows = match read {
            Ok(rows) => rows,
            Err(failure) if failure.kind == FailureKind::Permanent => {
                unreadable.insert(name.clone(), failure.to_string());
                before
            }
            Err(failure) if failure.kind == FailureKind::Access => {
                let help = "is it there, and are you allowed to read it?".to_owned();
                let at = format!("{path}.paths");
                return Err(job.error_at(&at, failure.to_string(), Some(help)).into());
            }
            Err(failure) => return Err(failure.into()),
        };
    }
    set.unreadable = unreadable;
    check_files(job, path, set)?;
    Ok(rows)
}

/// Whether the files that cannot be read are no more than the job allows.
fn check_files(job: &Job, path: &str, set: &InputSet) -> Result<(), RunError> {
    let Some((_, reason)) = set.unreadable.first_key_value() else {
        return Ok(());
    };
    let n_unreadable = set.unreadable.len() as u64;
    let allowed = &job.file.allow.quarantined_tasks;
    let n_files = set.files.len() as u64;
    if n_unreadable < n_files && !allow::exceeds(allowed, n_unreadable, n_files) {
        return Ok(());
    }
    let more = match n_unreadable {
        1 => String::new(),
        n => format!(" (and {} more of {n_files} files)", n - 1),
    };
    let help = if n_unreadable < n_files {
        format!(
            "mend these files or leave them out of `paths`, or allow it: `allow: \
             {{quarantined_tasks: {n_unreadable}}}`"
        )
    } else {
        "are they complete, and are they what their names say?".to_owned()
    };
    let at = format!("{path}.paths");
    Err(job
        .error_at(&at, format!("{reason}{more}"), Some(help))
        .into())
}

/// Whether enough of a dataset can be used.
///
/// # Errors
///
/// If there is nothing in it that could be used, at its place in the job file; or if more of its
/// rows cannot be used than the job allows.
pub fn check(job: &Job, name: &str, set: &InputSet, rows: &DatasetRows) -> Result<(), RunError> {
    const HELP: &str = "are `paths`, `columns: {text: ...}` and `where` what you meant?";
    let at = |key: &str, message: String| {
        let path = format!("datasets.{name}.{key}");
        RunError::from(job.error_at(&path, message, Some(HELP.to_owned())))
    };
    let n_usable = rows.n_rows - rows.n_rejected;
    if n_usable == 0 {
        let (key, why) = match (rows.n_rows, rows.n_excluded) {
            (0, 0) => ("paths", "it has no row".to_owned()),
            (0, n) => ("where", format!("`where` excludes all of its {n} rows")),
            (n, _) => (
                "columns",
                format!("none of its {n} rows can be used:{}", rows.told()),
            ),
        };
        return Err(at(
            key,
            format!("the dataset `{name}` has no document with a text: {why}"),
        ));
    }
    if !rows.has_token {
        let column = &set.columns.text;
        return Err(at(
            "columns",
            format!(
                "the dataset `{name}` has no usable token: the column {column:?} of its {n_usable} \
                 documents holds nothing but blanks"
            ),
        ));
    }
    if rows.is_whole {
        let told = rows.told();
        return allow::check_dataset(&job.file.allow, name, rows.n_rejected, rows.n_rows, &told);
    }
    Ok(())
}

fn whole(file: &InputFile) -> Slice {
    Slice {
        file: Arc::clone(&file.file),
        row_groups: None,
        first_row: 0,
        n_rows: file.n_rows(),
        bytes: file.bytes(),
        row_group_facts: file.row_groups.clone().unwrap_or_default(),
    }
}

/// One file of a dataset.
struct Reading {
    io: BlockingIo,
    slice: Slice,
    columns: gleaner_schemas::DocumentColumns,
    predicate: Option<String>,
    limits: BatchLimits,
    has_pairs: bool,
}

impl Reading {
    /// Adds what is in the file to `rows`. Blocks.
    fn run(&self, mut rows: DatasetRows) -> Result<DatasetRows, Failure> {
        let predicates = DataFusionPredicates;
        let predicate = self.predicate.as_deref().map(|sql| (sql, &predicates as _));
        let mut reader =
            DocumentReader::open(&self.io, &self.slice, &self.columns, predicate, self.limits)?;
        while let Some(batch) = reader.next_batch()? {
            let column = |name: &str| {
                batch.column_by_name(name).ok_or_else(|| {
                    Failure::new(
                        FailureKind::Permanent,
                        format!("documents have no column {name}"),
                    )
                })
            };
            let (texts, reasons) = (column(TEXT)?.as_string_view(), column(REASON)?);
            let (reasons, sources) = (reasons.as_string::<i32>(), column(SOURCE)?);
            let sources = sources.as_string::<i32>();
            let numbers = column(INPUT_ROW)?;
            let numbers = numbers.as_primitive::<arrow::datatypes::UInt64Type>();
            for row in 0..batch.num_rows() {
                rows.n_rows += 1;
                let place = || self.place(&reader, row, numbers.value(row));
                if reasons.is_valid(row) {
                    rows.reject(place, reasons.value(row));
                } else if texts.is_null(row) {
                    rows.reject(place, "the text is null");
                } else if self.has_pairs
                    && (sources.is_null(row) || sources.value(row).trim().is_empty())
                {
                    let message = "it has no text to go with: `columns: {source: ...}` names it";
                    rows.reject(place, message);
                } else {
                    let text = texts.value(row);
                    rows.text_bytes += text.len() as u64;
                    rows.has_token |= text.chars().any(|c| !c.is_whitespace());
                }
            }
            if rows.is_enough() {
                rows.is_whole = false;
                break;
            }
        }
        rows.n_excluded += reader.rows_excluded();
        Ok(rows)
    }

    fn place(&self, reader: &DocumentReader, idx: usize, row: u64) -> String {
        let file = &self.slice.file.name;
        if let Some(line) = reader.line_number(idx) {
            return format!("{file}, line {line}");
        }
        let place = Place {
            row_group: reader.row_group(),
            row: Some(row),
            ..Place::file(file)
        };
        place.to_string()
    }
}
