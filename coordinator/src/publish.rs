//! The end of a run: the next version of the whole output.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gleaner_schemas::{Check, RunId, TableVersion, Version, VersionStage};
use gleaner_storage::{Created, Output, OutputError, layout};
use gleaner_workers::shutdown::Shutdown;

use crate::checked_job::CheckedJob;
use crate::driver::{FinishedStage, JobInputs};
use crate::guardrails::StageFigures;
use crate::journal::rfc3339;
use crate::known_footers;
use crate::phase_input::read_schema;
use crate::retry::retrying;
use crate::run_error::RunError;

/// Newer versions that may appear while one is copied, before whoever copies gives up.
const COPIES_MAX: usize = 100;

/// A run's end.
#[derive(Debug)]
pub struct Published {
    /// The newest version.
    pub version: Version,
    /// Whether this run published it; otherwise it was there and says the same.
    pub is_new: bool,
}

/// What a run has to publish.
#[derive(Debug)]
pub struct Ready<'a> {
    /// The job.
    pub job: &'a CheckedJob,
    /// Its inputs, with the version that was the newest when they were looked at.
    pub inputs: &'a JobInputs,
    /// Its stages.
    pub stages: &'a BTreeMap<String, FinishedStage>,
    /// What the stages' tables come to.
    pub figures: &'a StageFigures,
    /// How these compare with the newest version.
    pub checks: Vec<Check>,
    /// The run.
    pub run: &'a RunId,
    /// The time.
    pub now: DateTime<Utc>,
}

impl Ready<'_> {
    /// The version that comes after the one which the inputs know.
    ///
    /// # Errors
    ///
    /// Of the store.
    pub async fn version(&self, output: &Output, shutdown: &Shutdown) -> Result<Version, RunError> {
        let newest = self.inputs.published.as_deref();
        let number = newest.map_or(1, |version| version.number + 1);
        let job = self.job;
        let mut version = Version {
            format: Version::FORMAT,
            number,
            job: job.job.file.name.clone(),
            job_file: serde_json::to_value(&job.written).unwrap_or_default(),
            run: self.run.clone(),
            published_at: rfc3339(self.now),
            gleaner_version: env!("CARGO_PKG_VERSION").to_owned(),
            stage_order: job.stages.iter().map(|stage| stage.name.clone()).collect(),
            stages: version_stages(job, self.stages),
            tables: self.tables(output, shutdown, number).await?,
            corpus: self.inputs.corpus.sources(),
            checks: self.checks.clone(),
        };
        if let Some(newest) = newest {
            carry_ages_over(newest, &mut version);
        }
        Ok(version)
    }

    async fn tables(
        &self,
        output: &Output,
        shutdown: &Shutdown,
        number: u64,
    ) -> Result<BTreeMap<String, TableVersion>, RunError> {
        let mut tables = BTreeMap::new();
        for (stage, finished) in self.stages {
            for (name, files) in &finished.completed.tables {
                let schema = if name == stage {
                    finished.completed.schema.clone()
                } else {
                    read_schema(output, shutdown, files).await?
                };
                let table = TableVersion {
                    schema: schema.as_ref().clone(),
                    rows: files.iter().map(|file| file.rows).sum(),
                    bytes: files.iter().map(|file| file.bytes).sum(),
                    files: files.clone(),
                    since_version: number,
                    since: rfc3339(self.now),
                    figures: self.figures.get(name).cloned(),
                };
                tables.insert(name.clone(), table);
            }
        }
        Ok(tables)
    }
}

/// Publishes what the stages produced, unless the newest version says the same. `None` if another run
/// has published since the inputs were looked at: what it published may be of newer inputs, so that
/// whoever was overtaken looks again.
///
/// # Errors
///
/// Of the store.
pub async fn publish(
    output: &Output,
    shutdown: &Shutdown,
    ready: &Ready<'_>,
) -> Result<Option<Published>, RunError> {
    let version = ready.version(output, shutdown).await?;
    if let Some(newest) = ready.inputs.published.as_deref()
        && version.has_content_of(newest)
    {
        let is_newest = retrying(shutdown, || output.version_numbers()).await?.pop();
        if is_newest != Some(newest.number) {
            return Ok(None);
        }
        mend_manifest(output, shutdown, newest.number).await?;
        return Ok(Some(Published {
            version: newest.clone(),
            is_new: false,
        }));
    }
    // Before the version: a run that finds it has all that makes the next one cheap.
    known_footers::write(output, &ready.inputs.corpus).await;
    publish_version(output, shutdown, version).await
}

/// Publishes a version as the one after that which the run knew. `None` if another run was faster.
///
/// # Errors
///
/// Of the store.
pub async fn publish_version(
    output: &Output,
    shutdown: &Shutdown,
    version: Version,
) -> Result<Option<Published>, RunError> {
    // A version that survives a loss of power names nothing that does not.
    retrying(shutdown, || output.settle()).await?;
    match create(output, shutdown, &version).await? {
        Created::Stored => {
            copy_manifest(output, shutdown, version.number).await?;
            retrying(shutdown, || output.settle()).await?;
            Ok(Some(Published {
                version,
                is_new: true,
            }))
        }
        Created::Exists(_) => Ok(None),
    }
}

fn version_stages(
    job: &CheckedJob,
    stages: &BTreeMap<String, FinishedStage>,
) -> BTreeMap<String, VersionStage> {
    job.stages
        .iter()
        .filter_map(|checked| {
            let finished = stages.get(&checked.name)?;
            let mut tables = vec![checked.name.clone()];
            let further = finished.completed.tables.keys();
            tables.extend(further.filter(|name| **name != checked.name).cloned());
            let stage = VersionStage {
                kind: checked.kind.name().to_owned(),
                code_version: checked.kind.code_version(),
                params: finished.completed.params.clone(),
                tables,
                lanes: finished.completed.lanes,
                quarantined: finished.quarantined.clone(),
                facts: finished.completed.facts.clone(),
            };
            Some((checked.name.clone(), stage))
        })
        .collect()
}

/// A table with the same files is as old as it was.
fn carry_ages_over(newest: &Version, version: &mut Version) {
    for (name, table) in &mut version.tables {
        if let Some(before) = newest.tables.get(name)
            && before.files == table.files
        {
            table.since_version = before.since_version;
            table.since.clone_from(&before.since);
            if table.figures.is_none() {
                table.figures.clone_from(&before.figures);
            }
        }
    }
}

async fn create(
    output: &Output,
    shutdown: &Shutdown,
    version: &Version,
) -> Result<Created, RunError> {
    let mut bytes = serde_json::to_vec_pretty(version)
        .map_err(|error| RunError::Internal(format!("cannot write the version: {error}")))?;
    bytes.push(b'\n');
    let key = layout::version(version.number);
    retrying(shutdown, || output.create(&key, bytes.clone().into())).await
}

/// Whether `manifest.json` is the copy of a version that it should be.
///
/// # Errors
///
/// Of the store.
pub async fn is_copied(output: &Output, number: u64) -> Result<bool, OutputError> {
    let version = output.get(&layout::version(number)).await?;
    Ok(version.is_some() && version == output.get(layout::MANIFEST).await?)
}

/// Writes nothing where there is nothing to mend.
async fn mend_manifest(output: &Output, shutdown: &Shutdown, number: u64) -> Result<(), RunError> {
    if retrying(shutdown, || is_copied(output, number)).await? {
        return Ok(());
    }
    copy_manifest(output, shutdown, number).await
}

/// Copies bytes: maps without an order would come out in another one if they were written again.
/// Looks again afterwards, since another coordinator may have published and copied in between.
async fn copy_manifest(output: &Output, shutdown: &Shutdown, number: u64) -> Result<(), RunError> {
    let mut copied = number;
    for _ in 0..COPIES_MAX {
        let key = layout::version(copied);
        retrying(shutdown, || async {
            match output.get(&key).await? {
                Some(bytes) => output.put(layout::MANIFEST, bytes).await,
                None => Err(OutputError::Malformed {
                    uri: output.uri_of(&key),
                    expected: "published version",
                    message: "it was there and is gone".to_owned(),
                }),
            }
        })
        .await?;
        let newest = retrying(shutdown, || output.version_numbers()).await?.pop();
        match newest {
            Some(newest) if newest > copied => copied = newest,
            _ => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gleaner_storage::Stores;
    use object_store::memory::InMemory;

    use super::*;

    /// Two coordinators published; the one that was first copies last.
    #[tokio::test]
    async fn the_copy_is_of_the_newest_version_whoever_copies_last() {
        let stores = Stores::from_env().with("memory://m", Arc::new(InMemory::new()));
        let output = Output::open(&stores, "memory://m/out").unwrap();
        let publish = async |number: u64| {
            let bytes = format!("version {number}").into();
            output.put(&layout::version(number), bytes).await.unwrap();
        };
        publish(1).await;
        publish(2).await;
        for number in [2, 1] {
            copy_manifest(&output, &Shutdown::new(), number)
                .await
                .unwrap();
            let copy = output.get(layout::MANIFEST).await.unwrap().unwrap();
            assert_eq!(copy, "version 2", "after copying version {number}");
        }
    }
}
