//! `gleaner sql OUTPUT` without a query: an interactive prompt, or statements from a pipe.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{DefaultEditor, history::FileHistory};

use crate::diagnostics::Diagnostics;
use crate::run_error::RunError;
use crate::sql::format::{Format, RowWriter};
use crate::sql::{Session, SqlError};
use crate::stdout::{self, Stdout};

const HELP: &str = "\
Statements end with `;`. Other commands:
  \\d          the tables
  \\d TABLE    the columns of a table
  \\?          this help
  \\q          quit
";

/// A complete input of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Input {
    Query(String),
    Tables,
    Columns(String),
    Help,
    Quit,
    Unknown(String),
}

/// Collects lines until they are a complete input.
#[derive(Debug, Default)]
struct Lines {
    pending: String,
}

impl Lines {
    fn is_empty(&self) -> bool {
        self.pending.trim().is_empty()
    }

    fn clear(&mut self) {
        self.pending.clear();
    }

    fn push(&mut self, line: &str) -> Vec<Input> {
        if self.is_empty() && line.trim_start().starts_with('\\') {
            return vec![command(line.trim())];
        }
        if self.is_empty() && ["quit", "exit"].contains(&line.trim().trim_end_matches(';')) {
            return vec![Input::Quit];
        }
        self.pending.push_str(line);
        self.pending.push('\n');
        let (statements, rest) = split_statements(&self.pending);
        let inputs = statements.into_iter().map(Input::Query).collect();
        self.pending = rest;
        inputs
    }

    /// What is left at the end of the input, which needs no `;`.
    fn finish(self) -> Option<Input> {
        let rest = self.pending.trim();
        (!rest.is_empty()).then(|| Input::Query(rest.to_owned()))
    }
}

fn command(line: &str) -> Input {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default();
    let argument = words
        .next()
        .map(|word| word.trim_end_matches(';').to_owned());
    match (name.trim_end_matches(';'), argument) {
        ("\\d" | "\\dt", None) => Input::Tables,
        ("\\d", Some(table)) => Input::Columns(table),
        ("\\?" | "\\h", _) => Input::Help,
        ("\\q", _) => Input::Quit,
        _ => Input::Unknown(line.to_owned()),
    }
}

/// Splits at the `;` that stand outside of quotes and comments. Returns the statements and what
/// is not finished.
fn split_statements(text: &str) -> (Vec<String>, String) {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            Some(open) => {
                statement.push(c);
                if c == open {
                    quote = None;
                }
            }
            None if c == '-' && chars.peek() == Some(&'-') => {
                for c in chars.by_ref() {
                    if c == '\n' {
                        statement.push('\n');
                        break;
                    }
                }
            }
            None if c == ';' => {
                if !statement.trim().is_empty() {
                    statements.push(statement.trim().to_owned());
                }
                statement.clear();
            }
            None => {
                if c == '\'' || c == '"' {
                    quote = Some(c);
                }
                statement.push(c);
            }
        }
    }
    let rest = if statement.trim().is_empty() {
        String::new()
    } else {
        statement
    };
    (statements, rest)
}

/// Writes the rows of a query to the standard output, as they come.
///
/// # Errors
///
/// Of the query, or of the stream; a reader that went away is no error.
pub async fn print_query(session: &Session, sql: &str, format: Format) -> Result<(), RunError> {
    let stream = session.query_stream(sql).await?;
    let is_terminal = stdout::is_terminal();
    write_rows(stream, format, Stdout::new(), is_terminal)
        .await
        .map(|_| ())
}

/// Writes rows as they come. Returns how many.
///
/// # Errors
///
/// Of the query, or of the stream; a reader that went away is no error.
pub async fn write_rows<W: Write + Send>(
    mut stream: datafusion::execution::SendableRecordBatchStream,
    format: Format,
    writer: W,
    is_terminal: bool,
) -> Result<u64, RunError> {
    use futures::StreamExt as _;
    let mut n_rows = 0;
    let written: Result<io::Result<u64>, SqlError> = async {
        let mut rows = match RowWriter::new(format, &stream.schema(), writer, is_terminal) {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            n_rows += batch.num_rows() as u64;
            if let Err(error) = rows.write(&batch) {
                return Ok(Err(error));
            }
        }
        Ok(rows.finish().map(|(_, n_rows)| n_rows))
    }
    .await;
    match written? {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(n_rows),
        Err(error) => Err(RunError::Internal(format!(
            "cannot write the rows: {error}"
        ))),
        Ok(n_rows) => Ok(n_rows),
    }
}

/// Reads statements from the standard input and runs them: with line editing and history on a
/// terminal, as a script otherwise.
///
/// # Errors
///
/// Of a statement of a script, which ends there; of the terminal.
pub async fn run(
    session: &Session,
    format: Format,
    diagnostics: &Diagnostics,
) -> Result<(), RunError> {
    if io::stdin().is_terminal() {
        interactive(session, format, diagnostics).await
    } else {
        script(session, format).await
    }
}

async fn script(session: &Session, format: Format) -> Result<(), RunError> {
    let mut lines = Lines::default();
    for line in io::stdin().lock().lines() {
        let line = line.map_err(|error| {
            RunError::Internal(format!("cannot read the standard input: {error}"))
        })?;
        for input in lines.push(&line) {
            if input == Input::Quit {
                return Ok(());
            }
            answer(session, &input, format).await?;
        }
    }
    match lines.finish() {
        Some(input) => answer(session, &input, format).await,
        None => Ok(()),
    }
}

async fn interactive(
    session: &Session,
    format: Format,
    diagnostics: &Diagnostics,
) -> Result<(), RunError> {
    let broken = |error: ReadlineError| RunError::Internal(format!("the terminal: {error}"));
    let mut editor: DefaultEditor = rustyline::Editor::<(), FileHistory>::new().map_err(broken)?;
    let history = history_file();
    if let Some(history) = &history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    stdout::print(&format!(
        "{} tables; \\d lists them, \\? helps, \\q quits",
        session.tables().len()
    ))
    .map_err(|error| RunError::Internal(error.to_string()))?;
    let mut lines = Lines::default();
    loop {
        let prompt = if lines.is_empty() {
            "gleaner> "
        } else {
            "    ...> "
        };
        let line = match editor.readline(prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                lines.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(broken(error)),
        };
        let inputs = lines.push(&line);
        if inputs.contains(&Input::Quit) {
            break;
        }
        for input in inputs {
            if let Input::Query(sql) = &input {
                let _ = editor.add_history_entry(format!("{sql};"));
            }
            let answered = tokio::select! {
                answered = answer(session, &input, format) => answered,
                _ = tokio::signal::ctrl_c() => Err(RunError::usage("stopped", "\\q quits")),
            };
            if let Err(error) = answered {
                diagnostics.print(&error);
            }
        }
    }
    if let Some(history) = &history {
        let saved = history
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .map_err(ReadlineError::from)
            .and_then(|()| editor.save_history(history));
        if let Err(error) = saved {
            tracing::debug!(%error, "cannot keep the history");
        }
    }
    Ok(())
}

/// `$XDG_STATE_HOME/gleaner/sql_history`, by default below `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = match set("XDG_STATE_HOME") {
        Some(state) => PathBuf::from(state),
        None => PathBuf::from(set("HOME")?).join(".local/state"),
    };
    Some(state.join("gleaner").join("sql_history"))
}

async fn answer(session: &Session, input: &Input, format: Format) -> Result<(), RunError> {
    let text = match input {
        Input::Query(sql) => return print_query(session, sql, format).await,
        Input::Tables => session.tables().join("\n"),
        Input::Columns(table) => {
            let schema = session.schema_of(table).await?;
            let columns: Vec<String> = schema
                .fields()
                .iter()
                .map(|field| {
                    let nullable = if field.is_nullable() {
                        ""
                    } else {
                        ", not null"
                    };
                    format!("{}: {}{nullable}", field.name(), field.data_type())
                })
                .collect();
            columns.join("\n")
        }
        Input::Help => HELP.to_owned(),
        Input::Unknown(line) => {
            return Err(RunError::usage(
                format!("there is no command {line}"),
                "\\? lists them",
            ));
        }
        Input::Quit => return Ok(()),
    };
    stdout::print(&text).map_err(|error| RunError::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_with_a_semicolon_outside_of_quotes() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("select 'a;b' -- not; here"), []);
        assert_eq!(
            lines.push("from t; select 1"),
            [Input::Query("select 'a;b' \nfrom t".to_owned())]
        );
        assert!(!lines.is_empty());
        assert_eq!(lines.push(";;"), [Input::Query("select 1".to_owned())]);
        assert!(lines.is_empty());
        assert_eq!(
            lines.push("\\d weights;"),
            [Input::Columns("weights".to_owned())]
        );
        assert_eq!(lines.push("exit;"), [Input::Quit]);
        assert_eq!(lines.push("select 2"), []);
        assert_eq!(lines.finish(), Some(Input::Query("select 2".to_owned())));
    }
}
