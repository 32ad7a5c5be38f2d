//! From a parsed command line to an exit code: logging, signals, runtime, output.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gleaner_schemas::failure::error_chain;
use gleaner_storage::redact;
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::shutdown::Shutdown;
use indicatif::MultiProgress;

use crate::cli::{Cli, Command, GlobalOptions, LogFormat};
use crate::commands::opened::{Opened, no_version, open_output};
use crate::commands::prepare::JobArguments;
use crate::commands::query::{self, QueryArguments};
use crate::commands::run::{self, RunArguments};
use crate::commands::{
    completions, diff, explain, export, gc, init, plan, schema, status, validate, verify,
};
use crate::dashboard::{Board, Dashboard, Hosts, Watched};
use crate::diagnostics::{Diagnostics, Exit};
use crate::progress::{self, LogWriter, Style};
use crate::publish::Published;
use crate::report;
use crate::run_error::RunError;
use crate::sql::format::Format;
use crate::training::{self, TrainingOptions};
use crate::{stdout, summary};

/// When a command has ended, its threads are waited for this long.
const THREADS_END_MAX: Duration = Duration::from_secs(10);

/// Runs a command to its end.
#[must_use]
pub fn main(cli: Cli) -> Exit {
    let bars = MultiProgress::new();
    log_to(&bars, cli.global.log_format);
    let mut diagnostics = Diagnostics {
        json: cli.global.json,
        job_file: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(execute(cli, &bars, &mut diagnostics));
            // A thread that hangs in a file system is left behind, also at the end.
            runtime.shutdown_timeout(THREADS_END_MAX);
            ended
        }
        Err(error) => Err(RunError::Internal(format!("cannot start threads: {error}"))),
    };
    match ended {
        Ok(exit) => exit,
        Err(error) => {
            diagnostics.print(&error);
            Exit::from(&error)
        }
    }
}

/// What is logged without `RUST_LOG`, besides warnings: how training goes is told as it goes.
const LOGGED: &[&str] = &["lapin=off", "gleaner_workers::train_language_model=info"];

/// Warnings by default: what matters to users comes as progress, summary and errors. The AMQP
/// client calls a lost connection an error; it is mended, and told of where it matters.
fn log_to(bars: &MultiProgress, format: LogFormat) {
    let format = match format {
        LogFormat::Text => gleaner_telemetry::log::LogFormat::Text,
        LogFormat::Json => gleaner_telemetry::log::LogFormat::Json,
    };
    gleaner_telemetry::log::log_to(LogWriter(bars.clone()), format, LOGGED);
}

async fn execute(
    cli: Cli,
    bars: &MultiProgress,
    diagnostics: &mut Diagnostics,
) -> Result<Exit, RunError> {
    let global = cli.global;
    match cli.command {
        Command::Run {
            job,
            workers,
            broker,
            patience,
            accept,
            health,
            dashboard,
            dashboard_hosts,
        } => {
            let watching = match dashboard {
                Some(address) => Some(Watching::start(&address, &dashboard_hosts).await?),
                None => None,
            };
            let arguments = RunArguments {
                job: with_source(job.into(), diagnostics),
                n_workers: workers.map(usize::from),
                broker: broker.into(),
                patience: patience.map(|it| it.duration()),
                accept,
                board: watching.as_ref().map(|it| it.board.clone()),
            };
            let ended = run_job(&arguments, health.as_deref(), watching, &global, bars);
            Box::pin(ended).await
        }
        Command::Plan { job, broker } => {
            let arguments = with_source(job.into(), diagnostics);
            let report = plan::plan(&arguments, &broker.into()).await?;
            show(&global, &report, plan::PlanReport::render)
        }
        Command::Validate { job, broker } => {
            let arguments = with_source(job.into(), diagnostics);
            let report = validate::validate(&arguments, &broker.into()).await?;
            show(&global, &report, validate::ValidateReport::render)
        }
        Command::Status { output } => {
            let report = status::status(&open_output(&output)?).await?;
            show(&global, &report, status::StatusReport::render)
        }
        Command::Sql {
            output,
            query,
            version,
            format,
            allow_paths,
            parameters,
            attach,
        } => {
            let usual = if global.json {
                Format::Json
            } else {
                Format::Table
            };
            let arguments = QueryArguments {
                output,
                version,
                query,
                format: format.unwrap_or(usual),
                allow_paths,
                parameters: parameters.into_iter().collect(),
                attach,
            };
            query::query(arguments, diagnostics).await?;
            Ok(Exit::Done)
        }
        Command::Report {
            output,
            to,
            version,
            examples,
        } => {
            let opened = Opened::new(&output, version).await?;
            let stores = opened.stores.clone();
            let report = report::gather(opened, u64::from(examples)).await?;
            let usual = (!global.json).then(|| report::FILE.to_owned());
            let written = match to.or(usual) {
                Some(to) => Some(report.write(&stores, &to).await?),
                None => None,
            };
            match written {
                Some(written) if !global.json => print_text(&written.render())?,
                _ => print_json(&report.to_json())?,
            }
            Ok(Exit::Done)
        }
        Command::Diff {
            output,
            before,
            after,
        } => {
            let before = Opened::new(&output, Some(before)).await?;
            let after = Opened::new(&output, Some(after)).await?;
            let report = diff::diff(&before, &after).await?;
            show(&global, &report, diff::DiffReport::render)
        }
        Command::Explain { output, document } => {
            let opened = Opened::new(&output, None).await?;
            let session = opened.session().await?;
            let report = explain::explain(&session, &opened.version, &document).await?;
            show(&global, &report, explain::Explanation::render)
        }
        Command::Export {
            output,
            stage,
            format,
            to,
            split,
            folds,
            seed,
            positive_grade,
            group_size,
        } => {
            let opened = Opened::new(&output, None).await?;
            let session = opened.session().await?;
            let Opened {
                stores, version, ..
            } = opened;
            if let Some(layout) = format.training_layout() {
                let options = TrainingOptions {
                    layout,
                    shares: split,
                    folds,
                    seed,
                    positive_grade,
                    group_size,
                };
                let report =
                    training::export(&stores, &session, &version, &stage, &options, &to).await?;
                return show(&global, &report, training::TrainingReport::render);
            }
            let report = export::export(&stores, &session, &version, &stage, format, &to).await?;
            show(&global, &report, export::ExportReport::render)
        }
        Command::Verify { output } => {
            let output = open_output(&output)?;
            let report = verify::verify(&output).await?;
            let report = report.ok_or_else(|| no_version(&output))?;
            show(&global, &report, verify::VerifyReport::render)?;
            Ok(if report.is_ok() {
                Exit::Done
            } else {
                Exit::Internal
            })
        }
        Command::Gc {
            output,
            keep,
            dry_run,
        } => {
            let report = gc::gc(&open_output(&output)?, keep, dry_run, &SystemEntropy).await?;
            show(&global, &report, gc::GcReport::render)
        }
        Command::Init { directory } => {
            let report = init::init(&directory)?;
            show(&global, &report, init::InitReport::render)
        }
        Command::Schema { format } => {
            print_text(&schema::describe(format)?)?;
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            let report = completions::completions(shell);
            show(&global, &report, |report| report.script.clone())
        }
    }
}

/// Lets errors show the text of the job file. A standard input can be read only once, so it is
/// read here and handed on.
fn with_source(mut arguments: JobArguments, diagnostics: &mut Diagnostics) -> JobArguments {
    if arguments.path == Path::new("-") {
        arguments.text = std::io::read_to_string(std::io::stdin()).ok();
    } else {
        arguments.text = std::fs::read_to_string(&arguments.path).ok();
    }
    if let Some(text) = &arguments.text {
        diagnostics.job_file = Some((arguments.path.display().to_string(), redact::mask(text)));
    }
    arguments
}

async fn run_job(
    arguments: &RunArguments,
    health: Option<&str>,
    watching: Option<Watching>,
    global: &GlobalOptions,
    bars: &MultiProgress,
) -> Result<Exit, RunError> {
    let style = if global.json {
        Style::Json
    } else {
        Style::Human
    };
    let mut progress = progress::of_style(style, bars);
    if let Some(watching) = &watching {
        progress.note(&format!("watch it at http://{}", watching.address));
        progress = Arc::new(Watched::new(progress, watching.board.clone()));
    }
    let shutdown = Shutdown::new();
    let telling = match health {
        Some(address) => Some(tell(address).await?),
        None => None,
    };
    let signals = tokio::spawn(forward_signals(shutdown.clone(), bars.clone()));
    let ended = run::run(arguments, progress, shutdown).await;
    signals.abort();
    if let Some(telling) = telling {
        telling.end().await;
    }
    if let Some(watching) = &watching {
        match &ended {
            Ok(report) => {
                let Published { version, is_new } = &report.published;
                watching
                    .board
                    .ended(0, "done", Some((version.number, *is_new)));
            }
            Err(error) => {
                let message = error_chain(error);
                watching.board.ended(error.exit_code(), &message, None);
            }
        }
    }
    let summary = match &ended {
        Ok(report) => Some(summary::gather(report).await),
        Err(_) => None,
    };
    // The page is served as long as there is something to do.
    if let Some(watching) = watching {
        watching.end().await;
    }
    ended?;
    let Some(summary) = summary.transpose()? else {
        return Err(RunError::Internal(
            "a run ended without a summary".to_owned(),
        ));
    };
    if global.json {
        print_json(&summary.to_event())?;
    } else {
        let is_terminal = stdout::is_terminal();
        let paint = summary::text::Paint {
            color: stdout::wants_color(is_terminal),
        };
        print_text(&summary.render(paint, stdout::width()))?;
    }
    Ok(Exit::Done)
}

/// The server of health and metrics, beside a run.
struct Telling {
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

async fn tell(address: &str) -> Result<Telling, RunError> {
    let address = gleaner_telemetry::parse_address(address).map_err(|message| {
        RunError::usage(message, "write --health 9090 or --health 0.0.0.0:9090")
    })?;
    let metrics = gleaner_telemetry::Metrics::install()
        .map_err(|error| RunError::Internal(error.to_string()))?;
    let server = gleaner_telemetry::HealthServer::bind(address)
        .await
        .map_err(|error| RunError::usage(error_chain(&error), "choose another --health"))?;
    tracing::info!(address = %server.address(), "serving /live, /ready and /metrics");
    let readiness = gleaner_telemetry::Readiness::new("starting");
    readiness.ready();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let stopped = async {
        let _ = stopped.await;
    };
    let server = tokio::spawn(server.serve(readiness, metrics, stopped));
    Ok(Telling { stop, server })
}

impl Telling {
    async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.server.await;
    }
}

/// The page to watch a run, beside it.
struct Watching {
    board: Board,
    address: SocketAddr,
    stop: tokio::sync::oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

impl Watching {
    async fn start(address: &str, hosts: &[String]) -> Result<Self, RunError> {
        let address = match address {
            "" => None,
            address => Some(
                gleaner_telemetry::parse_address(address).map_err(|message| {
                    let help = "write --dashboard, --dashboard=8080 or --dashboard=0.0.0.0:8080";
                    RunError::usage(message, help)
                })?,
            ),
        };
        let board = Board::default();
        let dashboard = Dashboard::bind(address, Hosts::new(hosts), board.clone())
            .await
            .map_err(|error| RunError::usage(error_chain(&error), "choose another --dashboard"))?;
        let address = dashboard.address();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let server = tokio::spawn(dashboard.serve(stopped));
        Ok(Self {
            board,
            address,
            stop,
            server,
        })
    }

    async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.server.await;
    }
}

/// The first signal drains, the second cancels.
async fn forward_signals(shutdown: Shutdown, bars: MultiProgress) {
    let mut n_signals = 0;
    while interrupted().await.is_ok() {
        n_signals += 1;
        if n_signals == 1 {
            let _ = bars.println("stopping when the tasks in hand are done; again to stop now");
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

fn show<T: serde::Serialize>(
    global: &GlobalOptions,
    report: &T,
    render: impl Fn(&T) -> String,
) -> Result<Exit, RunError> {
    if global.json {
        print_json(report)?;
    } else {
        print_text(&render(report))?;
    }
    Ok(Exit::Done)
}

fn print_text(text: &str) -> Result<(), RunError> {
    stdout::print(text).map_err(cannot_print)
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<(), RunError> {
    stdout::print_json(value).map_err(cannot_print)
}

fn cannot_print(error: std::io::Error) -> RunError {
    RunError::Internal(format!("cannot write to the standard output: {error}"))
}
