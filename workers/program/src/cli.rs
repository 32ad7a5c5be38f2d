//! The command line: names, options, help.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use clap_complete::Shell;
use gleaner_schemas::Resource;
use gleaner_schemas::job::nearest;
use gleaner_schemas::units::HumanDuration;
use gleaner_workers::registry;

/// Takes tasks of Gleaner's jobs from a RabbitMQ broker, until it is told to stop.
///
/// It keeps nothing: any number of workers may run anywhere, and be killed at any moment. Stores
/// are reached with the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*). SIGTERM takes no
/// more tasks and lets those in hand end, within the grace; a second one hands them back at once.
#[derive(Debug, Parser)]
#[command(
    name = "gleaner-worker",
    version,
    max_term_width = 100,
    after_help = "Example:\n  GLEANER_QUEUE=amqp://broker:5672 gleaner-worker --slots 4 --health 8080\n\n\
                  Exit codes: 0 told to stop, nothing left in hand; 75 stopped and work is left; 2 \
                  wrong usage, or the broker refuses; 4 broker or store cannot be reached"
)]
pub(crate) struct Cli {
    /// URL of the broker: amqp:// or amqps://
    #[arg(
        long,
        value_name = "URL",
        env = "GLEANER_QUEUE",
        hide_env_values = true,
        required_unless_present = "completions"
    )]
    pub(crate) queue: Option<String>,
    /// User of the broker, instead of the URL's; its password comes from GLEANER_QUEUE_PASSWORD
    #[arg(
        long,
        value_name = "NAME",
        env = "GLEANER_QUEUE_USER",
        hide_env_values = true
    )]
    pub(crate) queue_user: Option<String>,
    /// Certificates (PEM) that the broker's certificate is checked against
    #[arg(long, value_name = "FILE", env = "GLEANER_QUEUE_CA")]
    pub(crate) queue_ca: Option<PathBuf>,
    /// The broker's consumer_timeout, if it is not RabbitMQ's usual 30 minutes
    #[arg(long, value_name = "TIME", default_value = "30min")]
    pub(crate) consumer_timeout: HumanDuration,
    /// End, with exit code 4, after this long without the broker
    #[arg(long, value_name = "TIME", default_value = "10min")]
    pub(crate) broker_patience: HumanDuration,
    /// Tasks at a time [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) slots: Option<u16>,
    /// Kinds of stages whose tasks are taken [default: all]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = parse_kind)]
    pub(crate) stages: Option<Vec<String>>,
    /// What this machine has: tasks that need it are taken
    #[arg(
        long,
        value_name = "RESOURCE,...",
        value_delimiter = ',',
        default_value = "cpu"
    )]
    pub(crate) resources: Vec<ResourceName>,
    /// Seconds that tasks in hand may go on after SIGTERM
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) grace: u64,
    /// Serve /live, /ready and /metrics there; a port alone is on this machine only
    #[arg(long, value_name = "ADDRESS", value_parser = gleaner_telemetry::parse_address)]
    pub(crate) health: Option<SocketAddr>,
    /// How the log is written to the standard error; what is written is up to RUST_LOG
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Print completions for a shell, and end
    #[arg(long, value_name = "SHELL", value_enum)]
    pub(crate) completions: Option<Shell>,
}

/// What a machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ResourceName {
    /// Cores.
    Cpu,
    /// A GPU or the like.
    Accelerator,
    /// Connections to language-model servers.
    Network,
}

impl From<ResourceName> for Resource {
    fn from(name: ResourceName) -> Self {
        match name {
            ResourceName::Cpu => Self::Cpu,
            ResourceName::Accelerator => Self::Accelerator,
            ResourceName::Network => Self::Network,
        }
    }
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

fn parse_kind(text: &str) -> Result<String, String> {
    let text = text.trim();
    if registry::kind(text).is_some() {
        return Ok(text.to_owned());
    }
    let known: Vec<&str> = registry::KINDS.iter().map(|kind| kind.name()).collect();
    let hint = nearest(text, known.iter().copied())
        .unwrap_or_else(|| format!("kinds are {}", known.join(", ")));
    Err(format!("there is no kind of stage `{text}`; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_are_checked() {
        let parse = |text: &str| {
            let arguments = ["gleaner-worker", "--queue", "amqp://x", "--stages", text];
            Cli::try_parse_from(arguments)
        };
        let cli = parse("select,importance_weights").unwrap();
        assert_eq!(cli.stages.unwrap(), ["select", "importance_weights"]);
        let error = parse("selct").unwrap_err().to_string();
        assert!(error.contains("did you mean `select`?"), "{error}");
    }
}
