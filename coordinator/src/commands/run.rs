//! `gleaner run`: a job to its end, in this process or with workers behind a broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gleaner_schemas::RunId;
use gleaner_schemas::job::Job;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Created, Output, Stores, layout};
use gleaner_workers::attempt::Workbench;
use gleaner_workers::attempt_log::{AttemptLog, worker_name};
use gleaner_workers::endpoint::access::Exchanges;
use gleaner_workers::endpoint::clock::SystemClock;
use gleaner_workers::entropy::{Entropy, SystemEntropy};
use gleaner_workers::execute::StageExecutor;
use gleaner_workers::forecast::ExpectedWorkers;
use gleaner_workers::options::WorkerOptions;
use gleaner_workers::plan_cache::PlanCache;
use gleaner_workers::runner::{Trouble, Worker};
use gleaner_workers::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::broker::{BrokerArguments, Queues, Waiting};
use crate::card::{self, CardWritten};
use crate::checked_job::CheckedJob;
use crate::commands::prepare::{self, JobArguments};
use crate::driver::{Driver, Environment, FinishedStage, JobInputs, Mode, StageEnd};
use crate::endpoints;
use crate::journal::{Journal, RunEnded, RunStarted, rfc3339};
use crate::lineage::RunEvents;
use crate::losers;
use crate::progress::Progress;
use crate::publish::{self, Published};
use crate::retry::retrying;
use crate::run_error::RunError;
use crate::sweep;

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
    let attempts = AttemptLog::new(name, chrono::Utc::now());
    let options = WorkerOptions {
        is_beside_coordinator: true,
        attempts: Some(Arc::new(attempts)),
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
        let ended = coordinate(&checked, &base_dir, &environment, &io, workers).await;
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

/// The coordinator's part of a run, over whatever queue and workers the environment has.
///
/// # Errors
///
/// See [`RunError`].
pub async fn coordinate(
    checked: &CheckedJob,
    base_dir: &std::path::Path,
    environment: &Environment,
    io: &BlockingIo,
    workers: ExpectedWorkers,
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let output = Output::open(&environment.stores, &checked.output)?;
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
    let events = RunEvents::begin(checked, base_dir, &output, &run);
    let start = layout::run_event(&run, layout::RUN_STARTED);
    let progress = environment.progress.as_ref();
    let swept = sweep::await_none(&output, &start, &environment.shutdown, progress).await;
    let started_ms = chrono::Utc::now().timestamp_millis();
    let announced = retrying(&environment.shutdown, || {
        endpoints::announce(&output, &checked.job.file, &run, started_ms)
    });
    let announced = announced.await;
    let stores = &environment.stores;
    let inputs = match announced.and(swept) {
        Ok(()) => prepare::load_inputs(stores, &output, checked, base_dir, workers).await,
        Err(error) => Err(error),
    };
    let (inputs, ended) = match inputs {
        Ok(inputs) => {
            let driver = Driver {
                job: checked,
                inputs: &inputs,
                output: &output,
                environment,
                io,
                run: &run,
                journal: &journal,
                mode: Mode::Run,
            };
            let span = tracing::error_span!("job", name = checked.job.file.name, %run);
            let ended = run_stages(&driver, &inputs, &events, started).instrument(span);
            let ended = ended.await;
            (Some(inputs), ended)
        }
        Err(error) => (None, Err(error)),
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
                .map(|report| report.published.version.number),
            ended_at: rfc3339(chrono::Utc::now()),
        })
        .await;
    let published = ended.as_ref().map(|report| &report.published);
    events
        .end(inputs.as_ref(), published, &environment.shutdown)
        .await;
    let mut report = ended?;
    report.elapsed = started.elapsed();
    Ok(report)
}

async fn run_stages(
    driver: &Driver<'_>,
    inputs: &JobInputs,
    events: &RunEvents<'_>,
    started: Instant,
) -> Result<RunReport, RunError> {
    for (file, reason) in &inputs.corpus.unreadable {
        driver
            .environment
            .progress
            .note(&format!("cannot read {file}: {reason}"));
    }
    for note in inputs.forecasts.values().flat_map(|it| &it.notes) {
        driver.environment.progress.note(note);
    }
    let mut stages: BTreeMap<String, FinishedStage> = BTreeMap::new();
    for checked in &driver.job.stages {
        let span = tracing::error_span!("stage", name = checked.name);
        events.stage_started(checked, inputs);
        let ended = driver.run_stage(checked, &stages).instrument(span).await;
        let ended = ended.inspect_err(|error| events.stage_failed(checked, inputs, error));
        match ended? {
            StageEnd::Finished(finished) => {
                events.stage_finished(checked, inputs, &finished);
                for note in &finished.notes {
                    driver.environment.progress.note(note);
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
    }
    let published = publish::publish(
        driver.output,
        &driver.environment.shutdown,
        driver.job,
        inputs,
        &stages,
        driver.run,
        chrono::Utc::now(),
    )
    .await?;
    // What was half-written before this run began is of a run that was killed, since a write takes
    // moments. Should a writer of another run live after all, it fails and tries again.
    if let Err(error) = driver.output.remove_staged(started.elapsed()).await {
        tracing::warn!(%error, "cannot remove what killed runs left; `gleaner gc` will");
    }
    match losers::remove(driver.output, driver.run, &stages).await {
        Ok(0) => {}
        Ok(n_removed) => tracing::info!(n_removed, "removed attempts that lost"),
        Err(error) => {
            tracing::warn!(%error, "cannot remove attempts that lost; `gleaner gc` will");
        }
    }
    write_card(driver, &published).await;
    let order = driver.job.stages.iter();
    Ok(RunReport {
        io: driver.io.clone(),
        output: driver.output.clone(),
        published,
        stages: order
            .filter_map(|checked| stages.remove_entry(&checked.name))
            .collect(),
        unreadable: inputs.corpus.unreadable.clone(),
        elapsed: Duration::ZERO,
    })
}

/// Readers need no card, so a run does without.
async fn write_card(driver: &Driver<'_>, published: &Published) {
    let stores = &driver.environment.stores;
    let written = tokio::select! {
        written = card::write(driver.output, stores, &published.version) => written,
        () = driver.environment.shutdown.draining() => return,
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

/// `job.json`: whose output this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    job: String,
}

/// Makes sure that the output belongs to this job, and that its store can arbitrate.
async fn claim(output: &Output, job: &Job, environment: &Environment) -> Result<(), RunError> {
    let claim = Claim {
        job: job.file.name.clone(),
    };
    let stored = output
        .create_json(layout::JOB, "claim of an output", claim.clone())
        .await?;
    if stored != claim {
        return Err(job
            .error_at(
                "output",
                format!(
                    "{} holds the output of another job, {:?}; this one is {:?}",
                    output.uri(),
                    stored.job,
                    claim.job
                ),
                Some("choose another `output:`, or rename the job back".to_owned()),
            )
            .into());
    }
    if job.file.single_coordinator {
        return Ok(());
    }
    probe(output, environment.entropy.as_ref()).await
}

/// Some stores accept the condition of a conditional put and ignore it. Several puts of the same
/// new key race; exactly one may win.
async fn probe(output: &Output, entropy: &dyn Entropy) -> Result<(), RunError> {
    const RACERS: u8 = 4;
    let key = format!("{}/probe-{:016x}", layout::PRIVATE, entropy.next_u64());
    let racers = (0..RACERS).map(|racer| output.create(&key, Bytes::from(vec![racer])));
    let results = futures::future::join_all(racers).await;
    let n_winners = results
        .iter()
        .filter(|result| matches!(result, Ok(Created::Stored)))
        .count();
    let failed = results.into_iter().find_map(Result::err);
    output.delete(&key).await?;
    match (n_winners, failed) {
        (1, _) => Ok(()),
        (0, Some(error)) => Err(error.into()),
        _ => Err(RunError::usage(
            format!(
                "the store of {} does not honour conditional puts: {n_winners} of {RACERS} \
                 writers of one new object won",
                output.uri()
            ),
            "two coordinators could publish different versions; use another store, or make sure \
             that only one coordinator runs and set `single_coordinator: true` in the job file",
        )),
    }
}
