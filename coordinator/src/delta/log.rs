//! Where the log of a Delta table stands: its commits, read in order.

use std::collections::BTreeMap;

use bytes::Bytes;
use gleaner_schemas::{RunId, Version};
use gleaner_storage::{Output, OutputError, layout};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::actions::{Line, Metadata, Protocol};
use super::checkpoint;

/// Commits read at a time.
const COMMITS_AT_A_TIME: usize = 32;

const EXPECTED: &str = "commit of a Delta table";

/// The key of `commitInfo` under which a commit says which version it is of.
pub(super) const GLEANER: &str = "gleaner";

/// Which version a commit took the table to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OfVersion {
    /// Its number.
    pub(super) version: u64,
    /// The run that published it. Absent where only a checkpoint tells: numbers start again when an
    /// output is removed and its Delta log is not.
    pub(super) run: Option<RunId>,
}

/// A Delta table as its log has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    /// The newest commit; absent: there is no table yet.
    pub(super) number: Option<u64>,
    pub(super) protocol: Option<Protocol>,
    pub(super) metadata: Option<Metadata>,
    /// Sizes of the files by their paths, as the log writes them.
    pub(super) files: BTreeMap<String, i64>,
    /// The version that was committed last.
    pub(super) of_version: Option<OfVersion>,
}

impl Log {
    /// Reads the log of a table, from the newest checkpoint that somebody made.
    pub(crate) async fn read(output: &Output, table: &str) -> Result<Self, OutputError> {
        let objects = output.list(&layout::delta_log(table)).await?;
        let keys = || objects.iter().map(|object| object.path.as_str());
        let newest = keys().filter_map(layout::parse_delta_commit).max();
        let mut log = Self::default();
        let mut first = 0;
        if let Some((number, parts)) = checkpoint::newest(keys()) {
            for part in parts {
                let bytes = required(output, part).await?;
                checkpoint::read(output, part, bytes, |line| log.apply(line, None)).await?;
            }
            log.number = Some(number);
            first = number + 1;
        }
        let numbers = newest.map_or(0..0, |newest| first..newest + 1);
        // By their numbers and not by the listing, which may miss one that is being written.
        let keys = numbers.map(|number| layout::delta_commit(table, number));
        let keys: Vec<String> = keys.collect();
        for keys in keys.chunks(COMMITS_AT_A_TIME) {
            let commits =
                Output::map_concurrently(keys.to_vec(), COMMITS_AT_A_TIME, |key| async move {
                    let bytes = required(output, &key).await?;
                    lines(output, &key, &bytes)
                });
            for commit in commits.await? {
                log.apply_commit(commit);
            }
        }
        Ok(log)
    }

    /// The number of the commit that would come next.
    pub(super) fn next_number(&self) -> u64 {
        self.number.map_or(0, |number| number + 1)
    }

    /// Whether the table is that of a version, the newest of its output.
    pub(crate) fn is_of(&self, version: &Version) -> bool {
        self.of_version.as_ref().is_some_and(|of| of.is_of(version))
    }

    /// What differs between the table and a version's, in words.
    pub(crate) fn difference(&self, table: &str, version: &Version) -> Option<String> {
        if !self.is_of(version) {
            let found = match &self.of_version {
                Some(of) if of.version != version.number => {
                    format!("is at version {} of the output", of.version)
                }
                Some(_) => "is of an output that was here before".to_owned(),
                None => "has no commit of Gleaner".to_owned(),
            };
            let expected = version.number;
            return Some(format!(
                "{found}, not at version {expected}; the next run mends that"
            ));
        }
        let folder = format!("{}/", layout::table_folder(table));
        let files = version.tables.get(table).map_or(&[][..], |it| &it.files);
        let expected: BTreeMap<&str, i64> = files
            .iter()
            .filter_map(|file| {
                let path = file.path.strip_prefix(&folder)?;
                Some((path, i64::try_from(file.bytes).ok()?))
            })
            .collect();
        let found = self.files.iter().map(|(path, size)| (path.as_str(), *size));
        (!expected.into_iter().eq(found)).then(|| {
            format!(
                "names other files than version {}: another program has written to the table",
                version.number
            )
        })
    }

    fn apply_commit(&mut self, lines: Vec<Line>) {
        self.number = Some(self.next_number());
        let run = lines.iter().find_map(of_version).and_then(|of| of.run);
        for line in lines {
            self.apply(line, run.as_ref());
        }
    }

    fn apply(&mut self, line: Line, run: Option<&RunId>) {
        if let Some(protocol) = line.protocol {
            self.protocol = Some(protocol);
        }
        if let Some(metadata) = line.meta_data {
            self.metadata = Some(metadata);
        }
        if let Some(remove) = line.remove {
            self.files.remove(&remove.path);
        }
        if let Some(add) = line.add {
            self.files.insert(add.path, add.size);
        }
        if let Some(txn) = line.txn.filter(|txn| txn.app_id == GLEANER)
            && let Ok(version) = u64::try_from(txn.version)
        {
            let run = run.cloned();
            self.of_version = Some(OfVersion { version, run });
        }
    }
}

impl OfVersion {
    fn is_of(&self, version: &Version) -> bool {
        let is_of_run = self.run.as_ref().is_none_or(|run| *run == version.run);
        self.version == version.number && is_of_run
    }
}

/// Whether the newest commit of a table is that of a version: what is so where nobody else writes,
/// and costs two requests to find out.
pub(super) async fn is_newest_commit_of(
    output: &Output,
    table: &str,
    version: &Version,
) -> Result<bool, OutputError> {
    let objects = output.list(&layout::delta_log(table)).await?;
    let numbers = objects.iter();
    let numbers = numbers.filter_map(|object| layout::parse_delta_commit(&object.path));
    let Some(newest) = numbers.max() else {
        return Ok(false);
    };
    let key = layout::delta_commit(table, newest);
    let bytes = required(output, &key).await?;
    let lines = lines(output, &key, &bytes)?;
    Ok(lines
        .iter()
        .filter_map(of_version)
        .any(|of| of.is_of(version)))
}

fn of_version(line: &Line) -> Option<OfVersion> {
    let of: &Value = line.commit_info.as_ref()?.get(GLEANER)?;
    OfVersion::deserialize(of).ok()
}

/// The actions of a commit.
pub(super) fn lines(output: &Output, key: &str, bytes: &[u8]) -> Result<Vec<Line>, OutputError> {
    let lines = serde_json::Deserializer::from_slice(bytes).into_iter();
    lines
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(output, key, error.to_string()))
}

async fn required(output: &Output, key: &str) -> Result<Bytes, OutputError> {
    let bytes = output.get(key).await?;
    bytes.ok_or_else(|| {
        malformed(
            output,
            key,
            "it is missing, and later ones are there".into(),
        )
    })
}

pub(super) fn malformed(output: &Output, key: &str, message: String) -> OutputError {
    OutputError::Malformed {
        uri: output.uri_of(key),
        expected: EXPECTED,
        message,
    }
}
