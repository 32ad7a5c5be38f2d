//! HTML as text: everything that comes from data goes through [`Text`].

use std::fmt::{self, Display, Write as _};

/// A text within HTML or an attribute: what HTML would read as markup is escaped, and control
/// characters, which HTML does not have, are replaced.
pub(crate) struct Text<'a>(pub(crate) &'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\t' | '\n' => f.write_char(c)?,
                c if c.is_control() => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A value as JSON that may stand in a `script` element.
pub(crate) fn script_json(value: &serde_json::Value) -> String {
    // Within strings only, where an escape means the same; elsewhere JSON has none of these.
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// A table: columns of texts, and of numbers that stand right.
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: String,
    caption: String,
}

struct Column {
    title: String,
    is_numeric: bool,
}

/// A cell of a [`Table`].
pub(crate) enum Cell {
    /// A text of the data.
    Text(String),
    /// A number, as it is to be shown.
    Number(String),
    /// HTML of our own making.
    Html(String),
}

impl Table {
    /// An empty table. The titles of numeric columns begin with `#`.
    pub(crate) fn new(caption: &str, titles: &[&str]) -> Self {
        let columns = titles.iter().map(|title| Column {
            title: title.trim_start_matches('#').to_owned(),
            is_numeric: title.starts_with('#'),
        });
        Self {
            columns: columns.collect(),
            rows: String::new(),
            caption: caption.to_owned(),
        }
    }

    /// Adds a row; its first cell is the row's heading.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push_str("<tr>");
        for (idx, cell) in cells.into_iter().enumerate() {
            let (open, close) = match idx {
                0 => ("<th scope=row", "</th>"),
                _ => ("<td", "</td>"),
            };
            let _ = match cell {
                Cell::Text(text) => {
                    write!(self.rows, "{open} dir=auto>{}{close}", Text(&text))
                }
                Cell::Number(text) => write!(self.rows, "{open} class=n>{}{close}", Text(&text)),
                Cell::Html(html) => write!(self.rows, "{open}>{html}{close}"),
            };
        }
        self.rows.push_str("</tr>\n");
    }

    /// The table, in a frame that scrolls where the page is narrower.
    pub(crate) fn finish(self) -> String {
        let mut html = String::from("<div class=wide tabindex=0><table>");
        if !self.caption.is_empty() {
            let _ = write!(html, "<caption>{}</caption>", Text(&self.caption));
        }
        html.push_str("<thead><tr>");
        for column in &self.columns {
            let class = if column.is_numeric { " class=n" } else { "" };
            let _ = write!(html, "<th scope=col{class}>{}</th>", Text(&column.title));
        }
        let _ = write!(
            html,
            "</tr></thead><tbody>\n{}</tbody></table></div>\n",
            self.rows
        );
        html
    }
}

/// A short list of figures: what, and how much.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let mut html = String::from("<dl class=facts>");
    for (name, value) in facts {
        let _ = write!(
            html,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            Text(name),
            Text(value)
        );
    }
    html.push_str("</dl>\n");
    html
}

/// A number that a person reads: up to four significant digits, thousands apart.
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs();
    if !(1e-4..1e9).contains(&magnitude) {
        return minus(format!("{value:.2e}"));
    }
    let n_decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 7) as usize;
    let text = format!("{value:.n_decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    grouped(text)
}

/// A number that may not exist.
pub(crate) fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A count, thousands apart.
pub(crate) fn whole(value: u64) -> String {
    grouped(&value.to_string())
}

/// A share in percent.
pub(crate) fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0%".to_owned(),
        percent if percent < 0.1 => "<0.1%".to_owned(),
        percent => format!("{percent:.1}%"),
    }
}

fn minus(text: String) -> String {
    text.replace('-', "\u{2212}")
}

fn grouped(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("\u{2212}", digits),
        None => ("", text),
    };
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (digits, String::new()),
    };
    let mut grouped = String::new();
    for (idx, digit) in whole.chars().enumerate() {
        if idx > 0 && (whole.len() - idx).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{fraction}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_no_markup() {
        let check = |text: &str, expected: &str| assert_eq!(Text(text).to_string(), expected);
        check(
            "<script>alert('&')</script>",
            "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;",
        );
        check("a\"b\n\t", "a&quot;b\n\t");
        check("\0\x1b[31m", "\u{fffd}\u{fffd}[31m");
        let json = serde_json::json!({"text": "</script><!-- & é"});
        let script = script_json(&json);
        assert!(!script.contains(['<', '>', '&']), "{script}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&script).unwrap(),
            json
        );
    }

    #[test]
    fn numbers_are_short_and_readable() {
        let check = |value: f64, expected: &str| assert_eq!(number(value), expected, "{value}");
        check(0.0, "0");
        check(12.0, "12");
        check(-1234.56, "\u{2212}1\u{202f}235");
        check(0.012_345, "0.01235");
        check(3.10, "3.1");
        check(1e-7, "1.00e\u{2212}7");
        check(2.5e12, "2.50e12");
        assert_eq!(whole(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(percent(0.0004), "<0.1%");
        assert_eq!(percent(0.616), "61.6%");
    }
}
