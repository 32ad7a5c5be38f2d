//! What makes texts differ: attributes drawn for each item from a grid.
//!
//! The axes are those of the E5 line of synthetic data (query type, query length, difficulty,
//! clarity, length of the passage, language), and the style of documents.

mod grid;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::draw;
use crate::language::Language;

pub use grid::{Grid, GridError, PASSAGE_WORDS_MAX, PASSAGE_WORDS_MIN};

/// How common a wish a query expresses.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum QueryType {
    /// Hardly anybody else would ask it.
    ExtremelyLongTail,
    /// Few ask it.
    LongTail,
    /// Many ask it.
    Common,
}

/// How many words a query has.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum QueryLength {
    /// Fewer than 5.
    Short,
    /// 5 to 15.
    Medium,
    /// 10 and more.
    Long,
}

/// What one must know to understand a text.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Difficulty {
    /// What schools teach.
    School,
    /// What a college teaches.
    College,
    /// What experts know.
    Expert,
}

/// How well a query says what it wants.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Clarity {
    /// It can be read in one way.
    Clear,
    /// Some thought tells what is meant.
    UnderstandableWithEffort,
    /// It can be read in several ways.
    Ambiguous,
}

impl QueryType {
    /// As prompts say it.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::ExtremelyLongTail => {
                "extremely long-tail: a wish so particular that hardly anybody else has it"
            }
            Self::LongTail => "long-tail: a particular wish that few people have",
            Self::Common => "common: a wish that many people have",
        }
    }
}

impl QueryLength {
    /// As prompts say it.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Short => "fewer than 5 words",
            Self::Medium => "5 to 15 words",
            Self::Long => "at least 10 words",
        }
    }

    /// Fewest and most words.
    #[must_use]
    pub fn words(self) -> (u32, Option<u32>) {
        match self {
            Self::Short => (1, Some(4)),
            Self::Medium => (5, Some(15)),
            Self::Long => (10, None),
        }
    }
}

impl Difficulty {
    /// As prompts say it.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::School => "a pupil at school",
            Self::College => "a college student of the subject",
            Self::Expert => "an expert of the subject",
        }
    }
}

impl Clarity {
    /// As prompts say it.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Clear => "clear: it can be read in one way only",
            Self::UnderstandableWithEffort => {
                "understandable with some effort: loosely put, but its meaning can be found"
            }
            Self::Ambiguous => "ambiguous: it leaves open some of what is meant",
        }
    }
}

/// The attributes of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// How common the query's wish is.
    pub query_type: QueryType,
    /// How long the query is.
    pub query_length: QueryLength,
    /// For whom the texts are.
    pub difficulty: Difficulty,
    /// How clear the query is.
    pub clarity: Clarity,
    /// Words of each passage.
    pub passage_words: u32,
    /// Language of what is written.
    pub language: Language,
    /// What kind of text the passages are.
    pub style: String,
}

impl Attributes {
    /// The attributes of an item: a pure function of the arguments.
    ///
    /// Each axis has a draw of its own, so that a restricted axis leaves the others as they were.
    pub fn draw(seed: u64, item_id: &str, grid: &Grid) -> Result<Self, GridError> {
        grid.check()?;
        let index = |axis: &str, n: usize| {
            draw::index_below(n, &format!("attributes/{axis}"), seed, item_id)
        };
        Ok(Self {
            query_type: grid.query_type[index("query_type", grid.query_type.len())],
            query_length: grid.query_length[index("query_length", grid.query_length.len())],
            difficulty: grid.difficulty[index("difficulty", grid.difficulty.len())],
            clarity: grid.clarity[index("clarity", grid.clarity.len())],
            passage_words: grid.passage_words[index("passage_words", grid.passage_words.len())],
            language: grid.language[index("language", grid.language.len())].clone(),
            style: grid.style[index("style", grid.style.len())].clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(item_id: &str, grid: &Grid) -> Attributes {
        Attributes::draw(7, item_id, grid).unwrap()
    }

    #[test]
    fn draws_do_not_change_between_releases() {
        let json = serde_json::to_string(&draw("doc-1", &Grid::default())).unwrap();
        let expected = concat!(
            r#"{"query_type":"extremely_long_tail","query_length":"medium","difficulty":"school","#,
            r#""clarity":"clear","passage_words":200,"language":"same","style":"a blog post"}"#,
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn each_value_is_equally_likely_and_axes_are_independent() {
        const N_ITEMS: usize = 9_000;
        let grid = Grid::default();
        let mut counts = [[0_usize; 3]; 3];
        for item in 0..N_ITEMS {
            let attributes = draw(&format!("doc-{item}"), &grid);
            counts[attributes.query_type as usize][attributes.clarity as usize] += 1;
        }
        // Six standard deviations around 1,000 for each pair of values.
        for count in counts.as_flattened() {
            assert!((821..=1_179).contains(count), "{counts:?}");
        }
    }

    #[test]
    fn a_restricted_axis_leaves_the_others() {
        let grid = Grid::default();
        let german = Grid {
            language: vec![Language::Named("de".to_owned())],
            ..grid.clone()
        };
        for item in 0..50 {
            let id = format!("doc-{item}");
            let (all, restricted) = (draw(&id, &grid), draw(&id, &german));
            assert_eq!(restricted.language.as_str(), "de");
            assert_eq!(
                Attributes {
                    language: Language::Same,
                    ..restricted
                },
                all
            );
        }
    }
}
