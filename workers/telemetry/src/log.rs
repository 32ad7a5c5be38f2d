//! Log lines.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes the log of this process to `writer`. What is written is up to `RUST_LOG`; without it,
/// warnings and what `targets` name in addition, such as `["gleaner_workers=info"]`. The first
/// call of a process decides.
pub fn log_to<W>(writer: W, format: LogFormat, targets: &[&str])
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(std::env::var(EnvFilter::DEFAULT_ENV).ok(), targets))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer);
    let installed = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    // Tests run several programs in one process; the first has the word.
    drop(installed);
}

fn filter(from_env: Option<String>, targets: &[&str]) -> EnvFilter {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::WARN.into());
    match from_env {
        Some(text) if !text.trim().is_empty() => builder.parse_lossy(text),
        _ => builder.parse_lossy(
            std::iter::once("warn")
                .chain(targets.iter().copied())
                .collect::<Vec<_>>()
                .join(","),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_the_word() {
        let check = |from_env: Option<&str>, expect: &[&str]| {
            let filter = filter(from_env.map(str::to_owned), &["gleaner_workers=info"]);
            let text = filter.to_string();
            let mut directives: Vec<&str> = text.split(',').collect();
            directives.sort_unstable();
            assert_eq!(directives, expect, "{from_env:?}");
        };
        check(None, &["gleaner_workers=info", "warn"]);
        check(Some(" "), &["gleaner_workers=info", "warn"]);
        check(Some("debug"), &["debug"]);
        check(Some("gleaner_queue=trace"), &["gleaner_queue=trace"]);
    }
}
