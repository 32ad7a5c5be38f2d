//! What can be told about a text without a model: each check notes a fact, a filter decides.
//!
//! Checks work in any language: [`words`] says what a word is where nothing stands between words.
//! Those that know particular words (talk about the task, small words of languages) say which.

mod copied;
mod duplicates;
mod few_shot;
mod grade_words;
mod judged;
mod language;
mod length;
mod meta_talk;
mod repetition;
pub mod words;

pub use copied::{COPIED_SHARE_MIN, longest_common_run, query_copied};
pub use duplicates::{DuplicateError, DuplicateIndex, DuplicateOf, NEAR_DUPLICATE_SIMILARITY_MIN};
pub use few_shot::{LEAK_SIMILARITY_MIN, few_shot_contained, few_shot_leak};
pub use grade_words::grade_word_leak;
pub use judged::{Keep, judge_disagrees, round_trip_miss};
pub use language::wrong_language;
pub use length::{passage_length, query_length};
pub use meta_talk::meta_talk;
pub use repetition::{DISTINCT_TRIGRAMS_MIN, distinct_trigrams, repetition};

use words::Tokens;

use crate::attributes::Attributes;
use crate::flags::{Flag, Flags};
use crate::prompt::Demonstration;
use crate::scale::Scale;
use crate::text::cut;

/// What a written text is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What it was written for: the document of a query, the query of a passage.
    pub text: &'a str,
    /// What was drawn for it.
    pub attributes: &'a Attributes,
    /// Whose labels it must not name.
    pub scale: &'a Scale,
    /// What stood in the prompt as examples.
    pub demonstrations: &'a [&'a Demonstration],
    /// Bytes of each of their texts that the prompt showed.
    pub demonstration_bytes: usize,
}

impl<'a> Source<'a> {
    /// Texts of the examples as far as they were shown: a model cannot copy more.
    fn shown(&self, of: fn(&Demonstration) -> &str) -> impl Iterator<Item = &'a str> + Clone {
        let bytes_max = self.demonstration_bytes;
        let demonstrations = self.demonstrations.iter();
        demonstrations.map(move |shown| cut(of(shown), bytes_max).0)
    }
}

/// All that can be told of a query that was written for a document.
#[must_use]
pub fn check_query(query: &str, document: &Source<'_>) -> Flags {
    let shown = document.shown(|shown| shown.query.as_str());
    let (tokens, document_tokens) = (Tokens::new(query), Tokens::new(document.text));
    let mut flags = check_any(query, &tokens, document, &document_tokens, shown);
    flags.insert_if(query_copied(&document_tokens, &tokens), Flag::QueryCopied);
    flags.union(
        query_length(&tokens, document.attributes.query_length)
            .into_iter()
            .collect(),
    )
}

/// All that can be told of a passage that was written for a query.
#[must_use]
pub fn check_passage(passage: &str, query: &Source<'_>) -> Flags {
    let shown = query.shown(|shown| shown.document.as_str());
    let (tokens, query_tokens) = (Tokens::new(passage), Tokens::new(query.text));
    let mut flags = check_any(passage, &tokens, query, &query_tokens, shown.clone());
    flags.insert_if(few_shot_contained(&tokens, shown), Flag::FewShotLeak);
    flags.insert_if(query_copied(&tokens, &query_tokens), Flag::QueryCopied);
    flags.union(
        passage_length(&tokens, query.attributes.passage_words)
            .into_iter()
            .collect(),
    )
}

fn check_any<'a>(
    text: &str,
    tokens: &Tokens,
    source: &Source<'_>,
    source_tokens: &Tokens,
    shown: impl IntoIterator<Item = &'a str>,
) -> Flags {
    let mut flags = Flags::NONE;
    let is_wrong = wrong_language(tokens, &source.attributes.language, source_tokens);
    flags.insert_if(is_wrong, Flag::WrongLanguage);
    flags.insert_if(meta_talk(text), Flag::MetaTalk);
    flags.insert_if(grade_word_leak(text, source.scale), Flag::GradeWordLeak);
    flags.insert_if(few_shot_leak(tokens, shown), Flag::FewShotLeak);
    flags.insert_if(repetition(tokens), Flag::Repetition);
    flags
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Grid, QueryLength};
    use crate::prompt::TextLimits;

    #[test]
    fn each_check_has_its_part() {
        let grid = Grid {
            query_length: vec![QueryLength::Short],
            ..Grid::default()
        };
        let attributes = Attributes::draw(1, "doc", &grid).unwrap();
        let demonstration = Demonstration {
            id: "shown".to_owned(),
            document: "Volcanoes form where plates part.".to_owned(),
            query: "how do volcanoes form".to_owned(),
            label: None,
        };
        let shown = [&demonstration];
        let scale = Scale::trec();
        let document = Source {
            text: "Plants turn light into sugar by photosynthesis.",
            attributes: &attributes,
            scale: &scale,
            demonstrations: &shown,
            demonstration_bytes: 2000,
        };
        let check = |query: &str, expected: &[Flag]| {
            assert_eq!(
                check_query(query, &document),
                expected.iter().copied().collect()
            );
        };
        check("sugar made by leaves", &[]);
        check("turn light into sugar", &[Flag::QueryCopied]);
        check("how do volcanoes form", &[Flag::FewShotLeak]);
        check("perfectly relevant plants", &[Flag::GradeWordLeak]);
        check("光合作用是什么意思", &[Flag::WrongLanguage]);
        check(
            "Sure! Here is a query: sugar and light in leaves",
            &[Flag::TooLong, Flag::MetaTalk],
        );
        let passage = check_passage(
            "turn light",
            &Source {
                text: "light",
                ..document
            },
        );
        assert_eq!(passage, Flags::from_iter([Flag::TooShort]));
    }

    #[test]
    fn what_was_shown_of_a_long_demonstration_can_be_copied() {
        let attributes = Attributes::draw(1, "query", &Grid::default()).unwrap();
        let sentence =
            |i: usize| format!("Stone number {i} of the old wall weighs {} pounds. ", i * 7);
        let demonstration = Demonstration {
            id: "shown".to_owned(),
            document: (0..200).map(sentence).collect(),
            query: "how heavy is the old wall".to_owned(),
            label: None,
        };
        let limits = TextLimits::default();
        let source = Source {
            text: "ocean tides",
            attributes: &attributes,
            scale: &Scale::trec(),
            demonstrations: &[&demonstration],
            demonstration_bytes: limits.demonstration_bytes,
        };
        let leaks = |passage: &str| check_passage(passage, &source).contains(Flag::FewShotLeak);
        let (shown, is_cut) = cut(&demonstration.document, limits.demonstration_bytes);
        assert!(is_cut && shown.len() < demonstration.document.len() / 4);
        assert!(leaks(shown), "all that was shown");
        let around = "Tides rise and fall as the moon goes around the earth. ";
        assert!(leaks(&format!("{}{shown}", around.repeat(60))), "in others");
        let piece: String = (5..12).map(sentence).collect();
        assert!(leaks(&piece), "a piece of it");
        assert!(!leaks(&around.repeat(5)));
        // What was not shown cannot have been copied.
        let unseen: String = (150..157).map(sentence).collect();
        assert!(!leaks(&unseen));
    }
}
