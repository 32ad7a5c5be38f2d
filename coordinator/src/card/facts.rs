//! What a card tells that only the tables know: sources, licences, prompts.

use std::collections::BTreeMap;

use gleaner_schemas::Version;
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
                        let counts = counts(&session, name, "source").await?;
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
