//! What sections ask: the version, and SQL over its tables.

use gleaner_schemas::{Version, VersionStage};
use gleaner_storage::table::BlockingIo;
use serde_json::{Map, Value};

use crate::commands::explain::objects;
use crate::commands::opened::Opened;
use crate::run_error::RunError;
use crate::sql::options::SessionOptions;
use crate::sql::{Session, quote_name};

/// Memory of all queries of a report together; sorting and grouping spill what is above to disk.
const MEMORY_BYTES: usize = 1 << 30;

/// A row that a query gave.
pub(crate) type Row = Map<String, Value>;

/// What sections ask.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// The version that is reported of.
    pub(crate) opened: Opened,
    /// For texts of documents.
    pub(crate) io: BlockingIo,
    /// Documents shown of each tenth of the scores.
    pub(crate) n_examples: u64,
    session: Session,
}

impl Input {
    /// Must be called within a runtime.
    pub(crate) fn new(opened: Opened, n_examples: u64) -> Result<Self, RunError> {
        let options = SessionOptions {
            memory_bytes: Some(MEMORY_BYTES),
            // Sums of floats depend on their order: each query goes through its files in theirs,
            // and several queries run at a time.
            target_partitions: Some(1),
            ..SessionOptions::default()
        };
        let session = Session::open_with(&opened.stores, &opened.output, &opened.version, options)?;
        let handle = tokio::runtime::Handle::current();
        Ok(Self {
            io: BlockingIo::new(opened.stores.clone(), handle),
            opened,
            n_examples,
            session,
        })
    }

    /// The version that is reported of.
    pub(crate) fn version(&self) -> &Version {
        &self.opened.version
    }

    /// Stages in the order of the job.
    pub(crate) fn stages(&self) -> impl Iterator<Item = (&str, &VersionStage)> {
        let version = self.version();
        version
            .stage_order
            .iter()
            .filter_map(|name| Some((name.as_str(), version.stages.get(name)?)))
    }

    /// Stages of a kind, in the order of the job, that have a table.
    pub(crate) fn stages_of(&self, kind: &str) -> Vec<(&str, &VersionStage)> {
        self.stages()
            .filter(|(name, stage)| stage.kind == kind && self.n_rows(name).is_some())
            .collect()
    }

    /// Rows of a table, if there is one.
    pub(crate) fn n_rows(&self, table: &str) -> Option<u64> {
        Some(self.version().tables.get(table)?.rows)
    }

    /// Whether a table has a column.
    pub(crate) fn has(&self, table: &str, column: &str) -> bool {
        let table = self.version().tables.get(table);
        table.is_some_and(|table| table.schema.field_with_name(column).is_ok())
    }

    /// Those of `columns` that a table has, in this order.
    pub(crate) fn columns_of<'a>(&self, table: &str, columns: &[&'a str]) -> Vec<&'a str> {
        let mut columns = columns.to_vec();
        columns.retain(|column| self.has(table, column));
        columns
    }

    /// The rows of a query.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<Row>, RunError> {
        objects(&self.session.query(sql).await?)
    }

    /// The first row of a query: of an aggregate there is always one.
    pub(crate) async fn row(&self, sql: &str) -> Result<Row, RunError> {
        Ok(self.rows(sql).await?.into_iter().next().unwrap_or_default())
    }

    /// The condition under which a row of a table counts, as SQL.
    pub(crate) fn eligible(&self, table: &str) -> &'static str {
        match self.has(table, "eligible") {
            true => "eligible",
            false => "true",
        }
    }

    /// The session, for what other parts of the program ask.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// A number of a row.
pub(crate) fn float(row: &Row, key: &str) -> Option<f64> {
    row.get(key)?.as_f64()
}

/// A count of a row; none is 0.
pub(crate) fn count(row: &Row, key: &str) -> u64 {
    row.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// A text of a row.
pub(crate) fn text(row: &Row, key: &str) -> Option<String> {
    row.get(key)?.as_str().map(str::to_owned)
}

/// A column of a table as SQL names it.
pub(crate) fn column(table: &str, column: &str) -> String {
    format!("{}.{}", quote_name(table), quote_name(column))
}
