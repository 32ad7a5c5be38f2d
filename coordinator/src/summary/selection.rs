//! What a selection looks like: its size, what it is made of beside the whole, did it get nearer.

use std::collections::BTreeMap;

use gleaner_schemas::Version;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::commands::explain::objects;
use crate::run_error::RunError;
use crate::sql::{Session, quote_name};

/// A selection.
#[derive(Debug, Clone, Serialize)]
pub struct SelectionSummary {
    /// Stage and column that decided.
    pub by: String,
    /// Chosen rows.
    pub n_chosen: u64,
    /// Rows that could have been chosen.
    pub n_eligible: u64,
    /// Tokens of the chosen rows, if they are known.
    pub n_tokens: Option<u64>,
    /// How much nearer to the target the selection is than the corpus, in nats: the mean over
    /// targets.
    pub kl_reduction: Option<f64>,
    /// The same by target.
    pub kl_reduction_by_target: BTreeMap<String, Option<f64>>,
    /// What it is made of, largest share first.
    pub by_source: Vec<SourceShare>,
}

/// A source's part of the whole and of the selection.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceShare {
    /// The source; absent for rows without one.
    pub source: Option<String>,
    /// Eligible rows.
    pub n_eligible: u64,
    /// Their share of all eligible rows.
    pub eligible_share: f64,
    /// Chosen rows.
    pub n_chosen: u64,
    /// Their share of all chosen rows.
    pub chosen_share: f64,
}

/// Asks for one selection: its name, its parameters and what its reduces found.
pub(crate) async fn gather(
    version: &Version,
    session: &Session,
    name: &str,
    params: &Value,
    facts: &BTreeMap<String, Value>,
) -> Result<SelectionSummary, RunError> {
    let by = params.get("by").and_then(Value::as_str).unwrap_or_default();
    let scores = by.split_once('.').map_or(by, |(stage, _)| stage);
    let has = |table: &str, column: &str| {
        let table = version.tables.get(table);
        table.is_some_and(|table| table.schema.field_with_name(column).is_ok())
    };
    let eligible = if has(scores, "eligible") {
        "WHERE eligible"
    } else {
        ""
    };
    let mut by_source: BTreeMap<Option<String>, (u64, u64)> = BTreeMap::new();
    let (mut n_eligible, mut n_chosen) = (0, 0);
    let with_source = has(scores, "source") && has(name, "source");
    for (table, filter, is_chosen) in [(scores, eligible, false), (name, "", true)] {
        let (select, group) = if with_source {
            ("source, count(*) AS n", "GROUP BY source")
        } else {
            ("count(*) AS n", "")
        };
        let sql = format!(
            "SELECT {select} FROM {} {filter} {group}",
            quote_name(table)
        );
        for row in objects(&session.query(&sql).await?)? {
            let n = row.get("n").and_then(Value::as_u64).unwrap_or(0);
            let source = row.get("source").and_then(Value::as_str).map(str::to_owned);
            let counts = by_source.entry(source).or_default();
            if is_chosen {
                counts.1 += n;
                n_chosen += n;
            } else {
                counts.0 += n;
                n_eligible += n;
            }
        }
    }
    let mut n_tokens = None;
    if has(name, "n_tokens") {
        let sql = format!("SELECT sum(n_tokens) AS n FROM {}", quote_name(name));
        let rows = objects(&session.query(&sql).await?)?;
        n_tokens = rows
            .first()
            .and_then(|row| row.get("n"))
            .and_then(Value::as_u64);
    }
    let measured = facts.get("measure").and_then(Value::as_object);
    Ok(SelectionSummary {
        by: by.to_owned(),
        n_chosen,
        n_eligible,
        n_tokens,
        kl_reduction: measured
            .and_then(|it| it.get("kl_reduction"))
            .and_then(Value::as_f64),
        kl_reduction_by_target: measured.map(by_target).unwrap_or_default(),
        by_source: shares(by_source, n_eligible, n_chosen),
    })
}

fn by_target(measured: &Map<String, Value>) -> BTreeMap<String, Option<f64>> {
    let targets = measured
        .get("kl_reduction_by_target")
        .and_then(Value::as_object);
    targets
        .into_iter()
        .flatten()
        .map(|(target, value)| (target.clone(), value.as_f64()))
        .collect()
}

/// Empty where no row has a source.
fn shares(
    by_source: BTreeMap<Option<String>, (u64, u64)>,
    n_eligible: u64,
    n_chosen: u64,
) -> Vec<SourceShare> {
    if by_source.keys().all(Option::is_none) {
        return Vec::new();
    }
    let share = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };
    let mut shares: Vec<SourceShare> = by_source
        .into_iter()
        .map(|(source, (eligible, chosen))| SourceShare {
            source,
            n_eligible: eligible,
            eligible_share: share(eligible, n_eligible),
            n_chosen: chosen,
            chosen_share: share(chosen, n_chosen),
        })
        .collect();
    shares.sort_by(|a, b| {
        (b.n_chosen, b.n_eligible, &a.source).cmp(&(a.n_chosen, a.n_eligible, &b.source))
    });
    shares
}
