//! Errors of a job file, with their place in it.

use std::fmt::Write as _;

/// A place in the text of a job file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Byte offset of its start.
    pub offset: usize,
    /// Length in bytes.
    pub length: usize,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// What is wrong with a job file, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JobError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Where; absent if the value came from the command line or is not there at all.
    pub span: Option<Span>,
}

impl JobError {
    /// An error without a place.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            span: None,
        }
    }

    /// The same error at a place.
    #[must_use]
    pub fn with_span(mut self, span: Span) -> Self {
        self.span = Some(span);
        self
    }

    /// The same error with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Two or more lines of plain text: place and message, the line of the file, the advice.
    #[must_use]
    pub fn render_plain(&self, name: &str, text: &str) -> String {
        let mut rendered = match self.span {
            Some(span) => {
                let line = text.lines().nth(span.line.saturating_sub(1)).unwrap_or("");
                let shown = text
                    .get(span.offset..span.offset + span.length)
                    .and_then(|marked| marked.lines().next())
                    .map_or(1, |marked| marked.chars().count().max(1));
                format!(
                    "{name}:{}:{}: {}\n  {line}\n  {}{}",
                    span.line,
                    span.column,
                    self.message,
                    " ".repeat(span.column.saturating_sub(1)),
                    "^".repeat(shown)
                )
            }
            None => format!("{name}: {}", self.message),
        };
        if let Some(help) = &self.help {
            let _ = write!(rendered, "\n  help: {help}");
        }
        rendered
    }
}

/// "did you mean" for a name among known ones; else the list of those.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 1 + name.len() / 3 => {
            Some(format!("did you mean `{candidate}`?"))
        }
        Some(_) => Some(format!("known here: {}", known.join(", "))),
        None => None,
    }
}
