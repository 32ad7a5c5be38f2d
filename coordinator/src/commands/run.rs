//! `gleaner run`: a job to its end, in this process or with workers behind a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gleaner_schemas::Check;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, Stores};
use gleaner_workers::attempt::Workbench;
use gleaner_workers::attempt_log::{AttemptLog, worker_name};
use gleaner_workers::endpoint::access::Exchanges;
use gleaner_workers::endpoint::clock::SystemClock;
use gleaner_workers::entropy::{Entropy, SystemEntropy};
use gleaner_workers::execute::StageExecutor;
use gleaner_workers::options::WorkerOptions;
use gleaner_workers::plan_cache::PlanCache;
use gleaner_workers::runner::{Trouble, Worker};
use gleaner_workers::shutdown::Shutdown;
use tokio::sync::Notify;

use crate::broker::{BrokerArguments, Queues, Waiting};
use crate::commands::coordinate::{Orders, coordinate};
use crate::commands::prepare::{self, JobArguments};
use crate::dashboard::Board;
use crate::datasets::DatasetRows;
use crate::driver::{Environment, FinishedStage};
use crate::progress::Progress;
use crate::publish::Published;
use crate::run_error::RunError;

/// How long a run waits for a store that is missing, when it has its workers with it.
const PATIENCE_EMBEDDED: Duration = Duration::from_secs(120);
/// The same with a broker: restarts of broker, store and workers take minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// What `gleaner run` is given.
#[derive(Debug)]
pub struct RunArguments {
    /// The job file.
    pub job: JobArguments,
    /// Slots of workers in this process; absent: one per core, or none with a broker.
    pub n_workers: Option<usize>,
    /// The broker, with what the command line and the environment say of it.
    pub broker: BrokerArguments,
    /// How long store, queue or workers may be missing before the run ends resumably.
    pub patience: Option<Duration>,
    /// Whether to publish what differs from the last version beyond the job's guardrails.
    pub accept: bool,
    /// Told what workers in this process do.
    pub board: Option<Board>,
}

/// A run that reached its end.
#[derive(Debug)]
pub struct RunReport {
    /// The stores that it reads.
    pub io: BlockingIo,
    /// The output.
    pub output: Output,
    /// The newest version, and whether this run made it.
    pub published: Published,
    /// Stages with their reuse and notes, in the order of the job.
    pub stages: Vec<(String, FinishedStage)>,
    /// Corpus files whose footer cannot be read.
    pub unreadable: BTreeMap<String, String>,
    /// What was found in the rows of datasets.
    pub datasets: BTreeMap<String, DatasetRows>,
    /// How what it found compares with the version before.
    pub checks: Vec<Check>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs a job, in this process or over a broker.
///
/// # Errors
///
/// See [`RunError`]; what was committed is kept in every case.
pub async fn run(
    arguments: &RunArguments,
    progress: Arc<dyn Progress>,
    shutdown: Shutdown,
) -> Result<RunReport, RunError> {
    let (checked, base_dir) = prepare::read_job(&arguments.job)?;
    let stores = Stores::from_env();
    let broker = arguments.broker.for_job(&checked.job)?;
    let n_slots = n_own_slots(arguments.n_workers, broker.is_some())?;
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let usual = if broker.is_some() {
        PATIENCE
    } else {
        PATIENCE_EMBEDDED
    };
    let patience = arguments.patience.unwrap_or(usual);
    let waiting = Waiting {
        patience,
        progress: progress.as_ref(),
        shutdown: &shutdown,
    };
    let queues = match &broker {
        Some(broker) => Queues::over(broker, n_slots, &waiting).await?,
        None => Queues::in_memory(),
    };
    let environment = Environment {
        stores: stores.clone(),
        queue: Arc::clone(&queues.offering),
        task_ended: Arc::new(Notify::new()),
        trouble: Arc::new(Trouble::default()),
        n_slots,
        patience,
        entropy: Arc::clone(&entropy),
        progress,
        shutdown,
    };
    let name = worker_name(entropy.as_ref());
    let clock = Arc::new(SystemClock);
    let exchanges = Exchanges::new(name.clone(), Arc::clone(&entropy), clock);
    let mut attempts = AttemptLog::new(name, chrono::Utc::now());
    let mut activity = None;
    if let Some(board) = &arguments.board {
        activity = Some(board.workers_here(attempts.worker(), n_slots));
        attempts = attempts.observed_by(Arc::new(board.clone()));
    }
    let options = WorkerOptions {
        is_beside_coordinator: true,
        attempts: Some(Arc::new(attempts)),
        activity,
        ..WorkerOptions::default()
    };
    let worker = Worker {
        queue: Arc::clone(&queues.taking),
        bench: Arc::new(Workbench {
            plans: PlanCache::new(stores),
            executor: Arc::new(StageExecutor::new(
                io.clone(),
                Arc::new(gleaner_predicate::DataFusionPredicates),
                exchanges,
            )),
            entropy,
        }),
        n_slots,
        task_ended: Arc::clone(&environment.task_ended),
        trouble: Arc::clone(&environment.trouble),
        options,
    };
    // The worker stops when the coordinator has ended, and when somebody asks both to.
    let worker_shutdown = environment.shutdown.nested();
    let coordinate = async {
        let workers = prepare::expected_workers(broker.is_some(), Some(n_slots));
        let orders = Orders {
            base_dir: &base_dir,
            workers,
            accept: arguments.accept,
        };
        let ended = coordinate(&checked, &environment, &io, orders).await;
        // Nobody offers tasks of this run any more: slots end when they have finished theirs.
        worker_shutdown.drain();
        ended
    };
    let (ended, _) = tokio::join!(coordinate, worker.run(&worker_shutdown));
    queues.close().await;
    ended
}

fn n_own_slots(asked: Option<usize>, has_broker: bool) -> Result<usize, RunError> {
    match asked {
        Some(0) if !has_broker => Err(RunError::usage(
            "without workers in this process and without a broker nobody would work",
            "give --workers 1 or more, or --queue with the URL of a broker",
        )),
        Some(n_workers) => Ok(n_workers),
        None if has_broker => Ok(0),
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}
