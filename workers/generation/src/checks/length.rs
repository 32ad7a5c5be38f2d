//! Whether a text has about the number of words asked for: half to one and a half times as many.

use super::words::Tokens;
use crate::attributes::QueryLength;
use crate::flags::Flag;

/// [`Flag::TooShort`], [`Flag::TooLong`] or neither, for a passage of `target` words.
#[must_use]
pub fn passage_length(passage: &Tokens, target: u32) -> Option<Flag> {
    in_bounds(passage.n_words(), target, Some(target))
}

/// The same for a query. Half of one word is one: a query of one word is never too short for
/// "fewer than 5".
#[must_use]
pub fn query_length(query: &Tokens, length: QueryLength) -> Option<Flag> {
    let (words_min, words_max) = length.words();
    in_bounds(query.n_words(), words_min, words_max)
}

fn in_bounds(n_words: usize, words_min: u32, words_max: Option<u32>) -> Option<Flag> {
    let n_words = n_words as u64;
    if n_words * 2 < u64::from(words_min) || n_words == 0 {
        return Some(Flag::TooShort);
    }
    let is_too_long = words_max.is_some_and(|max| n_words * 2 > u64::from(max) * 3);
    is_too_long.then_some(Flag::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_have_half_to_one_and_a_half_of_the_words() {
        let check = |n_words: usize, expected: Option<Flag>| {
            assert_eq!(
                passage_length(&Tokens::new(&"word ".repeat(n_words)), 100),
                expected,
                "{n_words}"
            );
            // Two characters are a Chinese word.
            assert_eq!(
                passage_length(&Tokens::new(&"词语".repeat(n_words)), 100),
                expected,
                "{n_words}"
            );
        };
        check(0, Some(Flag::TooShort));
        check(49, Some(Flag::TooShort));
        check(50, None);
        check(150, None);
        check(151, Some(Flag::TooLong));
    }

    #[test]
    fn queries_have_the_words_of_their_class() {
        let check = |query: &str, length: QueryLength, expected: Option<Flag>| {
            assert_eq!(
                query_length(&Tokens::new(query), length),
                expected,
                "{query}"
            );
        };
        check("", QueryLength::Short, Some(Flag::TooShort));
        check("a", QueryLength::Short, None);
        check("字", QueryLength::Short, None);
        check("one two three four five six", QueryLength::Short, None);
        check(
            "one two three four five six seven",
            QueryLength::Short,
            Some(Flag::TooLong),
        );
        check("one two", QueryLength::Medium, Some(Flag::TooShort));
        check("ما هي عاصمة مصر القديمة", QueryLength::Medium, None);
        check(
            "one two three four",
            QueryLength::Long,
            Some(Flag::TooShort),
        );
        check(&"word ".repeat(80), QueryLength::Long, None);
    }
}
