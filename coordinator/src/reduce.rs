//! Runs a reduce in the coordinator and stores its result once.
//!
//! A reduce is a function of the pinned objects, so coordinators that race compute the same
//! bytes; the first stored result is what all of them go on with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use gleaner_schemas::{
    AttemptId, ContentHash, Failure, FailureKind, Fingerprint, Lanes, PhaseManifest, ReduceResult,
    SideInput, StoredFile, TableFile, Version,
};
use gleaner_storage::table::{self, BlockingIo};
use gleaner_storage::{Output, TableEncoder, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::stage::{
    KeptSums, ReadObject, ReduceInputs, ReduceOutput, ReducePhase, Stage, StageKind,
};
use serde_json::json;

use crate::gathered::GatheredPhases;
use crate::kept_sums;
use crate::restore;
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::told;
use gleaner_workers::shutdown::Shutdown;

/// What a reduce is run with.
#[derive(Debug)]
pub struct Reducer<'a> {
    /// The output.
    pub output: &'a Output,
    /// For reads on the blocking thread.
    pub io: &'a BlockingIo,
    /// Random bits for attempt ids.
    pub entropy: &'a dyn Entropy,
    /// Whether somebody asked to stop.
    pub shutdown: &'a Shutdown,
    /// Bytes that the tables of a reduce may have.
    pub memory_bytes: u64,
    /// The newest version, by which a result may come faster.
    pub published: Option<&'a Arc<Version>>,
    /// What reduces of the stage have read already.
    pub gathered: &'a GatheredPhases,
}

/// A reduce with everything that it reads.
#[derive(Debug)]
pub struct PlannedReduce {
    /// Name of the stage.
    pub stage: String,
    /// The reduce.
    pub phase: ReducePhase,
    /// Manifests of the maps that it reads, by phase name.
    pub inputs: BTreeMap<String, Arc<PhaseManifest>>,
    /// Its side inputs.
    pub side_inputs: Vec<SideInput>,
}

impl PlannedReduce {
    /// A hash of everything that the result depends on.
    #[must_use]
    pub fn id(&self, kind: &dyn StageKind) -> Fingerprint {
        let inputs: BTreeMap<_, _> = self
            .inputs
            .iter()
            .map(|(phase, manifest)| (phase, manifest.content()))
            .collect();
        let side_inputs: Vec<_> = self
            .side_inputs
            .iter()
            .map(|side_input| (&side_input.name, &side_input.content))
            .collect();
        Fingerprint::of(
            "reduce",
            &(
                (kind.name(), kind.code_version(), &self.phase.name),
                &self.phase.params,
                inputs,
                side_inputs,
            ),
        )
    }
}

impl Reducer<'_> {
    /// The stored result, if there is one.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn stored(
        &self,
        reduce: &PlannedReduce,
        kind: &dyn StageKind,
    ) -> Result<Option<ReduceResult>, RunError> {
        let key = layout::reduce(&reduce.stage, &reduce.phase.name, &reduce.id(kind));
        retrying(self.shutdown, || {
            self.output.get_json(&key, "result of a reduce")
        })
        .await
    }

    /// Whether a table of a stored result is gone, or a file of its model.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn is_lost(&self, result: &ReduceResult) -> Result<bool, RunError> {
        let tables = result
            .tables
            .values()
            .map(|it| (it.path.as_str(), it.bytes));
        let files = result.files.values().map(|it| (it.path.as_str(), it.bytes));
        let objects: Vec<(&str, u64)> = tables.chain(files).collect();
        retrying(self.shutdown, || restore::are_lost(self.output, &objects)).await
    }

    /// Runs the reduce again and puts its tables and files where they were. Where they come out otherwise, the
    /// stored result is of no use, and another one takes its place.
    ///
    /// # Errors
    ///
    /// As [`Reducer::run`].
    pub async fn restore(
        &self,
        reduce: PlannedReduce,
        kind: &dyn StageKind,
        stage: &Arc<dyn Stage>,
        stored: ReduceResult,
    ) -> Result<ReduceResult, RunError> {
        let again = PlannedReduce {
            stage: reduce.stage.clone(),
            phase: reduce.phase.clone(),
            inputs: reduce.inputs.clone(),
            side_inputs: reduce.side_inputs.clone(),
        };
        let id = reduce.id(kind);
        let computed = self.compute(reduce, Arc::clone(stage)).await?;
        let mut is_same = computed.tables.len() == stored.tables.len();
        for (table, batches) in &computed.tables {
            let (bytes, _) = self.encode(&again.stage, table, &id, batches)?;
            match stored.tables.get(table) {
                Some(file) if file.checksum == ContentHash::of(&bytes) => {
                    retrying(self.shutdown, || self.output.put(&file.path, bytes.clone())).await?;
                }
                _ => is_same = false,
            }
        }
        is_same &= computed.files.len() == stored.files.len();
        for (name, bytes) in &computed.files {
            match stored.files.get(name) {
                Some(file) if file.checksum == ContentHash::of(bytes) => {
                    retrying(self.shutdown, || self.output.put(&file.path, bytes.clone())).await?;
                }
                _ => is_same = false,
            }
        }
        if is_same {
            return Ok(stored);
        }
        let key = layout::reduce(&again.stage, &again.phase.name, &id);
        retrying(self.shutdown, || self.output.delete(&key)).await?;
        self.run(again, kind, stage).await
    }

    /// Runs the reduce and stores its result.
    ///
    /// # Errors
    ///
    /// Where the method has no answer, or of the store.
    pub async fn run(
        &self,
        reduce: PlannedReduce,
        kind: &dyn StageKind,
        stage: &Arc<dyn Stage>,
    ) -> Result<ReduceResult, RunError> {
        let id = reduce.id(kind);
        let stage_name = reduce.stage.clone();
        let phase_name = reduce.phase.name.clone();
        let computed = self.compute(reduce, Arc::clone(stage)).await?;
        let mut tables = BTreeMap::new();
        for (table, batches) in &computed.tables {
            let file = self.write_table(&stage_name, table, &id, batches).await?;
            tables.insert(table.clone(), file);
        }
        let files = self.write_files(&stage_name, &computed.files).await?;
        let result = ReduceResult {
            format: ReduceResult::FORMAT,
            stage: stage_name.clone(),
            phase: phase_name.clone(),
            id: id.clone(),
            facts: computed.facts,
            tables,
            files,
        };
        let key = layout::reduce(&stage_name, &phase_name, &id);
        let stored = retrying(self.shutdown, || {
            self.output
                .create_json(&key, "result of a reduce", result.clone())
        })
        .await?;
        remove_lost(self.output, &result, &stored).await;
        Ok(stored)
    }

    /// Stores the files of a language model side by side. Their folder is named by what is in
    /// them, so whoever stores them again stores the same bytes.
    async fn write_files(
        &self,
        stage: &str,
        files: &BTreeMap<String, Bytes>,
    ) -> Result<BTreeMap<String, StoredFile>, RunError> {
        let contents: BTreeMap<&String, ContentHash> = files
            .iter()
            .map(|(name, bytes)| (name, ContentHash::of(bytes)))
            .collect();
        let model = Fingerprint::of("model", &contents);
        let mut stored = BTreeMap::new();
        for (name, bytes) in files {
            let path = layout::model_file(stage, &model, name);
            retrying(self.shutdown, || self.output.put(&path, bytes.clone())).await?;
            let file = StoredFile {
                path,
                bytes: bytes.len() as u64,
                checksum: contents[name].clone(),
            };
            stored.insert(name.clone(), file);
        }
        Ok(stored)
    }

    async fn compute(
        &self,
        reduce: PlannedReduce,
        stage: Arc<dyn Stage>,
    ) -> Result<ReduceOutput, RunError> {
        let mut inputs = StoredInputs {
            output: self.output.clone(),
            io: self.io.clone(),
            manifests: reduce.inputs,
            side_inputs: reduce.side_inputs,
            published: self.published.map(Arc::clone),
            gathered: self.gathered.clone(),
        };
        let phase = reduce.phase;
        let computed = tokio::task::spawn_blocking(move || stage.reduce(&phase, &mut inputs)).await;
        match computed {
            Ok(computed) => Ok(computed?),
            Err(error) => Err(RunError::Internal(format!("a reduce panicked: {error}"))),
        }
    }

    /// The object of a table, and its rows.
    fn encode(
        &self,
        stage: &str,
        table: &str,
        id: &Fingerprint,
        batches: &[RecordBatch],
    ) -> Result<(Bytes, u64), RunError> {
        let Some(first) = batches.first() else {
            return Err(RunError::Internal(format!(
                "the reduce of stage {stage} gave table {table} without a schema"
            )));
        };
        let mut encoder = TableEncoder::new(first.schema(), self.memory_bytes)?;
        if table.is_empty() {
            encoder = encoder.with_figures(&first.schema());
        }
        for batch in batches {
            encoder.write(batch)?;
        }
        let rows = encoder.rows();
        let bytes = encoder.finish(&Lanes::default(), &json!({ "reduce": id, "table": table }))?;
        Ok((bytes, rows))
    }

    async fn write_table(
        &self,
        stage: &str,
        table: &str,
        id: &Fingerprint,
        batches: &[RecordBatch],
    ) -> Result<TableFile, RunError> {
        let (bytes, rows) = self.encode(stage, table, id, batches)?;
        // The table without a name is the stage's own.
        let folder = match table {
            "" => layout::table_folder(stage),
            table => layout::table_folder(&format!("{stage}_{table}")),
        };
        let file = put_table(self.output, self.entropy, self.shutdown, &folder, id, bytes).await?;
        Ok(TableFile { rows, ..file })
    }
}

/// Removes the tables of a result that came second: nobody names them, and the one result that
/// might have done so cannot be stored any more.
pub(crate) async fn remove_lost(output: &Output, own: &ReduceResult, stored: &ReduceResult) {
    let stays: BTreeSet<&str> = stored.tables.values().map(|it| it.path.as_str()).collect();
    let lost = own.tables.values().map(|file| file.path.as_str());
    for path in lost.filter(|path| !stays.contains(path)) {
        if let Err(error) = output.delete(path).await {
            tracing::warn!(%error, path, "cannot remove a table that came second; a later run will");
        }
    }
}

/// Puts one object of a table that the coordinator wrote. `rows` is left at zero.
///
/// # Errors
///
/// Of the store.
pub(crate) async fn put_table(
    output: &Output,
    entropy: &dyn Entropy,
    shutdown: &Shutdown,
    folder: &str,
    id: &Fingerprint,
    bytes: Bytes,
) -> Result<TableFile, RunError> {
    let checksum = ContentHash::of(&bytes);
    // The nonce is the upper half, so it fits.
    let attempt = AttemptId::new((entropy.next_u64() >> 32) as u32, &checksum);
    let task = Fingerprint::of("table", &(folder, id)).into();
    let path = layout::attempt(folder, &task, &attempt, 1);
    retrying(shutdown, || output.put(&path, bytes.clone())).await?;
    Ok(TableFile {
        path,
        rows: 0,
        bytes: bytes.len() as u64,
        checksum,
        task: Some(task),
        lanes: Lanes::default(),
        inputs: Vec::new(),
    })
}

struct StoredInputs {
    output: Output,
    io: BlockingIo,
    manifests: BTreeMap<String, Arc<PhaseManifest>>,
    side_inputs: Vec<SideInput>,
    published: Option<Arc<Version>>,
    gathered: GatheredPhases,
}

impl StoredInputs {
    fn manifest(&self, phase: &str) -> Result<&Arc<PhaseManifest>, Failure> {
        self.manifests.get(phase).ok_or_else(|| {
            Failure::new(
                FailureKind::Permanent,
                format!("the reduce does not read phase {phase}"),
            )
        })
    }
}

impl ReduceInputs for StoredInputs {
    fn for_each_of_object(
        &mut self,
        phase: &str,
        each: &mut dyn FnMut(usize, RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let manifest = Arc::clone(self.manifest(phase)?);
        self.gathered
            .for_each(&self.output, &self.io, &manifest, each)
    }

    fn side_input(&mut self, name: &str) -> Result<Vec<RecordBatch>, Failure> {
        let side_input = self
            .side_inputs
            .iter()
            .find(|side_input| side_input.name == name)
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::Permanent,
                    format!("the reduce has no side input {name}"),
                )
            })?;
        table::read_whole(&self.io, &side_input.uri, &side_input.content)
    }

    fn objects(&mut self, phase: &str) -> Result<Vec<ReadObject>, Failure> {
        let attempts = self.manifest(phase)?.attempts.iter();
        let objects = attempts.map(|pinned| ReadObject {
            path: layout::pinned(pinned),
            bytes: pinned.bytes,
        });
        Ok(objects.collect())
    }

    fn told(&mut self, objects: &[ReadObject], key: &str) -> Result<Vec<Option<String>>, Failure> {
        let objects = objects.iter().map(|it| (it.path.clone(), it.bytes));
        self.io
            .run(told::read(&self.output, objects.collect(), key))
    }

    fn for_each_in(
        &mut self,
        objects: &[ReadObject],
        each: &mut dyn FnMut(RecordBatch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let objects = objects.iter();
        let objects: Vec<(String, u64)> = objects
            .map(|object| (self.output.uri_of(&object.path), object.bytes))
            .collect();
        table::for_each_of_object(&self.io, &objects, &mut |_, batch| each(batch))
    }

    fn kept_sums(&mut self, phase: &str) -> Option<KeptSums> {
        let stage = self.manifest(phase).ok()?.stage.clone();
        kept_sums::read(&self.output, &self.io, &layout::sums(&stage, phase))
    }

    fn keep_sums(&mut self, phase: &str, sums: &[RecordBatch]) {
        let Ok(manifest) = self.manifest(phase).map(Arc::clone) else {
            return;
        };
        let objects = self.objects(phase).unwrap_or_default();
        let key = layout::sums(&manifest.stage, phase);
        kept_sums::write(
            &self.output,
            &self.io,
            &key,
            &KeptSums {
                objects,
                sums: sums.to_vec(),
            },
        );
    }

    fn published(&self) -> Option<&Version> {
        self.published.as_deref()
    }

    fn published_table(&mut self, file: &TableFile) -> Result<Vec<RecordBatch>, Failure> {
        let uri = self.output.uri_of(&file.path);
        table::read_whole(&self.io, &uri, &file.checksum)
    }
}
