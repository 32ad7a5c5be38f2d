//! The scales that ship with Gleaner, in words of our own.

use super::{Grade, Scale, ScaleError};

/// Names of the built-in scales.
pub const BUILT_IN: [&str; 4] = ["trec", "esci", "wands", "binary"];

impl Scale {
    /// A built-in scale: one of [`BUILT_IN`].
    pub fn built_in(name: &str) -> Result<Self, ScaleError> {
        match name {
            "trec" => Ok(Self::trec()),
            "esci" => Ok(Self::esci()),
            "wands" => Ok(Self::wands()),
            "binary" => Ok(Self::binary()),
            _ => Err(ScaleError::UnknownName {
                name: name.to_owned(),
            }),
        }
    }

    /// Four grades of passages, in the sense of the TREC Deep Learning tracks.
    #[must_use]
    pub fn trec() -> Self {
        Self::of_constants(
            "trec",
            &[
                (
                    "perfectly_relevant",
                    "is about exactly what the query asks and answers it directly and completely",
                ),
                (
                    "highly_relevant",
                    "answers the query, but not completely, or less directly, or with the answer among other matters",
                ),
                (
                    "related",
                    "is on the topic of the query, but does not answer it",
                ),
                ("irrelevant", "has nothing to do with what the query asks"),
            ],
        )
    }

    /// Four labels of products for a shopping query.
    #[must_use]
    pub fn esci() -> Self {
        Self::of_constants(
            "esci",
            &[
                (
                    "exact",
                    "is an item that meets everything that the query specifies",
                ),
                (
                    "substitute",
                    "is an item that misses something that the query specifies, but can serve the same purpose in its place",
                ),
                (
                    "complement",
                    "is not the item that the query asks for, but is used together with it",
                ),
                (
                    "irrelevant",
                    "is neither the item that the query asks for, nor a replacement, nor used together with it",
                ),
            ],
        )
    }

    /// Three labels of products for a shopping query.
    #[must_use]
    pub fn wands() -> Self {
        Self::of_constants(
            "wands",
            &[
                (
                    "exact",
                    "is of the kind that the query asks for and has all of the properties that the query names",
                ),
                (
                    "partial",
                    "is of the kind that the query asks for, or near to it, but lacks a property that the query names",
                ),
                ("irrelevant", "is not of the kind that the query asks for"),
            ],
        )
    }

    /// Relevant or not.
    #[must_use]
    pub fn binary() -> Self {
        Self::of_constants(
            "binary",
            &[
                (
                    "relevant",
                    "contains an answer to the query, or what its author looks for",
                ),
                ("irrelevant", "does not help the author of the query"),
            ],
        )
    }

    /// Best first; that these are sound is a test.
    fn of_constants(name: &str, grades: &[(&str, &str)]) -> Self {
        let mut grades: Vec<Grade> = (0..)
            .zip(grades.iter().rev())
            .map(|(grade, &(label, definition))| Grade {
                grade,
                label: label.to_owned(),
                definition: definition.to_owned(),
            })
            .collect();
        grades.reverse();
        Self {
            name: name.to_owned(),
            grades,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_scales_are_sound() {
        for (name, n_grades) in [("trec", 4), ("esci", 4), ("wands", 3), ("binary", 2)] {
            let scale = Scale::built_in(name).unwrap();
            assert_eq!(scale.grades().len(), n_grades);
            assert_eq!(Scale::new(name, scale.grades().to_vec()), Ok(scale.clone()));
            assert_eq!(scale.grades()[0].grade as usize, n_grades - 1, "best first");
        }
        assert_eq!(
            Scale::trec().by_number(3).unwrap().label,
            "perfectly_relevant"
        );
        assert_eq!(Scale::esci().by_number(1).unwrap().label, "complement");
    }
}
