//! Plots as SVG within the page: sizes in units that are a narrow screen's pixels, colours by class,
//! so that light, dark and paper each have their own.

mod axis;
mod histogram;
mod lines;
mod scatter;
mod small;

use std::fmt::Write as _;

use super::html::Text;
use axis::Axis;

pub(crate) use histogram::{Series, Shape, histogram};
pub(crate) use lines::{Line, lines};
pub(crate) use scatter::scatter;
pub(crate) use small::{bar, interval, small_histogram, stack};

/// Width of a plot.
const WIDTH: f64 = 440.0;
/// Height of a plot.
const HEIGHT: f64 = 250.0;
/// Space for the labels of the vertical axis.
const LEFT: f64 = 58.0;
/// Space right of the plot.
const RIGHT: f64 = 14.0;
/// Space above.
const TOP: f64 = 14.0;
/// Space for the labels of the horizontal axis.
const BOTTOM: f64 = 44.0;

/// What a plot shows, for those who see it and those who do not.
pub(crate) struct Caption<'a> {
    /// Heading.
    pub(crate) title: &'a str,
    /// What it shows, in a sentence.
    pub(crate) description: &'a str,
    /// Name of the horizontal axis, with its unit.
    pub(crate) x: &'a str,
    /// Name of the vertical axis, with its unit.
    pub(crate) y: &'a str,
}

/// A plot with axes, what `draw` puts between them, and what stands below it: legend and hints.
fn plot(
    caption: &Caption<'_>,
    x: &Axis,
    y: &Axis,
    below: &str,
    draw: impl FnOnce(&mut String),
) -> String {
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<figure class=plot><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=img aria-label=\"{}: {}\"><title>{}</title><desc>{}</desc>",
        Text(caption.title),
        Text(caption.title),
        Text(caption.description),
        Text(caption.title),
        Text(caption.description),
    );
    let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for (value, label) in y.ticks() {
        let at = y.at(value);
        let _ = write!(
            svg,
            "<path class=grid d=\"M{LEFT} {at:.1}H{right}\"/><text class=tick x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=end>{label}</text>",
            LEFT - 6.0,
            at + 4.0
        );
    }
    draw(&mut svg);
    let _ = write!(svg, "<path class=axis d=\"M{LEFT} {bottom}H{right}\"/>");
    for (value, label) in x.ticks() {
        let at = x.at(value);
        let _ = write!(
            svg,
            "<path class=axis d=\"M{at:.1} {bottom}v4\"/><text class=tick x=\"{at:.1}\" \
             y=\"{:.1}\" text-anchor=middle>{label}</text>",
            bottom + 17.0
        );
    }
    let _ = writeln!(
        svg,
        "<text class=name x=\"{:.1}\" y=\"{:.1}\" text-anchor=middle>{}</text><text class=name \
         transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=middle>{}</text></svg>{below}</figure>",
        (LEFT + right) / 2.0,
        HEIGHT - 8.0,
        Text(caption.x),
        (TOP + bottom) / 2.0,
        Text(caption.y)
    );
    svg
}

/// What each colour means.
fn legend(entries: &[(&str, &str)]) -> String {
    let mut html = String::from("<ul class=legend>");
    for (class, name) in entries {
        let _ = write!(
            html,
            "<li><svg viewBox=\"0 0 14 10\" width=14 height=10 aria-hidden=true>{}</svg>{}</li>",
            match class.strip_prefix("line ") {
                Some(_) => format!("<path class=\"{class}\" d=\"M0 5H14\"/>"),
                None => format!("<rect class=\"{class}\" width=14 height=10 />"),
            },
            Text(name)
        );
    }
    html.push_str("</ul>\n");
    html
}
