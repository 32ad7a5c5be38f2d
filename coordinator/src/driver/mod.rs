//! The driver of a job: asks each stage for its next step and takes it, until all are done.
//!
//! 1. [`crate::inputs`] lists the files as they are now and reads their footers.
//! 2. For each stage in order: [`next`](gleaner_workers::stage::Stage::next) says what is next; a
//!    map is planned ([`crate::planner`]), looked up or dispatched ([`crate::dispatch`]); a reduce
//!    is looked up or run ([`crate::reduce`]).
//! 3. [`crate::publish`] creates the next version, if it differs from the newest.
//!
//! Embedded or over a broker, the driver is the same; it never talks to a worker.

mod map;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use gleaner_queue::TaskQueue;
use gleaner_schemas::{
    Lanes, PhaseManifest, PhasePlan, QuarantinedTask, ReduceResult, Reuse, RunId, TableFile,
    Version,
};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores, layout};
use gleaner_workers::entropy::Entropy;
use gleaner_workers::forecast::Forecast;
use gleaner_workers::language_model::ModelFacts;
use gleaner_workers::runner::Trouble;
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::{
    Completed, CompletedStage, MapPhase, Outcome, OutcomeTable, ReducePhase, Step,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::checked_job::{CheckedJob, CheckedStage};
use crate::datasets::DatasetRows;
use crate::dispatch::Work;
use crate::gathered::GatheredPhases;
use crate::inputs::InputSet;
use crate::journal::Journal;
use crate::observation::Observation;
use crate::phase_input;
use crate::progress::Progress;
use crate::reduce::{PlannedReduce, Reducer};
use crate::restore;
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
    /// Slots of the workers in this process.
    pub n_slots: usize,
    /// How long store, queue or workers may be missing before the run ends resumably.
    pub patience: Duration,
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
    /// What was found in their rows.
    pub dataset_rows: BTreeMap<String, DatasetRows>,
    /// Directories of language models, by the text that names them.
    pub models: BTreeMap<String, ModelFacts>,
    /// What stages foresee, by name.
    pub forecasts: BTreeMap<String, Forecast>,
    /// Newest versions of other outputs, by the text that names them.
    pub others: BTreeMap<String, (Output, Version)>,
    /// The newest version of this output.
    pub published: Option<Arc<Version>>,
    /// Stages whose model that version names, and which is gone.
    pub lost_models: BTreeSet<String>,
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
    pub manifests: Vec<(String, Arc<PhaseManifest>)>,
    /// Table phase, which later stages read.
    pub table: Option<Arc<PhaseManifest>>,
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
    /// A sentence about tasks that may not end in time.
    pub slow: Option<String>,
}

/// How far a stage came.
#[derive(Debug)]
pub enum StageEnd {
    /// It is complete.
    Finished(Box<FinishedStage>),
    /// [`Mode::Plan`]: this map phase has open tasks; what follows depends on them.
    Open(Box<OpenPhase>, SoFar),
    /// [`Mode::Plan`]: a reduce or a query has to run; its inputs are complete.
    Reduce(String, SoFar),
}

/// What of a stage is complete where [`Mode::Plan`] stopped.
#[derive(Debug, Clone, Default)]
pub struct SoFar {
    /// Tasks, and how many were there before.
    pub reuse: Reuse,
    /// Names of its complete map phases.
    pub maps: BTreeSet<String>,
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
    /// Whether this run did anything for the stage.
    is_computed: bool,
    maps: BTreeMap<String, Arc<PhaseManifest>>,
    reduces: BTreeMap<String, ReduceResult>,
    gathered: GatheredPhases,
    folders: Vec<(String, Arc<PhaseManifest>)>,
    table: Option<Arc<PhaseManifest>>,
    sql: Option<(SchemaRef, Vec<TableFile>)>,
    reuse: Reuse,
    work: Work,
}

impl StageProgress {
    fn so_far(&self) -> SoFar {
        SoFar {
            reuse: self.reuse,
            maps: self.maps.keys().cloned().collect(),
        }
    }

    /// Remembers a map phase that is complete.
    fn keep(&mut self, phase: &MapPhase, folder: &str, manifest: &Arc<PhaseManifest>) {
        self.folders.push((folder.to_owned(), Arc::clone(manifest)));
        if phase.is_table {
            self.table = Some(Arc::clone(manifest));
        }
        self.maps.insert(phase.name.clone(), Arc::clone(manifest));
    }
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
        // A model that is gone is fitted again; it must come out as it was.
        let is_lost = self.inputs.lost_models.contains(&checked.name);
        let published = self.inputs.published.as_deref().filter(|_| !is_lost);
        let mut progress = StageProgress::default();
        let started = Instant::now();
        for _ in 0..STEPS_MAX {
            if self.environment.shutdown.is_draining() {
                return Err(RunError::Interrupted);
            }
            let step = checked.stage.next(&Completed {
                maps: &progress.maps,
                reduces: &progress.reduces,
                published,
                others: &others,
                stages: &completed_stages,
                models: &self.inputs.models,
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
                    if self.mode == Mode::Run {
                        let step = Observation::StepStarted { step: "query" };
                        self.environment.progress.observe(&step);
                    }
                    let query = sql_stage::Query {
                        stage: &checked.name,
                        sql: &sql,
                        tables: &completed_stages,
                    };
                    let Some(table) = sql_stage::run(self, &query).await? else {
                        return Ok(StageEnd::Reduce("query".to_owned(), progress.so_far()));
                    };
                    progress.is_computed |= table.is_new;
                    progress.reduces.insert("query".to_owned(), table.result);
                    progress.sql = Some((table.schema, table.files));
                }
                Step::Done(outcome) => {
                    if progress.is_computed {
                        progress.work.seconds = started.elapsed().as_secs_f64();
                    }
                    let finished = self.finish(checked, outcome, progress).await?;
                    if is_lost {
                        self.check_restored(checked, &finished)?;
                    }
                    return Ok(StageEnd::Finished(Box::new(finished)));
                }
            }
        }
        Err(RunError::Internal(format!(
            "stage {} did not end after {STEPS_MAX} steps",
            checked.name
        )))
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
            published: self.inputs.published.as_ref(),
            gathered: &progress.gathered,
        };
        let stored = reducer.stored(&planned, checked.kind).await?;
        let is_lost = match &stored {
            Some(result) => reducer.is_lost(result).await?,
            None => false,
        };
        let result = match (stored, self.mode) {
            (Some(_), Mode::Plan) if is_lost => {
                return Ok(Some(StageEnd::Reduce(name, progress.so_far())));
            }
            (Some(result), Mode::Run) if is_lost => {
                let restored = reducer.restore(planned, checked.kind, &checked.stage, result);
                restored.await?
            }
            (Some(result), _) => result,
            (None, Mode::Plan) => return Ok(Some(StageEnd::Reduce(name, progress.so_far()))),
            (None, Mode::Run) => {
                progress.is_computed = true;
                let step = Observation::StepStarted { step: &name };
                self.environment.progress.observe(&step);
                reducer.run(planned, checked.kind, &checked.stage).await?
            }
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
        let shutdown = &self.environment.shutdown;
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
                let schema = phase_input::read_schema(self.output, shutdown, &files).await?;
                (schema, files, manifest.lanes)
            }
            (None, None) => {
                let Some((table, lanes)) = &outcome.table else {
                    return Err(RunError::Internal(format!(
                        "stage {} ended without a table",
                        checked.name
                    )));
                };
                let files = self.outcome_table(&checked.name, table, &progress)?;
                let schema = phase_input::read_schema(self.output, shutdown, &files).await?;
                (schema, files, *lanes)
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

impl Driver<'_> {
    /// Other weights under the same name would be no repair.
    fn check_restored(
        &self,
        checked: &CheckedStage,
        finished: &FinishedStage,
    ) -> Result<(), RunError> {
        if checked.stage.params()["refit"] == true {
            return Ok(());
        }
        let name = format!("{}_model", checked.name);
        let before = self.inputs.published.as_deref();
        let before = before.and_then(|version| version.tables.get(&name));
        let contents = |files: &[TableFile]| -> Vec<_> {
            files.iter().map(|file| file.checksum.clone()).collect()
        };
        let now = finished.completed.tables.get(&name);
        let trained = self.inputs.published.as_deref();
        let trained = trained.and_then(|version| version.stages.get(&checked.name));
        let is_same_model = trained.is_none_or(|stage| {
            restore::trained_model(stage).is_none()
                || stage.facts.get("model") == finished.completed.facts.get("model")
        });
        let is_same_table =
            before.map(|table| contents(&table.files)) == now.map(|files| contents(files));
        if is_same_model && is_same_table {
            return Ok(());
        }
        Err(RunError::usage(
            format!(
                "the model of stage {} is gone, and fitting it again gives another one: its inputs \
                 have changed since",
                checked.name
            ),
            format!(
                "put back the files of {name}/ and {}/ that `gleaner verify` names, or fit anew for good: \
                 --set stages.{}.refit=true",
                checked.name, checked.name
            ),
        ))
    }
}

fn table_file(pinned: &gleaner_schemas::PinnedAttempt) -> TableFile {
    let mut inputs: Vec<String> = pinned.inputs.iter().map(|file| file.name.clone()).collect();
    inputs.dedup();
    TableFile {
        path: layout::pinned(pinned),
        rows: pinned.rows,
        bytes: pinned.bytes,
        checksum: pinned.attempt.content(),
        task: Some(pinned.task.clone()),
        lanes: pinned.lanes,
        inputs,
    }
}
