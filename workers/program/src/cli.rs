//! The command line: names, options, help.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use gleaner_schemas::Resource;
use gleaner_schemas::job::nearest;
use gleaner_schemas::units::HumanDuration;
use gleaner_telemetry::parse_address;
use gleaner_workers::registry;

/// Takes tasks of `gleaner run` from a broker and works on them, until it is told to stop.
///
/// It keeps nothing: start as many as you like, anywhere, and stop or kill any of them at any
/// time. Credentials of stores come from the environment, by the stores' own names.
#[derive(Parser)]
#[command(
    name = "gleaner-worker",
    version,
    max_term_width = 100,
    after_help = "Example:\n  GLEANER_QUEUE=amqp://broker GLEANER_QUEUE_USER=me \
                  GLEANER_QUEUE_PASSWORD=... \\\n    gleaner-worker --slots 8 --health 8080\n\n\
                  Signals: the first SIGTERM or interrupt takes no more tasks and gives those in \
                  hand the grace; the second stops at once. What is not finished goes back to \
                  the queue.\n\n\
                  Exit codes: 0 told to stop, nothing left in hand, or nothing to do for \
                  --until-idle; 75 stopped, and work is left, or, with --until-idle, may still \
                  come; 2 bad usage, or broker or store refuse; 4 the broker cannot be reached; \
                  1 internal error."
)]
pub(crate) struct Cli {
    /// Broker to take tasks from, such as amqps://host:5671/vhost; better without a password in it
    #[arg(
        long,
        value_name = "URL",
        env = "GLEANER_QUEUE",
        hide_env_values = true,
        required_unless_present = "completions"
    )]
    pub(crate) queue: Option<Secret>,
    /// User of the broker, instead of the one in the URL; the password is read from
    /// GLEANER_QUEUE_PASSWORD
    #[arg(
        long,
        value_name = "NAME",
        env = "GLEANER_QUEUE_USER",
        hide_env_values = true
    )]
    pub(crate) queue_user: Option<String>,
    /// Password of the broker: only in the environment, since others can read command lines.
    #[arg(
        long,
        hide = true,
        value_name = "PASSWORD",
        env = "GLEANER_QUEUE_PASSWORD",
        hide_env_values = true
    )]
    pub(crate) queue_password: Option<Secret>,
    /// Certificates (PEM) to check the broker's against, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) queue_ca: Option<PathBuf>,
    /// Tasks at a time [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<NonZeroU16>,
    /// Kinds of stages whose tasks are taken, such as importance_weights,select [default: all]
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    pub(crate) stages: Option<Vec<String>>,
    /// What this machine has for tasks: cpu, network, accelerator
    #[arg(
        long,
        value_name = "RESOURCES",
        value_delimiter = ',',
        default_value = "cpu,network",
        value_parser = parse_resource
    )]
    pub(crate) resources: Vec<Resource>,
    /// How long tasks in hand may go on after the first signal; seconds, or a duration such as 2min
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    pub(crate) grace: Duration,
    /// End when nothing was there to do for this long: for workers that a supervisor starts when
    /// there is work [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) until_idle: Option<Duration>,
    /// Answer /live, /ready and /metrics here; a port alone listens to this machine only
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) health: Option<SocketAddr>,
    /// The broker's consumer_timeout; tasks that may take longer than half of it are refused
    #[arg(long, value_name = "DURATION", default_value = "30min", value_parser = parse_duration)]
    pub(crate) consumer_timeout: Duration,
    /// Give up when the broker cannot be reached for this long
    #[arg(long, value_name = "DURATION", default_value = "10min", value_parser = parse_duration)]
    pub(crate) broker_patience: Duration,
    /// How the log is written to the standard error; what is written is up to RUST_LOG
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Print completions for a shell, and nothing else
    #[arg(long, value_name = "SHELL", value_enum)]
    pub(crate) completions: Option<Shell>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl From<LogFormat> for gleaner_telemetry::log::LogFormat {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn parse_kind(text: &str) -> Result<String, String> {
    let text = text.trim();
    if registry::kind(text).is_some() {
        return Ok(text.to_owned());
    }
    let names = registry::KINDS.iter().map(|kind| kind.name());
    let help = nearest(text, names).unwrap_or_default();
    Err(format!("there is no kind of stage `{text}`; {help}"))
}

fn parse_resource(text: &str) -> Result<Resource, String> {
    let text = text.trim();
    let found = Resource::ALL.into_iter().find(|it| it.as_str() == text);
    found.ok_or_else(|| {
        // All three: the nearest of `gpu` is not what is meant by it.
        let names = Resource::ALL.map(Resource::as_str).join(", ");
        format!("there is no resource `{text}`; known here: {names}")
    })
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse().map(HumanDuration::duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(arguments: &[&str]) -> Result<Cli, String> {
        let arguments = ["gleaner-worker"].iter().chain(arguments);
        Cli::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_consistent_and_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let example = command.get_after_help().unwrap().to_string();
        assert!(example.contains("gleaner-worker --slots 8"));
    }

    #[test]
    fn defaults_are_those_of_the_documents() {
        let cli = parse(&["--queue", "amqp://x"]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(cli.grace, Duration::from_secs(30));
        assert_eq!(cli.consumer_timeout, Duration::from_secs(1800));
        assert_eq!(cli.broker_patience, Duration::from_secs(600));
        assert_eq!(cli.resources, [Resource::Cpu, Resource::Network]);
        assert_eq!((cli.stages, cli.slots, cli.health), (None, None, None));
        assert_eq!(cli.until_idle, None);
    }

    #[test]
    fn what_is_unknown_gets_the_nearest_name() {
        let check = |option: &str, value: &str, says: &str| {
            let error = parse(&["--queue", "amqp://x", option, value]).map(|_| ());
            let error = error.unwrap_err();
            assert!(error.contains(says), "{error}");
        };
        check("--stages", "selct", "did you mean `select`?");
        check(
            "--stages",
            "select,importance_weight",
            "did you mean `importance_weights`?",
        );
        check(
            "--stages",
            "x",
            "known here: importance_weights, select, query",
        );
        check(
            "--resources",
            "gpu",
            "known here: cpu, accelerator, network",
        );
        check("--resources", "cpu,x", "there is no resource `x`");
        check("--grace", "soon", "is not a duration");
        check("--until-idle", "60", "is not a duration");
        check("--health", "example.com", "0.0.0.0:8080");
        check("--slots", "0", "--slots");
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret("amqp://me:hunter2@x".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
    }
}
