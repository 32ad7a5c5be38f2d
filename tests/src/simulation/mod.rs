//! The commit protocol under faults, in one process and in virtual time, as a seed decides.
//!
//! Real are the ledger, the dispatcher, the worker's loop, the output and the publication. Made
//! up are the store (it fails before or after it did what was asked, and takes its time), the
//! queue (it loses, doubles and delays), and what tasks compute (a function of the task, after a
//! while). Coordinators and workers are killed at any await point and started again.

mod faults;
mod faulty_queue;
mod mutant;
mod tasks;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use gleaner_schemas::{PhaseManifest, PlanId, Task, TaskId, Version};
use gleaner_storage::{Output, layout};

use world::{Corpus, World};

pub use mutant::Mutant;
pub(crate) use tasks::object;

/// Coordinators on one job.
const N_COORDINATORS: usize = 2;
/// Worker processes.
const N_WORKERS: usize = 3;
/// Runs of one coordinator that may fail, one after the other.
const ERRORS_MAX: u32 = 500;
/// Virtual time after which a simulation hangs.
const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Virtual time between the last fault and the run that puts everything in order.
const CALM: Duration = Duration::from_millis(2 * gleaner_coordinator::losers::SAFE_AGE_MS as u64);

/// What a simulation went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Faults of store and queue.
    pub n_faults: u64,
    /// Kills of coordinators and workers.
    pub n_kills: u64,
    /// Tasks of all phases.
    pub n_tasks: u64,
    /// Attempts that lost and were removed, or were left by a kill.
    pub n_attempts: u64,
}

/// Simulates one job to its end.
///
/// # Panics
///
/// If an invariant does not hold, with the seed.
#[must_use]
pub fn simulate(seed: u64) -> Report {
    simulate_with(seed, None)
}

/// Simulates one job to its end, with a bug if one is given.
///
/// # Panics
///
/// If an invariant does not hold, with the seed.
#[must_use]
pub fn simulate_with(seed: u64, mutant: Option<Mutant>) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, mutant));
        let ended = tokio::time::timeout(TIME_MAX, run(&world)).await;
        assert!(ended.is_ok(), "seed {seed}: hangs");
        check(&world).await
    })
}

/// Lets all actors live, die and come back until every coordinator has come to its end.
async fn run(world: &Arc<World>) {
    let mut workers: Vec<_> = (0..N_WORKERS)
        .map(|_| tokio::spawn(Arc::clone(world).work()))
        .collect();
    let mut coordinators: FuturesUnordered<_> = (0..N_COORDINATORS)
        .map(|number| {
            let corpus = if world.has_wide && number == 0 {
                Corpus::Wide
            } else {
                Corpus::Narrow
            };
            live_and_die(Arc::clone(world), corpus)
        })
        .collect();
    let mut kills = world.faults.pick(0..8);
    loop {
        tokio::select! {
            ended = coordinators.next() => {
                if ended.is_none() {
                    break;
                }
            }
            () = tokio::time::sleep(world.faults.time(1..60_000)), if kills > 0 => {
                kills -= 1;
                world.faults.count_kill();
                let victim = world.faults.pick(0..N_WORKERS as u64) as usize;
                workers[victim].abort();
                let _ = (&mut workers[victim]).await;
                workers[victim] = tokio::spawn(Arc::clone(world).work());
            }
        }
    }
    // Once more in calm: whatever was left behind is put in order by an ordinary run.
    world.faults.stop();
    calm_runs(world).await;
    for worker in workers {
        worker.abort();
        let _ = worker.await;
    }
    if world.poisoned().is_empty() {
        // Nothing is left to do, and nobody is left who could write late.
        calm_runs(world).await;
    }
}

/// A run for each corpus, so late that nobody who was killed can be taken for alive.
async fn calm_runs(world: &World) {
    tokio::time::sleep(CALM).await;
    let wide = world.has_wide.then_some(Corpus::Wide);
    for corpus in wide.into_iter().chain([Corpus::Narrow]) {
        let ended = world.coordinate(corpus).await;
        ended.unwrap_or_else(|error| panic!("seed {}: {error}", world.seed));
    }
}

/// A coordinator that is killed now and then, and started again until it succeeds.
async fn live_and_die(world: Arc<World>, corpus: Corpus) {
    if world.faults.is_race && corpus == Corpus::Narrow {
        world.wait_until_all_is_there().await;
        tokio::time::sleep(Duration::from_millis(world.faults.pick(0..15_000))).await;
    } else {
        tokio::time::sleep(world.faults.time(0..5_000)).await;
    }
    let mut kills = world.faults.pick(0..4);
    let mut n_errors = 0;
    loop {
        let mut life = tokio::spawn({
            let world = Arc::clone(&world);
            async move { world.coordinate(corpus).await }
        });
        let death = world.faults.time(1..90_000);
        tokio::select! {
            ended = &mut life => match ended.unwrap() {
                Ok(()) => return,
                // As a user would: run it again.
                Err(error) => {
                    n_errors += 1;
                    assert!(
                        n_errors < ERRORS_MAX,
                        "seed {}: run after run fails: {error}",
                        world.seed
                    );
                    tokio::time::sleep(world.faults.time(1..10_000)).await;
                }
            },
            () = tokio::time::sleep(death), if kills > 0 => {
                kills -= 1;
                world.faults.count_kill();
                life.abort();
                let _ = life.await;
            }
        }
    }
}

/// The invariants, over what the store holds in the end.
async fn check(world: &World) -> Report {
    let seed = world.seed;
    let output = world.output();
    let numbers = output.version_numbers().await.unwrap();
    assert!(!numbers.is_empty(), "seed {seed}: nothing was published");
    let violations = world.faults.violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    let pinned = pinned_anywhere(&output).await;
    let mut newest: Option<Version> = None;
    for number in 1..=*numbers.iter().max().unwrap() {
        let version = output.version(number).await.unwrap();
        let version = version.unwrap_or_else(|| panic!("seed {seed}: no version {number}"));
        let is_news = newest.is_none_or(|before| !version.has_content_of(&before));
        assert!(
            is_news,
            "seed {seed}: version {number} says what the one before it says"
        );
        for file in &version.tables[world::STAGE].files {
            assert!(
                pinned.contains(&file.path),
                "seed {seed}: version {number} names {}, which no manifest pins",
                file.path
            );
        }
        check_version(world, &output, &version).await;
        newest = Some(version);
    }
    let newest = newest.unwrap();
    let copy: Option<Version> = output.get_json(layout::MANIFEST, "copy").await.unwrap();
    assert_eq!(copy.as_ref(), Some(&newest), "seed {seed}: manifest.json");
    check_newest(world, &output, &newest).await;
    check_manifests(world, &output).await;
    let attempts = output.list("").await.unwrap();
    Report {
        n_faults: world.faults.n_faults(),
        n_kills: world.faults.n_kills(),
        n_tasks: world.n_tasks(),
        n_attempts: attempts
            .iter()
            .filter(|it| it.path.ends_with(".parquet"))
            .count() as u64,
    }
}

/// Every version, also an old one, names objects that are there and are what it says; no task is
/// in it twice.
async fn check_version(world: &World, output: &Output, version: &Version) {
    let (seed, number) = (world.seed, version.number);
    let mut tasks: BTreeSet<&TaskId> = BTreeSet::new();
    for file in &version.tables[world::STAGE].files {
        let task = file.task.as_ref().unwrap();
        assert!(
            tasks.insert(task),
            "seed {seed}: version {number} has task {task} twice"
        );
        let bytes = output.get(&file.path).await.unwrap();
        let bytes = bytes.unwrap_or_else(|| {
            panic!(
                "seed {seed}: version {number} names {}, which is gone",
                file.path
            )
        });
        let expected = world.object_of(task);
        assert!(
            bytes == expected,
            "seed {seed}: version {number}: {} differs",
            file.path
        );
        assert!(
            file.lanes.is_balanced(),
            "seed {seed}: version {number}: lanes"
        );
    }
}

/// The newest version is complete, and its folder shows what is named and nothing else.
async fn check_newest(world: &World, output: &Output, newest: &Version) {
    let seed = world.seed;
    let table = &newest.tables[world::STAGE];
    let stage = &newest.stages[world::STAGE];
    let given_up: BTreeSet<&TaskId> = stage.quarantined.iter().map(|task| &task.task).collect();
    let poisoned: BTreeSet<&TaskId> = world.poisoned();
    assert_eq!(
        given_up, poisoned,
        "seed {seed}: quarantined are others than the poisoned tasks"
    );
    let found: BTreeSet<&TaskId> = table
        .files
        .iter()
        .filter_map(|file| file.task.as_ref())
        .collect();
    let expected: BTreeSet<&TaskId> = world
        .tasks(Corpus::Narrow)
        .iter()
        .map(|task| &task.id)
        .filter(|task| !poisoned.contains(task))
        .collect();
    assert_eq!(
        found, expected,
        "seed {seed}: the newest version has other tasks than the plan"
    );
    let rows: u64 = table.files.iter().map(|file| file.rows).sum();
    assert_eq!(
        stage.lanes.rows_in,
        rows + stage.lanes.failed,
        "seed {seed}: lost rows"
    );
    let named: BTreeSet<&str> = table.files.iter().map(|file| file.path.as_str()).collect();
    let listed = output
        .list(&layout::table_folder(world::STAGE))
        .await
        .unwrap();
    let listed: BTreeSet<&str> = listed.iter().map(|object| object.path.as_str()).collect();
    assert!(listed.is_superset(&named), "seed {seed}: objects are gone");
    // While a task is given up, another run may be about to pin any attempt that is there.
    if given_up.is_empty() {
        let elsewhere = named_elsewhere(output).await;
        let stray: Vec<_> = listed
            .difference(&named)
            .filter(|path| !elsewhere.contains(**path))
            .collect();
        assert!(
            stray.is_empty(),
            "seed {seed}: the folder shows what nothing names: {stray:?}"
        );
    }
}

/// Objects that any phase manifest names.
async fn pinned_anywhere(output: &Output) -> BTreeSet<String> {
    let mut pinned = BTreeSet::new();
    for object in output.list("_gleaner/manifests").await.unwrap() {
        let manifest = output.phase_manifest(&object.path).await.unwrap();
        pinned.extend(manifest.unwrap().attempts.iter().map(layout::pinned));
    }
    pinned
}

/// Objects that any version or phase manifest names.
async fn named_elsewhere(output: &Output) -> BTreeSet<String> {
    let mut named = pinned_anywhere(output).await;
    for number in output.version_numbers().await.unwrap() {
        let version = output.version(number).await.unwrap().unwrap();
        let files = version.tables.into_values().flat_map(|table| table.files);
        named.extend(files.map(|file| file.path));
    }
    named
}

/// Every manifest names objects that are there, and at most one manifest of a plan is complete.
async fn check_manifests(world: &World, output: &Output) {
    let seed = world.seed;
    let mut complete: BTreeMap<PlanId, u32> = BTreeMap::new();
    for object in output.list("_gleaner/manifests").await.unwrap() {
        let manifest = output.phase_manifest(&object.path).await.unwrap().unwrap();
        if manifest.quarantined.is_empty() && manifest.phase == "inner" {
            check_inner(world, output, &manifest).await;
        }
        if manifest.quarantined.is_empty() {
            *complete.entry(manifest.plan.clone()).or_default() += 1;
        }
        for attempt in &manifest.attempts {
            let path = layout::pinned(attempt);
            let stored = output.get(&path).await.unwrap();
            assert!(
                stored.is_some(),
                "seed {seed}: {} names {path}",
                object.path
            );
        }
    }
    assert!(
        complete.values().all(|n| *n == 1),
        "seed {seed}: two outcomes of one plan"
    );
}

/// However tasks were split, each file was read once.
async fn check_inner(world: &World, output: &Output, manifest: &PhaseManifest) {
    let seed = world.seed;
    let chunk = layout::plan_chunk(&manifest.stage, &manifest.phase, &manifest.plan, 0);
    let tasks: Option<Vec<Task>> = output.get_json(&chunk, "chunk of a plan").await.unwrap();
    let pinned: BTreeSet<&TaskId> = manifest.attempts.iter().map(|it| &it.task).collect();
    let mut files = world.inner_files();
    assert_eq!(
        manifest.lanes.rows_in,
        files.values().sum::<u64>(),
        "seed {seed}: rows of the inner phase"
    );
    let read = tasks.unwrap().into_iter();
    for task in read.filter(|task| pinned.contains(&task.id)) {
        let mut inputs: Vec<_> = task.shard.slices.iter().map(|it| &it.file.name).collect();
        inputs.dedup();
        for input in inputs {
            let file = files.remove(input);
            assert!(file.is_some(), "seed {seed}: {input} was read twice");
        }
    }
    assert!(files.is_empty(), "seed {seed}: never read: {files:?}");
}

impl Report {
    /// The sum of two.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            n_faults: self.n_faults + other.n_faults,
            n_kills: self.n_kills + other.n_kills,
            n_tasks: self.n_tasks + other.n_tasks,
            n_attempts: self.n_attempts + other.n_attempts,
        }
    }
}
