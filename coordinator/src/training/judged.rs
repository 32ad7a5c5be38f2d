//! Queries with their judged documents, from rows that are sorted by query.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};

use crate::run_error::RunError;

/// A document with its grade for a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedDocument {
    /// Its id, as trainers can read it: [`trainer_id`].
    pub id: String,
    /// Its text.
    pub text: String,
    /// How relevant it is; 0 is irrelevant.
    pub grade: i64,
}

/// A query with all of its documents, the most relevant first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedQuery {
    /// Its id, as trainers can read it.
    pub id: String,
    /// Its id in the table.
    pub query_id: String,
    /// Its text.
    pub text: String,
    /// Its documents.
    pub documents: Vec<JudgedDocument>,
}

/// An id that loaders of trainers take for what it is: they read some as numbers or dates, so it
/// begins with a letter, and they split lines at white space, so it has none.
#[must_use]
pub(super) fn trainer_id(id: &str) -> String {
    let mut text = String::with_capacity(id.len() + 2);
    // Ids that begin so already get it too, so that two ids never become one.
    if !id.starts_with(|c: char| c.is_ascii_alphabetic()) || id.starts_with("d_") {
        text.push_str("d_");
    }
    for c in id.chars() {
        if c.is_whitespace() || c.is_control() || c == '%' {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                text.push_str(&format!("%{byte:02X}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Collects rows into queries. Rows have the columns `query_id`, `query`, `doc_id`, `text` and
/// `grade`, and those of one query stand together.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    open: Option<JudgedQuery>,
    /// Rows that repeat a document of their query.
    pub(super) n_doubled: u64,
}

impl Grouping {
    /// Takes rows; gives the queries that are complete.
    ///
    /// # Errors
    ///
    /// If a column is missing or has another type.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<Vec<JudgedQuery>, RunError> {
        let column = |name: &str, data_type: &DataType| {
            let column = batch
                .column_by_name(name)
                .ok_or_else(|| RunError::Internal(format!("a row has no column {name}")))?;
            cast(column, data_type)
                .map_err(|error| RunError::Internal(format!("column {name}: {error}")))
        };
        let text = |name: &str| column(name, &DataType::Utf8);
        let (query_ids, queries) = (text("query_id")?, text("query")?);
        let (doc_ids, texts) = (text("doc_id")?, text("text")?);
        let grades = column("grade", &DataType::Int64)?;
        let (query_ids, queries) = (query_ids.as_string::<i32>(), queries.as_string::<i32>());
        let (doc_ids, texts) = (doc_ids.as_string::<i32>(), texts.as_string::<i32>());
        let grades = grades.as_primitive::<Int64Type>();
        let mut complete = Vec::new();
        for row in 0..batch.num_rows() {
            if query_ids.is_null(row) || doc_ids.is_null(row) || grades.is_null(row) {
                continue;
            }
            let query_id = query_ids.value(row);
            if self
                .open
                .as_ref()
                .is_none_or(|open| open.query_id != query_id)
            {
                complete.extend(self.open.take());
                self.open = Some(JudgedQuery {
                    id: trainer_id(query_id),
                    query_id: query_id.to_owned(),
                    text: queries.value(row).to_owned(),
                    documents: Vec::new(),
                });
            }
            let Some(open) = &mut self.open else { continue };
            let id = trainer_id(doc_ids.value(row));
            // Loaders silently take the last of two.
            if open.documents.iter().any(|known| known.id == id) {
                self.n_doubled += 1;
                continue;
            }
            open.documents.push(JudgedDocument {
                id,
                text: texts.value(row).to_owned(),
                grade: grades.value(row),
            });
        }
        Ok(complete)
    }

    /// The last query.
    pub(super) fn finish(&mut self) -> Option<JudgedQuery> {
        self.open.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, StringArray};

    use super::*;

    #[test]
    fn ids_that_trainers_can_read() {
        let check = |id: &str, expected: &str| assert_eq!(trainer_id(id), expected);
        check("q12", "q12");
        check("0012", "d_0012");
        check("d_0012", "d_d_0012");
        check("2024-01-02", "d_2024-01-02");
        check("a b\tc", "a%20b%09c");
        // Two ids never become one.
        check("a%20b", "a%2520b");
        check("\u{e9}t\u{e9}", "d_\u{e9}t\u{e9}");
        check("", "d_");
    }

    #[test]
    fn rows_become_queries() {
        let batch = |rows: &[(&str, &str, i8)]| {
            let text = |of: fn(&(&str, &str, i8)) -> String| -> ArrayRef {
                Arc::new(rows.iter().map(of).map(Some).collect::<StringArray>())
            };
            let grades: Int8Array = rows.iter().map(|row| Some(row.2)).collect();
            RecordBatch::try_from_iter([
                ("query_id", text(|row| row.0.to_owned())),
                ("query", text(|row| format!("text of {}", row.0))),
                ("doc_id", text(|row| row.1.to_owned())),
                ("text", text(|row| format!("text of {}", row.1))),
                ("grade", Arc::new(grades) as ArrayRef),
            ])
            .expect("a batch")
        };
        let mut grouping = Grouping::default();
        let first = grouping.push(&batch(&[("a", "x", 3), ("a", "y", 1), ("b", "x", 2)]));
        let mut queries = first.expect("rows");
        queries.extend(
            grouping
                .push(&batch(&[("b", "x", 0), ("b", "z", 0), ("c", "z", 1)]))
                .expect("rows"),
        );
        queries.extend(grouping.finish());
        let shown: Vec<String> = queries
            .iter()
            .map(|query| {
                let documents = query.documents.iter();
                let documents: Vec<String> = documents
                    .map(|it| format!("{}:{}", it.id, it.grade))
                    .collect();
                format!("{} {}", query.id, documents.join(" "))
            })
            .collect();
        assert_eq!(shown, ["a x:3 y:1", "b x:2 z:0", "c z:1"]);
        assert_eq!(grouping.n_doubled, 1);
    }
}
