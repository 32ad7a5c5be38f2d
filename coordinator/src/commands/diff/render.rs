//! A comparison as text.

use std::fmt::Write as _;

use super::{ChosenDocument, DiffReport, ScoreDiff, SelectionDiff, StageDiff};
use crate::summary::text::{pad_left, pad_right, truncate};

/// Files, sources and documents that are shown; JSON has more.
const SHOWN_MAX: usize = 10;
/// Width of names.
const NAME_WIDTH: usize = 40;

impl DiffReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "version {} ({}) -> version {} ({})",
            self.before.number,
            self.before.published_at,
            self.after.number,
            self.after.published_at
        );
        let corpus = &self.corpus;
        let _ = writeln!(
            text,
            "corpus: {} files added, {} removed, {} changed, {} the same",
            corpus.added.len(),
            corpus.removed.len(),
            corpus.changed.len(),
            corpus.n_same
        );
        for (sign, files) in [
            ('+', &corpus.added),
            ('-', &corpus.removed),
            ('~', &corpus.changed),
        ] {
            for file in files.iter().take(SHOWN_MAX) {
                let _ = writeln!(text, "  {sign} {file}");
            }
            more(&mut text, files.len(), "files");
        }
        for stage in &self.stages {
            render_stage(&mut text, stage);
        }
        text
    }
}

fn more(text: &mut String, n: usize, what: &str) {
    if n > SHOWN_MAX {
        let _ = writeln!(text, "    and {} more {what}", n - SHOWN_MAX);
    }
}

fn render_stage(text: &mut String, stage: &StageDiff) {
    let rows = match stage.rows {
        (Some(before), Some(after)) => {
            let change = i128::from(after) - i128::from(before);
            match change {
                0 => format!("{after} rows, as many as before"),
                _ => format!("{before} -> {after} rows ({change:+})"),
            }
        }
        (None, Some(after)) => format!("new, {after} rows"),
        (Some(before), None) => format!("gone, had {before} rows"),
        (None, None) => "without a table".to_owned(),
    };
    let _ = writeln!(
        text,
        "\n{} ({}): {rows}; objects: {} new, {} gone, {} the same",
        stage.stage, stage.kind, stage.n_files_added, stage.n_files_removed, stage.n_files_same
    );
    for (name, (before, after)) in &stage.params {
        let _ = writeln!(text, "  {name}: {before} -> {after}");
    }
    if let (Some(before), Some(after)) = stage.lanes {
        let lanes = [
            ("ineligible", before.ineligible, after.ineligible),
            ("rejected", before.rejected, after.rejected),
            ("failed", before.failed, after.failed),
            ("excluded by `where`", before.excluded, after.excluded),
        ];
        let changes: Vec<String> = lanes
            .iter()
            .filter(|lane| lane.1 != lane.2 && stage.kind != "select")
            .map(|(name, before, after)| format!("{before} -> {after} {name}"))
            .collect();
        if !changes.is_empty() {
            let _ = writeln!(text, "  {}", changes.join(", "));
        }
    }
    for score in &stage.scores {
        render_scores(text, score);
    }
    if let Some(selection) = &stage.selection {
        render_selection(text, selection);
    }
}

fn render_scores(text: &mut String, score: &ScoreDiff) {
    let mean = |mean: Option<f64>| mean.map_or_else(|| "none".to_owned(), |it| format!("{it:.4}"));
    let _ = write!(
        text,
        "  {}: mean {} -> {}",
        score.column,
        mean(score.before.1),
        mean(score.after.1)
    );
    if score.n_scored_again > 0 {
        let _ = write!(
            text,
            "; {} documents were scored again, {} of them otherwise",
            score.n_scored_again, score.n_changed
        );
        if let (Some(mean), Some(largest)) = (score.mean_change, score.largest_change)
            && score.n_changed > 0
        {
            let _ = write!(text, ", by {mean:+.4} on average and {largest:.4} at most");
        }
    }
    text.push('\n');
}

fn render_selection(text: &mut String, selection: &SelectionDiff) {
    let _ = writeln!(
        text,
        "  {} stayed, {} came, {} went",
        selection.n_stayed, selection.n_came, selection.n_went
    );
    if !selection.by_source.is_empty() {
        let _ = writeln!(
            text,
            "  {}     came    went",
            pad_right("source", NAME_WIDTH)
        );
        for source in selection.by_source.iter().take(SHOWN_MAX) {
            let name = source.source.as_deref().unwrap_or("(none)");
            let _ = writeln!(
                text,
                "  {} {} {}",
                pad_right(&truncate(name, NAME_WIDTH), NAME_WIDTH),
                pad_left(&format!("+{}", source.n_came), 8),
                pad_left(&format!("-{}", source.n_went), 7)
            );
        }
        more(text, selection.by_source.len(), "sources");
    }
    for (sign, documents) in [('+', &selection.came), ('-', &selection.went)] {
        for document in documents {
            let _ = writeln!(text, "  {sign} {}", document_line(document));
        }
    }
    let n_shown = selection.came.len() + selection.went.len();
    let n_more = (selection.n_came + selection.n_went).saturating_sub(n_shown as u64);
    if n_more > 0 && n_shown > 0 {
        let _ = writeln!(text, "    and {n_more} more documents");
    }
}

fn document_line(document: &ChosenDocument) -> String {
    let score = document
        .score
        .map_or_else(String::new, |score| format!("{score:.4}"));
    let line = format!(
        "{} {}  {}",
        pad_right(&truncate(&document.id, NAME_WIDTH), NAME_WIDTH),
        pad_left(&score, 12),
        document.source.as_deref().unwrap_or("")
    );
    line.trim_end().to_owned()
}
