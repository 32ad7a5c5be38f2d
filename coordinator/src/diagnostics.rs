//! Errors as people and programs see them, and the exit codes.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use gleaner_schemas::job::JobError;
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode,
};
use serde_json::{Value, json};

use crate::run_error::RunError;
use crate::stdout;

/// What to do about a guardrail.
const ACCEPT_HELP: &str = "what was computed is kept; if this is as it should be, run the job again \
                           with --accept, or move the bounds: `guardrails:` in the job file";

/// How the program ends. The numbers are documented for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// An internal error; `verify`: the output is not what its manifest says.
    Internal = 1,
    /// Bad usage or job file.
    Usage = 2,
    /// Finished, but tasks or rows were quarantined beyond what the job allows.
    Quarantined = 3,
    /// Something outside (broker, store, endpoint) is unreachable: try again.
    Unreachable = 4,
    /// A guardrail stopped the publication.
    Guardrail = 5,
    /// What the job may spend is spent: run it again with more.
    BudgetSpent = 6,
    /// Interrupted; what is committed is kept.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The end with this number.
    #[must_use]
    pub fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Quarantined,
            4 => Self::Unreachable,
            5 => Self::Guardrail,
            6 => Self::BudgetSpent,
            130 => Self::Interrupted,
            _ => Self::Internal,
        }
    }
}

impl From<&RunError> for Exit {
    fn from(error: &RunError) -> Self {
        Self::of_code(error.exit_code())
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Shows errors on the standard error; with `--json` also as an object on the standard output.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    /// Whether the standard output is for programs.
    pub json: bool,
    /// Name and text of the job file, where there is one.
    pub job_file: Option<(String, String)>,
}

impl Diagnostics {
    /// Shows an error. An error that cannot be shown is dropped: there is nobody to tell.
    pub fn print(&self, error: &RunError) {
        if self.json {
            let _ = stdout::print(&self.to_json(error).to_string());
        }
        let is_terminal = io::stderr().is_terminal();
        let text = self.render(error, is_terminal, stdout::wants_color(is_terminal));
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes());
    }

    /// The error as an object.
    #[must_use]
    pub fn to_json(&self, error: &RunError) -> Value {
        let details: Vec<Value> = match error {
            RunError::Job(errors) => errors
                .iter()
                .map(|error| {
                    json!({
                        "message": error.message,
                        "help": error.help,
                        "line": error.span.map(|span| span.line),
                        "column": error.span.map(|span| span.column),
                    })
                })
                .collect(),
            RunError::Guardrail { checks, .. } => checks.iter().map(|check| json!(check)).collect(),
            _ => Vec::new(),
        };
        let help = match error {
            RunError::Usage { help, .. } => help.as_deref(),
            RunError::Guardrail { .. } => Some(ACCEPT_HELP),
            _ => None,
        };
        json!({
            "event": "error",
            "message": error.to_string(),
            "help": help,
            "exit_code": Exit::from(error).code(),
            "details": details,
        })
    }

    /// The error as text: with frames and colours, or plain.
    #[must_use]
    pub fn render(&self, error: &RunError, is_terminal: bool, color: bool) -> String {
        let reports: Vec<Report> = match error {
            RunError::Job(errors) => errors.iter().map(|error| self.report(error)).collect(),
            other => vec![Report::of(other)],
        };
        let (name, text) = match &self.job_file {
            Some((name, text)) => (name.as_str(), text.as_str()),
            None => ("the job file", ""),
        };
        if !is_terminal {
            return match error {
                RunError::Job(errors) => errors
                    .iter()
                    .map(|error| format!("error: {}\n", error.render_plain(name, text)))
                    .collect(),
                _ => reports.iter().map(Report::plain).collect(),
            };
        }
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(stderr_width());
        let mut rendered = String::new();
        for report in &reports {
            if handler.render_report(&mut rendered, report).is_err() {
                rendered.push_str(&report.plain());
            }
            rendered.push('\n');
        }
        rendered
    }

    fn report(&self, error: &JobError) -> Report {
        let source = self
            .job_file
            .as_ref()
            .filter(|_| error.span.is_some())
            .map(|(name, text)| NamedSource::new(name, text.clone()).with_language("yaml"));
        Report {
            message: error.message.clone(),
            help: error.help.clone(),
            span: error.span.map(|span| (span.offset, span.length)),
            source,
        }
    }
}

fn stderr_width() -> usize {
    const WIDTH_MAX: usize = 100;
    console::Term::stderr()
        .size_checked()
        .map_or(WIDTH_MAX, |(_, columns)| {
            usize::from(columns).min(WIDTH_MAX)
        })
}

/// An error as miette renders it.
#[derive(Debug)]
struct Report {
    message: String,
    help: Option<String>,
    span: Option<(usize, usize)>,
    source: Option<NamedSource<String>>,
}

impl Report {
    fn of(error: &RunError) -> Self {
        let help = match error {
            RunError::Usage { help, .. } => help.clone(),
            RunError::Guardrail { .. } => Some(ACCEPT_HELP.to_owned()),
            RunError::Unreachable(_) => {
                Some("what is committed is kept; try again when it can be reached".to_owned())
            }
            RunError::Internal(_) => {
                Some("this should not happen; please report it with this message".to_owned())
            }
            _ => None,
        };
        Self {
            message: error.to_string(),
            help,
            span: None,
            source: None,
        }
    }

    fn plain(&self) -> String {
        let help = self
            .help
            .as_ref()
            .map_or_else(String::new, |help| format!("  help: {help}\n"));
        format!("error: {}\n{help}", self.message)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as _)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (offset, length) = self.span?;
        self.source.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::underline((
            offset, length,
        )))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gleaner_schemas::job::{Job, JobSource};

    fn job_error() -> (Diagnostics, RunError) {
        let text = "name: x\noutput: out\ncorpus: {path: [a.parquet]}\nstages: {}\n";
        let source = JobSource {
            name: "job.yaml".to_owned(),
            text: text.to_owned(),
        };
        let errors = Job::parse(source).unwrap_err();
        let diagnostics = Diagnostics {
            json: false,
            job_file: Some(("job.yaml".to_owned(), text.to_owned())),
        };
        (diagnostics, RunError::Job(errors))
    }

    #[test]
    fn errors_of_job_files_show_their_line() {
        let (diagnostics, error) = job_error();
        let plain = diagnostics.render(&error, false, false);
        assert!(plain.starts_with("error: job.yaml:3:"), "{plain}");
        assert!(plain.contains("did you mean `paths`?"), "{plain}");
        let graphical = diagnostics.render(&error, true, false);
        assert!(
            graphical.contains("corpus: {path: [a.parquet]}"),
            "{graphical}"
        );
        assert!(!graphical.contains('\x1b'), "{graphical}");
        assert!(diagnostics.render(&error, true, true).contains('\x1b'));
    }

    #[test]
    fn objects_have_code_and_place() {
        let (diagnostics, error) = job_error();
        let value = diagnostics.to_json(&error);
        assert_eq!(value["exit_code"], 2);
        assert_eq!(value["details"][0]["line"], 3);
    }

    #[test]
    fn codes_round_trip() {
        for code in [0, 1, 2, 3, 4, 5, 130] {
            assert_eq!(Exit::of_code(code).code(), code);
        }
        assert_eq!(Exit::from(&RunError::Interrupted), Exit::Interrupted);
    }
}
