//! Results go to the standard output through here: in large writes, each under the stream's lock,
//! and a reader that went away (`gleaner sql ... | head`) is a success.

use std::io::{self, BufWriter, IsTerminal, Write};

/// Bytes that are written at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// A buffered standard output.
#[derive(Debug)]
pub struct Stdout {
    writer: BufWriter<io::Stdout>,
}

impl Default for Stdout {
    fn default() -> Self {
        Self::new()
    }
}

impl Stdout {
    /// The standard output, with a buffer of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, io::stdout()),
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Whether the standard output is a terminal.
#[must_use]
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether colours belong on a stream that is or is not a terminal: `NO_COLOR` (any value) and
/// `TERM=dumb` switch them off.
#[must_use]
pub fn wants_color(is_terminal: bool) -> bool {
    is_terminal
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|value| value != "dumb")
}

/// Width of the terminal that the standard output is, if it is one.
#[must_use]
pub fn width() -> Option<usize> {
    if !is_terminal() {
        return None;
    }
    let (_, columns) = console::Term::stdout().size_checked()?;
    Some(usize::from(columns))
}

/// Writes a text and a line end.
///
/// # Errors
///
/// Of the stream; a reader that went away is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = Stdout::new();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| {
            if text.ends_with('\n') {
                Ok(())
            } else {
                stdout.write_all(b"\n")
            }
        })
        .and_then(|()| stdout.flush());
    ignore_broken_pipe(written)
}

/// Writes a value as one line of JSON, or indented on a terminal.
///
/// # Errors
///
/// As [`print()`].
pub fn print_json<T: serde::Serialize>(value: &T) -> io::Result<()> {
    let text = if is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    print(&text.map_err(io::Error::other)?)
}

/// A reader that went away is a success.
///
/// # Errors
///
/// All others.
pub fn ignore_broken_pipe(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
