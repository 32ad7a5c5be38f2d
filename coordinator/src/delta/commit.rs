//! The next commit of a Delta table: a plain function of its log and the version it is to be at.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use gleaner_schemas::{ContentHash, TableFile, Version};
use gleaner_storage::layout;
use serde_json::{Value, json};

use super::actions::{Add, Line, Metadata, Protocol, Remove, Transaction};
use super::log::{GLEANER, Log, OfVersion};
use super::schema::DeltaSchema;
use crate::run_error::RunError;

/// Readers and writers of versions up to these know the table; from the next ones on, features are
/// named one by one.
const READER_VERSION: u32 = 1;
const WRITER_VERSION: u32 = 2;
const READER_VERSION_OF_FEATURES: u32 = 3;
const WRITER_VERSION_OF_FEATURES: u32 = 7;
/// Times without a zone.
const LOCAL_TIMES: &str = "timestampNtz";
/// What writers of version 2 must know, and a table that names its features must name.
const WRITER_FEATURES: [&str; 2] = ["appendOnly", "invariants"];

/// A commit that is to be created.
#[derive(Debug)]
pub(super) struct Commit {
    /// Its lines.
    pub(super) bytes: Bytes,
    /// Files that come to the table.
    pub(super) n_added: usize,
    /// Files that go.
    pub(super) n_removed: usize,
    /// Columns that the table has not, where that is new.
    pub(super) left_out: Option<String>,
}

/// Why nothing can be committed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another program has made of the table what commits of ours would spoil.
    Foreign(String),
    /// None of the columns has a type that Delta knows.
    NoColumns,
    /// Something that should not happen.
    Internal(String),
}

impl Refusal {
    /// As the error of a run, for the table whose log lies at `uri`.
    pub(super) fn at(self, uri: &str) -> RunError {
        match self {
            Self::Foreign(what) => RunError::usage(
                format!("another program has changed what is at {uri}: {what}"),
                format!(
                    "remove {uri}, and the next run makes the table anew; or leave `publish: delta` \
                     away"
                ),
            ),
            Self::NoColumns => RunError::usage(
                "none of its columns has a type that Delta knows",
                "leave `publish: delta` away",
            ),
            Self::Internal(message) => RunError::Internal(message),
        }
    }
}

/// The commit that takes a table from where its log is to a version.
pub(super) fn next(log: &Log, table: &str, version: &Version) -> Result<Commit, Refusal> {
    let content = version.tables.get(table).ok_or_else(|| {
        Refusal::Internal(format!("version {} has no table {table}", version.number))
    })?;
    let now = DateTime::parse_from_rfc3339(&version.published_at)
        .map(|time| time.timestamp_millis())
        .map_err(|error| Refusal::Internal(format!("{}: {error}", version.published_at)))?;
    check_foreign(log)?;
    let schema = DeltaSchema::of(&content.schema);
    if schema.fields["fields"].as_array().is_none_or(Vec::is_empty) {
        return Err(Refusal::NoColumns);
    }
    let mut lines = vec![Line {
        txn: Some(Transaction {
            app_id: GLEANER.to_owned(),
            version: i64::try_from(version.number).unwrap_or(i64::MAX),
            last_updated: Some(now),
        }),
        ..Line::default()
    }];
    if let Some(protocol) = new_protocol(log, &schema) {
        lines.push(Line {
            protocol: Some(protocol),
            ..Line::default()
        });
    }
    let metadata = new_metadata(log, table, version, &schema, now);
    let left_out = metadata.as_ref().and(left_out(&schema));
    if let Some(metadata) = metadata {
        lines.push(Line {
            meta_data: Some(metadata),
            ..Line::default()
        });
    }
    let files = relative(table, &content.files)?;
    let gone = log
        .files
        .iter()
        .filter(|(path, _)| !files.contains_key(path.as_str()));
    let n_before = lines.len();
    lines.extend(gone.map(|(path, size)| removed(path, *size, now)));
    let n_removed = lines.len() - n_before;
    let come = files
        .iter()
        .filter(|(path, _)| !log.files.contains_key(**path));
    lines.extend(come.map(|(path, file)| added(path, file, now)));
    let n_added = lines.len() - n_before - n_removed;
    lines.insert(0, info(log, version, now, n_added, n_removed));
    Ok(Commit {
        bytes: written(&lines)?,
        n_added,
        n_removed,
        left_out,
    })
}

/// Refuses tables for which a writer must do more than this one does.
fn check_foreign(log: &Log) -> Result<(), Refusal> {
    if let Some(protocol) = &log.protocol {
        let named = |features: &Option<Vec<String>>| features.clone().unwrap_or_default();
        let known = |name: &str| name == LOCAL_TIMES || WRITER_FEATURES.contains(&name);
        let features = named(&protocol.reader_features);
        let features = features.into_iter().chain(named(&protocol.writer_features));
        let unknown: Vec<String> = features.filter(|name| !known(name)).collect();
        if let Some(feature) = unknown.first() {
            return Err(Refusal::Foreign(format!("it has the feature {feature}")));
        }
        let (reader, writer) = (protocol.min_reader_version, protocol.min_writer_version);
        let is_known = (reader <= READER_VERSION || reader == READER_VERSION_OF_FEATURES)
            && (writer <= WRITER_VERSION || writer == WRITER_VERSION_OF_FEATURES);
        if !is_known {
            return Err(Refusal::Foreign(format!(
                "it is for readers of version {reader} and writers of version {writer}"
            )));
        }
    }
    let Some(metadata) = &log.metadata else {
        return match log.number {
            Some(_) => Err(Refusal::Foreign("its log has no metadata".to_owned())),
            None => Ok(()),
        };
    };
    if !metadata.partition_columns.is_empty() {
        return Err(Refusal::Foreign("it is partitioned".to_owned()));
    }
    let append_only = metadata.configuration.get("delta.appendOnly");
    if append_only.and_then(Option::as_deref) == Some("true") {
        let what = "no file may be removed from it (delta.appendOnly)";
        return Err(Refusal::Foreign(what.to_owned()));
    }
    Ok(())
}

/// The protocol, unless the table has one that does.
fn new_protocol(log: &Log, schema: &DeltaSchema) -> Option<Protocol> {
    let has_local_times = |protocol: &Protocol| {
        let features = protocol.reader_features.as_ref();
        features.is_some_and(|features| features.iter().any(|name| name == LOCAL_TIMES))
    };
    match &log.protocol {
        Some(protocol) if !schema.has_local_times || has_local_times(protocol) => None,
        None if !schema.has_local_times => Some(Protocol {
            min_reader_version: READER_VERSION,
            min_writer_version: WRITER_VERSION,
            ..Protocol::default()
        }),
        _ => {
            let features = WRITER_FEATURES.iter().map(|name| (*name).to_owned());
            let features = features.chain([LOCAL_TIMES.to_owned()]);
            Some(Protocol {
                min_reader_version: READER_VERSION_OF_FEATURES,
                min_writer_version: WRITER_VERSION_OF_FEATURES,
                reader_features: Some(vec![LOCAL_TIMES.to_owned()]),
                writer_features: Some(features.collect()),
            })
        }
    }
}

/// What the table is, unless it is that already.
fn new_metadata(
    log: &Log,
    table: &str,
    version: &Version,
    schema: &DeltaSchema,
    now: i64,
) -> Option<Metadata> {
    let mut description = format!("Stage {table} of the Gleaner job {}.", version.job);
    if let Some(left_out) = left_out(schema) {
        description.push_str(&format!(" Only in the Parquet files: {left_out}."));
    }
    let mut metadata = log.metadata.clone().unwrap_or_else(|| Metadata {
        id: table_id(table, version),
        name: Some(table.to_owned()),
        created_time: Some(now),
        ..Metadata::default()
    });
    let stored: Option<Value> = serde_json::from_str(&metadata.schema_string).ok();
    if stored.as_ref() == Some(&schema.fields) {
        return None;
    }
    metadata.schema_string = schema.fields.to_string();
    metadata.description = Some(description);
    Some(metadata)
}

fn left_out(schema: &DeltaSchema) -> Option<String> {
    (!schema.left_out.is_empty()).then(|| schema.left_out.join(", "))
}

/// A UUID for the table, the same for all who make it of the same version.
fn table_id(table: &str, version: &Version) -> String {
    let of = format!("{}\n{}\n{table}", version.job, version.run);
    let digits = ContentHash::of(of.as_bytes()).to_string();
    let digits: Vec<char> = digits
        .chars()
        .chain(std::iter::repeat('0'))
        .take(32)
        .collect();
    let part = |from: usize, to: usize| digits[from..to].iter().collect::<String>();
    // 8 and a: made by rules of one's own.
    format!(
        "{}-{}-8{}-a{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        part(17, 20),
        part(20, 32)
    )
}

/// The files of a table by their paths within its folder.
fn relative<'a>(
    table: &str,
    files: &'a [TableFile],
) -> Result<BTreeMap<&'a str, &'a TableFile>, Refusal> {
    let folder = format!("{}/", layout::table_folder(table));
    let below = files.iter().map(|file| {
        let path = file.path.strip_prefix(&folder).ok_or_else(|| {
            Refusal::Internal(format!("{} is not in the folder of {table}", file.path))
        });
        // Names of objects are digits, letters, `-`, `.` and `/`: a path is its own URI.
        Ok((path?, file))
    });
    below.collect()
}

fn added(path: &str, file: &TableFile, now: i64) -> Line {
    Line {
        add: Some(Add {
            path: path.to_owned(),
            partition_values: BTreeMap::new(),
            size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            modification_time: now,
            data_change: true,
            stats: Some(json!({ "numRecords": file.rows }).to_string()),
        }),
        ..Line::default()
    }
}

fn removed(path: &str, size: i64, now: i64) -> Line {
    Line {
        remove: Some(Remove {
            path: path.to_owned(),
            deletion_timestamp: Some(now),
            data_change: true,
            extended_file_metadata: Some(true),
            partition_values: Some(BTreeMap::new()),
            size: Some(size),
        }),
        ..Line::default()
    }
}

/// What the table's history shows of the commit.
fn info(log: &Log, version: &Version, now: i64, n_added: usize, n_removed: usize) -> Line {
    let of_version = OfVersion {
        version: version.number,
        run: Some(version.run.clone()),
    };
    let operation = match log.number {
        None => "CREATE TABLE AS SELECT",
        Some(_) => "WRITE",
    };
    let mut info = json!({
        "timestamp": now,
        "operation": operation,
        "operationParameters": { "mode": "Overwrite" },
        "operationMetrics": {
            "numFiles": n_added.to_string(),
            "numRemovedFiles": n_removed.to_string(),
        },
        "isBlindAppend": false,
        "engineInfo": format!("Gleaner/{}", env!("CARGO_PKG_VERSION")),
        "userMetadata": format!("version {} of the output", version.number),
        GLEANER: of_version,
    });
    if let Some(number) = log.number {
        info["readVersion"] = json!(number);
    }
    Line {
        commit_info: Some(info),
        ..Line::default()
    }
}

fn written(lines: &[Line]) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut bytes, line)
            .map_err(|error| Refusal::Internal(format!("cannot write a commit: {error}")))?;
        bytes.push(b'\n');
    }
    Ok(bytes.into())
}
