//! Whether a text is one of the examples that its prompt showed.

use super::words::{Tokens, similarity};

/// Jaccard similarity of token sets from which a text is that of a demonstration.
pub const LEAK_SIMILARITY_MIN: f64 = 0.8;

/// Whether a text equals, or is nearly, one that was shown. Letter case, punctuation and, from
/// [`LEAK_SIMILARITY_MIN`] on, the order of words do not count.
#[must_use]
pub fn few_shot_leak<'a>(text: &Tokens, shown: impl IntoIterator<Item = &'a str>) -> bool {
    !text.is_empty()
        && shown
            .into_iter()
            .any(|shown| similarity(text, &Tokens::new(shown)) >= LEAK_SIMILARITY_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demonstrations_are_recognised() {
        let check = |text: &str, shown: &[&str], expected: bool| {
            assert_eq!(
                few_shot_leak(&Tokens::new(text), shown.iter().copied()),
                expected,
                "{text}"
            );
        };
        let shown = ["how do volcanoes form?", "什么是光合作用"];
        check("How do volcanoes form", &shown, true);
        check("how exactly do volcanoes form", &shown, true);
        check("volcanoes: how do they form today", &shown, false);
        check("什么是光合作用？", &shown, true);
        check("什么是细胞呼吸", &shown, false);
        check("how do volcanoes form", &[], false);
        check("", &["", "?"], false);
    }
}
