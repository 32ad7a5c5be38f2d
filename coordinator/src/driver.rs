//! The driver of a job: asks each stage for its next step and takes it, until all are done.
//!
//! 1. [`crate::inputs`] lists the files as they are now and reads their footers.
//! 2. For each stage in order: [`next`](gleaner_workers::stage::Stage::next) says what is next; a
//!    map is planned ([`crate::planner`]), looked up or dispatched ([`crate::dispatch`]); a reduce
//!    is looked up or run ([`crate::reduce`]).
//! 3. [`crate::publish`] creates the next version, if it differs from the newest.
//!
//! Embedded or over a broker, the driver is the same; it never talks to a worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use gleaner_queue::TaskQueue;
use gleaner_schemas::{
    Lanes, PhaseManifest, PhasePlan, QuarantinedTask, ReduceResult, Reuse, Route, RunId, Shard,
    SideInput, TableFile, Task, Version,
};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::runner::Trouble;
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::{
    Completed, CompletedStage, DocumentSource, MapPhase, Outcome, OutcomeTable, PhaseInput,
    ReducePhase, SideTable, Step,
};
use tokio::sync::Notify;

use crate::allow;
use crate::checked_job::{CheckedJob, CheckedStage};
use crate::dispatch::{Dispatcher, Work, retrying, stored_manifest};
use crate::inputs::InputSet;
use crate::journal::Journal;
use crate::phase_input;
use crate::planner;
use crate::progress::Progress;
use crate::reduce::{PlannedReduce, Reducer};
use crate::run_error::RunError;
use crate::sql_stage;

/// The version of a format or a stage's parameters never makes a phase longer than this.
const STEPS_MAX: usize = 10_000;

/// What a run is given: components, not settings.
#[derive(Debug)]
pub struct Environment {
    /// Stores by URI.
    pub stores: Stores,
    /// Where tasks are offered.
    pub queue: Arc<dyn TaskQueue>,
    /// Told by workers in this process after each task.
    pub task_ended: Arc<Notify>,
    /// What keeps workers in this process from recording outcomes.
    pub trouble: Arc<Trouble>,
    /// Tasks that workers can run at a time, as far as known.
    pub n_slots: usize,
    /// Random bits for names.
    pub entropy: Arc<dyn Entropy>,
    /// Where progress is shown.
    pub progress: Arc<dyn Progress>,
    /// Whether somebody asked to stop.
    pub shutdown: Shutdown,
}

/// The inputs of a job as they are now.
#[derive(Debug)]
pub struct JobInputs {
    /// The corpus.
    pub corpus: InputSet,
    /// Datasets by name.
    pub datasets: BTreeMap<String, InputSet>,
    /// Newest versions of other outputs, by the text that names them.
    pub others: BTreeMap<String, (Output, Version)>,
    /// The newest version of this output.
    pub published: Option<Version>,
}

/// Whether tasks are run, or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Run what is missing.
    Run,
    /// Write nothing; stop at the first phase that is not complete.
    Plan,
}

/// A stage that is complete.
#[derive(Debug)]
pub struct FinishedStage {
    /// As later stages see it.
    pub completed: CompletedStage,
    /// Tasks that were given up, of any phase.
    pub quarantined: Vec<QuarantinedTask>,
    /// Tasks, and how many were there before.
    pub reuse: Reuse,
    /// What this run did for it.
    pub work: Work,
    /// Sentences for the summary.
    pub notes: Vec<String>,
    /// Folders of its map phases, with the attempts that are pinned.
    pub manifests: Vec<(String, PhaseManifest)>,
    /// Table phase, which later stages read.
    pub table: Option<PhaseManifest>,
}

/// A map phase that [`Mode::Plan`] stopped at.
#[derive(Debug)]
pub struct OpenPhase {
    /// Its plan.
    pub plan: PhasePlan,
    /// Tasks of which an attempt is there.
    pub n_reused: u64,
    /// Rows of these tasks, where known.
    pub rows_reused: u64,
    /// Uncompressed bytes of these tasks.
    pub bytes_reused: u64,
}

/// How far a stage came.
#[derive(Debug)]
pub enum StageEnd {
    /// It is complete.
    Finished(Box<FinishedStage>),
    /// [`Mode::Plan`]: this map phase has open tasks; what follows depends on them.
    Open(Box<OpenPhase>, Reuse),
    /// [`Mode::Plan`]: a reduce or a query has to run; its inputs are complete.
    Reduce(String, Reuse),
}

/// Runs or plans the stages of a job.
#[derive(Debug)]
pub struct Driver<'a> {
    /// The job.
    pub job: &'a CheckedJob,
    /// Its inputs.
    pub inputs: &'a JobInputs,
    /// Its output.
    pub output: &'a Output,
    /// Components.
    pub environment: &'a Environment,
    /// For reads on blocking threads.
    pub io: &'a BlockingIo,
    /// This run.
    pub run: &'a RunId,
    /// Its journal.
    pub journal: &'a Journal,
    /// Run or plan.
    pub mode: Mode,
}

#[derive(Default)]
struct StageProgress {
    maps: BTreeMap<String, PhaseManifest>,
    reduces: BTreeMap<String, ReduceResult>,
    folders: Vec<(String, PhaseManifest)>,
    table: Option<PhaseManifest>,
    sql: Option<(SchemaRef, Vec<TableFile>)>,
    reuse: Reuse,
    work: Work,
}

impl Driver<'_> {
    /// Takes a stage to its end.
    ///
    /// # Errors
    ///
    /// If a phase cannot be completed, or more was given up than the job allows.
    pub async fn run_stage(
        &self,
        checked: &CheckedStage,
        stages: &BTreeMap<String, FinishedStage>,
    ) -> Result<StageEnd, RunError> {
        let completed_stages: BTreeMap<String, CompletedStage> = stages
            .iter()
            .map(|(name, finished)| (name.clone(), finished.completed.clone()))
            .collect();
        let others: BTreeMap<String, Version> = self
            .inputs
            .others
            .iter()
            .map(|(need, (_, version))| (need.clone(), version.clone()))
            .collect();
        let mut progress = StageProgress::default();
        for _ in 0..STEPS_MAX {
            if self.environment.shutdown.is_draining() {
                return Err(RunError::Interrupted);
            }
            let step = checked.stage.next(&Completed {
                maps: &progress.maps,
                reduces: &progress.reduces,
                published: self.inputs.published.as_ref(),
                others: &others,
                stages: &completed_stages,
                corpus_schema: &self.inputs.corpus.schema,
            })?;
            match step {
                Step::Map(phase) => {
                    if let Some(end) = self.map(checked, phase, stages, &mut progress).await? {
                        return Ok(end);
                    }
                }
                Step::Reduce(phase) => {
                    if let Some(end) = self.reduce(checked, phase, &mut progress).await? {
                        return Ok(end);
                    }
                }
                Step::Sql(sql) => {
                    let query = sql_stage::Query {
                        stage: &checked.name,
                        sql: &sql,
                        tables: &completed_stages,
                    };
                    let Some(table) = sql_stage::run(self, &query).await? else {
                        return Ok(StageEnd::Reduce("query".to_owned(), progress.reuse));
                    };
                    progress.reduces.insert("query".to_owned(), table.result);
                    progress.sql = Some((table.schema, table.files));
                }
                Step::Done(outcome) => {
                    let finished = self.finish(checked, outcome, progress).await?;
                    return Ok(StageEnd::Finished(Box::new(finished)));
                }
            }
        }
        Err(RunError::Internal(format!(
            "stage {} did not end after {STEPS_MAX} steps",
            checked.name
        )))
    }

    async fn map(
        &self,
        checked: &CheckedStage,
        phase: MapPhase,
        stages: &BTreeMap<String, FinishedStage>,
        progress: &mut StageProgress,
    ) -> Result<Option<StageEnd>, RunError> {
        let (plan, tasks) = self.plan_map(checked, &phase, stages, progress)?;
        if tasks.is_empty() {
            return Err(RunError::Usage {
                message: format!(
                    "stage {}, phase {}: there is nothing to read",
                    checked.name, phase.name
                ),
                help: Some("was every task of an earlier stage quarantined?".to_owned()),
            });
        }
        let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
        progress.reuse.n_tasks += plan.n_tasks;
        let shutdown = &self.environment.shutdown;
        let stored = retrying(shutdown, || stored_manifest(self.output, &plan, &plan_id)).await?;
        let manifest = match (stored, self.mode) {
            (Some(manifest), _) => {
                progress.reuse.n_reused += plan.n_tasks;
                manifest
            }
            (None, Mode::Plan) => {
                let open = self.open_phase(plan, &tasks).await?;
                return Ok(Some(StageEnd::Open(Box::new(open), progress.reuse)));
            }
            (None, Mode::Run) => {
                let dispatcher = Dispatcher {
                    output: self.output,
                    queue: &self.environment.queue,
                    task_ended: &self.environment.task_ended,
                    trouble: &self.environment.trouble,
                    n_slots: self.environment.n_slots,
                    route: Route {
                        resource: checked.kind.resource(),
                        priority: self.job.job.file.priority,
                    },
                    run: self.run,
                    journal: self.journal,
                    progress: self.environment.progress.as_ref(),
                    shutdown,
                };
                let outcome = dispatcher.run_phase(&plan, &plan_id, &tasks).await?;
                progress.reuse.n_reused += outcome.n_reused;
                progress.work += outcome.work;
                outcome.manifest
            }
        };
        allow::check_phase(
            &self.job.job.file.allow,
            &manifest,
            plan.n_tasks,
            phase.is_table,
        )?;
        progress
            .folders
            .push((plan.folder.clone(), manifest.clone()));
        if phase.is_table {
            progress.table = Some(manifest.clone());
        }
        progress.maps.insert(phase.name, manifest);
        Ok(None)
    }

    /// Shards of a phase that is not planned yet; `None` if what it reads is not there yet.
    ///
    /// # Errors
    ///
    /// If the stage names something that does not exist.
    pub fn expected_shards(&self, input: &PhaseInput) -> Result<Option<Vec<Shard>>, RunError> {
        let PhaseInput::Documents { from, .. } = input else {
            return Ok(None);
        };
        if matches!(from, DocumentSource::Stage(_)) {
            return Ok(None);
        }
        let sources = phase_input::Sources {
            inputs: self.inputs,
            stages: &BTreeMap::new(),
            own: ("", None),
            output: self.output,
        };
        let task_bytes = self.job.job.file.task_bytes.bytes();
        Ok(Some(sources.shards(input, task_bytes)?.1))
    }

    fn plan_map(
        &self,
        checked: &CheckedStage,
        phase: &MapPhase,
        stages: &BTreeMap<String, FinishedStage>,
        progress: &StageProgress,
    ) -> Result<(PhasePlan, Vec<Task>), RunError> {
        let file = &self.job.job.file;
        let sources = phase_input::Sources {
            inputs: self.inputs,
            stages,
            own: (&checked.name, progress.table.as_ref()),
            output: self.output,
        };
        let (reader, shards) = sources.shards(&phase.input, file.task_bytes.bytes())?;
        let folder = if phase.is_table {
            layout::table_folder(&checked.name)
        } else {
            layout::inner_folder(&checked.name, &phase.name)
        };
        let mut plan = PhasePlan {
            format: PhasePlan::FORMAT,
            stage: checked.name.clone(),
            kind: checked.kind.name().to_owned(),
            code_version: checked.kind.code_version(),
            phase: phase.name.clone(),
            params: phase.params.clone(),
            side_inputs: self.side_inputs(&phase.side_inputs, progress)?,
            reader,
            folder,
            n_tasks: 0,
            n_rows: None,
            bytes: 0,
            memory_bytes: file.memory.bytes(),
            task_timeout_ms: u64::try_from(file.task_timeout.duration().as_millis())
                .unwrap_or(u64::MAX),
        };
        let tasks = planner::tasks(&mut plan, shards);
        Ok((plan, tasks))
    }

    fn side_inputs(
        &self,
        wanted: &[(String, SideTable)],
        progress: &StageProgress,
    ) -> Result<Vec<SideInput>, RunError> {
        wanted
            .iter()
            .map(|(name, table)| {
                let (output, file) = match table {
                    SideTable::Reduce { phase, table } => {
                        let file = progress
                            .reduces
                            .get(phase)
                            .and_then(|result| result.tables.get(table));
                        (Some(self.output), file)
                    }
                    SideTable::Own(file) => (Some(self.output), Some(file)),
                    SideTable::Other { need, file } => (
                        self.inputs.others.get(need).map(|(output, _)| output),
                        Some(file),
                    ),
                };
                match (output, file) {
                    (Some(output), Some(file)) => Ok(SideInput {
                        name: name.clone(),
                        uri: output.uri_of(&file.path),
                        content: file.checksum.clone(),
                    }),
                    _ => Err(RunError::Internal(format!(
                        "a stage asks for side input {name}, which does not exist"
                    ))),
                }
            })
            .collect()
    }

    async fn open_phase(&self, plan: PhasePlan, tasks: &[Task]) -> Result<OpenPhase, RunError> {
        let attempts = self.output.attempts(&plan.folder).await?;
        let reused = || tasks.iter().filter(|task| attempts.contains_key(&task.id));
        Ok(OpenPhase {
            n_reused: reused().count() as u64,
            rows_reused: reused().filter_map(|task| task.shard.n_rows()).sum(),
            bytes_reused: reused().map(|task| task.shard.bytes()).sum(),
            plan,
        })
    }

    async fn reduce(
        &self,
        checked: &CheckedStage,
        phase: ReducePhase,
        progress: &mut StageProgress,
    ) -> Result<Option<StageEnd>, RunError> {
        let name = phase.name.clone();
        let side_inputs = self.side_inputs(&phase.side_inputs, progress)?;
        let inputs = phase
            .inputs
            .iter()
            .filter_map(|map| Some((map.clone(), progress.maps.get(map)?.clone())))
            .collect();
        let planned = PlannedReduce {
            stage: checked.name.clone(),
            phase,
            inputs,
            side_inputs,
        };
        let reducer = Reducer {
            output: self.output,
            io: self.io,
            entropy: self.environment.entropy.as_ref(),
            shutdown: &self.environment.shutdown,
            memory_bytes: self.job.job.file.memory.bytes(),
        };
        let result = match (reducer.stored(&planned, checked.kind).await?, self.mode) {
            (Some(result), _) => result,
            (None, Mode::Plan) => return Ok(Some(StageEnd::Reduce(name, progress.reuse))),
            (None, Mode::Run) => reducer.run(planned, checked.kind, &checked.stage).await?,
        };
        progress.reduces.insert(name, result);
        Ok(None)
    }

    async fn finish(
        &self,
        checked: &CheckedStage,
        outcome: Outcome,
        progress: StageProgress,
    ) -> Result<FinishedStage, RunError> {
        let (schema, files, lanes) = match (&progress.sql, &progress.table) {
            (Some((schema, files)), _) => {
                let rows = files.iter().map(|file| file.rows).sum();
                let lanes = Lanes {
                    rows_in: rows,
                    ok: rows,
                    ..Lanes::default()
                };
                (Arc::clone(schema), files.clone(), lanes)
            }
            (None, Some(manifest)) => {
                let files: Vec<TableFile> = manifest.attempts.iter().map(table_file).collect();
                let schema = phase_input::read_schema(self.output, &files).await?;
                (schema, files, manifest.lanes)
            }
            (None, None) => {
                return Err(RunError::Internal(format!(
                    "stage {} ended without a table",
                    checked.name
                )));
            }
        };
        let mut tables = BTreeMap::from([(checked.name.clone(), files)]);
        for (name, table) in &outcome.tables {
            tables.insert(name.clone(), self.outcome_table(name, table, &progress)?);
        }
        Ok(FinishedStage {
            completed: CompletedStage {
                kind: checked.kind.name().to_owned(),
                params: checked.stage.params(),
                schema,
                facts: outcome.facts,
                tables,
                lanes,
            },
            quarantined: progress
                .folders
                .iter()
                .flat_map(|(_, manifest)| manifest.quarantined.clone())
                .collect(),
            reuse: progress.reuse,
            work: progress.work,
            notes: outcome.notes,
            manifests: progress.folders,
            table: progress.table,
        })
    }

    fn outcome_table(
        &self,
        name: &str,
        table: &OutcomeTable,
        progress: &StageProgress,
    ) -> Result<Vec<TableFile>, RunError> {
        let files = match table {
            OutcomeTable::Reduce { phase, table } => progress
                .reduces
                .get(phase)
                .and_then(|result| result.tables.get(table))
                .map(|file| vec![file.clone()]),
            OutcomeTable::Published => self
                .inputs
                .published
                .as_ref()
                .and_then(|version| version.tables.get(name))
                .map(|table| table.files.clone()),
        };
        files.ok_or_else(|| RunError::Internal(format!("table {name} does not exist")))
    }
}

fn table_file(pinned: &gleaner_schemas::PinnedAttempt) -> TableFile {
    let mut inputs: Vec<String> = pinned.inputs.iter().map(|file| file.name.clone()).collect();
    inputs.dedup();
    TableFile {
        path: pinned.path.clone(),
        rows: pinned.rows,
        bytes: pinned.bytes,
        checksum: pinned.attempt.content(),
        task: Some(pinned.task.clone()),
        lanes: pinned.lanes,
        inputs,
    }
}
