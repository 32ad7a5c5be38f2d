//! The values that attributes are drawn from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Clarity, Difficulty, QueryLength, QueryType};
use crate::language::Language;

/// Fewest words of a passage that can be asked for.
pub const PASSAGE_WORDS_MIN: u32 = 10;
/// Most words of a passage that can be asked for.
pub const PASSAGE_WORDS_MAX: u32 = 4_000;
/// Most values of an axis.
const AXIS_VALUES_MAX: usize = 256;
/// Longest style, in bytes.
const STYLE_BYTES_MAX: usize = 256;

/// What attributes are drawn from: one value of each axis, each as likely as the others, axes
/// independent. A value that stands twice is twice as likely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Grid {
    /// How common a query's wish is.
    pub query_type: Vec<QueryType>,
    /// How many words a query has.
    pub query_length: Vec<QueryLength>,
    /// For whom texts are.
    pub difficulty: Vec<Difficulty>,
    /// How clear a query is.
    pub clarity: Vec<Clarity>,
    /// Words of a passage, each from 10 to 4,000.
    pub passage_words: Vec<u32>,
    /// `same`, codes such as `de`, or names.
    pub language: Vec<Language>,
    /// Kinds of documents, in words.
    pub style: Vec<String>,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            query_type: vec![
                QueryType::ExtremelyLongTail,
                QueryType::LongTail,
                QueryType::Common,
            ],
            query_length: vec![QueryLength::Short, QueryLength::Medium, QueryLength::Long],
            difficulty: vec![Difficulty::School, Difficulty::College, Difficulty::Expert],
            clarity: vec![
                Clarity::Clear,
                Clarity::UnderstandableWithEffort,
                Clarity::Ambiguous,
            ],
            passage_words: vec![50, 100, 200, 300, 400, 500],
            language: vec![Language::Same],
            style: [
                "an article of an encyclopedia",
                "an answer in a question-and-answer forum",
                "a news report",
                "a section of a textbook",
                "a blog post",
                "a page of technical documentation",
                "an abstract of a scientific paper",
                "a product or service description",
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

/// Why a grid cannot be drawn from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// No or too many values.
    #[error(
        "`{axis}` has {found} values, expected 1 to {AXIS_VALUES_MAX}; leave it out for all of them"
    )]
    NumberOfValues {
        /// Name of the axis.
        axis: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A length that makes no passage.
    #[error("`passage_words` holds {found}, expected {PASSAGE_WORDS_MIN} to {PASSAGE_WORDS_MAX}")]
    PassageWords {
        /// What was written.
        found: u32,
    },
    /// A style that says nothing, or too much.
    #[error("`style` holds {found:?}, expected 1 to {STYLE_BYTES_MAX} bytes on one line")]
    Style {
        /// What was written.
        found: String,
    },
}

impl Grid {
    /// Whether the grid can be drawn from.
    pub fn check(&self) -> Result<(), GridError> {
        for (axis, found) in [
            ("query_type", self.query_type.len()),
            ("query_length", self.query_length.len()),
            ("difficulty", self.difficulty.len()),
            ("clarity", self.clarity.len()),
            ("passage_words", self.passage_words.len()),
            ("language", self.language.len()),
            ("style", self.style.len()),
        ] {
            if found == 0 || found > AXIS_VALUES_MAX {
                return Err(GridError::NumberOfValues { axis, found });
            }
        }
        let in_bounds = |words: &u32| (PASSAGE_WORDS_MIN..=PASSAGE_WORDS_MAX).contains(words);
        if let Some(&found) = self.passage_words.iter().find(|words| !in_bounds(words)) {
            return Err(GridError::PassageWords { found });
        }
        let is_sound = |style: &String| {
            !style.trim().is_empty()
                && style.len() <= STYLE_BYTES_MAX
                && !style.chars().any(char::is_control)
        };
        match self.style.iter().find(|style| !is_sound(style)) {
            Some(found) => Err(GridError::Style {
                found: found.clone(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_file_restricts_axes() {
        let grid: Grid =
            serde_json::from_str(r#"{"difficulty":["expert"],"passage_words":[80]}"#).unwrap();
        assert_eq!(
            grid,
            Grid {
                difficulty: vec![Difficulty::Expert],
                passage_words: vec![80],
                ..Grid::default()
            }
        );
        let error = serde_json::from_str::<Grid>(r#"{"dificulty":["expert"]}"#).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `dificulty`"),
            "{error}"
        );
    }

    #[test]
    fn grids_without_sense_are_refused() {
        let check = |grid: Grid, expected: &str| {
            let error = grid.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let all = Grid::default();
        check(
            Grid {
                clarity: vec![],
                ..all.clone()
            },
            "`clarity` has 0 values",
        );
        check(
            Grid {
                passage_words: vec![50, 9],
                ..all.clone()
            },
            "holds 9, expected 10 to 4000",
        );
        check(
            Grid {
                style: vec!["a\nb".to_owned()],
                ..all.clone()
            },
            "`style`",
        );
        check(
            Grid {
                style: vec!["x".to_owned(); 257],
                ..all
            },
            "257 values",
        );
    }
}
