//! Figures as people read them.

use std::fmt::Write as _;

use gleaner_schemas::{Check, Figure};

use crate::progress::count;
use crate::summary::text::{display_width, pad_left, pad_right};

/// A table of figures: what was, what is, what is let pass.
#[must_use]
pub fn table<'a>(checks: impl Iterator<Item = &'a Check>) -> String {
    let mut rows = vec![["stage", "figure", "before", "now", "let pass"].map(str::to_owned)];
    rows.extend(checks.map(|check| {
        [
            check.stage.clone().unwrap_or_else(|| "(corpus)".to_owned()),
            name(check),
            value(check.figure, check.before),
            value(check.figure, check.now),
            bounds(check),
        ]
    }));
    let width = |column: usize| {
        let widths = rows.iter().map(|row| display_width(&row[column]));
        widths.max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(
            text,
            "  {}  {}  {}  {}  {}",
            pad_right(&row[0], widths[0]),
            pad_right(&row[1], widths[1]),
            pad_left(&row[2], widths[2]),
            pad_left(&row[3], widths[3]),
            row[4],
        );
    }
    text.truncate(text.trim_end().len());
    text
}

/// A figure in a sentence.
#[must_use]
pub fn line(check: &Check) -> String {
    let stage = check.stage.as_deref().unwrap_or("the corpus");
    format!(
        "{stage}: {} was {}, is {} ({} is let pass)",
        name(check),
        value(check.figure, check.before),
        value(check.figure, check.now),
        bounds(check)
    )
}

fn name(check: &Check) -> String {
    let name = match check.figure {
        Figure::CorpusFiles => "files",
        Figure::Rows => "rows",
        Figure::RejectedShare => "rejected rows",
        Figure::NullShare => "rows without",
        Figure::MeanLength => "mean of",
        Figure::MeanScore => "mean of",
        Figure::SourceShare => "rows from",
        Figure::DriftKl => "drift, KL divergence (nats)",
        Figure::DriftUnseen => "drift, unseen n-grams",
        Figure::DriftScore => "drift in deviations, mean of",
    };
    match &check.of {
        Some(of) => format!("{name} {of}"),
        None => name.to_owned(),
    }
}

fn bounds(check: &Check) -> String {
    let show = |bound: f64| value(check.figure, Some(bound));
    match (check.least, check.most) {
        (Some(least), Some(most)) => format!("{} to {}", show(least), show(most)),
        (Some(least), None) => format!("{} or more", show(least)),
        (None, Some(most)) => format!("{} or less", show(most)),
        (None, None) => "anything".to_owned(),
    }
}

fn value(figure: Figure, value: Option<f64>) -> String {
    let Some(value) = value else {
        return "unknown".to_owned();
    };
    match figure {
        Figure::CorpusFiles | Figure::Rows => count(value.max(0.0).ceil() as u64),
        Figure::RejectedShare | Figure::NullShare | Figure::SourceShare | Figure::DriftUnseen => {
            format!("{:.2}%", 100.0 * value)
        }
        Figure::MeanLength => format!("{value:.1}"),
        Figure::MeanScore | Figure::DriftKl | Figure::DriftScore => format!("{value:.4}"),
    }
}
