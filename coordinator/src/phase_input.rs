//! From what a map phase reads to shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use gleaner_schemas::{
    DocumentColumns, FileFormat, PhaseManifest, Reader, Shard, Slice, SourceFile, TableFile,
    columns,
};
use gleaner_storage::{Output, encode, layout, metadata};
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::{DocumentSource, PhaseInput};

use crate::driver::{FinishedStage, JobInputs};
use crate::inputs::InputSet;
use crate::planner::{self, InputFile};
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::told;

/// Everything that a phase can read.
#[derive(Debug)]
pub struct Sources<'a> {
    /// Corpus and datasets.
    pub inputs: &'a JobInputs,
    /// Earlier stages.
    pub stages: &'a BTreeMap<String, FinishedStage>,
    /// The stage itself, and its table phase once that is complete.
    pub own: (&'a str, Option<&'a PhaseManifest>),
    /// Completed maps of the stage itself, by phase name.
    pub maps: &'a BTreeMap<String, Arc<PhaseManifest>>,
    /// The output that holds the tables.
    pub output: &'a Output,
}

impl Sources<'_> {
    /// How to read an input, and its shards.
    ///
    /// # Errors
    ///
    /// If the stage names something that does not exist or cannot be read that way.
    pub fn shards(
        &self,
        input: &PhaseInput,
        task_bytes: u64,
    ) -> Result<(Reader, Vec<Shard>), RunError> {
        match input {
            PhaseInput::Documents { from, sample } => {
                let (reader, files) = self.documents(from)?;
                let shards = match sample {
                    Some(sample) => planner::sample(&files, task_bytes, sample),
                    None => planner::shards(files, task_bytes),
                };
                Ok((reader, shards))
            }
            PhaseInput::Table {
                stage,
                columns,
                with_documents,
            } => {
                let files = self.table(stage, *with_documents)?;
                let reader = Reader::Table {
                    columns: columns.clone(),
                };
                // One task per object: an object is one task's output already.
                let shards = files
                    .into_iter()
                    .flat_map(|file| planner::shards(vec![file], u64::MAX))
                    .collect();
                Ok((reader, shards))
            }
            PhaseInput::Inner {
                phase,
                columns,
                in_one_task,
            } => {
                let manifest = self.maps.get(phase).ok_or_else(|| {
                    RunError::Internal(format!("phase {phase} is read before it is complete"))
                })?;
                let reader = Reader::Table {
                    columns: columns.clone(),
                };
                let shards = if *in_one_task {
                    vec![self.all_of(manifest)]
                } else {
                    let files = manifest.attempts.iter().map(|it| self.object_of(it));
                    files
                        .flat_map(|file| planner::shards(vec![file], u64::MAX))
                        .collect()
                };
                Ok((reader, shards))
            }
        }
    }

    /// An object of a map as a file to read.
    fn object_of(&self, pinned: &gleaner_schemas::PinnedAttempt) -> InputFile {
        InputFile {
            file: Arc::new(self.own_file(&table_path(pinned))),
            row_groups: None,
            n_rows: Some(pinned.rows),
            // Also where no document is looked up: a later phase may, and the table tells where its
            // rows come from.
            companions: pinned.inputs.clone(),
        }
    }

    /// One shard of all objects of a map.
    fn all_of(&self, manifest: &PhaseManifest) -> Shard {
        let slices = manifest.attempts.iter().map(|pinned| Slice {
            file: Arc::new(self.own_file(&table_path(pinned))),
            row_groups: None,
            first_row: 0,
            n_rows: Some(pinned.rows),
            bytes: pinned.bytes,
            row_group_facts: Vec::new(),
        });
        Shard {
            slices: slices.collect(),
            companions: Vec::new(),
        }
    }

    fn documents(&self, from: &DocumentSource) -> Result<(Reader, Vec<InputFile>), RunError> {
        let set = match from {
            DocumentSource::Corpus => &self.inputs.corpus,
            DocumentSource::Dataset(name) => self
                .inputs
                .datasets
                .get(name)
                .ok_or_else(|| RunError::Internal(format!("dataset {name} was not loaded")))?,
            DocumentSource::Stage(stage) => {
                let columns = materialized_columns(&self.inputs.corpus);
                let reader = Reader::Documents {
                    columns,
                    predicate: None,
                };
                // Rows of these tasks point to the objects of the table, not to the corpus.
                let mut files = self.table(stage, false)?;
                for file in &mut files {
                    file.companions.clear();
                }
                return Ok((reader, files));
            }
        };
        let reader = Reader::Documents {
            columns: set.columns.clone(),
            predicate: set.predicate.clone(),
        };
        Ok((reader, set.files.clone()))
    }

    fn table(&self, stage: &str, with_documents: bool) -> Result<Vec<InputFile>, RunError> {
        let (own_name, own_table) = self.own;
        let manifest = if stage == own_name {
            own_table
        } else {
            self.stages
                .get(stage)
                .and_then(|finished| finished.table.as_deref())
        };
        if let Some(manifest) = manifest {
            let attempts = manifest.attempts.iter();
            return Ok(attempts.map(|pinned| self.object_of(pinned)).collect());
        }
        let files = self
            .stages
            .get(stage)
            .and_then(|finished| finished.completed.tables.get(stage))
            .ok_or_else(|| RunError::Internal(format!("stage {stage} has no table")))?;
        Ok(files
            .iter()
            .map(|file| InputFile {
                file: Arc::new(self.own_file(file)),
                row_groups: None,
                n_rows: Some(file.rows),
                companions: if with_documents {
                    self.inputs.corpus.sources()
                } else {
                    Vec::new()
                },
            })
            .collect())
    }

    /// Identity and name hold nothing random, so that tasks over equal objects are equal tasks.
    fn own_file(&self, file: &TableFile) -> SourceFile {
        let task = file
            .task
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        SourceFile {
            name: task.clone(),
            uri: self.output.uri_of(&file.path),
            format: FileFormat::Parquet,
            bytes: file.bytes,
            identity: format!("{task}:{}", file.checksum),
            etag: None,
        }
    }
}

fn table_path(pinned: &gleaner_schemas::PinnedAttempt) -> TableFile {
    TableFile {
        path: layout::pinned(pinned),
        rows: pinned.rows,
        bytes: pinned.bytes,
        checksum: pinned.attempt.content(),
        task: Some(pinned.task.clone()),
        lanes: pinned.lanes,
        inputs: Vec::new(),
    }
}

/// What the columns of a materialised selection mean.
fn materialized_columns(corpus: &InputSet) -> DocumentColumns {
    DocumentColumns {
        id: Some(columns::DOC_ID.to_owned()),
        text: corpus.columns.text.clone(),
        source: corpus.columns.source.clone(),
    }
}

/// The Arrow schema of a table, from its first object. All have the identical one.
///
/// # Errors
///
/// Of the store, or if there is no object.
pub async fn read_schema(
    output: &Output,
    shutdown: &Shutdown,
    files: &[TableFile],
) -> Result<SchemaRef, RunError> {
    let Some(file) = files.first() else {
        return Err(RunError::Usage {
            message: "every task of the stage was quarantined: there is no table".to_owned(),
            help: None,
        });
    };
    let path = output.path_of(&file.path);
    let schema = retrying(shutdown, || async {
        let fetched = metadata::fetch(output.store(), &path, file.bytes).await;
        let schema = fetched.and_then(|metadata| encode::table_schema(&metadata));
        schema.map_err(|error| told::failed(output, &file.path, error))
    });
    Ok(Arc::new(schema.await?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use gleaner_schemas::{ContentHash, Lanes};
    use object_store::ObjectStoreExt as _;

    use super::*;
    use crate::hooked::{Hooked, broken};

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_unreachable_is_no_damaged_object() {
        let is_back = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_back);
        let (store, output) = Hooked::output(move |_| {
            let is_back = told.load(Ordering::SeqCst);
            Box::pin(async move { if is_back { Ok(()) } else { Err(broken()) } })
        });
        let path = "weights/a.parquet";
        store
            .put(&output.path_of(path), "no Parquet at all".into())
            .await
            .unwrap();
        let files = [TableFile {
            path: path.to_owned(),
            rows: 1,
            bytes: 17,
            checksum: ContentHash::of(b""),
            task: None,
            lanes: Lanes::default(),
            inputs: Vec::new(),
        }];
        let shutdown = Shutdown::new();
        let error = read_schema(&output, &shutdown, &files).await.unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(
            error.to_string().contains("connection was reset"),
            "{error}"
        );
        // Back within the time that a run waits for it.
        let back = async {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            is_back.store(true, Ordering::SeqCst);
        };
        let (read, ()) = tokio::join!(read_schema(&output, &shutdown, &files), back);
        let error = read.unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains("is not a valid"), "{error}");
    }
}
