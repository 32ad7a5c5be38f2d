//! A corpus of which no file is left.
//!
//! Somebody removed all of it: by accident, which a guardrail stops, or because all of it was to go.
//! Where that is accepted, the next version has the tables of the last one, without rows. Models stay,
//! so that documents that come later are scored as those before.

use std::collections::BTreeMap;

use gleaner_schemas::{Check, Lanes, RunId, TableVersion, Version, VersionStage};
use gleaner_storage::{ReadError, listing};

use super::{Coordinator, refused};
use crate::commands::run::RunReport;
use crate::guardrails;
use crate::journal::rfc3339;
use crate::publish::{self, Published};
use crate::run_error::RunError;

/// The fact of a stage that tells of its model.
const MODEL: &str = "model";

/// How a run over such a corpus ends.
pub(super) enum WithoutDocuments {
    Done(Box<RunReport>),
    /// Another run has published meanwhile.
    Overtaken,
}

impl Coordinator<'_> {
    /// The newest version, and how its corpus compares with one of which no file is left; nothing if
    /// there is none, or if files are left.
    async fn emptied(&self) -> Option<(Version, Check)> {
        let file = &self.checked.job.file;
        let newest = self.output.latest_version().await.ok()??;
        let mut n_files = 0;
        let mut is_missing = false;
        for pattern in file.corpus.paths.iter() {
            let pattern = std::slice::from_ref(pattern);
            let stores = &self.environment.stores;
            match listing::list_sources(stores, pattern, self.orders.base_dir).await {
                Ok(files) => n_files += files.len(),
                Err(ReadError::NoMatch { .. }) => is_missing = true,
                Err(_) => return None,
            }
        }
        let check = guardrails::corpus_files(&file.guardrails, newest.corpus.len(), n_files);
        let is_of_interest = is_missing && (n_files == 0 || check.stops());
        is_of_interest.then_some((newest, check))
    }

    /// The guardrail that says that a corpus is gone of which a version was published.
    pub(super) async fn refuse_emptied(&self) -> Option<RunError> {
        if self.orders.accept {
            return None;
        }
        let (newest, check) = self.emptied().await?;
        let is_stopped = check.stops();
        is_stopped.then(|| refused(Some(newest.number), vec![check]))
    }

    /// Publishes a version without documents, if that is what is left, and nobody minds.
    pub(super) async fn without_documents(
        &self,
        run: &RunId,
    ) -> Result<Option<WithoutDocuments>, RunError> {
        let Some((newest, check)) = self.emptied().await else {
            return Ok(None);
        };
        let is_refused = check.stops() && !self.orders.accept;
        if is_refused || check.now != Some(0.0) {
            return Ok(None);
        }
        let checks = vec![check];
        let published = if newest.corpus.is_empty() {
            Published {
                version: newest,
                is_new: false,
            }
        } else {
            let version = self.emptied_version(&newest, run, &checks);
            let shutdown = &self.environment.shutdown;
            match publish::publish_version(self.output, shutdown, version).await? {
                Some(published) => published,
                None => return Ok(Some(WithoutDocuments::Overtaken)),
            }
        };
        self.environment
            .progress
            .note("no file of the corpus is left: the version has no documents, models stay");
        self.warn(&checks);
        self.write_card(&published).await;
        Ok(Some(WithoutDocuments::Done(Box::new(RunReport {
            io: self.io.clone(),
            output: self.output.clone(),
            published,
            stages: Vec::new(),
            unreadable: BTreeMap::new(),
            datasets: BTreeMap::new(),
            checks,
            elapsed: self.started.elapsed(),
        }))))
    }

    /// The stages of the job that the newest version has, with tables without objects.
    fn emptied_version(&self, newest: &Version, run: &RunId, checks: &[Check]) -> Version {
        let now = rfc3339(chrono::Utc::now());
        let number = newest.number + 1;
        let kept = self.checked.stages.iter().filter_map(|checked| {
            let before = newest.stages.get(&checked.name)?;
            (before.kind == checked.kind.name()).then_some((&checked.name, before))
        });
        let kept: Vec<(&String, &VersionStage)> = kept.collect();
        let mut tables = BTreeMap::new();
        for (stage, before) in &kept {
            for name in &before.tables {
                let Some(table) = newest.tables.get(name) else {
                    continue;
                };
                let is_model = *name == format!("{stage}_{MODEL}");
                let table = match is_model || before.kind == "train_language_model" {
                    true => table.clone(),
                    false => TableVersion {
                        schema: table.schema.clone(),
                        rows: 0,
                        bytes: 0,
                        files: Vec::new(),
                        since_version: number,
                        since: now.clone(),
                        figures: None,
                    },
                };
                tables.insert(name.clone(), table);
            }
        }
        let stages = kept.iter().map(|(name, before)| {
            let facts = before.facts.iter();
            let stage = VersionStage {
                kind: before.kind.clone(),
                code_version: before.code_version,
                params: before.params.clone(),
                tables: before.tables.clone(),
                lanes: Lanes::default(),
                quarantined: Vec::new(),
                facts: facts
                    .filter(|(fact, _)| *fact == MODEL)
                    .map(|(fact, value)| (fact.clone(), value.clone()))
                    .collect(),
            };
            ((*name).clone(), stage)
        });
        Version {
            format: Version::FORMAT,
            number,
            job: newest.job.clone(),
            job_file: serde_json::to_value(&self.checked.written).unwrap_or_default(),
            run: run.clone(),
            published_at: now.clone(),
            gleaner_version: env!("CARGO_PKG_VERSION").to_owned(),
            stage_order: kept.iter().map(|(name, _)| (*name).clone()).collect(),
            stages: stages.collect(),
            tables,
            corpus: Vec::new(),
            checks: checks.to_vec(),
        }
    }
}
