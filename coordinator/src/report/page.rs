//! The page around the sections.

use std::fmt::Write as _;

use super::Report;
use super::html::{Text, script_json};
use super::sections::Section;

/// Colours, sizes, and what is different on paper.
const STYLE: &str = include_str!("page.css");

/// The whole page.
pub(super) fn page(report: &Report) -> String {
    let mut html = String::new();
    let title = format!("{}, version {}", report.job, report.version);
    // Whatever a text says, the browser neither runs nor loads anything.
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta \
         http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<meta name=generator content=\"gleaner \
         {}\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<p>Report \
         of a dataset</p>\n<h1 dir=auto>{}</h1>\n<p>Version {}, published {}</p>\n</header>\n",
        env!("CARGO_PKG_VERSION"),
        Text(&title),
        Text(&report.job),
        report.version,
        Text(
            report
                .published_at
                .get(..10)
                .unwrap_or(&report.published_at)
        ),
    );
    html.push_str("<nav aria-label=Contents><ul>\n");
    for (idx, section) in report.sections.iter().enumerate() {
        let _ = writeln!(
            html,
            "<li><a href=\"#{}\">{}</a></li>",
            id(section, idx),
            Text(&section.title)
        );
    }
    html.push_str("</ul></nav>\n<main>\n");
    for (idx, section) in report.sections.iter().enumerate() {
        let id = id(section, idx);
        let _ = write!(
            html,
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\" \
             dir=auto>{}</h2>\n{}</section>\n",
            Text(&section.title),
            section.body
        );
    }
    let output = report
        .output
        .strip_prefix("file://")
        .unwrap_or(&report.output);
    let _ = write!(
        html,
        "</main>\n<footer><p>Every number comes from a query over the published tables. Ask them \
         again, or others:</p>\n<pre>gleaner sql {} --version {} \"SELECT * FROM \
         gleaner.stages\"</pre>\n<p>The numbers of this page stand in it as JSON, in the element \
         <code>numbers</code>; <code>gleaner report --json</code> prints them.</p></footer>\n\
         <script type=\"application/json\" id=numbers>{}</script>\n</body>\n</html>\n",
        Text(output),
        report.version,
        script_json(&report.to_json())
    );
    html
}

/// What a link to a section names: stages may have any letters, so they are counted.
fn id(section: &Section, idx: usize) -> String {
    format!("{}-{}", section.name, idx + 1)
}
