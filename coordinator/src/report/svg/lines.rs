//! Numbers over steps.

use std::fmt::Write as _;

use super::axis::Axis;
use super::{Caption, legend, plot};
use crate::report::html::number;

/// A line of a plot.
pub(crate) struct Line<'a> {
    /// What it is of.
    pub(crate) name: &'a str,
    /// Class that colours it.
    pub(crate) class: &'a str,
    /// Whether each of its points is marked: there are few.
    pub(crate) has_marks: bool,
    /// Its points.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over the same axes; lines without points are left out.
pub(crate) fn lines(caption: &Caption<'_>, of: &[Line<'_>]) -> String {
    let shown: Vec<&Line<'_>> = of.iter().filter(|line| !line.points.is_empty()).collect();
    let points = || shown.iter().flat_map(|line| &line.points);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| {
                (low.min(number), high.max(number))
            })
    };
    let ((x_low, x_high), (y_low, y_high)) = (bounds(|it| it.0), bounds(|it| it.1));
    if x_low > x_high {
        return String::new();
    }
    let margin = 0.05 * (y_high - y_low);
    let (x, y) = (
        Axis::x(x_low, x_high),
        Axis::y(y_low - margin, y_high + margin),
    );
    let classes: Vec<String> = shown
        .iter()
        .map(|line| format!("line {}", line.class))
        .collect();
    let entries: Vec<(&str, &str)> = classes
        .iter()
        .zip(&shown)
        .map(|(class, line)| (class.as_str(), line.name))
        .collect();
    plot(caption, &x, &y, &legend(&entries), |svg| {
        for line in &shown {
            let path: Vec<String> = line
                .points
                .iter()
                .map(|it| format!("{:.1} {:.1}", x.at(it.0), y.at(it.1)))
                .collect();
            let _ = write!(
                svg,
                "<path class=\"line {}\" d=\"M{}\"/>",
                line.class,
                path.join("L")
            );
            for point in line.points.iter().filter(|_| line.has_marks) {
                let _ = write!(
                    svg,
                    "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=3><title>{}: {}</title>\
                     </circle>",
                    line.class,
                    x.at(point.0),
                    y.at(point.1),
                    number(point.0),
                    number(point.1)
                );
            }
        }
    })
}
