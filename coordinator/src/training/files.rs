//! Files of a training set, written side by side; each appears whole, when all are complete.

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_storage::{StoreError, Stores, stores};
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use tokio::io::AsyncWriteExt as _;

use super::layout::{Line, TrainingLayout};
use crate::run_error::RunError;

/// Bytes of a file that are kept before they are handed to the store.
const PART_BYTES: usize = 1 << 20;
/// A store takes parts of at least this size.
const STORE_PART_BYTES: usize = 8 << 20;

struct OpenFile {
    writer: BufWriter,
    pending: Vec<u8>,
    bytes: u64,
    lines: u64,
}

/// Files below one folder.
pub(super) struct Files {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    pub(super) uri: String,
    layout: TrainingLayout,
    open: BTreeMap<String, OpenFile>,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct WrittenFile {
    /// Its name below the folder.
    pub name: String,
    /// Lines, without a header.
    pub lines: u64,
    /// Its size.
    pub bytes: u64,
}

impl Files {
    /// Files below `to`, a folder or a URI.
    ///
    /// The folder must be empty: splits of an earlier export beside those of this one would hold
    /// queries twice.
    pub(super) async fn below(
        stores: &Stores,
        to: &str,
        layout: TrainingLayout,
    ) -> Result<Self, RunError> {
        let current = std::env::current_dir().map_err(|error| {
            RunError::Internal(format!("there is no current directory: {error}"))
        })?;
        let refuse = |message: String| RunError::usage(message, "give a folder or a URI");
        let uri = stores::absolute_uri(to.trim_end_matches('/'), &current)
            .map_err(|error| refuse(error.to_string()))?;
        let (store, folder) = stores
            .resolve(&uri)
            .map_err(|error| refuse(error.to_string()))?;
        let listed = store.list_with_delimiter(Some(&folder)).await;
        let is_empty = listed.as_ref().map_or(true, |listed| {
            listed.objects.is_empty() && listed.common_prefixes.is_empty()
        });
        if !is_empty {
            return Err(RunError::usage(
                format!("{uri} holds something already"),
                "give an empty folder: files of another export would be mixed with these",
            ));
        }
        Ok(Self {
            store,
            folder,
            uri,
            layout,
            open: BTreeMap::new(),
        })
    }

    fn failed(&self, file: &str, error: std::io::Error) -> RunError {
        let error = StoreError::from(error);
        let message = format!("cannot write {}/{file}: {error}", self.uri);
        match error.kind() {
            gleaner_schemas::FailureKind::Transient => RunError::Unreachable(message),
            _ => RunError::usage(
                message,
                "is there space, and are you allowed to write there?",
            ),
        }
    }

    /// Adds lines to their files.
    pub(super) async fn write(&mut self, lines: Vec<Line>) -> Result<(), RunError> {
        for (name, line) in lines {
            if !self.open.contains_key(&name) {
                let file = self.create(&name);
                self.open.insert(name.clone(), file);
            }
            let Some(file) = self.open.get_mut(&name) else {
                continue;
            };
            file.pending.extend_from_slice(line.as_bytes());
            file.lines += 1;
            if file.pending.len() >= PART_BYTES
                && let Err(error) = flush(file).await
            {
                return Err(self.failed(&name, error));
            }
        }
        Ok(())
    }

    fn create(&self, name: &str) -> OpenFile {
        let path = name
            .split('/')
            .fold(self.folder.clone(), |path, part| path.join(part));
        let header = self.layout.header(name).unwrap_or_default();
        OpenFile {
            writer: BufWriter::with_capacity(Arc::clone(&self.store), path, STORE_PART_BYTES),
            pending: header.as_bytes().to_vec(),
            bytes: 0,
            lines: 0,
        }
    }

    /// Makes all files appear, with one more that tells of them.
    pub(super) async fn finish(
        mut self,
        card: impl FnOnce(&[WrittenFile]) -> String,
    ) -> Result<(String, Vec<WrittenFile>), RunError> {
        let mut written = Vec::new();
        for (name, mut file) in std::mem::take(&mut self.open) {
            let shut = async {
                flush(&mut file).await?;
                file.writer.shutdown().await
            };
            if let Err(error) = shut.await {
                return Err(self.failed(&name, error));
            }
            written.push(WrittenFile {
                name,
                lines: file.lines,
                bytes: file.bytes,
            });
        }
        let mut readme = self.create("README.md");
        readme.pending = card(&written).into_bytes();
        let shut = async {
            flush(&mut readme).await?;
            readme.writer.shutdown().await
        };
        if let Err(error) = shut.await {
            return Err(self.failed("README.md", error));
        }
        Ok((self.uri, written))
    }
}

async fn flush(file: &mut OpenFile) -> std::io::Result<()> {
    file.writer.write_all(&file.pending).await?;
    file.bytes += file.pending.len() as u64;
    file.pending.clear();
    Ok(())
}
