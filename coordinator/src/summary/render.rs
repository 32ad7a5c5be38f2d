//! The summary as people read it.

use std::fmt::Write as _;
use std::time::Duration;

use super::text::{Paint, display_width, pad_left, pad_right, truncate};
use super::{DocumentSummary, SelectionSummary, StageSummary, Summary, WeightsSummary};
use super::{render_generation, render_losses};
use crate::guardrails;
use crate::progress::{bytes, count, duration};

/// Columns, where the output is no terminal.
const WIDTH_USUAL: usize = 110;
/// Sources that are shown.
const SOURCES_SHOWN: usize = 16;
/// Columns of the bar that shows a share.
const BAR_WIDTH: usize = 24;

impl Summary {
    /// The summary as text, in at most `width` columns.
    #[must_use]
    pub fn render(&self, paint: Paint, width: Option<usize>) -> String {
        let width = width.unwrap_or(WIDTH_USUAL).max(60);
        let mut text = String::new();
        let elapsed = duration(Duration::from_secs_f64(self.seconds));
        let head = if self.is_new {
            format!(
                "{}: version {} published in {elapsed}",
                self.job, self.version
            )
        } else {
            format!(
                "{}: nothing to do, version {} is up to date ({elapsed})",
                self.job, self.version
            )
        };
        let _ = writeln!(text, "{}", paint.bold(&head));
        let _ = writeln!(text, "  {}", paint.dim(&self.output));
        for (file, reason) in &self.unreadable {
            let _ = writeln!(text, "  {} {file}: {reason}", paint.red("cannot read"));
        }
        for (name, rows) in &self.datasets {
            let note = rows.note(name).unwrap_or_default();
            for (idx, line) in note.lines().enumerate() {
                let head = if idx == 0 {
                    paint.yellow("note: ")
                } else {
                    String::new()
                };
                let _ = writeln!(text, "  {head}{line}");
            }
        }
        for check in self.guardrails.iter().filter(|check| check.is_crossed) {
            let accepted = if check.stops() {
                "accepted:"
            } else {
                "warning:"
            };
            let line = guardrails::line(check);
            let _ = writeln!(text, "  {} {line}", paint.yellow(accepted));
        }
        for stage in &self.stages {
            self.stage(&mut text, stage, paint, width);
        }
        if self.is_new {
            self.suggestions(&mut text, paint);
        }
        text
    }

    fn stage(&self, text: &mut String, stage: &StageSummary, paint: Paint, width: usize) {
        let title = format!("{} ({})", stage.name, stage.kind);
        let _ = writeln!(text, "\n{}  {}", paint.bold(&title), lanes(stage, paint));
        let _ = writeln!(text, "  {}", paint.dim(&work(stage)));
        for note in &stage.notes {
            let _ = writeln!(text, "  {} {note}", paint.yellow("note:"));
        }
        if let Some(drift) = &stage.drift {
            let _ = writeln!(text, "  {}", paint.dim(&drift.render()));
        }
        for weights in &stage.weights {
            render_weights(text, weights, paint, width);
        }
        if let Some(training) = &stage.training {
            render_losses::training(text, training, paint);
        }
        if let Some(losses) = &stage.losses {
            render_losses::losses(text, losses, paint, width);
        }
        if let Some(selection) = &stage.selection {
            render_selection(text, selection, paint);
        }
        if let Some(generation) = &stage.generation {
            render_generation::generation(text, generation, paint);
        }
    }

    fn suggestions(&self, text: &mut String, paint: Paint) {
        let local = self.output.strip_prefix("file://");
        let output = local.map_or(self.output.as_str(), relative);
        let _ = writeln!(
            text,
            "\n{}\n  gleaner sql {output} \"SELECT * FROM gleaner.stages\"",
            paint.dim("ask more:")
        );
    }
}

/// The path from where the user is, if it lies below.
fn relative(path: &str) -> &str {
    let current = std::env::current_dir().ok();
    let current = current.as_ref().and_then(|current| current.to_str());
    current
        .and_then(|current| path.strip_prefix(current)?.strip_prefix('/'))
        .unwrap_or(path)
}

fn lanes(stage: &StageSummary, paint: Paint) -> String {
    let Some(lanes) = &stage.lanes else {
        let rows = paint.green(&stage.rows.to_string());
        return format!("{rows} row{} out", if stage.rows == 1 { "" } else { "s" });
    };
    let is_selection = stage.kind == "select";
    let (ok, ineligible) = if is_selection {
        ("chosen", "not chosen")
    } else {
        ("ok", "ineligible")
    };
    let mut parts = vec![format!("{} {ok}", paint.green(&lanes.ok.to_string()))];
    if lanes.ineligible > 0 {
        parts.push(format!("{} {ineligible}", lanes.ineligible));
    }
    if lanes.rejected > 0 {
        parts.push(paint.yellow(&format!("{} rejected", lanes.rejected)));
    }
    if lanes.failed > 0 || stage.n_quarantined > 0 {
        let failed = format!(
            "{} failed in {} quarantined tasks",
            lanes.failed, stage.n_quarantined
        );
        let uncounted = match stage.n_uncounted {
            0 => String::new(),
            n => format!(" ({n} with an unknown number of rows)"),
        };
        parts.push(paint.red(&(failed + &uncounted)));
    }
    let mut text = format!("{} rows in = {}", lanes.rows_in, parts.join(" + "));
    if lanes.excluded > 0 {
        let _ = write!(text, " ({} excluded by `where`)", lanes.excluded);
    }
    text
}

fn work(stage: &StageSummary) -> String {
    let (reuse, work) = (&stage.reuse, &stage.work);
    let elapsed = duration(Duration::from_secs_f64(work.seconds));
    if reuse.n_tasks == 0 {
        return match work.seconds > 0.0 {
            true => format!("computed in {elapsed}"),
            false => "reused".to_owned(),
        };
    }
    let mut text = match reuse.n_reused {
        0 => format!("{} tasks", reuse.n_tasks),
        n if n == reuse.n_tasks => format!("all {n} tasks reused"),
        n => format!("{} tasks, {n} of them reused", reuse.n_tasks),
    };
    if work.seconds > 0.0 {
        let per_second = |n: u64| (n as f64 / work.seconds) as u64;
        let _ = write!(
            text,
            " · {} rows and {} read in {elapsed} · {} rows/s, {}/s",
            count(work.rows),
            bytes(work.bytes),
            count(per_second(work.rows)),
            bytes(per_second(work.bytes)),
        );
    }
    text
}

fn render_weights(text: &mut String, weights: &WeightsSummary, paint: Paint, width: usize) {
    let ess = weights.effective_sample_size.map_or_else(
        || "unknown".to_owned(),
        |ess| format!("{ess:.1} of {} eligible", weights.n_eligible),
    );
    let mean = weights.mean_per_token.map_or_else(String::new, |mean| {
        format!(" · mean {mean:.3} nats per token")
    });
    let _ = writeln!(
        text,
        "  {}: effective sample size {ess}{mean}",
        weights.column
    );
    for (title, documents) in [("highest", &weights.highest), ("lowest", &weights.lowest)] {
        let _ = writeln!(text, "  {}", paint.dim(title));
        for document in documents {
            let _ = writeln!(text, "    {}", document_line(document, paint, width - 4));
        }
    }
}

fn document_line(document: &DocumentSummary, paint: Paint, width: usize) -> String {
    const ID_WIDTH: usize = 30;
    const SOURCE_WIDTH: usize = 18;
    let source = document.source.as_deref().unwrap_or("");
    let mut line = format!(
        "{}  {}  {}",
        pad_left(&format!("{:.1}", document.log_weight), 9),
        pad_right(&truncate(&document.doc_id, ID_WIDTH), ID_WIDTH),
        pad_right(&truncate(source, SOURCE_WIDTH), SOURCE_WIDTH),
    );
    let rest = width.saturating_sub(display_width(&line) + 2);
    if let Some(excerpt) = document.excerpt.as_ref().filter(|_| rest > 10) {
        let _ = write!(line, "  {}", paint.dim(&truncate(excerpt, rest)));
    }
    line.trim_end().to_owned()
}

fn render_selection(text: &mut String, selection: &SelectionSummary, paint: Paint) {
    let tokens = selection
        .n_tokens
        .map_or_else(String::new, |n| format!(", {} tokens", count(n)));
    let _ = writeln!(
        text,
        "  {} of {} eligible{tokens}, by {}",
        selection.n_chosen, selection.n_eligible, selection.by
    );
    if let Some(reduction) = selection.kl_reduction {
        let mut targets = String::new();
        if selection.kl_reduction_by_target.len() > 1 {
            let each = selection
                .kl_reduction_by_target
                .iter()
                .map(|(target, reduction)| {
                    let value =
                        reduction.map_or_else(|| "unknown".to_owned(), |it| format!("{it:.3}"));
                    format!("{target} {value}")
                });
            targets = format!(" ({})", each.collect::<Vec<_>>().join(", "));
        }
        let _ = writeln!(
            text,
            "  KL reduction {} nats{targets}, measured on {} documents",
            paint.bold(&format!("{reduction:.3}")),
            selection.n_chosen
        );
    }
    render_sources(text, selection, paint);
}

fn render_sources(text: &mut String, selection: &SelectionSummary, paint: Paint) {
    let sources = &selection.by_source;
    if sources.is_empty() {
        return;
    }
    let name = |source: &Option<String>| source.clone().unwrap_or_else(|| "(none)".to_owned());
    let shown = &sources[..sources.len().min(SOURCES_SHOWN)];
    let width = shown
        .iter()
        .map(|it| display_width(&name(&it.source)))
        .max()
        .unwrap_or(0);
    let width = width.clamp(6, 32);
    let header = format!("  {}  in corpus    chosen", pad_right("source", width));
    let _ = writeln!(text, "{}", paint.dim(&header));
    for source in shown {
        let filled = (source.chosen_share * BAR_WIDTH as f64).round() as usize;
        let _ = writeln!(
            text,
            "  {}  {:>8.1}%  {:>7.1}%  {} {}",
            pad_right(&truncate(&name(&source.source), width), width),
            100.0 * source.eligible_share,
            100.0 * source.chosen_share,
            paint.green(&"█".repeat(filled)),
            paint.dim(&source.n_chosen.to_string()),
        );
    }
    if sources.len() > shown.len() {
        let _ = writeln!(text, "  and {} more sources", sources.len() - shown.len());
    }
}
