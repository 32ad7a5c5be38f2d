//! `gleaner plan` and `gleaner validate`: what a run would do, without writing anything.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use gleaner_queue::MemoryQueue;
use gleaner_schemas::RunId;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores};
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::shutdown::Shutdown;
use serde::Serialize;
use tokio::sync::Notify;

use crate::commands::prepare::{self, JobArguments};
use crate::commands::validate::render_inputs;
use crate::driver::{Driver, Environment, FinishedStage, JobInputs, Mode, StageEnd};
use crate::journal::Journal;
use crate::progress::{Silent, bytes, count};
use crate::run_error::RunError;

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanReport {
    /// Name of the job.
    pub job: String,
    /// URI of its output.
    pub output: String,
    /// Newest version there.
    pub published_version: Option<u64>,
    /// Inputs: the corpus, then datasets.
    pub inputs: Vec<InputReport>,
    /// Stages in order.
    pub stages: Vec<StageReport>,
    /// Budget of memory for one worker slot, in bytes.
    pub memory_per_slot: u64,
}

/// An input of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InputReport {
    /// `corpus` or the name of the dataset.
    pub name: String,
    /// Files.
    pub n_files: u64,
    /// Rows, where footers told them.
    pub n_rows: Option<u64>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Files that cannot be read, with the reason.
    pub unreadable: BTreeMap<String, String>,
    /// Which columns are id, text and source.
    pub columns: gleaner_schemas::DocumentColumns,
}

/// A stage of the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What is known about it.
    pub state: StageState,
    /// Tasks of the phases that are known.
    pub n_tasks: u64,
    /// Those of which an attempt is there.
    pub n_reused: u64,
    /// Rows to read in the open phase, where known.
    pub n_rows: Option<u64>,
    /// Uncompressed bytes to read in the open phase.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// What a run would do with a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Everything is there.
    Reused,
    /// A phase has open tasks.
    Open,
    /// It depends on a stage that is not complete.
    Waits,
}

impl PlanReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{}\n  output    {}", self.job, self.output);
        let _ = match self.published_version {
            Some(number) => writeln!(text, " (version {number} is published)"),
            None => writeln!(text, " (nothing is published)"),
        };
        render_inputs(&mut text, &self.inputs);
        let _ = writeln!(
            text,
            "  memory    {} per worker slot",
            bytes(self.memory_per_slot)
        );
        let width = self
            .stages
            .iter()
            .map(|stage| stage.name.len())
            .max()
            .unwrap_or(0);
        for stage in &self.stages {
            let what = match stage.state {
                StageState::Reused => format!("reuses all {} tasks", count(stage.n_tasks)),
                StageState::Waits => "waits".to_owned(),
                StageState::Open => {
                    let n_new = stage.n_tasks - stage.n_reused;
                    let rows = stage
                        .n_rows
                        .map_or_else(String::new, |n| format!(", {} rows", count(n)));
                    format!(
                        "{} new of {} tasks{rows}",
                        count(n_new),
                        count(stage.n_tasks)
                    )
                }
            };
            let _ = writeln!(
                text,
                "  {:<width$}  {} · {what}: {}",
                stage.name, stage.kind, stage.why
            );
        }
        text
    }
}

/// Plans a job without writing anything.
///
/// # Errors
///
/// As a run would before its first task.
pub async fn plan(arguments: &JobArguments) -> Result<PlanReport, RunError> {
    let (checked, base_dir) = prepare::read_job(arguments)?;
    let stores = Stores::from_env();
    let output = Output::open(&stores, &checked.output)?;
    let inputs = prepare::load_inputs(&stores, &output, &checked, &base_dir).await?;
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let environment = Environment {
        stores,
        queue: Arc::new(MemoryQueue::new()),
        task_ended: Arc::new(Notify::new()),
        trouble: Arc::default(),
        n_slots: 0,
        entropy: Arc::new(SystemEntropy),
        progress: Arc::new(Silent),
        shutdown: Shutdown::new(),
    };
    let run = RunId::new(0);
    let journal = Journal::new(output.clone(), run.clone());
    let driver = Driver {
        job: &checked,
        inputs: &inputs,
        output: &output,
        environment: &environment,
        io: &io,
        run: &run,
        journal: &journal,
        mode: Mode::Plan,
    };
    let stages = plan_stages(&driver).await?;
    Ok(PlanReport {
        job: checked.job.file.name.clone(),
        output: output.uri().to_owned(),
        published_version: inputs.published.as_ref().map(|version| version.number),
        inputs: input_reports(&inputs),
        stages,
        memory_per_slot: checked.job.file.memory.bytes(),
    })
}

pub(crate) fn input_reports(inputs: &JobInputs) -> Vec<InputReport> {
    let corpus = std::iter::once((&"corpus", &inputs.corpus)).map(|(name, set)| (*name, set));
    let datasets = inputs
        .datasets
        .iter()
        .map(|(name, set)| (name.as_str(), set));
    corpus
        .chain(datasets)
        .map(|(name, set)| InputReport {
            name: name.to_owned(),
            n_files: set.files.len() as u64,
            n_rows: set.n_rows(),
            bytes: set.bytes(),
            unreadable: set.unreadable.clone(),
            columns: set.columns.clone(),
        })
        .collect()
}

async fn plan_stages(driver: &Driver<'_>) -> Result<Vec<StageReport>, RunError> {
    let mut finished: BTreeMap<String, FinishedStage> = BTreeMap::new();
    let mut reports = Vec::new();
    let mut blocked_by: Option<String> = None;
    for checked in &driver.job.stages {
        let report = |state, why: String| StageReport {
            name: checked.name.clone(),
            kind: checked.kind.name().to_owned(),
            state,
            n_tasks: 0,
            n_reused: 0,
            n_rows: None,
            bytes: 0,
            why,
        };
        if let Some(open) = &blocked_by
            && checked.stage.needs().iter().any(|need| match need {
                gleaner_workers::stage::Need::Stage(name) => !finished.contains_key(name),
                _ => false,
            })
        {
            reports.push(report(
                StageState::Waits,
                format!("its input depends on {open}"),
            ));
            continue;
        }
        let stage_report = match driver.run_stage(checked, &finished).await? {
            StageEnd::Finished(stage) => {
                let report = StageReport {
                    n_tasks: stage.reuse.n_tasks,
                    n_reused: stage.reuse.n_reused,
                    ..report(
                        StageState::Reused,
                        "parameters and inputs are unchanged".to_owned(),
                    )
                };
                finished.insert(checked.name.clone(), *stage);
                report
            }
            StageEnd::Open(phase, reuse) => StageReport {
                n_tasks: reuse.n_tasks,
                n_reused: reuse.n_reused + phase.n_reused,
                n_rows: phase.plan.n_rows.map(|n_rows| n_rows - phase.rows_reused),
                bytes: phase.plan.bytes,
                ..report(
                    StageState::Open,
                    format!(
                        "phase {} has {} new of {} tasks; what follows depends on it",
                        phase.plan.phase,
                        phase.plan.n_tasks - phase.n_reused,
                        phase.plan.n_tasks
                    ),
                )
            },
            StageEnd::Reduce(phase, reuse) => StageReport {
                n_tasks: reuse.n_tasks,
                n_reused: reuse.n_reused,
                ..report(
                    StageState::Open,
                    format!("phase {phase} runs in the coordinator; what follows depends on it"),
                )
            },
        };
        if stage_report.state == StageState::Open {
            blocked_by.get_or_insert_with(|| checked.name.clone());
        }
        reports.push(stage_report);
    }
    Ok(reports)
}
