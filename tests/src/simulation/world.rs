//! The job of a simulation: two phases of tasks, and how actors work on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use gleaner_coordinator::checked_job::{self, CheckedJob};
use gleaner_coordinator::dispatch::{Dispatcher, PhaseEnd, Work, stored_manifest};
use gleaner_coordinator::driver::{FinishedStage, JobInputs};
use gleaner_coordinator::inputs::InputSet;
use gleaner_coordinator::journal::{Journal, RunEnded, RunStarted};
use gleaner_coordinator::losers;
use gleaner_coordinator::planner;
use gleaner_coordinator::progress::Silent;
use gleaner_coordinator::publish::{self, Ready};
use gleaner_coordinator::retry::retrying;
use gleaner_coordinator::run_error::RunError;
use gleaner_coordinator::splits;
use gleaner_coordinator::sweep;
use gleaner_queue::TaskQueue;
use gleaner_schemas::job::{Job, JobSource};
use gleaner_schemas::{
    DocumentColumns, Fingerprint, Lanes, PhaseManifest, PhasePlan, Reuse, Route, RunId, Shard,
    TableFile, Task, TaskId, Version,
};
use gleaner_storage::{Output, Stores, layout};
use gleaner_workers::attempt::Workbench;
use gleaner_workers::entropy::{Entropy as _, SeededEntropy};
use gleaner_workers::options::WorkerOptions;
use gleaner_workers::plan_cache::PlanCache;
use gleaner_workers::runner::{Trouble, Worker};
use gleaner_workers::shutdown::Shutdown;
use gleaner_workers::stage::CompletedStage;
use object_store::memory::InMemory;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::faults::{Faults, FaultyStore, StoreClock};
use super::faulty_queue::FaultyQueue;
use super::mutant::Mutant;
use super::tasks::{Executor, Phase, large_shards, object, plan, schema, shard, shards};

/// The stage of the job.
pub(super) const STAGE: &str = "stage";
const OUTPUT: &str = "sim://store/out";
/// Looks at the output, ten in a second, until a coordinator begins whatever is there.
const LOOKS_MAX: u32 = 6_000;
/// Runs that a user makes until nothing but poison is left.
const RERUNS_MAX: u32 = 20;
/// Nobody works, or the store does not answer, for so long.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a coordinator finds when it lists the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Corpus {
    Narrow,
    /// One file more: another plan of the table, over the same tasks and one.
    Wide,
}

/// Everything that actors share.
#[derive(Debug)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) faults: Arc<Faults>,
    /// Whether the file appears while the job runs, so that coordinators differ.
    pub(super) has_wide: bool,
    store: Arc<InMemory>,
    clock: Arc<StoreClock>,
    queue: Arc<dyn TaskQueue>,
    inner: (PhasePlan, Vec<Task>),
    narrow: (PhasePlan, Vec<Task>),
    wide: (PhasePlan, Vec<Task>),
    poisoned: Arc<BTreeSet<TaskId>>,
    job: CheckedJob,
    entropy: Mutex<u64>,
    task_ended: Arc<Notify>,
}

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let faults = Arc::new(Faults::new(seed, mutant));
        let store = Arc::new(InMemory::new());
        let inner = plan(Phase::Inner, &json!(seed), large_shards(&faults));
        let content = json!(Fingerprint::of("tasks", &inner.1));
        let mut shards = shards(&faults);
        let narrow = plan(Phase::Table, &content, shards.clone());
        shards.push(shard(&faults, shards.len() as u64));
        let wide = plan(Phase::Table, &content, shards);
        let n_poisoned = if faults.pick(0..4) == 0 { 1 } else { 0 };
        let poisoned = narrow
            .1
            .iter()
            .take(n_poisoned)
            .map(|task| task.id.clone())
            .collect();
        let queue = FaultyQueue::new(Arc::clone(&faults), Arc::clone(&store));
        let text = "name: simulation\noutput: out\ncorpus: {paths: [x.parquet]}\nstages: {stage: \
                    {kind: query, sql: SELECT 1}}\n";
        let source = JobSource {
            name: "job.yaml".to_owned(),
            text: text.to_owned(),
        };
        let job = checked_job::check(Job::parse(source).unwrap(), OUTPUT.to_owned()).unwrap();
        Self {
            seed,
            store,
            queue: Arc::new(queue),
            inner,
            narrow,
            wide,
            has_wide: faults.is_race || faults.pick(0..3) == 0,
            clock: Arc::new(StoreClock::new()),
            poisoned: Arc::new(poisoned),
            job,
            entropy: Mutex::new(seed),
            task_ended: Arc::new(Notify::new()),
            faults,
        }
    }

    /// Waits until each task of the table has an attempt: the coordinator that offered them is
    /// about to pin. Some tasks may never have one.
    pub(super) async fn wait_until_all_is_there(&self) {
        let output = self.output();
        let tasks = self.tasks(Corpus::Wide);
        for _ in 0..LOOKS_MAX {
            let attempts = output.attempts(STAGE).await.unwrap();
            if tasks.iter().all(|task| attempts.contains_key(&task.id)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The output, without faults.
    pub(super) fn output(&self) -> Output {
        let stores = Stores::from_env().with("sim://store", Arc::clone(&self.store) as _);
        Output::open(&stores, OUTPUT).unwrap()
    }

    /// Files of the inner phase, with their rows.
    pub(super) fn inner_files(&self) -> BTreeMap<String, u64> {
        let slices = self.inner.1.iter().flat_map(|task| &task.shard.slices);
        slices
            .map(|slice| (slice.file.name.clone(), slice.n_rows.unwrap()))
            .collect()
    }

    /// Tasks of the table.
    pub(super) fn tasks(&self, corpus: Corpus) -> &[Task] {
        &self.table(corpus).1
    }

    fn table(&self, corpus: Corpus) -> &(PhasePlan, Vec<Task>) {
        match corpus {
            Corpus::Narrow => &self.narrow,
            Corpus::Wide => &self.wide,
        }
    }

    pub(super) fn n_tasks(&self) -> u64 {
        (self.inner.1.len() + self.narrow.1.len()) as u64
    }

    pub(super) fn poisoned(&self) -> BTreeSet<&TaskId> {
        self.poisoned.iter().collect()
    }

    /// The bytes that a task of the table must have.
    pub(super) fn object_of(&self, task: &TaskId) -> Bytes {
        let tasks = self.tasks(Corpus::Wide);
        object(tasks.iter().find(|it| it.id == *task).unwrap())
    }

    fn stores(&self, slowness: u32) -> Stores {
        let store = FaultyStore {
            lost: Mutex::default(),
            slowness,
            store: Arc::clone(&self.store),
            faults: Arc::clone(&self.faults),
            clock: Arc::clone(&self.clock),
        };
        Stores::from_env().with("sim://store", Arc::new(store))
    }

    /// Randomness of one more process.
    fn entropy(&self) -> Arc<SeededEntropy> {
        let mut seed = self.entropy.lock().unwrap();
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Arc::new(SeededEntropy::new(*seed))
    }

    /// A worker process.
    pub(super) async fn work(self: Arc<Self>) {
        let worker = Worker {
            queue: Arc::clone(&self.queue),
            bench: Arc::new(Workbench {
                plans: PlanCache::new(self.stores(1)),
                executor: Arc::new(Executor {
                    faults: Arc::clone(&self.faults),
                    poisoned: Arc::clone(&self.poisoned),
                }),
                entropy: self.entropy(),
            }),
            n_slots: 1 + self.faults.pick(0..3) as usize,
            task_ended: Arc::clone(&self.task_ended),
            trouble: Arc::new(Trouble::default()),
            options: WorkerOptions::default(),
        };
        worker.run(&Shutdown::new()).await;
    }

    /// A coordinator process, run again while tasks were given up that another run may save.
    pub(super) async fn coordinate(&self, corpus: Corpus) -> Result<(), RunError> {
        for _ in 0..RERUNS_MAX {
            if self.run_once(corpus).await? {
                return Ok(());
            }
        }
        panic!("seed {}: tasks are given up again and again", self.seed);
    }

    /// One run, with its journal. Whether nothing but poison was given up.
    async fn run_once(&self, corpus: Corpus) -> Result<bool, RunError> {
        let slowness = match corpus {
            Corpus::Wide if self.faults.is_race => 30,
            _ => 1,
        };
        let output = Output::open(&self.stores(slowness), OUTPUT)?;
        let run = RunId::new(self.entropy().next_u64());
        let journal = Journal::new(output.clone(), run.clone());
        journal
            .started(&RunStarted {
                run: run.clone(),
                job: "simulation".to_owned(),
                stages: vec![STAGE.to_owned()],
                started_at: String::new(),
                pid: 0,
            })
            .await?;
        let start = layout::run_event(&run, layout::RUN_STARTED);
        sweep::await_none(&output, &start, &Shutdown::new(), &Silent).await?;
        let ended = self.run_stage(corpus, &output, &run, &journal).await;
        journal
            .ended(&RunEnded {
                exit_code: 0,
                message: String::new(),
                version: None,
                ended_at: String::new(),
            })
            .await;
        let (is_done, stages) = ended?;
        // A run whose losers cannot be removed leaves them to the next one.
        let entropy = self.entropy();
        let _ = losers::remove(
            &output,
            &run,
            &stages.iter().collect::<Vec<_>>(),
            entropy.as_ref(),
        )
        .await;
        Ok(is_done)
    }

    async fn run_stage(
        &self,
        corpus: Corpus,
        output: &Output,
        run: &RunId,
        journal: &Journal,
    ) -> Result<(bool, Vec<(String, FinishedStage)>), RunError> {
        let shutdown = Shutdown::new();
        let entropy = self.entropy();
        let stores = self.stores(2);
        let dispatcher = Dispatcher {
            stores: &stores,
            output,
            queue: &self.queue,
            task_ended: &self.task_ended,
            trouble: &Arc::new(Trouble::default()),
            n_slots: 4,
            route: Route::default(),
            patience: PATIENCE,
            entropy: entropy.as_ref(),
            run,
            journal,
            progress: &Silent,
            shutdown: &shutdown,
            started: Instant::now(),
        };
        // Whoever was overtaken looks again.
        loop {
            let published = retrying(&shutdown, || output.latest_version()).await?;
            let inputs = no_inputs(published.map(Arc::new));
            let Some((is_done, stages)) = self.finish_stage(corpus, output, &dispatcher).await?
            else {
                return Ok((false, Vec::new()));
            };
            let ready = Ready {
                job: &self.job,
                inputs: &inputs,
                stages: &stages,
                figures: &BTreeMap::new(),
                checks: Vec::new(),
                run,
                now: chrono::DateTime::from_timestamp(0, 0).unwrap(),
            };
            if publish::publish(output, &shutdown, &ready).await?.is_some() {
                return Ok((is_done, stages.into_iter().collect()));
            }
        }
    }

    /// The stage with its tables, and whether nothing but poison was given up; nothing if a phase is
    /// not complete.
    async fn finish_stage(
        &self,
        corpus: Corpus,
        output: &Output,
        dispatcher: &Dispatcher<'_>,
    ) -> Result<Option<(bool, BTreeMap<String, FinishedStage>)>, RunError> {
        let mut manifests = Vec::new();
        for (plan, tasks) in [&self.inner, self.table(corpus)] {
            let manifest = run_phase(dispatcher, plan, tasks).await?;
            let is_poison = |task: &TaskId| self.poisoned.contains(task);
            let are_poisoned = manifest
                .quarantined
                .iter()
                .all(|given_up| is_poison(&given_up.task));
            if !are_poisoned && manifest.phase == "inner" {
                return Ok(None);
            }
            manifests.push((plan.folder.clone(), Arc::new(manifest)));
        }
        let quarantined = manifests[1].1.quarantined.clone();
        let is_done = quarantined
            .iter()
            .all(|task| self.poisoned.contains(&task.task));
        let mut finished = finished(manifests);
        if self.faults.mutant == Some(Mutant::Glob) {
            let tables = &mut finished.completed.tables;
            tables.insert(STAGE.to_owned(), self.glob(output).await?);
        }
        Ok(Some((
            is_done,
            BTreeMap::from([(STAGE.to_owned(), finished)]),
        )))
    }
}

impl World {
    /// What [`Mutant::Glob`] takes for the table.
    async fn glob(&self, output: &Output) -> Result<Vec<TableFile>, RunError> {
        let attempts = output.attempts(&layout::table_folder(STAGE)).await?;
        let mut files = Vec::new();
        for task in self.tasks(Corpus::Wide) {
            let rows = task.shard.n_rows().unwrap();
            for attempt in attempts.get(&task.id).into_iter().flatten() {
                files.push(TableFile {
                    path: attempt.path(&task.id),
                    rows,
                    bytes: attempt.bytes,
                    checksum: attempt.attempt.content(),
                    task: Some(task.id.clone()),
                    lanes: Lanes {
                        rows_in: rows,
                        ok: rows,
                        ..Lanes::default()
                    },
                    inputs: Vec::new(),
                });
            }
        }
        Ok(files)
    }
}

/// As the driver does: a phase whose tasks were split is planned again.
async fn run_phase(
    dispatcher: &Dispatcher<'_>,
    plan: &PhasePlan,
    tasks: &[Task],
) -> Result<PhaseManifest, RunError> {
    let mut known = None;
    loop {
        let mut plan = plan.clone();
        let shards: Vec<Shard> = tasks.iter().map(|task| task.shard.clone()).collect();
        let heed = || splits::heed(dispatcher.output, &plan, shards.clone());
        let shards = retrying(dispatcher.shutdown, heed).await?;
        let tasks = planner::tasks(&mut plan, shards);
        let plan_id = plan.plan_id(tasks.iter().map(|task| &task.id));
        let stored = || stored_manifest(dispatcher.output, &plan, &plan_id, &tasks);
        if let Some(manifest) = retrying(dispatcher.shutdown, stored).await? {
            return Ok(manifest);
        }
        let ended = dispatcher.run_phase(&plan, &plan_id, &tasks, known.take());
        match ended.await? {
            PhaseEnd::Complete(outcome) => return Ok(outcome.manifest),
            PhaseEnd::Split(state) => known = Some(state),
        }
    }
}

fn finished(manifests: Vec<(String, Arc<PhaseManifest>)>) -> FinishedStage {
    let table = manifests[1].1.clone();
    let files = table.attempts.iter().map(|pinned| TableFile {
        path: layout::pinned(pinned),
        rows: pinned.rows,
        bytes: pinned.bytes,
        checksum: pinned.attempt.content(),
        task: Some(pinned.task.clone()),
        lanes: pinned.lanes,
        inputs: Vec::new(),
    });
    FinishedStage {
        completed: CompletedStage {
            kind: "query".to_owned(),
            params: json!({}),
            schema: schema(),
            facts: BTreeMap::new(),
            tables: BTreeMap::from([(STAGE.to_owned(), files.collect())]),
            lanes: table.lanes,
        },
        quarantined: table.quarantined.clone(),
        reuse: Reuse::default(),
        work: Work::default(),
        notes: Vec::new(),
        manifests,
        table: Some(table),
    }
}

fn no_inputs(published: Option<Arc<Version>>) -> JobInputs {
    JobInputs {
        corpus: InputSet {
            files: Vec::new(),
            schema: schema(),
            columns: DocumentColumns {
                id: None,
                text: "text".to_owned(),
                source: None,
            },
            predicate: None,
            unreadable: BTreeMap::new(),
            noted: Default::default(),
        },
        datasets: BTreeMap::new(),
        dataset_rows: BTreeMap::new(),
        models: BTreeMap::new(),
        forecasts: BTreeMap::new(),
        others: BTreeMap::new(),
        published,
        lost_models: BTreeSet::new(),
    }
}
