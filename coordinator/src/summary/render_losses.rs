//! What stages with language models found, as people read it.

use std::fmt::Write as _;

use super::losses::{LossDocument, LossSummary, TrainingSummary, quantile_names};
use super::text::{Paint, display_width, pad_left, pad_right, truncate};
use crate::progress::count;

/// Sources that are shown.
const SOURCES_SHOWN: usize = 16;

pub(super) fn training(text: &mut String, training: &TrainingSummary, paint: Paint) {
    let loss =
        |loss: Option<f64>| loss.map_or_else(|| "unknown".to_owned(), |it| format!("{it:.3}"));
    let _ = writeln!(
        text,
        "  {} parameters, {} tokens in {} steps · held-out loss {} -> {} nats per token (step {})",
        count(training.n_parameters),
        count(training.tokens),
        count(training.n_steps),
        loss(training.first_held_out_loss),
        paint.bold(&loss(training.held_out_loss)),
        training.best_step,
    );
    if let Some(folder) = &training.folder {
        let _ = writeln!(text, "  {}", paint.dim(&format!("model: {folder}")));
    }
}

pub(super) fn losses(text: &mut String, losses: &LossSummary, paint: Paint, width: usize) {
    let names = quantile_names();
    let heads: String = names.values().map(|name| pad_left(name, 9)).collect();
    let header = format!(
        "  {}{}{heads}",
        pad_right("nats per token", 20),
        pad_left("mean", 9)
    );
    let _ = writeln!(text, "{}", paint.dim(&header));
    let figure = |value: Option<f64>| {
        pad_left(
            &value.map_or_else(|| "-".to_owned(), |it| format!("{it:.3}")),
            9,
        )
    };
    for spread in &losses.spreads {
        let figures: String = spread.quantiles.iter().map(|it| figure(*it)).collect();
        let column = pad_right(&truncate(&spread.column, 20), 20);
        let _ = writeln!(text, "  {column}{}{figures}", figure(spread.mean));
    }
    if !losses.by_source.is_empty() {
        let header = format!(
            "  {}{}",
            pad_right("source", 32),
            "documents  mean reduction"
        );
        let _ = writeln!(text, "{}", paint.dim(&header));
        for source in losses.by_source.iter().take(SOURCES_SHOWN) {
            let name = source.source.as_deref().unwrap_or("(none)");
            let _ = writeln!(
                text,
                "  {}{}  {}",
                pad_right(&truncate(name, 31), 32),
                pad_left(&count(source.n), 9),
                pad_left(
                    &source
                        .mean
                        .map_or_else(String::new, |it| format!("{it:+.4}")),
                    14
                ),
            );
        }
        if losses.by_source.len() > SOURCES_SHOWN {
            let more = losses.by_source.len() - SOURCES_SHOWN;
            let _ = writeln!(text, "  and {more} more sources");
        }
    }
    for agreement in &losses.agreement {
        let percent = |share: f64| format!("{:.0}%", 100.0 * share);
        let _ = writeln!(
            text,
            "  with {}: rank correlation {}, {} of the highest tenth in common",
            agreement.with,
            agreement
                .rank_correlation
                .map_or_else(|| "unknown".to_owned(), |it| format!("{it:.2}")),
            agreement
                .overlap
                .map_or_else(|| "unknown".to_owned(), percent),
        );
    }
    for (title, documents) in [
        ("highest reduction", &losses.highest),
        ("lowest reduction", &losses.lowest),
    ] {
        if documents.is_empty() {
            continue;
        }
        let header = format!("{title} (win fraction, share of the best tenth of the tokens)");
        let _ = writeln!(text, "  {}", paint.dim(&header));
        for document in documents {
            let _ = writeln!(
                text,
                "    {}",
                line(document, paint, width.saturating_sub(4))
            );
        }
    }
}

fn line(document: &LossDocument, paint: Paint, width: usize) -> String {
    const ID_WIDTH: usize = 30;
    const SOURCE_WIDTH: usize = 18;
    let share = |share: Option<f64>| share.map_or_else(String::new, |it| format!("{it:.2}"));
    let mut line = format!(
        "{}  {}  {}  {}  {}",
        pad_left(&format!("{:+.3}", document.loss_reduction), 7),
        pad_left(&share(document.win_fraction), 4),
        pad_left(&share(document.top_decile_share), 4),
        pad_right(&truncate(&document.id, ID_WIDTH), ID_WIDTH),
        pad_right(
            &truncate(document.source.as_deref().unwrap_or(""), SOURCE_WIDTH),
            SOURCE_WIDTH
        ),
    );
    let rest = width.saturating_sub(display_width(&line) + 2);
    if let Some(excerpt) = document.excerpt.as_ref().filter(|_| rest > 10) {
        let _ = write!(line, "  {}", paint.dim(&truncate(excerpt, rest)));
    }
    line.trim_end().to_owned()
}
