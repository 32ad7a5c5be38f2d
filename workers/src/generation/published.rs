//! What published versions tell of stages of generation: what was asked for, whatever came of it.

use gleaner_generation::Scale;
use serde::Deserialize;
use serde_json::Value;

use super::params::GradesParam;
use crate::{graded_documents, synthetic_queries};

/// What a stage asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedGroup {
    /// The grades of the documents of each query; of queries that were written for a document, that
    /// one has any of them.
    grades: Vec<i8>,
    /// Documents of each grade for a query; absent where queries were written for one document.
    per_grade: Option<u16>,
}

impl AskedGroup {
    /// By the kind and the parameters of a stage, as its version has them. None if it is no stage
    /// of generation, or of a program with other parameters.
    #[must_use]
    pub fn of(kind: &str, stage: &str, params: &Value) -> Option<Self> {
        #[derive(Deserialize)]
        struct Asked {
            grades: GradesParam,
            #[serde(default)]
            per_query: Option<u16>,
        }
        let asked = Asked::deserialize(params).ok()?;
        let scale = match asked.grades {
            GradesParam::Named(name) => Scale::built_in(&name),
            GradesParam::Listed(grades) => Scale::new(stage, grades),
        };
        let per_grade = match kind {
            synthetic_queries::KIND => None,
            graded_documents::KIND => Some(asked.per_query?),
            _ => return None,
        };
        let grades = scale.ok()?.grades().iter().map(|it| it.grade).collect();
        Some(Self { grades, per_grade })
    }

    /// The highest grade of the scale.
    #[must_use]
    pub fn highest(&self) -> i8 {
        self.grades.iter().copied().max().unwrap_or(0)
    }

    /// Documents with a grade for each query.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.per_grade
            .map_or(1, |n| self.grades.len() * usize::from(n))
    }

    /// Of these, those whose grade is below another.
    #[must_use]
    pub fn n_below(&self, grade: i64) -> usize {
        let below = self.grades.iter().filter(|it| i64::from(**it) < grade);
        self.per_grade.map_or(0, |n| below.count() * usize::from(n))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_those_that_were_asked_for() {
        // The highest grade, documents, and those below the highest grade.
        let check = |kind: &str, params: Value, expected: Option<(i8, usize, usize)>| {
            let found = AskedGroup::of(kind, "s", &params);
            let below = |it: &AskedGroup| it.n_below(i64::from(it.highest()));
            let found = found.map(|it| (it.highest(), it.n_documents(), below(&it)));
            assert_eq!(found, expected, "{kind} {params}");
        };
        let documents = graded_documents::KIND;
        let trec = json!({ "grades": "trec", "per_query": 1, "endpoint": "llm" });
        check(documents, trec, Some((3, 4, 3)));
        let binary = json!({ "grades": "binary", "per_query": 3 });
        check(documents, binary, Some((1, 6, 3)));
        let listed = json!({ "grades": [
            { "grade": 0, "label": "bad", "definition": "is bad" },
            { "grade": 1, "label": "fine", "definition": "is fine" },
            { "grade": 2, "label": "good", "definition": "is good" },
        ], "per_query": 1 });
        check(documents, listed, Some((2, 3, 2)));
        let queries = synthetic_queries::KIND;
        let wands = json!({ "grades": "wands", "per_document": 4 });
        check(queries, wands.clone(), Some((2, 1, 0)));
        check("select", wands, None);
        check(
            documents,
            json!({ "grades": "new scale", "per_query": 1 }),
            None,
        );
        check(documents, json!({}), None);
    }
}
