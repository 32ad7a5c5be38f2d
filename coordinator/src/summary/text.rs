//! Text on a terminal: widths as displayed, shortening, colours.

/// Columns that a text takes on a terminal.
#[must_use]
pub fn display_width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// The text, or its beginning and an ellipsis, in at most `width` columns.
#[must_use]
pub fn truncate(text: &str, width: usize) -> String {
    if display_width(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut n_columns = 0;
    for c in text.chars() {
        let mut buffer = [0; 4];
        let c_width = display_width(c.encode_utf8(&mut buffer));
        if n_columns + c_width + 1 > width {
            break;
        }
        n_columns += c_width;
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// The text, filled up with spaces on the right to `width` columns.
#[must_use]
pub fn pad_right(text: &str, width: usize) -> String {
    let padding = width.saturating_sub(display_width(text));
    format!("{text}{}", " ".repeat(padding))
}

/// The text, filled up with spaces on the left to `width` columns.
#[must_use]
pub fn pad_left(text: &str, width: usize) -> String {
    let padding = width.saturating_sub(display_width(text));
    format!("{}{text}", " ".repeat(padding))
}

/// Colours of a terminal, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// Whether there are colours.
    pub color: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// A heading.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// What matters less.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// What is good.
    #[must_use]
    pub fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// What needs a look.
    #[must_use]
    pub fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// What is bad.
    #[must_use]
    pub fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_a_terminal() {
        assert_eq!(display_width("漢字"), 4);
        assert_eq!(truncate("漢字漢字", 5), "漢字…");
        assert_eq!(truncate("abc", 3), "abc");
        assert_eq!(truncate("abcd", 3), "ab…");
        assert_eq!(pad_left("ü", 3), "  ü");
    }
}
