//! `gleaner-scripted-endpoint`: a language-model server without a language model, to try
//! generation offline.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use gleaner_scripted_endpoint::answer::Style;
use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, always};

/// Answers OpenAI-compatible requests with words of their own prompts. No language model is in it:
/// it shows how generation works, not what it is good for.
#[derive(Debug, Parser)]
#[command(name = "gleaner-scripted-endpoint", version)]
struct Cli {
    /// Port on the loopback interface; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Milliseconds until an answer
    #[arg(long, value_name = "N", default_value_t = 20)]
    latency_ms: u64,
    /// Write words that have nothing to do with the prompt
    #[arg(long)]
    random: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let options = ServerOptions {
        latency: Duration::from_millis(cli.latency_ms),
        style: if cli.random {
            Style::Random
        } else {
            Style::Related
        },
        heeds_idempotency: true,
        port: cli.port,
        ..ServerOptions::default()
    };
    let server = match ScriptedServer::start(always(Play::Answer), options).await {
        Ok(server) => server,
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "cannot listen on port {}: {error}; give another --port",
                cli.port
            );
            return ExitCode::from(4);
        }
    };
    let _ = writeln!(std::io::stdout(), "{}", server.url());
    let _ = tokio::signal::ctrl_c().await;
    ExitCode::SUCCESS
}
