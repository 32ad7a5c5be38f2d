//! Scales of relevance: the grades, their names, and the one wording that the generator and the
//! judge are both given.

mod built_in;
mod job_file;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use built_in::BUILT_IN;

/// Fewest and most grades of a scale.
pub const GRADES_MIN: usize = 2;
/// See [`GRADES_MIN`].
pub const GRADES_MAX: usize = 8;
/// Longest label, in bytes: it is a value of a JSON enumeration and a word of prompts.
const LABEL_BYTES_MAX: usize = 64;
/// Longest definition, in bytes: it stands in each prompt.
const DEFINITION_BYTES_MAX: usize = 2_000;

/// One step of a [`Scale`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grade {
    /// 0 is the least relevant; a scale of n grades has 0 to n - 1, each once.
    pub grade: i8,
    /// Short name, which replies repeat.
    pub label: String,
    /// What a document (or query) of this grade is like: the rest of a sentence about the document.
    pub definition: String,
}

/// Grades of relevance, the most relevant first.
///
/// In a job file: the name of a built-in scale, or `{name, grades: [{grade, label, definition}]}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    name: String,
    grades: Vec<Grade>,
}

/// Why grades are no scale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// No built-in scale has this name.
    #[error("no scale is named `{name}`: built in are {}; or write {{name, grades}}", BUILT_IN.join(", "))]
    UnknownName {
        /// What was written.
        name: String,
    },
    /// Too few or too many.
    #[error("scale `{name}` has {found} grades, expected {GRADES_MIN} to {GRADES_MAX}")]
    NumberOfGrades {
        /// The scale.
        name: String,
        /// How many there are.
        found: usize,
    },
    /// Gaps, doubles or negative numbers.
    #[error("grades of scale `{name}` are {found:?}, expected each of 0 to {} once", found.len() - 1)]
    Numbers {
        /// The scale.
        name: String,
        /// As given, ascending.
        found: Vec<i8>,
    },
    /// Two labels that replies could not tell apart.
    #[error(
        "scale `{name}` has the label `{label}` twice (letter case, spaces and hyphens do not count)"
    )]
    LabelTwice {
        /// The scale.
        name: String,
        /// The second one.
        label: String,
    },
    /// A label that cannot be a name.
    #[error(
        "label `{label}` of scale `{name}` must have a letter, no control characters or spaces around it, and at most {LABEL_BYTES_MAX} bytes"
    )]
    Label {
        /// The scale.
        name: String,
        /// The label.
        label: String,
    },
    /// A definition that says nothing, or too much.
    #[error(
        "the definition of `{label}` of scale `{name}` must have 1 to {DEFINITION_BYTES_MAX} bytes"
    )]
    Definition {
        /// The scale.
        name: String,
        /// The label.
        label: String,
    },
}

impl Scale {
    /// A scale of one's own; grades in any order.
    pub fn new(name: impl Into<String>, mut grades: Vec<Grade>) -> Result<Self, ScaleError> {
        let name = name.into();
        if !(GRADES_MIN..=GRADES_MAX).contains(&grades.len()) {
            return Err(ScaleError::NumberOfGrades {
                name,
                found: grades.len(),
            });
        }
        grades.sort_by_key(|grade| grade.grade);
        if !grades
            .iter()
            .zip(0_i8..)
            .all(|(grade, expected)| grade.grade == expected)
        {
            let found = grades.iter().map(|grade| grade.grade).collect();
            return Err(ScaleError::Numbers { name, found });
        }
        let mut keys = BTreeSet::new();
        for Grade {
            label, definition, ..
        } in &grades
        {
            let is_label = label.trim() == label
                && label.len() <= LABEL_BYTES_MAX
                && label.chars().any(char::is_alphabetic)
                && !label.chars().any(char::is_control);
            if !is_label {
                return Err(ScaleError::Label {
                    name,
                    label: label.clone(),
                });
            }
            if definition.trim().is_empty() || definition.len() > DEFINITION_BYTES_MAX {
                return Err(ScaleError::Definition {
                    name,
                    label: label.clone(),
                });
            }
            if !keys.insert(label_key(label)) {
                return Err(ScaleError::LabelTwice {
                    name,
                    label: label.clone(),
                });
            }
        }
        grades.reverse();
        Ok(Self { name, grades })
    }

    /// What the scale is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The grades, most relevant first.
    #[must_use]
    pub fn grades(&self) -> &[Grade] {
        &self.grades
    }

    /// The grade of a number.
    #[must_use]
    pub fn by_number(&self, number: i8) -> Option<&Grade> {
        self.grades.iter().find(|grade| grade.grade == number)
    }

    /// The grade that a label means; letter case, spaces and hyphens do not count.
    #[must_use]
    pub fn by_label(&self, label: &str) -> Option<&Grade> {
        let key = label_key(label);
        self.grades
            .iter()
            .find(|grade| label_key(&grade.label) == key)
    }
}

/// A label without what models vary in it.
fn label_key(label: &str) -> String {
    label
        .trim()
        .chars()
        .map(|c| {
            if c.is_whitespace() || c == '-' {
                '_'
            } else {
                c
            }
        })
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grade(grade: i8, label: &str) -> Grade {
        Grade {
            grade,
            label: label.to_owned(),
            definition: format!("is {label}"),
        }
    }

    #[test]
    fn labels_are_recognised_as_models_write_them() {
        let scale = Scale::trec();
        for label in [
            "perfectly_relevant",
            " Perfectly Relevant ",
            "PERFECTLY-RELEVANT",
        ] {
            assert_eq!(
                scale.by_label(label).map(|grade| grade.grade),
                Some(3),
                "{label}"
            );
        }
        assert_eq!(scale.by_label("relevant"), None);
    }

    #[test]
    fn unsound_scales_are_refused() {
        let check = |grades: Vec<Grade>, expected: &str| {
            let error = Scale::new("mine", grades).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(vec![grade(0, "no")], "has 1 grades, expected 2 to 8");
        check(
            (0..9).map(|n| grade(n, &format!("g{n}"))).collect(),
            "has 9 grades",
        );
        check(
            vec![grade(0, "no"), grade(0, "yes")],
            "are [0, 0], expected each of 0 to 1 once",
        );
        check(vec![grade(0, "no"), grade(2, "yes")], "are [0, 2]");
        check(vec![grade(-1, "no"), grade(0, "yes")], "are [-1, 0]");
        check(
            vec![grade(0, "not good"), grade(1, "Not-Good")],
            "`Not-Good` twice",
        );
        check(vec![grade(0, "0"), grade(1, "yes")], "must have a letter");
        check(vec![grade(0, " no"), grade(1, "yes")], "spaces around");
        check(vec![grade(0, "n\no"), grade(1, "yes")], "control");
        let empty = Grade {
            definition: " ".to_owned(),
            ..grade(0, "no")
        };
        check(vec![empty, grade(1, "yes")], "definition of `no`");
    }
}
