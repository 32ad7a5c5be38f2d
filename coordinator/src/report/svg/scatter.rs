//! Two numbers of each of many documents.

use std::fmt::Write as _;

use super::axis::Axis;
use super::{Caption, plot};
use crate::report::distribution::rank;
use crate::report::html::whole;

/// Share of the points that may lie outside of what is drawn, at each end of each axis.
const OUTSIDE: f64 = 0.005;
/// Space around the points, as a share of their range.
const MARGIN: f64 = 0.03;

/// The points; a few that lie far out are left out, and a hint says so.
pub(crate) fn scatter(caption: &Caption<'_>, points: &[(f64, f64)]) -> String {
    let (x_low, x_high) = range(points.iter().map(|it| it.0));
    let (y_low, y_high) = range(points.iter().map(|it| it.1));
    let (x, y) = (Axis::x(x_low, x_high), Axis::y(y_low, y_high));
    let drawn = points
        .iter()
        .filter(|it| (x_low..=x_high).contains(&it.0) && (y_low..=y_high).contains(&it.1));
    let drawn: Vec<&(f64, f64)> = drawn.collect();
    let below = match points.len() - drawn.len() {
        0 => String::new(),
        n_outside => format!(
            "<p class=hint>{} of {} points lie outside of what is drawn</p>\n",
            whole(n_outside as u64),
            whole(points.len() as u64)
        ),
    };
    plot(caption, &x, &y, &below, |svg| {
        // One path of dots, not an element for each.
        svg.push_str("<path class=dots d=\"");
        for point in drawn {
            let _ = write!(svg, "M{:.1} {:.1}h0", x.at(point.0), y.at(point.1));
        }
        svg.push_str("\"/>");
    })
}

fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut sorted: Vec<f64> = numbers.filter(|it| it.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let idx = rank(share, sorted.len() as u64) as usize - 1;
        sorted.get(idx).copied().unwrap_or(0.0)
    };
    let (low, high) = (at(OUTSIDE), at(1.0 - OUTSIDE));
    let margin = MARGIN * (high - low);
    (low - margin, high + margin)
}
