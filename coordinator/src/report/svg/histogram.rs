//! Shares of numbers in bins.

use std::fmt::Write as _;

use super::axis::Axis;
use super::{BOTTOM, Caption, HEIGHT, legend, plot};
use crate::report::distribution::Histogram;
use crate::report::html::{Text, number, percent, whole};

/// How a series is drawn; shapes tell what colours alone would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As filled bars.
    Bars,
    /// As an outline.
    Outline,
}

/// One histogram of a plot.
pub(crate) struct Series<'a> {
    /// What it is of.
    pub(crate) name: &'a str,
    /// How it is drawn.
    pub(crate) shape: Shape,
    /// Its counts.
    pub(crate) histogram: &'a Histogram,
}

/// Histograms over the same bins. Each shows shares of its own rows.
pub(crate) fn histogram(caption: &Caption<'_>, series: &[Series<'_>]) -> String {
    let Some(bins) = series.first().map(|it| it.histogram.bins) else {
        return String::new();
    };
    let shares: Vec<Vec<f64>> = series.iter().map(|it| it.histogram.shares()).collect();
    let highest = shares.iter().flatten().copied().fold(0.0, f64::max);
    let x = Axis::x(bins.edge(0), bins.edge(bins.n));
    let y = Axis::percents(highest * 1.05);
    let bottom = HEIGHT - BOTTOM;
    let mut below = String::new();
    if series.len() > 1 {
        let entries: Vec<(&str, &str)> = series
            .iter()
            .map(|it| match it.shape {
                Shape::Bars => ("raw", it.name),
                Shape::Outline => ("line chosen", it.name),
            })
            .collect();
        below.push_str(&legend(&entries));
    }
    for series in series {
        let (n_below, n_above) = (series.histogram.n_below, series.histogram.n_above);
        if n_below + n_above > 0 {
            let _ = writeln!(
                below,
                "<p class=hint>{}: {} below and {} above what is drawn</p>",
                Text(series.name),
                whole(n_below),
                whole(n_above)
            );
        }
    }
    plot(caption, &x, &y, &below, |svg| {
        for (series, shares) in series.iter().zip(&shares) {
            match series.shape {
                Shape::Bars => {
                    for (idx, share) in (0..bins.n).zip(shares) {
                        let (left, right) = (x.at(bins.edge(idx)), x.at(bins.edge(idx + 1)));
                        let top = y.at(100.0 * share);
                        let _ = write!(
                            svg,
                            "<rect class=raw x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" \
                             height=\"{:.1}\"><title>{} to {}: {} ({})</title></rect>",
                            left + 0.4,
                            (right - left - 0.8).max(0.2),
                            bottom - top,
                            number(bins.edge(idx)),
                            number(bins.edge(idx + 1)),
                            whole(series.histogram.counts[idx as usize]),
                            percent(*share),
                        );
                    }
                }
                Shape::Outline => {
                    let mut path = format!("M{:.1} {bottom}", x.at(bins.edge(0)));
                    for (idx, share) in (0..bins.n).zip(shares) {
                        let top = y.at(100.0 * share);
                        let _ = write!(path, "V{top:.1}H{:.1}", x.at(bins.edge(idx + 1)));
                    }
                    let _ = write!(path, "V{bottom}");
                    let _ = write!(svg, "<path class=\"line chosen\" d=\"{path}\"/>");
                }
            }
        }
    })
}
