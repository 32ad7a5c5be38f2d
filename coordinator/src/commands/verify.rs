//! `gleaner verify`: is an output what its newest version says?
//!
//! Checked are, for every file that the version names: that it is there, its size, its BLAKE3
//! hash against manifest and name, its schema against its table's, its rows and lanes recounted
//! from the rows themselves; for tables and stages the sums and the balance of lanes; and that
//! `manifest.json` is the newest version, and Delta tables are at it. Objects in the stages' folders that no version names
//! are listed as a warning. Tests and the simulation share [`verify`].

mod recount;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use futures::StreamExt as _;
use gleaner_schemas::{ContentHash, Lanes, ReduceResult, TableFile, TableVersion, Version};
use gleaner_storage::{Output, OutputError, layout};
use gleaner_workers::language_model::{ModelFacts, ModelPlace};
use serde::{Deserialize as _, Serialize};

use self::recount::{Counting, lanes_text, recount};
use crate::delta;

/// Files that are checked at a time; each is held in memory.
const FILES_AT_A_TIME: usize = 8;
/// Versions read at a time.
const VERSIONS_AT_A_TIME: usize = 16;

/// Something that is not as the version says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Key of the object, or the name of the table or stage.
    pub place: String,
    /// What was expected and what was found.
    pub message: String,
}

/// What was checked, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The version that was checked.
    pub version: u64,
    /// Files of all its tables.
    pub n_files: u64,
    /// Their rows, recounted.
    pub rows: u64,
    /// Their bytes, read.
    pub bytes: u64,
    /// Everything that is wrong.
    pub differences: Vec<Difference>,
    /// Objects in folders of tables that no version names. No harm is done by them: readers go
    /// through the manifest. `gleaner gc` removes them.
    pub zombies: Vec<String>,
}

impl VerifyReport {
    /// Whether the output is what its version says.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.differences.is_empty()
    }

    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            let _ = writeln!(text, "wrong: {}: {}", difference.place, difference.message);
        }
        const ZOMBIES_SHOWN: usize = 10;
        for zombie in self.zombies.iter().take(ZOMBIES_SHOWN) {
            let _ = writeln!(text, "not named by any version: {zombie}");
        }
        if self.zombies.len() > ZOMBIES_SHOWN {
            let n_more = self.zombies.len() - ZOMBIES_SHOWN;
            let _ = writeln!(text, "and {n_more} more that no version names");
        }
        let verdict = match self.differences.len() {
            0 => "everything is as the manifest says".to_owned(),
            1 => "1 difference".to_owned(),
            n => format!("{n} differences"),
        };
        let _ = writeln!(
            text,
            "version {}: {} files, {} rows, {}: {verdict}",
            self.version,
            self.n_files,
            self.rows,
            crate::progress::bytes(self.bytes)
        );
        text
    }
}

/// Checks the newest version of an output. `None` if nothing is published.
///
/// # Errors
///
/// Of the store; what is wrong with the contents is in the report.
pub async fn verify(output: &Output) -> Result<Option<VerifyReport>, OutputError> {
    let Some(number) = output.version_numbers().await?.pop() else {
        return Ok(None);
    };
    let mut report = VerifyReport {
        version: number,
        ..VerifyReport::default()
    };
    let version = output.version(number).await;
    let Some(version) = report.readable(output, version)? else {
        // Without it there is nothing to check by.
        return Ok((!report.is_ok()).then_some(report));
    };
    check_copy(output, &version, &mut report).await?;
    check_sums(&version, &mut report);
    check_files(output, &version, &mut report).await?;
    check_models(output, &version, &mut report).await?;
    check_delta(output, &version, &mut report).await?;
    report.zombies = zombies(output, &version, &mut report).await?;
    report.differences.sort();
    Ok(Some(report))
}

impl VerifyReport {
    fn differs(&mut self, place: &str, message: String) {
        self.differences.push(Difference {
            place: place.to_owned(),
            message,
        });
    }

    /// What was read, unless it is not what it should be: that is a difference.
    fn readable<T>(
        &mut self,
        output: &Output,
        read: Result<Option<T>, OutputError>,
    ) -> Result<Option<T>, OutputError> {
        match read {
            Err(OutputError::Malformed {
                uri,
                expected,
                message,
            }) => {
                let key = uri.strip_prefix(output.uri()).unwrap_or(&uri);
                self.differs(
                    key.trim_start_matches('/'),
                    format!("is not a valid {expected}: {message}"),
                );
                Ok(None)
            }
            read => read,
        }
    }
}

async fn check_copy(
    output: &Output,
    version: &Version,
    report: &mut VerifyReport,
) -> Result<(), OutputError> {
    let n_differences = report.differences.len();
    let copy = output
        .get_json::<Version>(layout::MANIFEST, "published version")
        .await;
    match report.readable(output, copy)? {
        Some(copy) if copy == *version => {}
        Some(copy) => report.differs(
            layout::MANIFEST,
            format!(
                "is a copy of version {}, not of {}",
                copy.number, version.number
            ),
        ),
        None if report.differences.len() == n_differences => {
            report.differs(layout::MANIFEST, "is missing".to_owned());
        }
        None => {}
    }
    Ok(())
}

/// Files of language models that stages have trained.
async fn check_models(
    output: &Output,
    version: &Version,
    report: &mut VerifyReport,
) -> Result<(), OutputError> {
    let models = version
        .stages
        .values()
        .filter_map(|stage| stage.facts.get("model"));
    let models = models.filter_map(|facts| ModelFacts::deserialize(facts).ok());
    for file in models.flat_map(|model| model.files) {
        let ModelPlace::Path(path) = &file.place else {
            continue;
        };
        match output.get(path).await? {
            None => report.differs(path, "is missing".to_owned()),
            Some(bytes) if ContentHash::of(&bytes) != file.content => {
                let found = ContentHash::of(&bytes);
                report.differs(path, format!("has checksum {found}, not {}", file.content));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Logs of tables that are published as Delta tables.
async fn check_delta(
    output: &Output,
    version: &Version,
    report: &mut VerifyReport,
) -> Result<(), OutputError> {
    for table in version.delta_tables() {
        let log = delta::Log::read(output, table).await.map(Some);
        let log = report.readable(output, log)?;
        if let Some(difference) = log.and_then(|log| log.difference(table, version)) {
            report.differs(&layout::delta_log(table), difference);
        }
    }
    Ok(())
}

/// What can be known from the manifest alone.
fn check_sums(version: &Version, report: &mut VerifyReport) {
    for (name, table) in &version.tables {
        let rows: u64 = table.files.iter().map(|file| file.rows).sum();
        let bytes: u64 = table.files.iter().map(|file| file.bytes).sum();
        if (rows, bytes) != (table.rows, table.bytes) {
            report.differs(
                name,
                format!(
                    "the table has {} rows and {} bytes, its files {rows} and {bytes}",
                    table.rows, table.bytes
                ),
            );
        }
        let mut paths = BTreeSet::new();
        for file in &table.files {
            if !paths.insert(&file.path) {
                report.differs(&file.path, "is named twice".to_owned());
            }
        }
    }
    for (name, stage) in &version.stages {
        if !stage.lanes.is_balanced() {
            report.differs(
                name,
                format!("lanes are not balanced: {}", lanes_text(&stage.lanes)),
            );
        }
        let counts_rows = Counting::of(version, name) != Counting::Nothing;
        if let Some(table) = version.tables.get(name).filter(|_| counts_rows) {
            let of_files: Lanes = table.files.iter().map(|file| file.lanes).sum();
            // Rows of tasks that were given up are in no file.
            let expected = Lanes {
                rows_in: of_files.rows_in + stage.lanes.failed
                    - of_files.failed.min(stage.lanes.failed),
                failed: stage.lanes.failed,
                ..of_files
            };
            if expected != stage.lanes {
                report.differs(
                    name,
                    format!(
                        "the stage's lanes are {}, its files' {}",
                        lanes_text(&stage.lanes),
                        lanes_text(&of_files)
                    ),
                );
            }
        }
    }
}

async fn check_files(
    output: &Output,
    version: &Version,
    report: &mut VerifyReport,
) -> Result<(), OutputError> {
    let files = version.tables.iter().flat_map(|(name, table)| {
        let counting = Counting::of(version, name);
        table.files.iter().map(move |file| (table, file, counting))
    });
    let mut checks = futures::stream::iter(files)
        .map(|(table, file, counting)| check_file(output, table, file, counting))
        .buffer_unordered(FILES_AT_A_TIME);
    while let Some(checked) = checks.next().await {
        let checked = checked?;
        report.n_files += 1;
        report.rows += checked.rows;
        report.bytes += checked.bytes;
        report.differences.extend(checked.differences);
    }
    Ok(())
}

#[derive(Default)]
struct CheckedFile {
    rows: u64,
    bytes: u64,
    differences: Vec<Difference>,
}

async fn check_file(
    output: &Output,
    table: &TableVersion,
    file: &TableFile,
    counting: Counting,
) -> Result<CheckedFile, OutputError> {
    let mut checked = CheckedFile::default();
    let differs = |message: String| Difference {
        place: file.path.clone(),
        message,
    };
    let Some(bytes) = output.get(&file.path).await? else {
        checked.differences.push(differs("is missing".to_owned()));
        return Ok(checked);
    };
    checked.bytes = bytes.len() as u64;
    if checked.bytes != file.bytes {
        let message = format!("has {} bytes, not {}", checked.bytes, file.bytes);
        checked.differences.push(differs(message));
    }
    let (schema, file_of_thread) = (table.schema.clone(), file.clone());
    let recounted =
        tokio::task::spawn_blocking(move || recount(&bytes, &schema, &file_of_thread, counting))
            .await;
    match recounted {
        Ok(Ok((rows, messages))) => {
            checked.rows = rows;
            checked
                .differences
                .extend(messages.into_iter().map(differs));
        }
        Ok(Err(message)) => {
            checked
                .differences
                .push(differs(format!("cannot be read as Parquet: {message}")));
        }
        Err(error) => {
            checked
                .differences
                .push(differs(format!("reading it panicked: {error}")));
        }
    }
    Ok(checked)
}

/// Objects in folders of tables that no version and no stored reduce names. Where one of these
/// cannot be read, nobody knows what it names, and nothing is listed.
async fn zombies(
    output: &Output,
    newest: &Version,
    report: &mut VerifyReport,
) -> Result<Vec<String>, OutputError> {
    let n_differences = report.differences.len();
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut name = |version: &Version| {
        let files = version.tables.values().flat_map(|table| &table.files);
        named.extend(files.map(|file| file.path.clone()));
    };
    name(newest);
    let mut numbers = output.version_numbers().await?;
    numbers.retain(|number| *number != newest.number);
    let older = Output::map_concurrently(numbers, VERSIONS_AT_A_TIME, |number| async move {
        Ok(output.version(number).await)
    })
    .await?;
    for version in older {
        report.readable(output, version)?.iter().for_each(&mut name);
    }
    let reduces = output.list(&format!("{}/reduces", layout::PRIVATE)).await?;
    let keys = reduces.into_iter().map(|object| object.path).collect();
    let reduces = Output::map_concurrently(keys, VERSIONS_AT_A_TIME, |key: String| async move {
        Ok(output
            .get_json::<ReduceResult>(&key, "result of a reduce")
            .await)
    })
    .await?;
    for reduce in reduces {
        if let Some(reduce) = report.readable(output, reduce)? {
            named.extend(reduce.tables.into_values().map(|file| file.path));
        }
    }
    if report.differences.len() > n_differences {
        return Ok(Vec::new());
    }
    let folders: Vec<String> = newest
        .tables
        .keys()
        .map(|table| layout::table_folder(table))
        .collect();
    let listed = Output::map_concurrently(folders, VERSIONS_AT_A_TIME, |folder| async move {
        output.list(&folder).await
    })
    .await?;
    let is_delta = |path: &str| {
        let mut tables = newest.delta_tables();
        layout::is_in_delta_log(path) && tables.any(|it| path.starts_with(&layout::delta_log(it)))
    };
    let mut zombies: Vec<String> = listed
        .into_iter()
        .flatten()
        .map(|object| object.path)
        .filter(|path| !named.contains(path) && !is_delta(path))
        .collect();
    zombies.sort_unstable();
    Ok(zombies)
}
