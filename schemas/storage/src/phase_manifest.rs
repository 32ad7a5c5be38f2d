//! Phase manifests as they lie in an output: one document, or a document and chunks.
//!
//! The chunks of a large manifest are stored first, under the hashes of their bytes, so that a
//! manifest that is visible is complete, and coordinators that race store the same chunks or
//! different ones. The one conditional put of the document decides.

use std::collections::BTreeSet;
use std::sync::Arc;

use gleaner_schemas::{
    ContentHash, PhaseManifest, PinnedAttempt, StoredAttempt, StoredPhaseManifest,
};

use crate::layout;
use crate::output::{Created, Output, OutputError};

const EXPECTED: &str = "phase manifest";
const CHUNK: &str = "chunk of a phase manifest";
/// Chunks read at a time: each is about two megabytes of text.
const CHUNKS_AT_A_TIME: usize = 8;

impl Output {
    /// Creates a phase manifest unless there is one, and returns the one that is stored.
    ///
    /// # Errors
    ///
    /// Of the store, or if what is stored is no phase manifest.
    pub async fn create_phase_manifest(
        &self,
        key: &str,
        manifest: &PhaseManifest,
    ) -> Result<Option<PhaseManifest>, OutputError> {
        let mut stored = StoredPhaseManifest {
            format: StoredPhaseManifest::FORMAT,
            stage: manifest.stage.clone(),
            phase: manifest.phase.clone(),
            plan: manifest.plan.clone(),
            attempts: Vec::new(),
            chunks: Vec::new(),
            quarantined: manifest.quarantined.clone(),
            lanes: manifest.lanes,
        };
        if manifest.attempts.len() <= StoredPhaseManifest::ATTEMPTS_PER_CHUNK {
            stored.attempts = manifest.attempts.iter().map(to_stored).collect();
        } else {
            for chunk in manifest
                .attempts
                .chunks(StoredPhaseManifest::ATTEMPTS_PER_CHUNK)
            {
                stored.chunks.push(self.create_chunk(key, chunk).await?);
            }
        }
        let bytes = self.to_json(key, EXPECTED, &stored)?;
        match self.create(key, bytes).await? {
            Created::Stored => Ok(None),
            Created::Exists(bytes) => {
                let stored = self.parse_json(key, EXPECTED, &bytes)?;
                Ok(Some(self.with_chunks(key, stored).await?))
            }
        }
    }

    async fn create_chunk(
        &self,
        key: &str,
        attempts: &[PinnedAttempt],
    ) -> Result<ContentHash, OutputError> {
        let attempts: Vec<StoredAttempt> = attempts.iter().map(to_stored).collect();
        let bytes = self.to_json(key, CHUNK, &attempts)?;
        let content = ContentHash::of(&bytes);
        let key = layout::manifest_chunk(key, &content);
        match self.create(&key, bytes).await? {
            Created::Stored => Ok(content),
            Created::Exists(_) => Err(self.is_damaged(&key)),
        }
    }

    fn is_damaged(&self, key: &str) -> OutputError {
        OutputError::Malformed {
            uri: self.uri_of(key),
            expected: CHUNK,
            message: "its bytes are not those that its name tells; remove it and run the job again"
                .to_owned(),
        }
    }

    /// Reads a phase manifest.
    ///
    /// # Errors
    ///
    /// Of the store, or if the object is no phase manifest that this build reads.
    pub async fn phase_manifest(&self, key: &str) -> Result<Option<PhaseManifest>, OutputError> {
        match self.get_json(key, EXPECTED).await? {
            Some(stored) => Ok(Some(self.with_chunks(key, stored).await?)),
            None => Ok(None),
        }
    }

    async fn with_chunks(
        &self,
        key: &str,
        stored: StoredPhaseManifest,
    ) -> Result<PhaseManifest, OutputError> {
        if !(1..=StoredPhaseManifest::FORMAT).contains(&stored.format) {
            return Err(OutputError::Format {
                uri: self.uri_of(key),
                expected: EXPECTED,
                found: stored.format,
                known: StoredPhaseManifest::FORMAT,
                writer: "a later one".to_owned(),
            });
        }
        let keys: Vec<String> = stored
            .chunks
            .iter()
            .map(|content| layout::manifest_chunk(key, content))
            .collect();
        let chunks = Self::map_concurrently(keys, CHUNKS_AT_A_TIME, |key| async move {
            self.manifest_chunk(&key).await
        });
        let mut attempts = Vec::new();
        let mut folders = BTreeSet::new();
        for stored in std::iter::once(stored.attempts).chain(chunks.await?) {
            for stored in stored {
                attempts.push(self.pinned(key, stored, &mut folders)?);
            }
        }
        attempts.shrink_to_fit();
        Ok(PhaseManifest {
            stage: stored.stage,
            phase: stored.phase,
            plan: stored.plan,
            attempts,
            quarantined: stored.quarantined,
            lanes: stored.lanes,
        })
    }

    /// What a manifest tells of an attempt, with the folder that its neighbours have too.
    fn pinned(
        &self,
        manifest: &str,
        stored: StoredAttempt,
        folders: &mut BTreeSet<Arc<str>>,
    ) -> Result<PinnedAttempt, OutputError> {
        let folder = layout::folder_of(&stored.path);
        let folder = match folders.get(folder) {
            Some(folder) => Arc::clone(folder),
            None => {
                let folder: Arc<str> = folder.into();
                folders.insert(Arc::clone(&folder));
                folder
            }
        };
        if layout::attempt_in(&folder, &stored.task, &stored.attempt) != stored.path {
            return Err(OutputError::Malformed {
                uri: self.uri_of(manifest),
                expected: EXPECTED,
                message: format!(
                    "it says that the attempt {} of the task {} lies at {:?}",
                    stored.attempt, stored.task, stored.path
                ),
            });
        }
        Ok(PinnedAttempt {
            task: stored.task,
            attempt: stored.attempt,
            folder,
            rows: stored.rows,
            bytes: stored.bytes,
            lanes: stored.lanes,
            inputs: stored.inputs,
        })
    }

    async fn manifest_chunk(&self, key: &str) -> Result<Vec<StoredAttempt>, OutputError> {
        let Some(bytes) = self.get(key).await? else {
            return Err(OutputError::Malformed {
                uri: self.uri_of(key),
                expected: CHUNK,
                message: "it is missing; remove the manifest that it belongs to, and run the job \
                          again"
                    .to_owned(),
            });
        };
        if layout::parse_manifest_chunk(key) != Some(ContentHash::of(&bytes)) {
            return Err(self.is_damaged(key));
        }
        self.parse_json(key, CHUNK, &bytes)
    }

    /// Keys of the chunks of the phase manifest at `key`.
    ///
    /// # Errors
    ///
    /// Of the store, or if the object is no phase manifest.
    pub async fn manifest_chunks(&self, key: &str) -> Result<Vec<String>, OutputError> {
        let stored: Option<StoredPhaseManifest> = self.get_json(key, EXPECTED).await?;
        let chunks = stored.map(|stored| stored.chunks).unwrap_or_default();
        Ok(chunks
            .iter()
            .map(|content| layout::manifest_chunk(key, content))
            .collect())
    }

    /// Paths of the objects that the object at `key`, below [`layout::manifests`], names itself: a
    /// manifest those that it holds, a chunk its own.
    ///
    /// # Errors
    ///
    /// Of the store, or if the object is neither.
    pub async fn named_by_manifest(&self, key: &str) -> Result<BTreeSet<String>, OutputError> {
        let attempts = if layout::parse_manifest_chunk(key).is_some() {
            self.get_json(key, CHUNK).await?.unwrap_or_default()
        } else {
            let stored: Option<StoredPhaseManifest> = self.get_json(key, EXPECTED).await?;
            stored.map(|stored| stored.attempts).unwrap_or_default()
        };
        let paths = attempts
            .into_iter()
            .map(|attempt: StoredAttempt| attempt.path);
        Ok(paths.collect())
    }
}

fn to_stored(pinned: &PinnedAttempt) -> StoredAttempt {
    StoredAttempt {
        task: pinned.task.clone(),
        attempt: pinned.attempt.clone(),
        path: layout::pinned(pinned),
        rows: pinned.rows,
        bytes: pinned.bytes,
        lanes: pinned.lanes,
        inputs: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
