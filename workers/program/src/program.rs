//! From a parsed command line to an exit code.
//!
//! 1. Connect to the broker, trying again for as long as the patience lasts.
//! 2. Work, until somebody asks to stop, the broker refuses or is gone for too long, or no outcome
//!    can be recorded.
//! 3. Hand back what is not done, and say by the exit code whether anything was.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory as _;
use gleaner_queue::{AmqpOptions, AmqpQueue, QueueError};
use gleaner_schemas::Resource;
use gleaner_storage::Stores;
use gleaner_storage::table::BlockingIo;
use gleaner_telemetry::{HealthServer, Metrics, Readiness};
use gleaner_workers::attempt::Workbench;
use gleaner_workers::attempt_log::{AttemptLog, worker_name};
use gleaner_workers::entropy::{Entropy, SystemEntropy};
use gleaner_workers::execute::StageExecutor;
use gleaner_workers::options::WorkerOptions;
use gleaner_workers::plan_cache::PlanCache;
use gleaner_workers::runner::{Trouble, Worker, WorkerEnd};
use gleaner_workers::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cli::Cli;
use crate::exit::Exit;

/// First pause between two tries to connect; doubles each time.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause between two tries to connect.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often the connection is looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// What is logged by default. The AMQP client calls every lost connection an error, and it is
/// mended.
const LOG_TARGETS: [&str; 2] = ["gleaner_worker=info", "lapin=off"];

/// Runs the program to its end, and says what the user should know.
pub(crate) fn main(cli: Cli) -> Exit {
    if let Some(shell) = cli.completions {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "gleaner-worker", &mut script);
        let written = std::io::stdout().write_all(&script);
        return match written {
            Ok(()) => Exit::Done,
            Err(error) => Exit::Internal(format!("cannot write to the standard output: {error}")),
        };
    }
    gleaner_telemetry::log::log_to(std::io::stderr, cli.log_format.into(), &LOG_TARGETS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let exit = match runtime {
        Ok(runtime) => {
            let exit = runtime.block_on(run(&cli));
            // A thread that hangs in a read must not keep the process alive.
            runtime.shutdown_background();
            exit
        }
        Err(error) => Exit::Internal(format!("cannot start threads: {error}")),
    };
    if let Some(message) = exit.message() {
        // An error that cannot be shown is dropped: there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{message}");
    }
    exit
}

async fn run(cli: &Cli) -> Exit {
    let shutdown = Shutdown::new();
    let readiness = Readiness::new("not connected to the broker");
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let server = match health(cli, &readiness, stopped).await {
        Ok(server) => server,
        Err(exit) => return exit,
    };
    let signals = tokio::spawn(forward_signals(shutdown.clone()));
    let exit = work(cli, &shutdown, &readiness).await;
    signals.abort();
    let _ = stop.send(());
    if let Some(server) = server {
        let _ = server.await;
    }
    exit
}

async fn health(
    cli: &Cli,
    readiness: &Readiness,
    stopped: tokio::sync::oneshot::Receiver<()>,
) -> Result<Option<tokio::task::JoinHandle<()>>, Exit> {
    let Some(address) = cli.health else {
        return Ok(None);
    };
    let refused = |error: gleaner_telemetry::TelemetryError| {
        Exit::Usage(
            gleaner_schemas::failure::error_chain(&error),
            "choose another address for --health".to_owned(),
        )
    };
    let metrics = Metrics::install().map_err(refused)?;
    let server = HealthServer::bind(address).await.map_err(refused)?;
    tracing::info!(address = %server.address(), "serving /live, /ready and /metrics");
    let stopped = async {
        let _ = stopped.await;
    };
    let serving = server.serve(readiness.clone(), metrics, stopped);
    Ok(Some(tokio::spawn(serving)))
}

async fn work(cli: &Cli, shutdown: &Shutdown, readiness: &Readiness) -> Exit {
    let n_slots = cli.slots.map_or_else(n_cores, usize::from);
    let options = match broker(cli, n_slots) {
        Ok(options) => options,
        Err(exit) => return exit,
    };
    let patience = cli.broker_patience.duration();
    let queue = match connect(&options, patience, shutdown).await {
        Ok(Some(queue)) => Arc::new(queue),
        Ok(None) => return Exit::Done,
        Err(exit) => return exit,
    };
    let stores = Stores::from_env();
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let log = AttemptLog::new(worker_name(entropy.as_ref()), chrono::Utc::now());
    tracing::info!(name = log.worker(), n_slots, "connected, taking tasks");
    let worker = Worker {
        queue: Arc::clone(&queue) as _,
        bench: Arc::new(Workbench {
            plans: PlanCache::new(stores),
            executor: Arc::new(StageExecutor::new(
                io,
                Arc::new(gleaner_predicate::DataFusionPredicates),
            )),
            entropy,
        }),
        n_slots,
        task_ended: Arc::new(Notify::new()),
        trouble: Arc::new(Trouble::default()),
        options: WorkerOptions {
            kinds: cli
                .stages
                .as_ref()
                .map(|kinds| kinds.iter().cloned().collect()),
            grace: Some(Duration::from_secs(cli.grace)),
            consumer_timeout: Some(cli.consumer_timeout.duration()),
            attempts: Some(Arc::new(log)),
        },
    };
    let mut end = WorkerEnd::default();
    let watching = watch(&queue, &worker.trouble, patience, shutdown, readiness);
    let watched = {
        let mut working = std::pin::pin!(worker.run(shutdown));
        let mut watching = std::pin::pin!(watching);
        let watched = tokio::select! {
            ended = &mut working => {
                end = ended;
                None
            }
            exit = &mut watching => Some(exit),
        };
        if watched.is_some() {
            shutdown.drain();
            readiness.not_ready("stopping");
            end = working.await;
        }
        watched
    };
    queue.close().await;
    if let Some(refused) = end.refused {
        return refused.into();
    }
    match watched {
        Some(exit) => exit,
        None if end.n_given_back > 0 => Exit::WorkLeft,
        None => Exit::Done,
    }
}

fn broker(cli: &Cli, n_slots: usize) -> Result<AmqpOptions, Exit> {
    let Some(url) = cli.queue.clone() else {
        return Err(Exit::Usage(
            "there is no broker to take tasks from".to_owned(),
            "give --queue or GLEANER_QUEUE".to_owned(),
        ));
    };
    let ca_file: Option<PathBuf> = cli.queue_ca.clone();
    let mut resources: Vec<Resource> = Vec::new();
    for name in &cli.resources {
        let resource = Resource::from(*name);
        if !resources.contains(&resource) {
            resources.push(resource);
        }
    }
    Ok(AmqpOptions {
        user: cli.queue_user.clone(),
        // Not from the command line, which everyone on the machine sees.
        password: std::env::var("GLEANER_QUEUE_PASSWORD").ok(),
        ca_file,
        resources,
        n_slots,
        consumer_timeout: Some(cli.consumer_timeout.duration()),
        ..AmqpOptions::new(url)
    })
}

/// Connects; `None` if somebody asks to stop before.
async fn connect(
    options: &AmqpOptions,
    patience: Duration,
    shutdown: &Shutdown,
) -> Result<Option<AmqpQueue>, Exit> {
    let deadline = Instant::now() + patience;
    let mut pause = CONNECT_PAUSE_MIN;
    loop {
        let connecting = AmqpQueue::connect(options.clone());
        let error = tokio::select! {
            connected = connecting => match connected {
                Ok(queue) => return Ok(Some(queue)),
                Err(error) => error,
            },
            () = shutdown.draining() => return Ok(None),
        };
        if matches!(error, QueueError::Refused { .. }) || Instant::now() + pause > deadline {
            return Err(error.into());
        }
        tracing::warn!(%error, "trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.draining() => return Ok(None),
        }
        pause = (pause * 2).min(CONNECT_PAUSE_MAX);
    }
}

/// Tells the readiness, and why the worker cannot go on, once it cannot.
async fn watch(
    queue: &AmqpQueue,
    trouble: &Trouble,
    patience: Duration,
    shutdown: &Shutdown,
    readiness: &Readiness,
) -> Exit {
    let mut well_at = Instant::now();
    loop {
        if shutdown.is_draining() {
            readiness.not_ready("stopping");
        } else if queue.is_well() {
            well_at = Instant::now();
            readiness.ready();
        } else {
            readiness.not_ready("not connected to the broker");
            if well_at.elapsed() > patience {
                return Exit::Unreachable(format!(
                    "the broker could not be reached for {} s; what was in hand comes again",
                    well_at.elapsed().as_secs()
                ));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {}
            failure = trouble.persisting() => {
                return Exit::Unreachable(format!("no outcome can be recorded: {failure}"));
            }
        }
    }
}

/// The first signal drains, the second cancels.
async fn forward_signals(shutdown: Shutdown) {
    let mut n_signals = 0;
    while interrupted().await.is_ok() {
        n_signals += 1;
        if n_signals == 1 {
            tracing::info!("stopping when the tasks in hand are done; again to stop now");
            shutdown.drain();
        } else {
            shutdown.cancel();
        }
    }
}

#[cfg(unix)]
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn interrupted() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
