//! Plots that stand in a cell of a table.

use std::fmt::Write as _;

use crate::report::distribution::Histogram;
use crate::report::html::{Text, percent};

/// Width of a histogram in a cell.
const WIDTH: f64 = 150.0;
/// Its height.
const HEIGHT: f64 = 28.0;
/// Width of a bar in a cell.
const BAR_WIDTH: f64 = 140.0;

/// A histogram without axes, and perhaps the outline of a second one over the same bins. Each
/// fills the height.
pub(crate) fn small_histogram(label: &str, raw: &Histogram, chosen: Option<&Histogram>) -> String {
    let n = f64::from(raw.bins.n.max(1));
    let heights = |histogram: &Histogram| -> Vec<f64> {
        let highest = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
        let scale = |&count: &u64| HEIGHT * count as f64 / highest as f64;
        histogram.counts.iter().map(scale).collect()
    };
    let outline = |heights: &[f64]| {
        let mut path = format!("M0 {HEIGHT}");
        for (idx, height) in heights.iter().enumerate() {
            let right = WIDTH * (idx as f64 + 1.0) / n;
            let _ = write!(path, "V{:.1}H{right:.1}", HEIGHT - height);
        }
        let _ = write!(path, "V{HEIGHT}");
        path
    };
    let mut svg = format!(
        "<svg class=small viewBox=\"0 -1 {WIDTH} {}\" width={WIDTH} height={} role=img \
         aria-label=\"{}\"><path class=raw d=\"{}\"/>",
        HEIGHT + 2.0,
        HEIGHT + 2.0,
        Text(label),
        outline(&heights(raw))
    );
    if let Some(chosen) = chosen.filter(|chosen| chosen.total() > 0) {
        let path = outline(&heights(chosen));
        let _ = write!(svg, "<path class=\"line chosen\" d=\"{path}\"/>");
    }
    svg.push_str("</svg>");
    svg
}

/// Two bars, one above the other: a share of the whole and a share of what was chosen, both as
/// parts of the largest share that the table has.
pub(crate) fn bar(raw: f64, chosen: f64, largest: f64) -> String {
    let width = |share: f64| (BAR_WIDTH * share / largest.max(f64::MIN_POSITIVE)).max(0.0);
    format!(
        "<svg class=small viewBox=\"0 0 {BAR_WIDTH} 20\" width={BAR_WIDTH} height=20 role=img \
         aria-label=\"{} of the whole, {} of what was chosen\"><rect class=raw y=1 height=7 \
         width=\"{:.1}\"/><rect class=chosen y=10 height=9 width=\"{:.1}\"/></svg>",
        percent(raw),
        percent(chosen),
        width(raw),
        width(chosen)
    )
}

/// A share with its interval, between 0 and 1; the middle is marked.
pub(crate) fn interval(mean: f64, low: f64, high: f64) -> String {
    let at = |share: f64| 1.0 + (BAR_WIDTH - 2.0) * share.clamp(0.0, 1.0);
    format!(
        "<svg class=small viewBox=\"0 0 {BAR_WIDTH} 20\" width={BAR_WIDTH} height=20 role=img \
         aria-label=\"{}, from {} to {}\"><path class=grid d=\"M1 10H{:.1}M{:.1} 2V18\"/><path \
         class=\"line chosen\" d=\"M{:.1} 10H{:.1}\"/><rect class=chosen x=\"{:.1}\" y=6 width=3 \
         height=8 /></svg>",
        percent(mean),
        percent(low),
        percent(high),
        BAR_WIDTH - 1.0,
        at(0.5),
        at(low),
        at(high),
        at(mean) - 1.5
    )
}

/// A bar in parts; each has a class and a size.
pub(crate) fn stack(label: &str, parts: &[(&str, u64)]) -> String {
    const STACK_WIDTH: f64 = 300.0;
    let total: u64 = parts.iter().map(|part| part.1).sum();
    let mut svg = format!(
        "<svg class=\"small stack\" viewBox=\"0 0 {STACK_WIDTH} 14\" width={STACK_WIDTH} height=14 \
         preserveAspectRatio=none role=img aria-label=\"{}\">",
        Text(label)
    );
    let mut left: f64 = 0.0;
    for (class, n) in parts.iter().filter(|part| part.1 > 0) {
        let width = STACK_WIDTH * *n as f64 / total.max(1) as f64;
        // What is there is seen, however little it is.
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{:.1}\" width=\"{:.1}\" height=14 />",
            left.min(STACK_WIDTH - 1.5),
            width.max(1.5)
        );
        left += width;
    }
    svg.push_str("</svg>");
    svg
}
