//! What published versions tell of stages of generation: what was asked for, whatever came of it.

use gleaner_generation::Scale;
use serde::Deserialize;
use serde_json::Value;

use super::params::GradesParam;
use crate::{graded_documents, synthetic_queries};

/// What a stage asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskedGroup {
    /// The highest grade of the scale.
    pub highest: i8,
    /// Documents with a grade for each query: of queries that were written for a document, that one.
    pub n_documents: usize,
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
        let scale = scale.ok()?;
        let n_documents = match kind {
            synthetic_queries::KIND => 1,
            graded_documents::KIND => scale.grades().len() * usize::from(asked.per_query?),
            _ => return None,
        };
        Some(Self {
            highest: scale.grades().iter().map(|grade| grade.grade).max()?,
            n_documents,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_are_those_that_were_asked_for() {
        let check = |kind: &str, params: Value, expected: Option<(i8, usize)>| {
            let found = AskedGroup::of(kind, "s", &params);
            let found = found.map(|it| (it.highest, it.n_documents));
            assert_eq!(found, expected, "{kind} {params}");
        };
        let documents = graded_documents::KIND;
        let trec = json!({ "grades": "trec", "per_query": 1, "endpoint": "llm" });
        check(documents, trec, Some((3, 4)));
        let binary = json!({ "grades": "binary", "per_query": 3 });
        check(documents, binary, Some((1, 6)));
        let listed = json!({ "grades": [
            { "grade": 0, "label": "bad", "definition": "is bad" },
            { "grade": 1, "label": "fine", "definition": "is fine" },
            { "grade": 2, "label": "good", "definition": "is good" },
        ], "per_query": 1 });
        check(documents, listed, Some((2, 3)));
        let queries = synthetic_queries::KIND;
        let wands = json!({ "grades": "wands", "per_document": 4 });
        check(queries, wands.clone(), Some((2, 1)));
        check("select", wands, None);
        check(
            documents,
            json!({ "grades": "new scale", "per_query": 1 }),
            None,
        );
        check(documents, json!({}), None);
    }
}
