//! The command line: names, options, help.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use gleaner_schemas::units::HumanDuration;

use crate::broker::{BrokerArguments, Secret};
use crate::commands::export::ExportFormat;
use crate::commands::prepare::JobArguments;
use crate::commands::schema::SchemaFormat;
use crate::sql::format::Format;
use crate::sql::options::AttachArgument;
use crate::sql::parameters::ParameterArgument;
use crate::training::{FoldKind, Shares};

/// Builds training data for language models and retrievers out of large corpora.
#[derive(Debug, Parser)]
#[command(
    name = "gleaner",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What applies to every command.
    #[command(flatten)]
    pub global: GlobalOptions,
}

/// What applies to every command.
#[derive(Debug, Args)]
pub struct GlobalOptions {
    /// Write results to the standard output for programs: one JSON value, `run` one event per line
    #[arg(long, global = true)]
    pub json: bool,
    /// How the log is written to the standard error; what is written is up to RUST_LOG
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A job file with what overrides it.
#[derive(Debug, Clone, Args)]
pub struct JobOptions {
    /// Job file (YAML or JSON); `-` reads the standard input
    #[arg(value_name = "JOB")]
    pub job: PathBuf,
    /// Directory or URI of the output, instead of the job file's; relative to where you are
    #[arg(long, value_name = "URI")]
    pub output: Option<String>,
    /// Override a value of the job file, such as stages.chosen.documents=1000; can be repeated
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_override)]
    pub overrides: Vec<(String, String)>,
}

impl From<JobOptions> for JobArguments {
    fn from(options: JobOptions) -> Self {
        Self {
            path: options.job,
            text: None,
            output: options.output,
            overrides: options.overrides,
        }
    }
}

/// A RabbitMQ broker, over which `gleaner-worker` processes take tasks.
#[derive(Debug, Clone, Args)]
pub struct BrokerOptions {
    /// URL of a RabbitMQ broker (amqp:// or amqps://), over which workers take tasks, instead of
    /// the job file's
    #[arg(
        long,
        value_name = "URL",
        env = "GLEANER_QUEUE",
        hide_env_values = true
    )]
    pub queue: Option<String>,
    /// User of the broker, instead of the URL's
    #[arg(
        long,
        value_name = "NAME",
        env = "GLEANER_QUEUE_USER",
        hide_env_values = true
    )]
    pub queue_user: Option<String>,
    /// Certificates (PEM) that the broker's certificate is checked against
    #[arg(long, value_name = "FILE", env = "GLEANER_QUEUE_CA")]
    pub queue_ca: Option<PathBuf>,
    /// The broker's consumer_timeout, if it is not RabbitMQ's usual 30 minutes
    #[arg(long, value_name = "TIME")]
    pub consumer_timeout: Option<HumanDuration>,
}

impl From<BrokerOptions> for BrokerArguments {
    /// The password comes from the environment only: a command line is seen by everyone. A variable
    /// that is empty is none.
    fn from(options: BrokerOptions) -> Self {
        let some = |value: Option<String>| value.filter(|value| !value.is_empty());
        Self {
            url: some(options.queue).map(Secret),
            user: some(options.queue_user),
            password: some(std::env::var("GLEANER_QUEUE_PASSWORD").ok()).map(Secret),
            ca_file: options.queue_ca.filter(|path| !path.as_os_str().is_empty()),
            consumer_timeout: options.consumer_timeout.map(|it| it.duration()),
        }
    }
}

fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => {
            Ok((path.trim().to_owned(), value.to_owned()))
        }
        _ => Err("write it as path=value, for example stages.chosen.seed=8".to_owned()),
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job to its end; what is complete already is not done again
    #[command(
        after_help = "Example:\n  gleaner run job.yaml --set stages.chosen.documents=1000\n  \
                      gleaner run job.yaml --queue amqp://broker:5672\n  gleaner run job.yaml --dashboard"
    )]
    Run {
        /// The job.
        #[command(flatten)]
        job: JobOptions,
        /// Tasks that are worked on in this process at a time [default: one per core; with a
        /// broker none]
        #[arg(long, value_name = "N")]
        workers: Option<u16>,
        /// The broker.
        #[command(flatten)]
        broker: BrokerOptions,
        /// End, to be resumed, after this long without workers, broker or store [default: 10min;
        /// without a broker 2min]
        #[arg(long, value_name = "TIME")]
        patience: Option<HumanDuration>,
        /// Publish also what differs from the last version by more than the job's `guardrails` allow
        #[arg(long)]
        accept: bool,
        /// Serve /live, /ready and /metrics there; a port alone is on this machine only
        #[arg(long, value_name = "ADDRESS")]
        health: Option<String>,
        /// Serve a page to watch the run [default address: port 7373 of this machine]; another one as
        /// in --dashboard=8080 or --dashboard=0.0.0.0:8080, where whoever reaches it may watch
        #[arg(
            long,
            value_name = "ADDRESS",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = ""
        )]
        dashboard: Option<String>,
        /// A name by which the page may be asked for, besides addresses and localhost; can be
        /// repeated
        #[arg(long = "dashboard-host", value_name = "NAME", requires = "dashboard")]
        dashboard_hosts: Vec<String>,
    },
    /// Show what a run would do and what it would reuse, and why; writes nothing
    #[command(after_help = "Example:\n  gleaner plan job.yaml")]
    Plan {
        /// The job.
        #[command(flatten)]
        job: JobOptions,
        /// The broker that the run will have; nothing is asked of it.
        #[command(flatten)]
        broker: BrokerOptions,
    },
    /// Check the job file and the schemas of its inputs; writes nothing
    #[command(after_help = "Example:\n  gleaner validate job.yaml")]
    Validate {
        /// The job.
        #[command(flatten)]
        job: JobOptions,
        /// The broker that the run will have; nothing is asked of it.
        #[command(flatten)]
        broker: BrokerOptions,
    },
    /// Show how far a run is, also from another machine
    #[command(after_help = "Example:\n  gleaner status s3://bucket/runs/biomedical")]
    Status {
        /// Directory or URI of the output
        output: String,
    },
    /// Query an output with SQL; without a query, a prompt
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  gleaner sql out \"SELECT source, count(*) FROM chosen GROUP BY source\"\n  \
                      gleaner sql out --allow-paths \"SELECT * FROM 'labels/*.parquet' JOIN chosen \
                      USING (doc_id)\"\n  \
                      gleaner sql out --param least=0.5 'SELECT * FROM losses WHERE win_fraction > $least'\n  \
                      gleaner sql out --attach before=out@3 'SELECT doc_id FROM chosen EXCEPT SELECT \
                      doc_id FROM before.chosen'"
    )]
    Sql {
        /// Directory or URI of the output
        output: String,
        /// The query; every stage is a table by its name
        query: Option<String>,
        /// Ask this version of the output [default: the newest]
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        /// How rows are written [default: table, with --json json]
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// Let queries read files by their paths or URIs, FROM 'more/*.parquet', with what this
        /// machine and the environment's credentials can read; otherwise only the output and the
        /// inputs of its job are read
        #[arg(long)]
        allow_paths: bool,
        /// A value for $NAME in queries; can be repeated. Numbers, true, false and null are what they
        /// look like, everything else is text, and so is what stands in single quotes
        #[arg(long = "param", value_name = "NAME=VALUE")]
        parameters: Vec<ParameterArgument>,
        /// Another output, or another version of this one, whose tables queries name NAME.table; can
        /// be repeated
        #[arg(long, value_name = "NAME=OUTPUT[@N]")]
        attach: Vec<AttachArgument>,
    },
    /// Show where a document stands, stage by stage, with scores and reasons
    #[command(after_help = "Example:\n  gleaner explain out corpus/part-0.parquet#17")]
    Explain {
        /// Directory or URI of the output
        output: String,
        /// Id of the document
        #[arg(value_name = "DOC_ID")]
        document: String,
    },
    /// Write what a version holds and how it came to be, with plots, as one HTML file
    #[command(
        disable_version_flag = true,
        after_help = "Example:\n  gleaner report out\n  gleaner report out --version 3 --to \
                      reports/three.html"
    )]
    Report {
        /// Directory or URI of the output
        output: String,
        /// File or URI to write [default: report.html here; with --json none]
        #[arg(long, value_name = "FILE")]
        to: Option<String>,
        /// Report of this version of the output [default: the newest]
        #[arg(long, value_name = "N")]
        version: Option<u64>,
        /// Documents shown of each tenth of the scores, with the beginning of their texts; 0 leaves
        /// them out, for a report to give away
        #[arg(long, value_name = "N", default_value_t = 10)]
        examples: u16,
    },
    /// Compare two versions of an output: files, rows, scores, and the documents that came and went
    #[command(after_help = "Example:\n  gleaner diff out 1 2")]
    Diff {
        /// Directory or URI of the output
        output: String,
        /// Number of the version to compare
        #[arg(value_name = "A")]
        before: u64,
        /// Number of the version to compare it with
        #[arg(value_name = "B")]
        after: u64,
    },
    /// Write a stage's table in a form that trainers read
    #[command(
        after_help = "Example:\n  gleaner export out chosen --format jsonl --to chosen.jsonl.zst"
    )]
    Export {
        /// Directory or URI of the output
        output: String,
        /// Name of the stage
        stage: String,
        /// What to write
        #[arg(long, value_enum)]
        format: ExportFormat,
        /// File or URI to write; the ending .gz or .zst compresses jsonl. A folder for the formats
        /// of trainers
        #[arg(long, value_name = "URI")]
        to: String,
        /// Trainers' formats: shares of the splits, such as train=0.9,dev=0.05,test=0.05; queries
        /// of one document stand together
        #[arg(long, value_name = "SHARES", default_value = "train=1")]
        split: Shares,
        /// Trainers' formats: five folds in place of shares: of similar queries each, or with a part
        /// of each kind of queries
        #[arg(long, value_name = "KIND", value_enum, conflicts_with = "split")]
        folds: Option<FoldKind>,
        /// Trainers' formats: seed of the splits
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Trainers' formats: documents of this grade or more are positive [default: the highest of
        /// the scale]
        #[arg(long, value_name = "GRADE")]
        positive_grade: Option<i64>,
        /// Trainers' formats: queries with fewer documents are left out [default: as many as were
        /// asked for]
        #[arg(long, value_name = "N")]
        group_size: Option<usize>,
    },
    /// Recount rows and check every checksum against the manifest; exit code 1 on a difference
    #[command(after_help = "Example:\n  gleaner verify out")]
    Verify {
        /// Directory or URI of the output
        output: String,
    },
    /// Remove what no published version names
    #[command(after_help = "Example:\n  gleaner gc out --keep 1 --dry-run")]
    Gc {
        /// Directory or URI of the output
        output: String,
        /// How many versions to keep, the newest ones [default: all]; with 1, a folder of a table
        /// holds exactly its rows, for tools that read folders
        #[arg(long, value_name = "N")]
        keep: Option<NonZeroUsize>,
        /// Show what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write a job to start from, with a little data to run it on
    #[command(after_help = "Example:\n  gleaner init my-job && gleaner run my-job/job.yaml")]
    Init {
        /// Directory to write to; created if it does not exist
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Print the JSON Schema of the job file, for editors
    #[command(after_help = "Example:\n  gleaner schema > job.schema.json")]
    Schema {
        /// How it is written: as JSON Schema, or as a reference for people
        #[arg(long, value_enum, default_value_t = SchemaFormat::Json)]
        format: SchemaFormat,
    },
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  gleaner completions bash > ~/.local/share/bash-completion/completions/gleaner"
    )]
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        for subcommand in command.get_subcommands() {
            let example = subcommand.get_after_help().map(ToString::to_string);
            let example = example.unwrap_or_default();
            assert!(example.contains("gleaner "), "{}", subcommand.get_name());
        }
    }

    #[test]
    fn overrides_are_paths_and_values() {
        assert_eq!(
            parse_override("a.b=c=d"),
            Ok(("a.b".to_owned(), "c=d".to_owned()))
        );
        assert!(parse_override("a.b").is_err());
        assert!(parse_override("=x").is_err());
    }
}
