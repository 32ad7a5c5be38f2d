//! What a card tells that only the tables know: sources, licences, prompts.

use std::collections::BTreeMap;

use gleaner_schemas::{Figures, Version};
use gleaner_storage::{Output, Stores};
use serde_json::Value;

use crate::commands::explain::objects;
use crate::run_error::RunError;
use crate::sql::options::SessionOptions;
use crate::sql::{Session, quote_name};

/// Values of a column that a card lists.
pub(super) const LISTED_MAX: u64 = 20;

/// What the queries of a card may use; what does not fit is spilled.
const MEMORY_BYTES: usize = 256 << 20;

/// Columns of corpora that tell the licence of a document.
const LICENSE_COLUMNS: [&str; 3] = ["license", "licence", "licenses"];

/// Values of a column with the rows that have them, the most frequent first.
pub(super) type Counts = Vec<(Option<String>, u64)>;

/// What the tables of a version tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Sources by selection.
    pub(super) sources: BTreeMap<String, Counts>,
    /// Licences by selection, where the corpus has a column of them.
    pub(super) licenses: BTreeMap<String, Counts>,
    /// Rows by model, prompt and status of stages that ask a language model.
    pub(super) prompts: BTreeMap<String, Vec<PromptUse>>,
}

/// How often a prompt was used with a model, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PromptUse {
    pub(super) model: String,
    pub(super) prompt: String,
    pub(super) n_rows: u64,
    pub(super) n_ok: u64,
}

impl Facts {
    pub(super) async fn gather(
        stores: &Stores,
        output: &Output,
        version: &Version,
    ) -> Result<Self, RunError> {
        let options = SessionOptions {
            memory_bytes: Some(MEMORY_BYTES),
            target_partitions: Some(1),
            ..SessionOptions::default()
        };
        let session = Session::open_with(stores, output, version, options)?;
        let mut facts = Self::default();
        for (name, stage) in &version.stages {
            let Some(table) = version.tables.get(name).filter(|table| table.rows > 0) else {
                continue;
            };
            let texts = table.schema.fields().iter();
            let texts = texts.filter(|field| field.data_type().is_string());
            let columns: Vec<&str> = texts.map(|field| field.name().as_str()).collect();
            match stage.kind.as_str() {
                "select" => {
                    if columns.contains(&"source") {
                        let counts = match table.figures.as_ref().and_then(sources) {
                            Some(counts) => counts,
                            None => counts(&session, name, "source").await?,
                        };
                        facts.sources.insert(name.clone(), counts);
                    }
                    let license = columns.iter().find(|column| {
                        LICENSE_COLUMNS.contains(&column.to_ascii_lowercase().as_str())
                    });
                    if let Some(column) = license {
                        let counts = counts(&session, name, column).await?;
                        facts.licenses.insert(name.clone(), counts);
                    }
                }
                "synthetic_queries" | "graded_documents" => {
                    let prompts = prompts(&session, name).await?;
                    facts.prompts.insert(name.clone(), prompts);
                }
                _ => {}
            }
        }
        Ok(facts)
    }
}

/// The rows by source that the objects of a table add up to, where these tell every source apart: then no
/// row has to be read.
fn sources(figures: &Figures) -> Option<Counts> {
    let is_told = |name: &str| figures.sources.contains_key(name);
    let n_rows: u64 = figures.sources.values().sum();
    if n_rows != figures.rows || is_told(Figures::OTHER) || is_told(Figures::NONE) {
        return None;
    }
    let mut counts: Vec<(&String, u64)> = figures.sources.iter().map(|(it, n)| (it, *n)).collect();
    // As the query orders them.
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    counts.truncate(LISTED_MAX as usize + 1);
    let counts = counts.into_iter();
    Some(counts.map(|(it, n)| (Some(it.clone()), n)).collect())
}

async fn counts(session: &Session, table: &str, column: &str) -> Result<Counts, RunError> {
    let (table, column) = (quote_name(table), quote_name(column));
    let sql = format!(
        "SELECT {column} AS value, count(*) AS n FROM {table} GROUP BY {column} \
         ORDER BY n DESC, value NULLS LAST LIMIT {}",
        LISTED_MAX + 1
    );
    let rows = objects(&session.query(&sql).await?)?;
    Ok(rows
        .iter()
        .map(|row| {
            let value = row.get("value").and_then(Value::as_str).map(str::to_owned);
            (value, row.get("n").and_then(Value::as_u64).unwrap_or(0))
        })
        .collect())
}

async fn prompts(session: &Session, table: &str) -> Result<Vec<PromptUse>, RunError> {
    let sql = format!(
        "SELECT model, prompt_id, count(*) AS n, count(*) FILTER (WHERE status = 'ok') AS n_ok \
         FROM {} GROUP BY model, prompt_id ORDER BY model, prompt_id",
        quote_name(table)
    );
    let rows = objects(&session.query(&sql).await?)?;
    let text = |row: &serde_json::Map<String, Value>, key: &str| {
        row.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let number = |row: &serde_json::Map<String, Value>, key: &str| {
        row.get(key).and_then(Value::as_u64).unwrap_or(0)
    };
    Ok(rows
        .iter()
        .map(|row| PromptUse {
            model: text(row, "model"),
            prompt: text(row, "prompt_id"),
            n_rows: number(row, "n"),
            n_ok: number(row, "n_ok"),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sources_told: &[(&str, u64)], rows: u64) -> Option<Vec<(String, u64)>> {
        let told = sources_told.iter().map(|(it, n)| ((*it).to_owned(), *n));
        let counts = sources(&Figures {
            rows,
            sources: told.collect(),
            ..Figures::default()
        })?;
        let counts = counts.into_iter();
        Some(counts.map(|(it, n)| (it.unwrap(), n)).collect())
    }

    #[test]
    fn sources_are_those_of_the_objects_where_all_are_told_apart() {
        let expected = [("c", 9), ("a", 2), ("b", 2)];
        let expected = expected.map(|(it, n)| (it.to_owned(), n)).to_vec();
        assert_eq!(told(&[("a", 2), ("b", 2), ("c", 9)], 13), Some(expected));
        let many: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|it| (it.as_str(), 1)).collect();
        assert_eq!(told(&many, 100).unwrap().len() as u64, LISTED_MAX + 1);
        assert_eq!(told(&[("a", 2), (Figures::OTHER, 1)], 3), None);
        assert_eq!(told(&[("a", 2), (Figures::NONE, 1)], 3), None);
        assert_eq!(told(&[], 3), None, "nothing is told of sources");
    }
}
