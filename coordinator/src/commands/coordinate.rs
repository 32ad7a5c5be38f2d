//! The coordinator's part of a run: look, work, compare, publish.
//!
//! 1. **Look**, without a trace: if everything that the job asks for is there and published, the run is
//!    over. A refresh without changes runs no task and writes nothing.
//! 2. The run claims the output, announces itself, and works stage by stage ([`crate::driver`]).
//! 3. What it would publish is compared with the last version ([`crate::guardrails`]).
//! 4. It publishes, and takes Delta tables to the new version ([`crate::delta`]). If another run did so meanwhile, or an input was replaced under its hands, it looks
//!    again at everything and goes on: what is computed is reused, and an older corpus never takes the
//!    place of a newer one.

mod emptied;
mod rounds;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use gleaner_schemas::{Check, RunId};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, layout};
use gleaner_workers::forecast::ExpectedWorkers;
use tokio::time::Instant;

use super::claim::{claim, is_claimed};
use super::prepare;
use super::run::RunReport;
use crate::card;
use crate::checked_job::CheckedJob;
use crate::delta;
use crate::driver::{Driver, Environment, FinishedStage, JobInputs, Mode, StageEnd};
use crate::endpoints;
use crate::guardrails::{self, StageFigures};
use crate::journal::{Journal, RunEnded, RunStarted, rfc3339};
use crate::lineage::RunEvents;
use crate::losers;
use crate::observation::Observation;
use crate::publish::{self, Published, Ready};
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::sweep;

/// What a run is told besides its job.
#[derive(Debug, Clone, Copy)]
pub struct Orders<'a> {
    /// What relative paths of the job file start from.
    pub base_dir: &'a Path,
    /// Where tasks will run.
    pub workers: ExpectedWorkers,
    /// Whether guardrails are overruled.
    pub accept: bool,
}

/// The coordinator's part of a run, over whatever queue and workers the environment has.
///
/// # Errors
///
/// See [`RunError`].
pub async fn coordinate(
    checked: &CheckedJob,
    environment: &Environment,
    io: &BlockingIo,
    orders: Orders<'_>,
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let output = Output::open(&environment.stores, &checked.output)?;
    let coordinator = Coordinator {
        checked,
        environment,
        io,
        orders,
        output: &output,
        started,
    };
    let known = match coordinator.look().await {
        Some(Looked::UpToDate(report, inputs)) => {
            // A run like any other to who follows them, though it writes nothing.
            let run = RunId::new(environment.entropy.next_u64());
            let events = RunEvents::begin(checked, orders.base_dir, &output, &run);
            let published = Ok(&report.published);
            events
                .end(Some(&inputs), published, &environment.shutdown)
                .await;
            return Ok(*report);
        }
        Some(Looked::Open(inputs)) => Some(*inputs),
        None => None,
    };
    claim(&output, &checked.job, environment).await?;
    let run = RunId::new(environment.entropy.next_u64());
    let journal = Journal::new(output.clone(), run.clone());
    let event = RunStarted {
        run: run.clone(),
        job: checked.job.file.name.clone(),
        stages: checked
            .stages
            .iter()
            .map(|stage| stage.name.clone())
            .collect(),
        started_at: rfc3339(chrono::Utc::now()),
        pid: std::process::id(),
    };
    retrying(&environment.shutdown, || journal.started(&event)).await?;
    let events = RunEvents::begin(checked, orders.base_dir, &output, &run);
    let start = layout::run_event(&run, layout::RUN_STARTED);
    let progress = environment.progress.as_ref();
    progress.observe(&Observation::RunStarted {
        run: &run,
        job: checked,
        output: &output,
    });
    let swept = sweep::await_none(&output, &start, &environment.shutdown, progress).await;
    let started_ms = chrono::Utc::now().timestamp_millis();
    let announced = retrying(&environment.shutdown, || {
        endpoints::announce(&output, &checked.job.file, &run, started_ms)
    });
    let announced = announced.await;
    let mut inputs = known;
    let ended = match announced.and(swept) {
        Ok(()) => {
            // The largest part of a run by far, which would lie in every future around it.
            Box::pin(coordinator.rounds(&run, &journal, &events, &mut inputs)).await
        }
        Err(error) => Err(error),
    };
    journal
        .ended(&RunEnded {
            exit_code: ended.as_ref().err().map_or(0, RunError::exit_code),
            message: match &ended {
                Ok(_) => "done".to_owned(),
                Err(error) => error.to_string(),
            },
            version: ended
                .as_ref()
                .ok()
                .map(|(report, _)| report.published.version.number),
            ended_at: rfc3339(chrono::Utc::now()),
        })
        .await;
    let published = ended.as_ref().map(|(report, _)| &report.published);
    let shutdown = &environment.shutdown;
    events.end(inputs.as_ref(), published, shutdown).await;
    let (mut report, earlier) = ended?;
    let entropy = environment.entropy.as_ref();
    let worked: Vec<_> = earlier.iter().chain(&report.stages).collect();
    match losers::remove(&output, &run, &worked, entropy).await {
        Ok(0) => {}
        Ok(n_removed) => tracing::info!(n_removed, "removed attempts that lost"),
        Err(error) => {
            tracing::warn!(%error, "cannot remove attempts that lost; `gleaner gc` will");
        }
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

struct Coordinator<'a> {
    checked: &'a CheckedJob,
    environment: &'a Environment,
    io: &'a BlockingIo,
    orders: Orders<'a>,
    output: &'a Output,
    started: Instant,
}

/// What a look found.
enum Looked {
    UpToDate(Box<RunReport>, Box<JobInputs>),
    /// There is work; these are the inputs.
    Open(Box<JobInputs>),
}

impl Coordinator<'_> {
    async fn load_inputs(&self) -> Result<JobInputs, RunError> {
        let orders = &self.orders;
        let stores = &self.environment.stores;
        let loaded = prepare::load_inputs(
            stores,
            self.output,
            self.checked,
            orders.base_dir,
            orders.workers,
        );
        match Box::pin(loaded).await {
            Err(error) => Err(self.refuse_emptied().await.unwrap_or(error)),
            inputs => inputs,
        }
    }

    /// Whether all is done, without leaving a trace. Whatever goes wrong here goes wrong again in a
    /// run, which tells about it in its journal.
    async fn look(&self) -> Option<Looked> {
        let is_claimed = is_claimed(self.output, &self.checked.job).await;
        if !is_claimed.unwrap_or(false) {
            return None;
        }
        let inputs = self.load_inputs().await.ok()?;
        let run = RunId::new(0);
        let journal = Journal::new(self.output.clone(), run.clone());
        let driver = self.driver(&inputs, &run, &journal, Mode::Plan);
        let up_to_date = self.up_to_date(&driver).await;
        Some(match up_to_date {
            Some(report) => Looked::UpToDate(Box::new(report), Box::new(inputs)),
            None => Looked::Open(Box::new(inputs)),
        })
    }

    async fn up_to_date(&self, driver: &Driver<'_>) -> Option<RunReport> {
        let published = driver.inputs.published.as_deref()?;
        let mut stages = BTreeMap::new();
        for checked in &self.checked.stages {
            match driver.run_stage(checked, &stages).await {
                Ok(StageEnd::Finished(finished)) => {
                    stages.insert(checked.name.clone(), *finished);
                }
                _ => return None,
            }
        }
        let ready = Ready {
            job: self.checked,
            inputs: driver.inputs,
            stages: &stages,
            figures: &StageFigures::new(),
            checks: Vec::new(),
            run: driver.run,
            now: chrono::Utc::now(),
        };
        let shutdown = &self.environment.shutdown;
        let version = ready.version(self.output, shutdown).await.ok()?;
        let is_same = version.has_content_of(published);
        let is_copied = publish::is_copied(self.output, published.number).await;
        let has_card = card::is_written(self.output, published.number).await;
        let has_delta = delta::is_up_to_date(self.output, published).await;
        let has_all = [is_copied, has_card, has_delta].map(|found| found.unwrap_or(false));
        if !is_same || has_all.contains(&false) {
            return None;
        }
        self.tell(driver.inputs, &stages);
        self.show(driver, &stages);
        let published = Published {
            version: published.clone(),
            is_new: false,
        };
        let checks = guardrails::checks(self.checked, None, &stages, &StageFigures::new());
        self.warn(&checks);
        let mut report = self.report(driver.inputs, stages, published, checks);
        report.elapsed = self.started.elapsed();
        Some(report)
    }

    fn driver<'d>(
        &'d self,
        inputs: &'d JobInputs,
        run: &'d RunId,
        journal: &'d Journal,
        mode: Mode,
    ) -> Driver<'d> {
        Driver {
            job: self.checked,
            inputs,
            output: self.output,
            environment: self.environment,
            io: self.io,
            run,
            journal,
            mode,
        }
    }

    /// What a run that has nothing to do tells as one that has.
    fn tell(&self, inputs: &JobInputs, stages: &BTreeMap<String, FinishedStage>) {
        self.tell_of_inputs(inputs);
        for note in stages.values().flat_map(|it| &it.notes) {
            self.environment.progress.note(note);
        }
    }

    /// Shows what was there to who watches.
    fn show(&self, driver: &Driver<'_>, stages: &BTreeMap<String, FinishedStage>) {
        let progress = self.environment.progress.as_ref();
        let (run, job, output) = (driver.run, self.checked, self.output);
        progress.observe(&Observation::RunStarted { run, job, output });
        self.show_inputs(driver.inputs);
        for checked in &self.checked.stages {
            let stage = checked.name.as_str();
            if let Some(finished) = stages.get(stage) {
                progress.observe(&Observation::StageStarted { stage });
                progress.observe(&Observation::StageFinished { stage, finished });
            }
        }
    }

    fn show_inputs(&self, inputs: &JobInputs) {
        let files = &inputs.corpus.files;
        self.environment.progress.observe(&Observation::InputsRead {
            n_files: files.len() as u64,
            bytes: files.iter().map(|it| it.file.bytes).sum(),
        });
    }

    /// Tells what is wrong with inputs, and what stages foresee.
    fn tell_of_inputs(&self, inputs: &JobInputs) {
        let progress = self.environment.progress.as_ref();
        for (file, reason) in &inputs.corpus.unreadable {
            progress.note(&format!("cannot read {file}: {reason}"));
        }
        for (name, set) in &inputs.datasets {
            for (file, reason) in &set.unreadable {
                progress.note(&format!("dataset {name}: cannot read {file}: {reason}"));
            }
        }
        let datasets = inputs.dataset_rows.iter();
        for note in datasets.filter_map(|(name, rows)| rows.note(name)) {
            progress.note(&note);
        }
        for note in inputs.forecasts.values().flat_map(|it| &it.notes) {
            progress.note(note);
        }
    }

    /// Tells of figures that are beyond their bounds and stop nothing.
    fn warn(&self, checks: &[Check]) {
        for check in checks.iter().filter(|check| check.is_crossed) {
            let progress = self.environment.progress.as_ref();
            progress.note(&format!("warning: {}", guardrails::line(check)));
        }
    }

    fn report(
        &self,
        inputs: &JobInputs,
        stages: BTreeMap<String, FinishedStage>,
        published: Published,
        checks: Vec<Check>,
    ) -> RunReport {
        let mut stages = stages;
        let order = self.checked.stages.iter();
        RunReport {
            io: self.io.clone(),
            output: self.output.clone(),
            published,
            stages: order
                .filter_map(|checked| stages.remove_entry(&checked.name))
                .collect(),
            unreadable: inputs.corpus.unreadable.clone(),
            datasets: inputs.dataset_rows.clone(),
            checks,
            elapsed: Duration::ZERO,
        }
    }
}

fn refused(newest: Option<u64>, checks: Vec<Check>) -> RunError {
    let beside = newest.map_or_else(
        || "what the job allows".to_owned(),
        |number| format!("version {number}"),
    );
    let stopping = checks.iter().filter(|check| check.stops());
    RunError::Guardrail {
        message: format!(
            "nothing was published: the result is too far from {beside}\n{}",
            guardrails::table(stopping)
        ),
        checks,
    }
}
