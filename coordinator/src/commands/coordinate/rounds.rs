//! The rounds of a run: work, compare, publish; and again if the world has changed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::{Check, Resource, RunId, Version};
use gleaner_storage::listing;
use tracing::Instrument as _;

use super::emptied::WithoutDocuments;
use super::{Coordinator, refused};
use crate::card::{self, CardWritten};
use crate::checked_job::CheckedStage;
use crate::commands::prepare;
use crate::commands::run::RunReport;
use crate::delta;
use crate::driver::{Driver, FinishedStage, JobInputs, Mode, StageEnd};
use crate::guardrails::{self, StageFigures};
use crate::journal::Journal;
use crate::lineage::RunEvents;
use crate::observation::Observation;
use crate::publish::{self, Published, Ready};
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::told;

/// A run may be overtaken by others, or find its inputs replaced, this often before it gives up.
const ROUNDS_MAX: usize = 20;

const REPLACED: &str = "files were replaced while they were read; looking again at the inputs";

const OVERTAKEN: &str = "another run has published meanwhile; looking again at the inputs";

/// How a round ended.
enum Round {
    Done(Box<RunReport>),
    /// Everything has to be looked at again, for this reason.
    Again(String, Stages),
}

type Stages = BTreeMap<String, FinishedStage>;

impl Coordinator<'_> {
    pub(super) async fn rounds(
        &self,
        run: &RunId,
        journal: &Journal,
        events: &RunEvents<'_>,
        known: &mut Option<JobInputs>,
    ) -> Result<(RunReport, Vec<(String, FinishedStage)>), RunError> {
        // What was done in rounds whose end nobody sees lost against other runs all the same.
        let mut earlier: Vec<(String, FinishedStage)> = Vec::new();
        for round in 0..ROUNDS_MAX {
            let looked_at = match known.take() {
                Some(inputs) if round == 0 => self.still_current(inputs).await?,
                _ => None,
            };
            let inputs = match looked_at {
                Some(inputs) => known.insert(inputs),
                None => match self.load_inputs().await {
                    Ok(inputs) => known.insert(inputs),
                    Err(error) => match self.without_documents(run).await? {
                        Some(WithoutDocuments::Done(report)) => return Ok((*report, earlier)),
                        Some(WithoutDocuments::Overtaken) => {
                            self.environment.progress.note(OVERTAKEN);
                            continue;
                        }
                        None => return Err(error),
                    },
                },
            };
            let driver = self.driver(inputs, run, journal, Mode::Run);
            let span = tracing::error_span!("job", name = self.checked.job.file.name, %run);
            match self.round(&driver, events).instrument(span).await? {
                Round::Done(report) => return Ok((*report, earlier)),
                Round::Again(why, stages) => {
                    self.environment.progress.note(&why);
                    earlier.extend(stages);
                }
            }
        }
        Err(RunError::Unreachable(format!(
            "was overtaken by other runs, or found its inputs replaced, {ROUNDS_MAX} times; does \
             another coordinator publish {} without a pause?",
            self.output.uri()
        )))
    }

    /// The inputs of the look, unless another run has published since: what it listed may be newer.
    async fn still_current(&self, mut inputs: JobInputs) -> Result<Option<JobInputs>, RunError> {
        let newest = || prepare::newest(self.output);
        // What versions name may have been removed before the run was announced.
        let (published, lost_models) = retrying(&self.environment.shutdown, newest).await?;
        let number = |version: &Option<Arc<Version>>| version.as_ref().map(|it| it.number);
        if number(&published) != number(&inputs.published) {
            return Ok(None);
        }
        (inputs.published, inputs.lost_models) = (published, lost_models);
        Ok(Some(inputs))
    }

    async fn round(&self, driver: &Driver<'_>, events: &RunEvents<'_>) -> Result<Round, RunError> {
        let inputs = driver.inputs;
        self.tell_of_inputs(inputs);
        self.show_inputs(inputs);
        let done = self.stages(driver, events).await;
        let has_failed = match &done {
            Ok((stages, ..)) => stages.values().any(|stage| !stage.quarantined.is_empty()),
            Err(error) => matches!(error, RunError::Quarantined { .. }),
        };
        if has_failed && self.are_replaced(inputs).await {
            let stages = done.map(|(stages, ..)| stages).unwrap_or_default();
            return Ok(Round::Again(REPLACED.to_owned(), stages));
        }
        let (stages, figures, checks) = done?;
        let ready = Ready {
            job: self.checked,
            inputs,
            stages: &stages,
            figures: &figures,
            checks: checks.clone(),
            run: driver.run,
            now: chrono::Utc::now(),
        };
        if !self.orders.accept && checks.iter().any(Check::stops) {
            let version = ready
                .version(self.output, &self.environment.shutdown)
                .await?;
            let newest = inputs.published.as_deref();
            if newest.is_none_or(|newest| !version.has_content_of(newest)) {
                return Err(refused(newest.map(|it| it.number), checks));
            }
        }
        self.environment.progress.observe(&Observation::Publishing);
        let published = publish::publish(self.output, &self.environment.shutdown, &ready).await?;
        let Some(published) = published else {
            return Ok(Round::Again(OVERTAKEN.to_owned(), stages));
        };
        // What was half-written before this run began is of a run that was killed, since a write
        // takes moments. Should a writer of another run live after all, it fails and tries again.
        if let Err(error) = self.output.remove_staged(self.started.elapsed()).await {
            tracing::warn!(%error, "cannot remove what killed runs left; `gleaner gc` will");
        }
        self.warn(&checks);
        let (shutdown, progress) = (&self.environment.shutdown, &self.environment.progress);
        let version = &published.version;
        delta::bring_up_to_date(self.output, shutdown, progress.as_ref(), version).await?;
        self.write_card(&published).await;
        let report = self.report(inputs, stages, published, checks);
        Ok(Round::Done(Box::new(report)))
    }

    /// Takes all stages to their ends. Before a stage that costs money, and where nothing is left to
    /// work with, what is done is compared with the last version.
    async fn stages(
        &self,
        driver: &Driver<'_>,
        events: &RunEvents<'_>,
    ) -> Result<(BTreeMap<String, FinishedStage>, StageFigures, Vec<Check>), RunError> {
        let newest = driver.inputs.published.as_deref();
        let mut stages: BTreeMap<String, FinishedStage> = BTreeMap::new();
        let mut figures = StageFigures::new();
        let mut checks: Vec<Check> = Vec::new();
        for checked in &self.checked.stages {
            let costs = asks_servers(checked);
            let is_beyond =
                guardrails::is_emptied(&checks) || (costs && checks.iter().any(Check::stops));
            if is_beyond && !self.orders.accept {
                return Err(refused(newest.map(|it| it.number), checks));
            }
            let progress = self.environment.progress.as_ref();
            let stage = checked.name.as_str();
            progress.observe(&Observation::StageStarted { stage });
            let span = tracing::error_span!("stage", name = checked.name);
            let inputs = driver.inputs;
            events.stage_started(checked, inputs);
            let ended = driver.run_stage(checked, &stages).instrument(span).await;
            match ended.inspect_err(|error| events.stage_failed(checked, inputs, error))? {
                StageEnd::Finished(finished) => {
                    events.stage_finished(checked, inputs, &finished);
                    progress.observe(&Observation::StageFinished {
                        stage,
                        finished: &finished,
                    });
                    for note in &finished.notes {
                        progress.note(note);
                    }
                    let files = finished.completed.tables.get(&checked.name);
                    let before = newest.and_then(|newest| newest.tables.get(&checked.name));
                    if let Some(files) = files
                        && let Some(of_table) = told::figures(self.output, files, before).await?
                    {
                        figures.insert(checked.name.clone(), of_table);
                    }
                    stages.insert(checked.name.clone(), *finished);
                }
                StageEnd::Open(..) | StageEnd::Reduce(..) => {
                    return Err(RunError::Internal(format!(
                        "stage {} stopped before its end",
                        checked.name
                    )));
                }
            }
            checks = guardrails::checks(self.checked, newest, &stages, &figures);
        }
        Ok((stages, figures, checks))
    }

    /// Readers need no card, so a run does without.
    pub(super) async fn write_card(&self, published: &Published) {
        let stores = &self.environment.stores;
        let written = tokio::select! {
            written = card::write(self.output, stores, &published.version) => written,
            () = self.environment.shutdown.draining() => return,
        };
        match written {
            Ok(CardWritten::Everything) => {}
            Ok(CardWritten::NotTheReadme) => {
                tracing::info!("README.md is none of Gleaner's and stays as it is");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write the dataset card; the next run writes it");
            }
        }
    }

    /// Whether the files of the job are other ones than when they were looked at.
    async fn are_replaced(&self, inputs: &JobInputs) -> bool {
        let file = &self.checked.job.file;
        let datasets = inputs
            .datasets
            .iter()
            .filter_map(|(name, set)| Some((file.datasets.get(name)?, set)));
        for (spec, set) in std::iter::once((&file.corpus, &inputs.corpus)).chain(datasets) {
            let stores = &self.environment.stores;
            let now = listing::list_sources(stores, &spec.paths, self.orders.base_dir).await;
            // What cannot be listed now is told about by what failed.
            if let Ok(now) = now
                && !now
                    .iter()
                    .eq(set.files.iter().map(|file| file.file.as_ref()))
            {
                return true;
            }
        }
        false
    }
}

/// Whether a stage asks servers, which may cost money.
fn asks_servers(checked: &CheckedStage) -> bool {
    let stage = &checked.stage;
    let mut phases = stage.outlook().into_iter();
    phases.any(|phase| stage.resource_of(&phase.name) == Resource::Network)
}
