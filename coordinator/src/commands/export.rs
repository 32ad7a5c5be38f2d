//! `gleaner export`: a stage's table as one file that trainers read.

use std::fmt::Write as _;
use std::io::{self, Write};

use clap::ValueEnum;
use futures::StreamExt as _;
use gleaner_schemas::{FailureKind, Version};
use gleaner_storage::{StoreError, StoreProblem, Stores, redact, stores};
use object_store::buffered::BufWriter;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;

use crate::progress::{bytes, count};
use crate::run_error::RunError;
use crate::sql::format::{Format, RowWriter};
use crate::sql::{Session, quote_name};
use crate::training::TrainingLayout;

/// Bytes that are handed to the store at a time.
const PART_BYTES: usize = 8 << 20;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One JSON object per line.
    Jsonl,
    /// A Parquet file.
    Parquet,
    /// A folder with `queries.jsonl`, `corpus.jsonl`, `qrels/<split>.tsv`.
    Beir,
    /// A folder with `{query_id, query, positive_passages, negative_passages}` per line.
    Tevatron,
    /// A folder with `{query, pos, neg, pos_scores, neg_scores}` per line.
    FlagEmbedding,
    /// A folder with `{query, docs, labels}` per line.
    SentenceTransformersLists,
    /// A folder with `{anchor, positive, negative_1, ...}` per line.
    SentenceTransformersTriplets,
    /// A folder with `{sentence1, sentence2, score}` per line.
    SentenceTransformersPairs,
    /// A folder with `topics.<split>.tsv`, `qrels.<split>.txt`, `corpus.jsonl`.
    Trec,
}

impl ExportFormat {
    /// The layout of a training set, if it is one.
    #[must_use]
    pub fn training_layout(self) -> Option<TrainingLayout> {
        match self {
            Self::Jsonl | Self::Parquet => None,
            Self::Beir => Some(TrainingLayout::Beir),
            Self::Tevatron => Some(TrainingLayout::Tevatron),
            Self::FlagEmbedding => Some(TrainingLayout::FlagEmbedding),
            Self::SentenceTransformersLists => Some(TrainingLayout::SentenceTransformersLists),
            Self::SentenceTransformersTriplets => {
                Some(TrainingLayout::SentenceTransformersTriplets)
            }
            Self::SentenceTransformersPairs => Some(TrainingLayout::SentenceTransformersPairs),
            Self::Trec => Some(TrainingLayout::Trec),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Name of the stage.
    pub stage: String,
    /// Version of the output.
    pub version: u64,
    /// Absolute URI of the file.
    pub to: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Compresses what goes through it, and keeps it until it is taken.
enum Sink {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Sink {
    fn of_name(name: &str) -> io::Result<Self> {
        if name.ends_with(".gz") {
            let level = flate2::Compression::default();
            return Ok(Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)));
        }
        if name.ends_with(".zst") {
            return Ok(Self::Zstd(zstd::stream::write::Encoder::new(
                Vec::new(),
                0,
            )?));
        }
        Ok(Self::Plain(Vec::new()))
    }

    fn pending(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain(bytes) => Ok(bytes),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(pending) => {
                pending.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that the row writer and the loop around it share.
#[derive(Clone)]
struct Shared(std::sync::Arc<std::sync::Mutex<Sink>>);

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sink> {
        // The bytes are valid after any panic.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(self.lock().pending())
    }

    fn pending_bytes(&self) -> usize {
        self.lock().pending().len()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a stage's table to one file. The file appears whole or not at all.
///
/// # Errors
///
/// If there is no such stage, or of the stores.
pub async fn export(
    stores: &Stores,
    session: &Session,
    version: &Version,
    stage: &str,
    format: ExportFormat,
    to: &str,
) -> Result<ExportReport, RunError> {
    if !version.tables.contains_key(stage) {
        let known: Vec<&str> = version.tables.keys().map(String::as_str).collect();
        return Err(RunError::usage(
            format!("version {} has no table {stage}", version.number),
            format!("it has {}", known.join(", ")),
        ));
    }
    if to.ends_with('/') || (format == ExportFormat::Parquet && !is_plain(to)) {
        return Err(RunError::usage(
            format!("cannot write {format:?} to {}", redact::redact(to)).to_lowercase(),
            "name one file: x.jsonl, x.jsonl.gz, x.jsonl.zst or x.parquet",
        ));
    }
    let current = std::env::current_dir()
        .map_err(|error| RunError::Internal(format!("there is no current directory: {error}")))?;
    let uri = stores::absolute_uri(to, &current)
        .map_err(|error| RunError::usage(error.to_string(), "give a file or a URI"))?;
    let (store, path) = stores
        .resolve(&uri)
        .map_err(|error| RunError::usage(error.to_string(), "give a file or a URI"))?;
    let cannot_write = |error: io::Error| {
        let error = StoreError::from(error);
        let message = format!("cannot write {uri}: {error}");
        match (error.kind(), error.problem()) {
            (FailureKind::Transient, problem) if !matches!(problem, StoreProblem::Other { .. }) => {
                RunError::Unreachable(message)
            }
            // Compressors and encoders have errors too.
            _ => RunError::usage(
                message,
                "is there space, and are you allowed to write there?",
            ),
        }
    };
    let mut stream = session
        .query_stream(&format!("SELECT * FROM {}", quote_name(stage)))
        .await?;
    let sink = Shared(std::sync::Arc::new(std::sync::Mutex::new(
        Sink::of_name(to).map_err(cannot_write)?,
    )));
    let row_format = match format {
        ExportFormat::Parquet => Format::Parquet,
        _ => Format::Json,
    };
    let mut rows =
        RowWriter::new(row_format, &stream.schema(), sink.clone(), false).map_err(cannot_write)?;
    let mut file = BufWriter::with_capacity(store, path, PART_BYTES);
    let mut written = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(crate::sql::SqlError::from)?;
        rows.write(&batch).map_err(cannot_write)?;
        if sink.pending_bytes() >= PART_BYTES {
            let part = sink.take();
            written += part.len() as u64;
            file.write_all(&part).await.map_err(cannot_write)?;
        }
    }
    let (_, n_rows) = rows.finish().map_err(cannot_write)?;
    let emptied = std::mem::replace(&mut *sink.lock(), Sink::Plain(Vec::new()));
    let rest = emptied.finish().map_err(cannot_write)?;
    written += rest.len() as u64;
    file.write_all(&rest).await.map_err(cannot_write)?;
    file.shutdown().await.map_err(cannot_write)?;
    Ok(ExportReport {
        stage: stage.to_owned(),
        version: version.number,
        to: uri,
        rows: n_rows,
        bytes: written,
    })
}

fn is_plain(name: &str) -> bool {
    !(name.ends_with(".gz") || name.ends_with(".zst"))
}

impl ExportReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "wrote {} rows of {} (version {}) to {}, {}",
            count(self.rows),
            self.stage,
            self.version,
            self.to,
            bytes(self.bytes)
        );
        text
    }
}
