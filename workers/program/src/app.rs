//! From a parsed command line to an exit code: log, signals, health.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory as _;
use gleaner_queue::AmqpOptions;
use gleaner_schemas::Resource;
use gleaner_telemetry::log::log_to;
use gleaner_telemetry::{HealthServer, Metrics, Readiness};
use gleaner_workers::language_model::check_accelerator;
use gleaner_workers::shutdown::Shutdown;
use tokio::sync::oneshot;

use crate::cli::Cli;
use crate::end::{CannotGoOn, Left};
use crate::work::{NOT_CONNECTED, Work, work};

/// What is logged without `RUST_LOG`, besides warnings. The AMQP client calls a lost connection an
/// error; it is mended, and told of here.
const LOGGED: &[&str] = &["gleaner_worker=info", "gleaner_workers=info", "lapin=off"];
/// Threads that still compute get no more time than this to see that they are to stop.
const THREADS_END_MAX: Duration = Duration::from_secs(5);

/// Runs the worker to its end.
pub(crate) fn main(cli: Cli) -> ExitCode {
    if let Some(shell) = cli.completions {
        let (mut command, mut script) = (Cli::command(), Vec::new());
        clap_complete::generate(shell, &mut command, "gleaner-worker", &mut script);
        // Whoever closed the output needs no more of it.
        let _ = std::io::stdout().lock().write_all(&script);
        return ExitCode::SUCCESS;
    }
    log_to(std::io::stderr, cli.log_format.into(), LOGGED);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli));
            runtime.shutdown_timeout(THREADS_END_MAX);
            ended
        }
        Err(error) => Err(CannotGoOn::Internal(format!(
            "cannot start threads: {error}"
        ))),
    };
    let code = match ended {
        Ok(left) => left.exit_code(),
        Err(error) => {
            // There is nobody to tell that the standard error is closed.
            let _ = std::io::stderr().lock().write_all(text(&error).as_bytes());
            error.exit_code()
        }
    };
    code.into()
}

fn text(error: &CannotGoOn) -> String {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text.push('\n');
    if let Some(help) = error.help() {
        let _ = writeln!(text, "help: {help}");
    }
    text
}

async fn run(cli: Cli) -> Result<Left, CannotGoOn> {
    let shutdown = Shutdown::new();
    let signals = tokio::spawn(forward_signals(shutdown.clone()));
    let readiness = Readiness::new(NOT_CONNECTED);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = None;
    if let Some(address) = cli.health {
        let server = HealthServer::bind(address).await?;
        tracing::info!(address = %server.address(), "answering /live, /ready and /metrics");
        serving = Some(tokio::spawn(server.serve(
            readiness.clone(),
            Metrics::install()?,
            async {
                // The other end is dropped when the work has ended.
                let _ = stopped.await;
            },
        )));
    }
    if cli.resources.contains(&Resource::Accelerator) {
        check_accelerator().map_err(|message| CannotGoOn::Refused {
            message: "this worker was told to take tasks for accelerators and cannot".to_owned(),
            help: message,
        })?;
    }
    let ended = work(arguments(cli), readiness, &shutdown).await;
    drop(stop);
    if let Some(serving) = serving {
        // A panic there changes nothing of what was done.
        let _ = serving.await;
    }
    signals.abort();
    ended
}

fn arguments(cli: Cli) -> Work {
    let n_cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let n_slots = cli
        .slots
        .map_or_else(n_cores, |n| usize::from(NonZeroU16::get(n)));
    let url = cli.queue.map(|url| url.0).unwrap_or_default();
    Work {
        queue: AmqpOptions {
            user: cli.queue_user,
            password: cli.queue_password.map(|password| password.0),
            ca_file: cli.queue_ca,
            resources: cli.resources,
            n_slots,
            consumer_timeout: Some(cli.consumer_timeout),
            ..AmqpOptions::new(url)
        },
        n_slots,
        kinds: cli.stages.map(BTreeSet::from_iter),
        grace: cli.grace,
        consumer_timeout: cli.consumer_timeout,
        patience: cli.broker_patience,
        until_idle: cli.until_idle,
    }
}

/// The first signal drains, the second cancels.
async fn forward_signals(shutdown: Shutdown) {
    let mut n_signals = 0;
    while signalled().await.is_ok() {
        n_signals += 1;
        if n_signals == 1 {
            tracing::info!("told to stop: no more tasks; those in hand may go on for the grace");
            shutdown.drain();
        } else {
            tracing::info!("told to stop at once");
            shutdown.cancel();
        }
    }
}

#[cfg(unix)]
async fn signalled() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signalled() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
