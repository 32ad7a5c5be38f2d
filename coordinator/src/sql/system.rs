//! The schema `gleaner`: tables that describe the published version.
//!
//! | table | one row per | columns |
//! |---|---|---|
//! | `gleaner.stages` | stage | `position`, `stage`, `kind`, `code_version`, `params` and `facts` (JSON), `tables`, lanes, `n_quarantined`, `n_files`, `rows`, `bytes`, `since_version`, `since` |
//! | `gleaner.tasks` | task of a stage's table, and quarantined task of any phase | `stage`, `phase`, `task`, `status` (`ok`, `quarantined`), `path`, `rows`, `bytes`, lanes, `inputs`, `failure`, `failure_kind`, `attempts`, `worker`, `started_at`, `seconds`, `bytes_in`, `worker_peak_memory_bytes` |
//! | `gleaner.guardrails` | figure that was compared with the version before | `stage`, `figure`, `detail` (column or source), `before`, `now`, `least`, `most`, `beyond`, `is_crossed` |
//! | `gleaner.drift` | column of weights | `stage`, `fitted_by_version`, `kl`, `kl_noise`, `unseen_share`, `n_texts`, `n_ngrams`, `column_name`, `mean_at_fit`, `deviation_at_fit`, `mean_now`, `shift` |
//! | `gleaner.files` | object | `stage`, `table_name`, `path`, `rows`, `bytes`, `checksum`, `task`, lanes, `inputs` |
//!
//! What workers recorded (`attempts` and what follows it) is null where a record was lost or
//! removed with its run; it is of the attempt whose object is named, of the latest where a task
//! is quarantined. `worker_peak_memory_bytes` is of the whole process, up to then.
//!
//! Lanes are `rows_in`, `ok`, `ineligible`, `rejected`, `failed`, `excluded`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt32Array,
    UInt64Array,
};
use arrow::error::ArrowError;
use gleaner_schemas::{Lanes, QuarantinedTask, TableFile, TaskId, Version, VersionStage};

use crate::sql::attempts::Attempts;
use crate::sql::checks;

/// Names of the tables.
pub(crate) const TABLES: [&str; 5] = ["drift", "files", "guardrails", "stages", "tasks"];

pub(super) type Columns = Vec<(&'static str, ArrayRef, bool)>;

/// The rows of one of [`TABLES`]. `phases` names the phase that wrote a stage's table, where that
/// is known; `attempts` what workers told.
pub(crate) fn rows(
    table: &str,
    version: &Version,
    phases: &BTreeMap<String, String>,
    attempts: &Attempts,
) -> Result<RecordBatch, ArrowError> {
    let columns = match table {
        "files" => files(version),
        "stages" => stages(version),
        "guardrails" => checks::guardrails(version),
        "drift" => checks::drift(version),
        _ => tasks(version, phases, attempts),
    };
    RecordBatch::try_from_iter_with_nullable(columns)
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn optional_texts<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn optional_numbers(values: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter(values))
}

fn lists<'a, L>(values: impl Iterator<Item = L>) -> ArrayRef
where
    L: IntoIterator<Item = &'a str>,
{
    let mut builder = ListBuilder::new(StringBuilder::new());
    for list in values {
        for text in list {
            builder.values().append_value(text);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn lane_columns(lanes: &[Lanes]) -> Columns {
    let column = |name, of: fn(&Lanes) -> u64| (name, numbers(lanes.iter().map(of)), false);
    vec![
        column("rows_in", |lanes| lanes.rows_in),
        column("ok", |lanes| lanes.ok),
        column("ineligible", |lanes| lanes.ineligible),
        column("rejected", |lanes| lanes.rejected),
        column("failed", |lanes| lanes.failed),
        column("excluded", |lanes| lanes.excluded),
    ]
}

fn ordered_stages(version: &Version) -> Vec<(&str, &VersionStage)> {
    version
        .stage_order
        .iter()
        .filter_map(|name| Some((name.as_str(), version.stages.get(name)?)))
        .collect()
}

fn stages(version: &Version) -> Columns {
    let stages = ordered_stages(version);
    let all = || stages.iter();
    let table = |name: &str| version.tables.get(name);
    let lanes: Vec<Lanes> = all().map(|(_, stage)| stage.lanes).collect();
    let params: Vec<String> = all().map(|(_, stage)| stage.params.to_string()).collect();
    let facts: Vec<String> = all()
        .map(|(_, stage)| serde_json::json!(stage.facts).to_string())
        .collect();
    let positions = (1u32..).take(stages.len());
    let code_versions = all().map(|(_, stage)| stage.code_version);
    let mut columns: Columns = vec![
        (
            "position",
            Arc::new(UInt32Array::from_iter_values(positions)),
            false,
        ),
        ("stage", texts(all().map(|(name, _)| *name)), false),
        (
            "kind",
            texts(all().map(|(_, stage)| stage.kind.as_str())),
            false,
        ),
        (
            "code_version",
            Arc::new(UInt32Array::from_iter_values(code_versions)),
            false,
        ),
        ("params", texts(params.iter().map(String::as_str)), false),
        ("facts", texts(facts.iter().map(String::as_str)), false),
        (
            "tables",
            lists(all().map(|(_, stage)| stage.tables.iter().map(String::as_str))),
            false,
        ),
    ];
    columns.extend(lane_columns(&lanes));
    columns.extend([
        (
            "n_quarantined",
            numbers(all().map(|(_, stage)| stage.quarantined.len() as u64)),
            false,
        ),
        (
            "n_files",
            optional_numbers(all().map(|(name, _)| Some(table(name)?.files.len() as u64))),
            true,
        ),
        (
            "rows",
            optional_numbers(all().map(|(name, _)| Some(table(name)?.rows))),
            true,
        ),
        (
            "bytes",
            optional_numbers(all().map(|(name, _)| Some(table(name)?.bytes))),
            true,
        ),
        (
            "since_version",
            optional_numbers(all().map(|(name, _)| Some(table(name)?.since_version))),
            true,
        ),
        (
            "since",
            optional_texts(all().map(|(name, _)| Some(table(name)?.since.as_str()))),
            true,
        ),
    ]);
    columns
}

/// Tables with the stage that they belong to.
fn tables_of_stages(version: &Version) -> Vec<(&str, &str, &[TableFile])> {
    ordered_stages(version)
        .into_iter()
        .flat_map(|(stage, of_version)| {
            of_version.tables.iter().filter_map(move |name| {
                let table = version.tables.get(name)?;
                Some((stage, name.as_str(), table.files.as_slice()))
            })
        })
        .collect()
}

fn files(version: &Version) -> Columns {
    let files: Vec<(&str, &str, &TableFile)> = tables_of_stages(version)
        .into_iter()
        .flat_map(|(stage, table, files)| files.iter().map(move |file| (stage, table, file)))
        .collect();
    let all = || files.iter();
    let lanes: Vec<Lanes> = all().map(|(_, _, file)| file.lanes).collect();
    let mut columns: Columns = vec![
        ("stage", texts(all().map(|(stage, _, _)| *stage)), false),
        (
            "table_name",
            texts(all().map(|(_, table, _)| *table)),
            false,
        ),
        (
            "path",
            texts(all().map(|(_, _, file)| file.path.as_str())),
            false,
        ),
        ("rows", numbers(all().map(|(_, _, file)| file.rows)), false),
        (
            "bytes",
            numbers(all().map(|(_, _, file)| file.bytes)),
            false,
        ),
        (
            "checksum",
            texts(all().map(|(_, _, file)| file.checksum.to_string())),
            false,
        ),
        (
            "task",
            optional_texts(all().map(|(_, _, file)| Some(file.task.as_ref()?.to_string()))),
            true,
        ),
    ];
    columns.extend(lane_columns(&lanes));
    columns.push((
        "inputs",
        lists(all().map(|(_, _, file)| file.inputs.iter().map(String::as_str))),
        false,
    ));
    columns
}

struct TaskRow<'a> {
    stage: &'a str,
    phase: Option<&'a str>,
    task: &'a TaskId,
    file: Option<&'a TableFile>,
    quarantined: Option<&'a QuarantinedTask>,
}

impl TaskRow<'_> {
    fn lanes(&self) -> Lanes {
        match (self.file, self.quarantined) {
            (Some(file), _) => file.lanes,
            (None, Some(quarantined)) => Lanes {
                rows_in: quarantined.rows.unwrap_or(0),
                failed: quarantined.rows.unwrap_or(0),
                ..Lanes::default()
            },
            (None, None) => Lanes::default(),
        }
    }

    fn inputs(&self) -> Vec<&str> {
        match (self.file, self.quarantined) {
            (Some(file), _) => file.inputs.iter().map(String::as_str).collect(),
            (None, Some(task)) => task.inputs.iter().map(|file| file.name.as_str()).collect(),
            (None, None) => Vec::new(),
        }
    }
}

fn tasks(version: &Version, phases: &BTreeMap<String, String>, attempts: &Attempts) -> Columns {
    let mut rows = Vec::new();
    for (name, stage) in ordered_stages(version) {
        let files = version
            .tables
            .get(name)
            .map_or(&[][..], |table| &table.files);
        for file in files {
            if let Some(task) = &file.task {
                rows.push(TaskRow {
                    stage: name,
                    phase: phases.get(name).map(String::as_str),
                    task,
                    file: Some(file),
                    quarantined: None,
                });
            }
        }
        rows.extend(stage.quarantined.iter().map(|quarantined| TaskRow {
            stage: name,
            phase: None,
            task: &quarantined.task,
            file: None,
            quarantined: Some(quarantined),
        }));
    }
    let all = || rows.iter();
    let lanes: Vec<Lanes> = all().map(TaskRow::lanes).collect();
    let status = |row: &TaskRow<'_>| {
        if row.file.is_some() {
            "ok"
        } else {
            "quarantined"
        }
    };
    let mut columns: Columns = vec![
        ("stage", texts(all().map(|row| row.stage)), false),
        ("phase", optional_texts(all().map(|row| row.phase)), true),
        ("task", texts(all().map(|row| row.task.to_string())), false),
        ("status", texts(all().map(status)), false),
        (
            "path",
            optional_texts(all().map(|row| Some(row.file?.path.as_str()))),
            true,
        ),
        (
            "rows",
            optional_numbers(all().map(|row| Some(row.file?.rows))),
            true,
        ),
        (
            "bytes",
            optional_numbers(all().map(|row| Some(row.file?.bytes))),
            true,
        ),
    ];
    columns.extend(lane_columns(&lanes));
    let n_attempts = all().map(|row| match row.quarantined {
        Some(quarantined) => Some(quarantined.attempts),
        None => attempts.count(row.stage, row.task),
    });
    let recorded = || all().map(|row| attempts.shown(row.stage, row.task));
    columns.extend([
        ("inputs", lists(all().map(TaskRow::inputs)), false),
        (
            "failure",
            optional_texts(all().map(|row| Some(row.quarantined?.failure.to_string()))),
            true,
        ),
        (
            "failure_kind",
            optional_texts(all().map(|row| Some(row.quarantined?.failure.kind.to_string()))),
            true,
        ),
        (
            "attempts",
            Arc::new(UInt32Array::from_iter(n_attempts)) as ArrayRef,
            true,
        ),
        (
            "worker",
            optional_texts(recorded().map(|record| Some(record?.worker.as_str()))),
            true,
        ),
        (
            "started_at",
            optional_texts(recorded().map(|record| Some(record?.started_at.as_str()))),
            true,
        ),
        (
            "seconds",
            Arc::new(Float64Array::from_iter(
                recorded().map(|record| Some(record?.seconds)),
            )),
            true,
        ),
        (
            "bytes_in",
            optional_numbers(recorded().map(|record| Some(record?.bytes_in))),
            true,
        ),
        (
            "worker_peak_memory_bytes",
            optional_numbers(recorded().map(|record| record?.worker_peak_memory_bytes)),
            true,
        ),
    ]);
    columns
}
