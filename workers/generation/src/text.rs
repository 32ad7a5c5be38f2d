//! Text as it is written to tables and into prompts: normalised, bounded.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// A query as it is stored: NFC, on one line, without control characters and white space around it.
#[must_use]
pub fn normalize_query(text: &str) -> String {
    let mut query = String::with_capacity(text.len());
    let visible: String = text
        .nfc()
        .filter(|&c| c.is_whitespace() || !is_removed(c))
        .collect();
    for word in visible.split_whitespace() {
        if !query.is_empty() {
            query.push(' ');
        }
        query.push_str(word);
    }
    query
}

/// A passage as it is stored: NFC, line feeds kept (three and more become two), other white space
/// runs one space, without control characters and white space around it.
#[must_use]
pub fn normalize_passage(text: &str) -> String {
    let visible: String = text
        .nfc()
        .filter(|&c| c.is_whitespace() || !is_removed(c))
        .collect();
    let visible = visible.replace("\r\n", "\n").replace('\r', "\n");
    let mut passage = String::with_capacity(visible.len());
    let mut n_line_feeds = 0_usize;
    for line in visible.split('\n') {
        let mut words = line.split_whitespace();
        if let Some(first) = words.next() {
            if !passage.is_empty() {
                // A blank line between paragraphs stays, more than one does not.
                passage.push_str(if n_line_feeds > 1 { "\n\n" } else { "\n" });
            }
            passage.push_str(first);
            for word in words {
                passage.push(' ');
                passage.push_str(word);
            }
            n_line_feeds = 0;
        }
        n_line_feeds += 1;
    }
    passage
}

/// Characters that have no place in a text: controls, byte order marks, overrides of the writing
/// direction (which make a text read otherwise than it is stored), tags, non-characters. Joiners
/// stay: Persian, Indic scripts and emoji need them.
fn is_removed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fff9}'..='\u{fffb}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{e0000}'..='\u{e007f}')
        || (c as u32 & 0xfffe) == 0xfffe
}

/// The longest beginning of `text` within `bytes_max` bytes, and whether anything was left out.
///
/// It ends between words where one ends in its last tenth, else between characters, never between
/// a letter and its marks.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> (&str, bool) {
    if text.len() <= bytes_max {
        return (text, false);
    }
    let mut end = text.floor_char_boundary(bytes_max);
    let last_tenth = text.floor_char_boundary(bytes_max - bytes_max / 10);
    let starts_word = text[end..].starts_with(char::is_whitespace);
    if !starts_word && let Some(space) = text[last_tenth..end].rfind(char::is_whitespace) {
        end = last_tenth + space;
    } else {
        while end > 0 && text[end..].chars().next().is_some_and(is_combining_mark) {
            end = text.floor_char_boundary(end - 1);
        }
    }
    (text[..end].trim_end(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_one_line_of_nfc() {
        let check = |text: &str, expected: &str| assert_eq!(normalize_query(text), expected);
        check("  what\tis\r\n this \u{a0} ", "what is this");
        check("cafe\u{301}", "café");
        check("a\u{0}b\u{7}c\u{feff}", "abc");
        check("user\u{202e}txt.exe", "usertxt.exe");
        // A zero-width non-joiner is part of the Persian word.
        check("می\u{200c}خواهم", "می\u{200c}خواهم");
        check("\u{1}\u{2} ", "");
        check("什么是\n光合作用", "什么是 光合作用");
    }

    #[test]
    fn passages_keep_their_paragraphs() {
        let check = |text: &str, expected: &str| assert_eq!(normalize_passage(text), expected);
        check(
            "\n\n one \n two\n\n\n\nthree  four\r\n",
            "one\ntwo\n\nthree four",
        );
        check("a\u{b}b\u{1b}c", "a bc");
        check(" \n\t\n", "");
    }

    #[test]
    fn long_texts_are_cut_between_words_or_characters() {
        let check = |text: &str, bytes_max: usize, expected: (&str, bool)| {
            assert_eq!(cut(text, bytes_max), expected);
        };
        check("short", 5, ("short", false));
        check("", 0, ("", false));
        check("abc", 0, ("", true));
        check(
            "one two three four five six seven",
            24,
            ("one two three four five", true),
        );
        check(
            "one two three four five six",
            23,
            ("one two three four five", true),
        );
        check("日本語の文章", 8, ("日本", true));
        // The acute accent is not torn off its letter.
        check("xxe\u{301}yy", 3, ("xx", true));
        // No word ends near the bound: cut within it.
        check(
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            20,
            ("aaaaaaaaaaaaaaaaaaaa", true),
        );
    }
}
