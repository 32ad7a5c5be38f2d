//! `gleaner plan` and `gleaner validate`: what a run would do, without writing anything.

mod requests;
mod sample;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use gleaner_queue::MemoryQueue;
use gleaner_schemas::{RunId, Shard};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores};
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::forecast::Forecast;
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::{ExpectedPhase, PhaseInput};
use serde::Serialize;
use tokio::sync::Notify;

pub use self::requests::RequestsReport;
use self::requests::{Asked, Items, Progress as StageProgress};
use crate::broker::BrokerArguments;
use crate::checked_job::CheckedStage;
use crate::commands::prepare::{self, JobArguments};
use crate::commands::validate::render_inputs;
use crate::datasets::DatasetRows;
use crate::driver::{Driver, Environment, FinishedStage, JobInputs, Mode, StageEnd};
use crate::journal::Journal;
use crate::progress::{Silent, bytes, count};
use crate::run_error::RunError;

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Of a dataset: what was found in its rows.
    pub checked: Option<DatasetRows>,
    /// Which columns are id, text and source.
    pub columns: gleaner_schemas::DocumentColumns,
}

/// A stage of the job.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Phases that have work to do, in order.
    pub phases: Vec<PhaseReport>,
    /// Why.
    pub why: String,
    /// Bytes of memory that one of its tasks takes, and what for, where it is known.
    pub memory: Option<StageMemory>,
    /// Sentences about what will be slow, or other than one may think.
    pub notes: Vec<String>,
    /// What it will ask of endpoints, about.
    pub requests: Vec<RequestsReport>,
}

/// Memory of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// All together.
    pub bytes: u64,
    /// What it is made of.
    pub parts: Vec<(&'static str, u64)>,
}

/// A phase that has work to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// Tasks to run; `None` if that is known only later.
    pub n_tasks: Option<u64>,
    /// Rows to read, where known.
    pub n_rows: Option<u64>,
    /// Uncompressed bytes to read, where known.
    pub bytes: Option<u64>,
    /// A sentence about tasks that may not end in time.
    pub note: Option<String>,
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

/// What nobody can count before.
const SECOND_TRIES: &str =
    "replies that are cut off or cannot be read are asked for once more, which is not counted";

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
                StageState::Reused if stage.n_tasks == 0 => "reused".to_owned(),
                StageState::Reused => format!("reuses all of {}", tasks(stage.n_tasks)),
                StageState::Waits => "waits".to_owned(),
                StageState::Open => format!(
                    "{} to run, {} reused",
                    tasks(stage.n_tasks - stage.n_reused),
                    count(stage.n_reused)
                ),
            };
            let _ = writeln!(
                text,
                "  {:<width$}  {} · {what}: {}",
                stage.name, stage.kind, stage.why
            );
            render_phases(&mut text, &stage.phases, width);
            if let Some(memory) = &stage.memory {
                let parts = memory.parts.iter();
                let parts = parts.map(|(what, n)| format!("{what} {}", bytes(*n)));
                let parts = parts.collect::<Vec<_>>().join(", ");
                let total = bytes(memory.bytes);
                let _ = writeln!(text, "  {:width$}  memory of a task: {total} ({parts})", "");
            }
            for requests in &stage.requests {
                let _ = writeln!(text, "  {:width$}  {}", "", requests.render());
            }
            for note in &stage.notes {
                let _ = writeln!(text, "  {:width$}  {note}", "");
            }
        }
        if self.stages.iter().any(|stage| !stage.requests.is_empty()) {
            let _ = writeln!(text, "  {SECOND_TRIES}");
        }
        text
    }
}

fn tasks(n_tasks: u64) -> String {
    let plural = if n_tasks == 1 { "" } else { "s" };
    format!("{} task{plural}", count(n_tasks))
}

fn render_phases(text: &mut String, phases: &[PhaseReport], indent: usize) {
    let width = phases.iter().map(|phase| phase.name.len()).max();
    for phase in phases {
        let n_tasks = phase
            .n_tasks
            .map_or_else(|| "one task for each object of its input".to_owned(), tasks);
        let _ = write!(
            text,
            "  {:indent$}  {:<width$}  {n_tasks}",
            "",
            phase.name,
            width = width.unwrap_or(0)
        );
        if let Some(n_rows) = phase.n_rows {
            let _ = write!(text, ", {} rows", count(n_rows));
        }
        if let Some(n_bytes) = phase.bytes {
            let _ = write!(text, ", {}", bytes(n_bytes));
        }
        text.push('\n');
        if let Some(note) = &phase.note {
            let _ = writeln!(text, "  {:indent$}  {note}", "");
        }
    }
}

/// Plans a job without writing anything.
///
/// # Errors
///
/// As a run would before its first task.
pub async fn plan(
    arguments: &JobArguments,
    broker: &BrokerArguments,
) -> Result<PlanReport, RunError> {
    let (checked, base_dir) = prepare::read_job(arguments)?;
    let stores = Stores::from_env();
    let output = Output::open(&stores, &checked.output)?;
    let workers = prepare::expected_workers(broker.for_job(&checked.job)?.is_some(), None);
    let inputs = prepare::load_inputs(&stores, &output, &checked, &base_dir, workers).await?;
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let environment = Environment {
        stores,
        queue: Arc::new(MemoryQueue::new()),
        task_ended: Arc::new(Notify::new()),
        trouble: Arc::default(),
        n_slots: 0,
        patience: std::time::Duration::ZERO,
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
            checked: inputs
                .dataset_rows
                .get(name)
                .filter(|_| !std::ptr::eq(set, &inputs.corpus))
                .cloned(),
            columns: set.columns.clone(),
        })
        .collect()
}

async fn plan_stages(driver: &Driver<'_>) -> Result<Vec<StageReport>, RunError> {
    let mut finished: BTreeMap<String, FinishedStage> = BTreeMap::new();
    let mut outlook = Outlook::new(driver);
    let mut reports = Vec::new();
    let mut blocked_by: Option<String> = None;
    let nothing = Forecast::default();
    let mut items = Items::default();
    for checked in &driver.job.stages {
        let forecast = driver.inputs.forecasts.get(&checked.name);
        let forecast = forecast.unwrap_or(&nothing);
        let report = |state, why: String, asked: Asked| StageReport {
            name: checked.name.clone(),
            kind: checked.kind.name().to_owned(),
            state,
            n_tasks: 0,
            n_reused: 0,
            phases: Vec::new(),
            why,
            memory: forecast.memory.as_ref().map(|memory| StageMemory {
                bytes: memory.bytes,
                parts: memory.parts.clone(),
            }),
            notes: forecast.notes.iter().cloned().chain(asked.note).collect(),
            requests: asked.reports,
        };
        if let Some(open) = &blocked_by
            && checked.stage.needs().iter().any(|need| match need {
                gleaner_workers::stage::Need::Stage(name) => !finished.contains_key(name),
                _ => false,
            })
        {
            let phases = outlook.after(checked, |_| true)?;
            let why = format!("its input depends on {open}");
            let n_tasks = phases.iter().filter_map(|phase| phase.n_tasks).sum();
            let asked = items.requests(driver, checked, &finished, None).await?;
            reports.push(StageReport {
                n_tasks,
                phases,
                ..report(StageState::Waits, why, asked)
            });
            continue;
        }
        let (so_far, open, why, phases) = match driver.run_stage(checked, &finished).await? {
            StageEnd::Finished(stage) => {
                let why = "parameters and inputs are unchanged".to_owned();
                reports.push(StageReport {
                    n_tasks: stage.reuse.n_tasks,
                    n_reused: stage.reuse.n_reused,
                    ..report(StageState::Reused, why, Asked::default())
                });
                finished.insert(checked.name.clone(), *stage);
                continue;
            }
            StageEnd::Open(phase, so_far) => {
                let name = phase.plan.phase.clone();
                let why = if phase.n_reused > 0 {
                    format!(
                        "{} of {} tasks of {name} are there",
                        phase.n_reused, phase.plan.n_tasks
                    )
                } else {
                    format!("nothing is there of {name} and what follows it")
                };
                let mut is_later = false;
                let phases = outlook.after(checked, |expected| {
                    let was_later = is_later;
                    is_later |= expected.name == name;
                    was_later
                })?;
                (so_far, Some(phase), why, phases)
            }
            StageEnd::Reduce(phase, so_far) => {
                let phases = outlook.after(checked, |expected| expected.is_table)?;
                let why = format!("{phase} runs in the coordinator, then what follows it");
                (so_far, None, why, phases)
            }
        };
        let progress = Some(StageProgress {
            so_far: &so_far,
            open: open.as_deref(),
        });
        let asked = items.requests(driver, checked, &finished, progress).await?;
        let n_expected: u64 = phases.iter().filter_map(|phase| phase.n_tasks).sum();
        let n_reused_open = open.as_ref().map_or(0, |phase| phase.n_reused);
        let open = open.map(|phase| PhaseReport {
            name: phase.plan.phase.clone(),
            n_tasks: Some(phase.plan.n_tasks - phase.n_reused),
            n_rows: phase.plan.n_rows.map(|n_rows| n_rows - phase.rows_reused),
            bytes: Some(phase.plan.bytes - phase.bytes_reused),
            note: phase.slow,
        });
        reports.push(StageReport {
            n_tasks: so_far.reuse.n_tasks + n_expected,
            n_reused: so_far.reuse.n_reused + n_reused_open,
            phases: open.into_iter().chain(phases).collect(),
            ..report(StageState::Open, why, asked)
        });
        blocked_by.get_or_insert_with(|| checked.name.clone());
    }
    Ok(reports)
}

/// What can be said of phases whose inputs are not complete.
struct Outlook<'a> {
    driver: &'a Driver<'a>,
    /// Objects that the tables of stages will have.
    n_objects: BTreeMap<String, u64>,
}

impl<'a> Outlook<'a> {
    fn new(driver: &'a Driver<'a>) -> Self {
        Self {
            driver,
            n_objects: BTreeMap::new(),
        }
    }

    /// The expected phases of a stage that `is_later` says yes to.
    fn after(
        &mut self,
        checked: &CheckedStage,
        mut is_later: impl FnMut(&ExpectedPhase) -> bool,
    ) -> Result<Vec<PhaseReport>, RunError> {
        let mut phases = Vec::new();
        for expected in checked.stage.outlook() {
            let mut report = PhaseReport {
                name: expected.name.clone(),
                n_tasks: None,
                n_rows: None,
                bytes: None,
                note: None,
            };
            let shards = self
                .driver
                .expected_shards(&checked.name, &expected.input)?;
            if let Some(shards) = shards {
                report.note = self.driver.slow_tasks(&checked.name, shards.iter());
                report.n_tasks = Some(shards.len() as u64);
                report.n_rows = shards.iter().map(Shard::n_rows).sum();
                report.bytes = Some(shards.iter().map(Shard::bytes).sum());
            } else if let PhaseInput::Table { stage, .. } = &expected.input {
                report.n_tasks = self.n_objects.get(stage).copied();
            } else if let PhaseInput::Inner { in_one_task, .. } = expected.input {
                report.n_tasks = in_one_task.then_some(1);
            }
            if expected.is_table
                && let Some(n_tasks) = report.n_tasks
            {
                self.n_objects.insert(checked.name.clone(), n_tasks);
            }
            if is_later(&expected) {
                phases.push(report);
            }
        }
        Ok(phases)
    }
}
