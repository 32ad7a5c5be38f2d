//! `gleaner diff`: what is different between two versions of an output.
//!
//! Files and rows come from the versions themselves. Documents are compared by their ids, and only
//! those of objects that just one of the versions has: what both have is the same. So it costs what
//! changed, and is exact, also where ids occur more than once.

mod changed;
mod render;

use std::collections::{BTreeMap, BTreeSet};

use gleaner_schemas::columns::{DOC_ID, SEQUENCE_ID, SOURCE};
use gleaner_schemas::{Lanes, SourceFile, TableVersion, Version};
use serde::Serialize;
use serde_json::Value;

use crate::commands::opened::Opened;
use crate::run_error::RunError;
use changed::Changed;

/// Columns of scores that are compared of a stage.
const COLUMNS_MAX: usize = 8;

/// What is different between two versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DiffReport {
    /// URI of the output.
    pub output: String,
    /// The version that is compared.
    pub before: VersionFacts,
    /// The version that it is compared with.
    pub after: VersionFacts,
    /// Files of the corpus.
    pub corpus: CorpusDiff,
    /// Stages of either version, in the order of the later one.
    pub stages: Vec<StageDiff>,
}

/// A version, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionFacts {
    /// Its number.
    pub number: u64,
    /// When it was published: RFC 3339, UTC.
    pub published_at: String,
}

/// Files of the corpus by what became of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorpusDiff {
    /// Only the later version has them.
    pub added: Vec<String>,
    /// Only the earlier one has them.
    pub removed: Vec<String>,
    /// Both have them, with other contents.
    pub changed: Vec<String>,
    /// Files that are the same.
    pub n_same: u64,
}

/// A stage in both versions. What a version does not have is absent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDiff {
    /// Its name.
    pub stage: String,
    /// Its kind, in the later version that has it.
    pub kind: String,
    /// Its parameters that are not the same, by name, before and after.
    pub params: BTreeMap<String, (Value, Value)>,
    /// Rows of its table.
    pub rows: (Option<u64>, Option<u64>),
    /// Where its input rows ended up.
    pub lanes: (Option<Lanes>, Option<Lanes>),
    /// Objects of its table that both versions have.
    pub n_files_same: u64,
    /// Objects that only the later version has.
    pub n_files_added: u64,
    /// Objects that only the earlier version has.
    pub n_files_removed: u64,
    /// Of stages that score: one for each column.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<ScoreDiff>,
    /// Of selections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection: Option<SelectionDiff>,
}

/// A column of scores in both versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScoreDiff {
    /// Its name.
    pub column: String,
    /// Rows with a score, and their mean, before.
    pub before: (u64, Option<f64>),
    /// The same after.
    pub after: (u64, Option<f64>),
    /// Ids that occur once before and once after in objects that are not the same.
    pub n_scored_again: u64,
    /// Those of them that have another score now.
    pub n_changed: u64,
    /// Mean of the changes of all that were scored again.
    pub mean_change: Option<f64>,
    /// The largest change of one of them, whatever its sign.
    pub largest_change: Option<f64>,
}

/// A selection in both versions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SelectionDiff {
    /// Rows that both versions chose.
    pub n_stayed: u64,
    /// Rows that only the later version chose.
    pub n_came: u64,
    /// Rows that only the earlier version chose.
    pub n_went: u64,
    /// The same by source, most changes first. Empty where rows have none.
    pub by_source: Vec<SourceDiff>,
    /// Some that came, highest scores first.
    pub came: Vec<ChosenDocument>,
    /// Some that went, highest scores first.
    pub went: Vec<ChosenDocument>,
}

/// What came and went of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceDiff {
    /// The source; absent for rows without one.
    pub source: Option<String>,
    /// Rows that only the later version chose.
    pub n_came: u64,
    /// Rows that only the earlier version chose.
    pub n_went: u64,
}

/// A row of a selection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChosenDocument {
    /// Id of the document or the sequence.
    pub id: String,
    /// Where it comes from.
    pub source: Option<String>,
    /// Its score where it was chosen.
    pub score: Option<f64>,
}

/// Compares two versions of an output.
///
/// # Errors
///
/// If a file that is to be read is gone, or of the store.
pub async fn diff(before: &Opened, after: &Opened) -> Result<DiffReport, RunError> {
    let (a, b) = (&before.version, &after.version);
    let changed = Changed::open(before, after)?;
    let gone = a
        .stage_order
        .iter()
        .filter(|name| !b.stages.contains_key(*name));
    let mut stages = Vec::new();
    for name in b.stage_order.iter().chain(gone) {
        stages.push(stage(&changed, a, b, name).await?);
    }
    let facts = |version: &Version| VersionFacts {
        number: version.number,
        published_at: version.published_at.clone(),
    };
    Ok(DiffReport {
        output: after.output.uri().to_owned(),
        before: facts(a),
        after: facts(b),
        corpus: corpus(a, b),
        stages,
    })
}

fn corpus(before: &Version, after: &Version) -> CorpusDiff {
    let by_name = |version: &'_ Version| -> BTreeMap<String, std::sync::Arc<SourceFile>> {
        let files = version.corpus.iter();
        files
            .map(|file| (file.name.clone(), file.clone()))
            .collect()
    };
    let (a, b) = (by_name(before), by_name(after));
    let mut diff = CorpusDiff {
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
        n_same: 0,
    };
    for (name, file) in &b {
        match a.get(name) {
            None => diff.added.push(name.clone()),
            Some(other) if other.identity == file.identity => diff.n_same += 1,
            Some(_) => diff.changed.push(name.clone()),
        }
    }
    let removed = a.keys().filter(|name| !b.contains_key(*name));
    diff.removed = removed.cloned().collect();
    diff
}

async fn stage(
    changed: &Changed,
    before: &Version,
    after: &Version,
    name: &str,
) -> Result<StageDiff, RunError> {
    let (a, b) = (before.stages.get(name), after.stages.get(name));
    let (table_a, table_b) = (before.tables.get(name), after.tables.get(name));
    let (n_files_same, n_files_removed, n_files_added) = files(table_a, table_b);
    let kind = b.or(a).map_or("", |stage| stage.kind.as_str());
    let mut diff = StageDiff {
        stage: name.to_owned(),
        kind: kind.to_owned(),
        params: match a.zip(b) {
            Some((a, b)) => params(&a.params, &b.params),
            None => BTreeMap::new(),
        },
        rows: (table_a.map(|it| it.rows), table_b.map(|it| it.rows)),
        lanes: (a.map(|it| it.lanes), b.map(|it| it.lanes)),
        n_files_same,
        n_files_added,
        n_files_removed,
        scores: Vec::new(),
        selection: None,
    };
    let (Some(table_a), Some(table_b)) = (table_a, table_b) else {
        return Ok(diff);
    };
    let both_have = |column: &str| {
        [table_a, table_b]
            .iter()
            .all(|table| table.schema.field_with_name(column).is_ok())
    };
    let Some(id) = [DOC_ID, SEQUENCE_ID].into_iter().find(|id| both_have(id)) else {
        return Ok(diff);
    };
    if kind == "select" {
        let found = changed.selection(name, id, both_have(SOURCE)).await?;
        diff.selection = Some(SelectionDiff {
            n_stayed: table_b.rows.saturating_sub(found.n_came),
            ..found
        });
    }
    let columns = table_b.schema.fields().iter().map(|field| field.name());
    let columns = columns.filter(|column| is_score(column) && both_have(column));
    for column in columns.take(COLUMNS_MAX) {
        let eligible = both_have("eligible");
        diff.scores
            .push(changed.scores(name, id, column, eligible).await?);
    }
    Ok(diff)
}

fn is_score(column: &str) -> bool {
    column.starts_with("log_weight") || column.ends_with("_nll") || column == "loss_reduction"
}

/// Objects that both have, and that only one has.
fn files(before: Option<&TableVersion>, after: Option<&TableVersion>) -> (u64, u64, u64) {
    let checksums = |table: Option<&TableVersion>| -> BTreeSet<String> {
        let files = table.into_iter().flat_map(|table| &table.files);
        files.map(|file| file.checksum.to_string()).collect()
    };
    let (a, b) = (checksums(before), checksums(after));
    let n_same = a.intersection(&b).count();
    (
        n_same as u64,
        (a.len() - n_same) as u64,
        (b.len() - n_same) as u64,
    )
}

fn params(before: &Value, after: &Value) -> BTreeMap<String, (Value, Value)> {
    let (Some(a), Some(b)) = (before.as_object(), after.as_object()) else {
        return BTreeMap::new();
    };
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    names
        .into_iter()
        .map(|name| {
            let of = |params: &serde_json::Map<String, Value>| {
                params.get(name).cloned().unwrap_or(Value::Null)
            };
            (name.clone(), (of(a), of(b)))
        })
        .filter(|(_, (a, b))| a != b)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_compared_by_name() {
        let found = params(
            &json!({"documents": 25, "seed": 7, "by": "w.x"}),
            &json!({"documents": 30, "seed": 7, "fraction": "1/2"}),
        );
        let expected = [
            ("by", (json!("w.x"), json!(null))),
            ("documents", (json!(25), json!(30))),
            ("fraction", (json!(null), json!("1/2"))),
        ];
        let expected = expected.map(|(name, values)| (name.to_owned(), values));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
