//! How a run shows that it moves: bars on a terminal, plain lines otherwise, one JSON event per
//! line for programs, or nothing. All but the events go to the standard error.

use std::fmt::Debug;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::observation::Observation;
use crate::stdout;

/// Shortest time between two plain lines about one phase.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Told by the driver what happens. Called from one task at a time; must not block.
pub trait Progress: Debug + Send + Sync {
    /// A map phase begins. `bytes` are uncompressed bytes to read.
    fn phase_started(
        &self,
        stage: &str,
        phase: &str,
        n_tasks: u64,
        n_rows: Option<u64>,
        bytes: u64,
    );
    /// So much of the phase was there before it began: it counts as done, and not as speed.
    fn found(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        self.advanced(n_tasks, n_rows, bytes);
    }
    /// So much more of the phase is done.
    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64);
    /// The phase is over.
    fn phase_finished(&self, stage: &str, phase: &str);
    /// Something that the user should know.
    fn note(&self, text: &str);
    /// Something that only who watches closely wants to know.
    fn observe(&self, _: &Observation<'_>) {}
}

/// Which kind of progress a command shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bars if the standard error is a terminal, else lines.
    Human,
    /// One JSON event per line on the standard output.
    Json,
    /// Nothing but notes, as lines.
    Quiet,
}

/// The progress of this style. `bars` is shared with the log, see [`LogWriter`].
#[must_use]
pub fn of_style(style: Style, bars: &MultiProgress) -> std::sync::Arc<dyn Progress> {
    match style {
        Style::Json => std::sync::Arc::new(Events),
        Style::Human if io::stderr().is_terminal() => std::sync::Arc::new(Bars::new(bars.clone())),
        Style::Human => std::sync::Arc::new(Lines::new(Box::new(io::stderr()), LINE_PAUSE)),
        Style::Quiet => std::sync::Arc::new(NotesOnly),
    }
}

/// Nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase_started(&self, _: &str, _: &str, _: u64, _: Option<u64>, _: u64) {}
    fn advanced(&self, _: u64, _: u64, _: u64) {}
    fn phase_finished(&self, _: &str, _: &str) {}
    fn note(&self, _: &str) {}
}

#[derive(Debug)]
struct NotesOnly;

impl Progress for NotesOnly {
    fn phase_started(&self, _: &str, _: &str, _: u64, _: Option<u64>, _: u64) {}
    fn advanced(&self, _: u64, _: u64, _: u64) {}
    fn phase_finished(&self, _: &str, _: &str) {}

    fn note(&self, text: &str) {
        // A progress that cannot be shown is no reason to stop.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// What is known of the phase that runs.
#[derive(Debug, Clone, Default)]
struct Phase {
    name: String,
    tasks: (u64, u64),
    rows: (u64, Option<u64>),
    bytes: (u64, u64),
}

impl Phase {
    fn new(stage: &str, phase: &str, n_tasks: u64, n_rows: Option<u64>, bytes: u64) -> Self {
        Self {
            name: format!("{stage}/{phase}"),
            tasks: (0, n_tasks),
            rows: (0, n_rows),
            bytes: (0, bytes),
        }
    }

    fn advance(&mut self, n_tasks: u64, n_rows: u64, bytes: u64) {
        self.tasks.0 += n_tasks;
        self.rows.0 += n_rows;
        self.bytes.0 += bytes;
    }

    fn text(&self) -> String {
        let rows = match self.rows {
            (done, Some(total)) => format!(" · {}/{} rows", count(done), count(total)),
            (0, None) => String::new(),
            (done, None) => format!(" · {} rows", count(done)),
        };
        format!(
            "{}/{} tasks{rows} · {} of {}",
            self.tasks.0,
            self.tasks.1,
            bytes(self.bytes.0),
            bytes(self.bytes.1)
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values behind these locks are valid after any panic: counters and a bar.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bars on a terminal.
#[derive(Debug)]
pub struct Bars {
    bars: MultiProgress,
    phase: Mutex<(Phase, Option<ProgressBar>)>,
}

impl Bars {
    /// Bars drawn by `bars`.
    #[must_use]
    pub fn new(bars: MultiProgress) -> Self {
        Self {
            bars,
            phase: Mutex::default(),
        }
    }
}

impl Progress for Bars {
    fn phase_started(
        &self,
        stage: &str,
        phase: &str,
        n_tasks: u64,
        n_rows: Option<u64>,
        bytes: u64,
    ) {
        let phase = Phase::new(stage, phase, n_tasks, n_rows, bytes);
        let style = ProgressStyle::with_template(
            "{prefix:<22} {bar:28.cyan/blue} {percent:>3}% {msg} · {binary_bytes_per_sec} · {eta}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self
            .bars
            .add(ProgressBar::new(bytes.max(1)).with_style(style));
        bar.set_prefix(phase.name.clone());
        bar.set_message(phase.text());
        bar.enable_steady_tick(Duration::from_millis(500));
        *lock(&self.phase) = (phase, Some(bar));
    }

    fn found(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        self.advanced(n_tasks, n_rows, bytes);
        if let (_, Some(bar)) = &*lock(&self.phase) {
            bar.reset_eta();
        }
    }

    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        let mut current = lock(&self.phase);
        current.0.advance(n_tasks, n_rows, bytes);
        if let (phase, Some(bar)) = &*current {
            bar.set_position(phase.bytes.0);
            bar.set_message(phase.text());
        }
    }

    fn phase_finished(&self, _: &str, _: &str) {
        if let (_, Some(bar)) = std::mem::take(&mut *lock(&self.phase)) {
            bar.finish();
        }
    }

    fn note(&self, text: &str) {
        let _ = self.bars.println(text);
    }
}

/// Plain lines, for logs and files.
pub struct Lines {
    pause: Duration,
    state: Mutex<LineState>,
}

struct LineState {
    writer: Box<dyn Write + Send>,
    phase: Phase,
    /// Bytes that were there before the phase began.
    found_bytes: u64,
    started_at: Instant,
    written_at: Instant,
}

impl Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

impl Lines {
    /// Lines to `writer`, at most one per `pause` and one at each end of a phase.
    #[must_use]
    pub fn new(writer: Box<dyn Write + Send>, pause: Duration) -> Self {
        let now = Instant::now();
        Self {
            pause,
            state: Mutex::new(LineState {
                writer,
                phase: Phase::default(),
                found_bytes: 0,
                started_at: now,
                written_at: now,
            }),
        }
    }
}

impl LineState {
    fn write(&mut self, text: &str) {
        let _ = writeln!(self.writer, "{text}").and_then(|()| self.writer.flush());
        self.written_at = Instant::now();
    }
}

impl Progress for Lines {
    fn phase_started(
        &self,
        stage: &str,
        phase: &str,
        n_tasks: u64,
        n_rows: Option<u64>,
        bytes: u64,
    ) {
        let mut state = lock(&self.state);
        state.phase = Phase::new(stage, phase, n_tasks, n_rows, bytes);
        state.found_bytes = 0;
        state.started_at = Instant::now();
        let rows = n_rows.map_or_else(String::new, |n_rows| format!(", {} rows", count(n_rows)));
        let line = format!(
            "{}: {n_tasks} tasks{rows}, {}",
            state.phase.name,
            self::bytes(bytes)
        );
        state.write(&line);
    }

    fn found(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        lock(&self.state).found_bytes += bytes;
        self.advanced(n_tasks, n_rows, bytes);
    }

    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        let mut state = lock(&self.state);
        state.phase.advance(n_tasks, n_rows, bytes);
        if state.written_at.elapsed() >= self.pause {
            let line = format!("{}: {}", state.phase.name, state.phase.text());
            state.write(&line);
        }
    }

    fn phase_finished(&self, _: &str, _: &str) {
        let mut state = lock(&self.state);
        let elapsed = state.started_at.elapsed();
        let read = state.phase.bytes.0.saturating_sub(state.found_bytes);
        let rate = read as f64 / elapsed.as_secs_f64().max(1e-3);
        let line = format!(
            "{}: done, {} in {} ({}/s)",
            state.phase.name,
            state.phase.text(),
            duration(elapsed),
            bytes(rate as u64)
        );
        state.write(&line);
    }

    fn note(&self, text: &str) {
        lock(&self.state).write(text);
    }
}

/// One JSON object per line on the standard output; `event` tells what it is.
#[derive(Debug)]
struct Events;

impl Events {
    fn emit(value: &Value) {
        let _ = stdout::print(&value.to_string());
    }
}

impl Progress for Events {
    fn phase_started(
        &self,
        stage: &str,
        phase: &str,
        n_tasks: u64,
        n_rows: Option<u64>,
        bytes: u64,
    ) {
        Self::emit(&json!({
            "event": "phase_started", "stage": stage, "phase": phase,
            "n_tasks": n_tasks, "n_rows": n_rows, "bytes": bytes,
        }));
    }

    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        if n_tasks > 0 {
            Self::emit(&json!({
                "event": "advanced", "n_tasks": n_tasks, "n_rows": n_rows, "bytes": bytes,
            }));
        }
    }

    fn phase_finished(&self, stage: &str, phase: &str) {
        Self::emit(&json!({ "event": "phase_finished", "stage": stage, "phase": phase }));
    }

    fn note(&self, text: &str) {
        Self::emit(&json!({ "event": "note", "text": text }));
    }
}

/// Where the log writes: to the standard error, above the bars that are drawn there.
#[derive(Debug, Clone)]
pub struct LogWriter(pub MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A number of things, short: `1234`, `56.7k`, `1.2M`.
#[must_use]
pub fn count(number: u64) -> String {
    const STEPS: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    if number < 10_000 {
        return number.to_string();
    }
    STEPS
        .iter()
        .find(|(unit, _)| number as f64 >= *unit)
        .map_or_else(String::new, |(unit, sign)| {
            format!("{:.1}{sign}", number as f64 / unit)
        })
}

/// A number of bytes, short: `12 B`, `3.4 MiB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64;
    let mut unit = "";
    for name in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = name;
    }
    format!("{value:.1} {unit}")
}

/// A time span, short: `0.4 s`, `2 min 5 s`, `3 h 12 min`.
#[must_use]
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_at_the_ends_and_not_more_often_than_the_pause() {
        let written = Shared::default();
        let lines = Lines::new(Box::new(written.clone()), Duration::from_secs(3600));
        lines.phase_started("weights", "score", 3, Some(300), 4096);
        for _ in 0..3 {
            lines.advanced(1, 100, 1024);
        }
        lines.phase_finished("weights", "score");
        lines.note("that was it");
        let text = String::from_utf8(lock(&written.0).clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "weights/score: 3 tasks, 300 rows, 4.0 KiB");
        let done = "weights/score: done, 3/3 tasks · 300/300 rows · 3.0 KiB of 4.0 KiB in ";
        assert!(lines[1].starts_with(done), "{}", lines[1]);
        assert_eq!(lines[2], "that was it");
    }

    #[test]
    fn lines_on_the_way_tell_how_much_there_is_and_what_was_there_is_no_speed() {
        let written = Shared::default();
        let lines = Lines::new(Box::new(written.clone()), Duration::ZERO);
        lines.phase_started("weights", "score", 3, Some(300), 3072);
        lines.found(2, 200, 2048);
        lines.advanced(1, 100, 1024);
        assert_eq!(lock(&lines.state).found_bytes, 2048);
        // Without footers nobody knows the rows.
        lines.phase_started("weights", "count-raw", 2, None, 2048);
        lines.advanced(1, 0, 1024);
        assert_eq!(lock(&lines.state).found_bytes, 0);
        let text = String::from_utf8(lock(&written.0).clone()).unwrap();
        let expected = [
            "weights/score: 3 tasks, 300 rows, 3.0 KiB",
            "weights/score: 2/3 tasks · 200/300 rows · 2.0 KiB of 3.0 KiB",
            "weights/score: 3/3 tasks · 300/300 rows · 3.0 KiB of 3.0 KiB",
            "weights/count-raw: 2 tasks, 2.0 KiB",
            "weights/count-raw: 1/2 tasks · 1.0 KiB of 2.0 KiB",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(count(9_999), "9999");
        assert_eq!(count(56_700), "56.7k");
        assert_eq!(count(1_234_567), "1.2M");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(duration(Duration::from_secs(11_520)), "3 h 12 min");
    }
}
