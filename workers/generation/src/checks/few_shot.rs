//! Whether a text is one of the examples that its prompt showed.

use super::copied::longest_run;
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

/// Share of the shorter of two texts from which a run of words that both have is a copy of it.
const CONTAINED_SHARE: (usize, usize) = (4, 5);
/// Words from which a text can be a copy by a run: shorter ones are phrases.
const CONTAINED_WORDS_MIN: usize = 8;

/// Whether a passage holds a text that was shown, or is a piece of one: most of the shorter of both
/// is one run of words of the longer.
#[must_use]
pub fn few_shot_contained<'a>(text: &Tokens, shown: impl IntoIterator<Item = &'a str>) -> bool {
    if text.n_words() < CONTAINED_WORDS_MIN {
        return false;
    }
    let hashes = text.hashes();
    shown.into_iter().any(|shown| {
        let shown = Tokens::new(shown);
        let n_shorter = shown.len().min(text.len());
        let (numerator, denominator) = CONTAINED_SHARE;
        shown.n_words() >= CONTAINED_WORDS_MIN
            && longest_run(&hashes, &shown.hashes()) * denominator >= n_shorter * numerator
    })
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

    #[test]
    fn a_passage_that_holds_a_demonstration_is_recognised() {
        let shown = "Volcanoes form where the plates of the crust part or meet, and magma rises.";
        let check = |text: &str, expected: bool| {
            assert_eq!(
                few_shot_contained(&Tokens::new(text), [shown]),
                expected,
                "{text}"
            );
        };
        let filling = "One of many other things that can be said at length about this. ".repeat(9);
        check(shown, true);
        check(&format!("{filling}{}{filling}", shown.to_uppercase()), true);
        check("where the plates of the crust part or meet, and", true);
        // Nearly all of it.
        let most = shown.strip_suffix(", and magma rises.").unwrap();
        check(&format!("{filling}{most}, {filling}"), false);
        let most = shown.strip_suffix(" rises.").unwrap();
        check(&format!("{filling}{most}, {filling}"), true);
        check(&filling, false);
        // A phrase of it is none.
        check("where the plates of the crust part", false);
        check(
            &format!("{filling}the plates of the crust. {filling}"),
            false,
        );
        check("", false);
        let phrase = ["how do volcanoes form"];
        let text = format!("{filling}how do volcanoes form {filling}");
        assert!(!few_shot_contained(&Tokens::new(&text), phrase));
    }
}
