//! What SQL is asked for a comparison: both versions, and both without the objects that they share.

use std::collections::BTreeSet;

use gleaner_schemas::Version;
use serde_json::{Map, Value};

use super::{ChosenDocument, ScoreDiff, SelectionDiff, SourceDiff};
use crate::commands::explain::objects;
use crate::commands::opened::Opened;
use crate::run_error::RunError;
use crate::sql::options::{Attached, SessionOptions};
use crate::sql::{Session, quote_name};

/// Memory of the queries; what does not fit is spilled to disk.
const MEMORY_BYTES: usize = 1 << 30;
/// Documents that are shown that came, and that went.
const DOCUMENTS_SHOWN: usize = 10;
/// Sources that are shown.
const SOURCES_MAX: usize = 100;

/// Schemas of the session.
const BEFORE: &str = "before";
const BEFORE_CHANGED: &str = "before_changed";
const AFTER_CHANGED: &str = "after_changed";

/// A session over both versions.
pub(super) struct Changed {
    session: Session,
}

impl Changed {
    pub(super) fn open(before: &Opened, after: &Opened) -> Result<Self, RunError> {
        let attached = |name: &str, of: &Opened, version: Version| Attached {
            name: name.to_owned(),
            output: of.output.clone(),
            version,
        };
        let (a, b) = (&before.version, &after.version);
        let options = SessionOptions {
            memory_bytes: Some(MEMORY_BYTES),
            // Sums of floats depend on their order.
            target_partitions: Some(1),
            attached: vec![
                attached(BEFORE, before, a.clone()),
                attached(BEFORE_CHANGED, before, without_shared(a, b)),
                attached(AFTER_CHANGED, after, without_shared(b, a)),
            ],
            ..SessionOptions::default()
        };
        let session = Session::open_with(&after.stores, &after.output, b, options)?;
        Ok(Self { session })
    }

    async fn rows(&self, sql: &str) -> Result<Vec<Map<String, Value>>, RunError> {
        objects(&self.session.query(sql).await?)
    }

    /// What came and went, by ids: an id that was chosen twice and now once went once.
    pub(super) async fn selection(
        &self,
        stage: &str,
        id: &str,
        has_source: bool,
    ) -> Result<SelectionDiff, RunError> {
        let table = quote_name(stage);
        let source = if has_source { "source" } else { "NULL" };
        let side = |schema: &str, sign: i8| {
            format!(
                "SELECT {id} AS id, {source} AS source, score, {sign} AS sign FROM \
                 {schema}.{table}"
            )
        };
        // Groups can be spilled to disk, a join cannot.
        let changes = format!(
            "(SELECT id, min(source) AS source, max(score) AS score, sum(sign) AS n FROM ({} UNION \
             ALL {}) GROUP BY id HAVING sum(sign) <> 0)",
            side(AFTER_CHANGED, 1),
            side(BEFORE_CHANGED, -1)
        );
        let sql = format!(
            "SELECT source, sum(CASE WHEN n > 0 THEN n ELSE 0 END) AS came, \
             sum(CASE WHEN n < 0 THEN -n ELSE 0 END) AS went FROM {changes} GROUP BY source ORDER \
             BY sum(abs(n)) DESC, source"
        );
        let mut by_source = Vec::new();
        for row in self.rows(&sql).await? {
            by_source.push(SourceDiff {
                source: text(&row, "source"),
                n_came: count(&row, "came"),
                n_went: count(&row, "went"),
            });
        }
        let total = |of: fn(&SourceDiff) -> u64| by_source.iter().map(of).sum();
        let (n_came, n_went) = (total(|it| it.n_came), total(|it| it.n_went));
        if by_source.iter().all(|it| it.source.is_none()) {
            by_source.clear();
        }
        by_source.truncate(SOURCES_MAX);
        Ok(SelectionDiff {
            n_stayed: 0,
            n_came,
            n_went,
            by_source,
            came: self.documents(&changes, "n > 0").await?,
            went: self.documents(&changes, "n < 0").await?,
        })
    }

    async fn documents(
        &self,
        changes: &str,
        condition: &str,
    ) -> Result<Vec<ChosenDocument>, RunError> {
        let sql = format!(
            "SELECT id, source, score FROM {changes} WHERE {condition} ORDER BY score DESC, id \
             LIMIT {DOCUMENTS_SHOWN}"
        );
        let rows = self.rows(&sql).await?;
        let documents = rows.iter().map(|row| ChosenDocument {
            id: text(row, "id").unwrap_or_default(),
            source: text(row, "source"),
            score: float(row, "score"),
        });
        Ok(documents.collect())
    }

    /// A column in both versions, and of the ids that both have what became of their scores.
    pub(super) async fn scores(
        &self,
        stage: &str,
        id: &str,
        column: &str,
        eligible_only: bool,
    ) -> Result<ScoreDiff, RunError> {
        let (table, score) = (quote_name(stage), quote_name(column));
        let eligible = if eligible_only { "eligible" } else { "true" };
        let filter = format!("WHERE {eligible} AND {score} IS NOT NULL");
        let whole = async |table: String| -> Result<(u64, Option<f64>), RunError> {
            let sql = format!("SELECT count(*) AS n, avg({score}) AS mean FROM {table} {filter}");
            let rows = self.rows(&sql).await?;
            let row = rows.first();
            Ok((
                row.map_or(0, |row| count(row, "n")),
                row.and_then(|row| float(row, "mean")),
            ))
        };
        let side = |schema: &str, a: &str, b: &str| {
            format!("SELECT {id} AS id, {a} AS a, {b} AS b FROM {schema}.{table} {filter}")
        };
        let sql = format!(
            "SELECT count(*) AS n, count(*) FILTER (WHERE was <> is_now) AS n_changed, \
             avg(is_now - was) AS mean, max(abs(is_now - was)) AS largest FROM (SELECT id, max(a) \
             AS was, max(b) AS is_now FROM ({} UNION ALL {}) GROUP BY id HAVING count(a) = 1 AND \
             count(b) = 1 ORDER BY id)",
            side(BEFORE_CHANGED, &score, "CAST(NULL AS DOUBLE)"),
            side(AFTER_CHANGED, "CAST(NULL AS DOUBLE)", &score),
        );
        let rows = self.rows(&sql).await?;
        let row = rows.into_iter().next().unwrap_or_default();
        Ok(ScoreDiff {
            column: column.to_owned(),
            before: whole(format!("{BEFORE}.{table}")).await?,
            after: whole(table.clone()).await?,
            n_scored_again: count(&row, "n"),
            n_changed: count(&row, "n_changed"),
            mean_change: float(&row, "mean"),
            largest_change: float(&row, "largest"),
        })
    }
}

/// The version with those objects of its tables only that the other does not have.
fn without_shared(version: &Version, other: &Version) -> Version {
    let mut version = version.clone();
    for (name, table) in &mut version.tables {
        let Some(other) = other.tables.get(name) else {
            continue;
        };
        let shared: BTreeSet<String> = other
            .files
            .iter()
            .map(|file| file.checksum.to_string())
            .collect();
        table
            .files
            .retain(|file| !shared.contains(&file.checksum.to_string()));
    }
    version
}

fn text(row: &Map<String, Value>, key: &str) -> Option<String> {
    row.get(key)?.as_str().map(str::to_owned)
}

fn count(row: &Map<String, Value>, key: &str) -> u64 {
    row.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn float(row: &Map<String, Value>, key: &str) -> Option<f64> {
    row.get(key)?.as_f64()
}
