//! What language-model servers wrote: synthetic queries and graded documents. How many of each
//! label came out, how long, why others did not, what it took; and the measures of the summary.

use serde::Serialize;

use super::generation_measures::Measures;
use super::operation::Operation;
use super::{Section, numbers};
use crate::report::html::{Cell, Table, number, optional, whole};
use crate::report::input::{Input, count, float, text};
use crate::run_error::RunError;
use crate::sql::quote_name;

/// Labels, statuses and grades that are shown.
const GROUPS_MAX: usize = 40;
/// Reasons that are shown.
const REASONS_MAX: usize = 20;
/// Columns of what it took, where a table has them: their sums are shown.
const COSTS: [&str; 8] = [
    "prompt_tokens",
    "completion_tokens",
    "judge_prompt_tokens",
    "judge_completion_tokens",
    "total_tokens",
    "cost",
    "attempts",
    "seconds",
];

/// The kinds of stages that this is about, what a row of them is called, and which columns hold
/// what was written.
const KINDS: [(&str, &str, [&str; 2]); 2] = [
    ("synthetic_queries", "Synthetic queries", ["query", "text"]),
    ("graded_documents", "Graded documents", ["text", "query"]),
];

#[derive(Debug, Serialize)]
struct Generated {
    by_label: Vec<LabelCount>,
    /// What was written, by grade: in characters.
    lengths: Vec<Length>,
    /// Name of the column that `lengths` are of.
    length_of: Option<String>,
    failures: Vec<Reason>,
    costs: Vec<(String, f64)>,
    /// What it took and how requests fared, of tables that tell.
    operation: Option<Operation>,
    /// How far it can be trusted, where the texts that it was made of can be read.
    measures: Option<Measures>,
}

#[derive(Debug, Serialize)]
struct LabelCount {
    label: Option<String>,
    status: Option<String>,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct Length {
    grade: Option<String>,
    rows: u64,
    mean: Option<f64>,
    median: Option<f64>,
    shortest: u64,
    longest: u64,
}

#[derive(Debug, Serialize)]
struct Reason {
    status: String,
    reason: Option<String>,
    rows: u64,
}

pub(super) async fn sections(input: &Input) -> Result<Vec<Section>, RunError> {
    let mut sections = Vec::new();
    for (kind, title, texts) in KINDS {
        for (name, stage) in input.stages_of(kind) {
            let length_of = input.columns_of(name, &texts).first().copied();
            let found = Generated {
                by_label: by_label(input, name).await?,
                lengths: match length_of {
                    Some(column) => lengths(input, name, column).await?,
                    None => Vec::new(),
                },
                length_of: length_of.map(str::to_owned),
                failures: failures(input, name).await?,
                costs: costs(input, name).await?,
                operation: Operation::gather(input, name, stage).await?,
                measures: Measures::gather(input, name, stage).await,
            };
            sections.push(Section {
                name: "generation",
                stage: Some(name.to_owned()),
                title: format!("{title}: {name}"),
                numbers: numbers(&found)?,
                body: render(&found),
            });
        }
    }
    Ok(sections)
}

/// A column, or null where a table lacks it.
fn or_null<'a>(input: &Input, table: &str, column: &'a str) -> &'a str {
    match input.has(table, column) {
        true => column,
        false => "NULL",
    }
}

async fn by_label(input: &Input, name: &str) -> Result<Vec<LabelCount>, RunError> {
    let sql = format!(
        "SELECT label, status, count(*) AS n FROM (SELECT {} AS label, {} AS status FROM {}) GROUP \
         BY label, status ORDER BY label, n DESC, status LIMIT {GROUPS_MAX}",
        or_null(input, name, "label"),
        or_null(input, name, "status"),
        quote_name(name)
    );
    let rows = input.rows(&sql).await?;
    let counts = rows.iter().map(|row| LabelCount {
        label: text(row, "label"),
        status: text(row, "status"),
        rows: count(row, "n"),
    });
    Ok(counts.collect())
}

async fn lengths(input: &Input, name: &str, column: &str) -> Result<Vec<Length>, RunError> {
    let grade = or_null(input, name, "grade");
    let is_ok = match input.has(name, "status") {
        true => "status = 'ok'",
        false => "true",
    };
    let sql = format!(
        "SELECT CAST(grade AS VARCHAR) AS grade, n, mean, median, shortest, longest FROM (
           SELECT grade, count(*) AS n, avg(length) AS mean, median(length) AS median, \
           min(length) AS shortest, max(length) AS longest FROM (SELECT {grade} AS grade, \
           CAST(character_length({}) AS BIGINT) AS length FROM {} WHERE {is_ok} AND {} IS NOT NULL) \
           GROUP BY grade) ORDER BY {} LIMIT {GROUPS_MAX}",
        quote_name(column),
        quote_name(name),
        quote_name(column),
        if grade == "NULL" { "n" } else { "CAST(grade AS BIGINT) DESC" },
    );
    let rows = input.rows(&sql).await?;
    let lengths = rows.iter().map(|row| Length {
        grade: text(row, "grade"),
        rows: count(row, "n"),
        mean: float(row, "mean"),
        median: float(row, "median"),
        shortest: count(row, "shortest"),
        longest: count(row, "longest"),
    });
    Ok(lengths.collect())
}

async fn failures(input: &Input, name: &str) -> Result<Vec<Reason>, RunError> {
    if !input.has(name, "status") {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT status, {} AS reason, count(*) AS n FROM {} WHERE status <> 'ok' GROUP BY 1, 2 \
         ORDER BY n DESC, 1, 2 LIMIT {REASONS_MAX}",
        or_null(input, name, "reason"),
        quote_name(name)
    );
    let rows = input.rows(&sql).await?;
    let reasons = rows.iter().map(|row| Reason {
        status: text(row, "status").unwrap_or_default(),
        reason: text(row, "reason"),
        rows: count(row, "n"),
    });
    Ok(reasons.collect())
}

async fn costs(input: &Input, name: &str) -> Result<Vec<(String, f64)>, RunError> {
    let columns = input.columns_of(name, &COSTS);
    if columns.is_empty() {
        return Ok(Vec::new());
    }
    let sums: Vec<String> = columns
        .iter()
        .map(|column| format!("sum({0}) AS {0}", quote_name(column)))
        .collect();
    let sql = format!("SELECT {} FROM {}", sums.join(", "), quote_name(name));
    let row = input.row(&sql).await?;
    Ok(columns
        .into_iter()
        .filter_map(|column| Some((column.to_owned(), float(&row, column)?)))
        .collect())
}

fn render(generated: &Generated) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".to_owned());
    let mut html = match &generated.measures {
        Some(measures) => measures.render(),
        None => by_label_table(&generated.by_label),
    };
    if let Some(column) = &generated.length_of {
        let caption = format!("Length of {column} by grade, in characters");
        let titles = [
            "grade",
            "#rows",
            "#mean",
            "#median",
            "#shortest",
            "#longest",
        ];
        let mut table = Table::new(&caption, &titles);
        for length in &generated.lengths {
            table.row([
                Cell::Text(or_none(&length.grade)),
                Cell::Number(whole(length.rows)),
                Cell::Number(optional(length.mean)),
                Cell::Number(optional(length.median)),
                Cell::Number(whole(length.shortest)),
                Cell::Number(whole(length.longest)),
            ]);
        }
        html.push_str(&table.finish());
    }
    if !generated.failures.is_empty() {
        let mut table = Table::new("Why others did not", &["status", "reason", "#rows"]);
        for reason in &generated.failures {
            table.row([
                Cell::Text(reason.status.clone()),
                Cell::Text(or_none(&reason.reason)),
                Cell::Number(whole(reason.rows)),
            ]);
        }
        html.push_str(&table.finish());
    }
    if generated.measures.is_none() && !generated.costs.is_empty() {
        let mut table = Table::new("What it took", &["column", "#sum"]);
        for (column, sum) in &generated.costs {
            table.row([Cell::Text(column.clone()), Cell::Number(number(*sum))]);
        }
        html.push_str(&table.finish());
    }
    if let Some(operation) = &generated.operation {
        html.push_str(&operation.render());
    }
    html
}

fn by_label_table(counts: &[LabelCount]) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "(none)".to_owned());
    let mut table = Table::new("What came out", &["label", "status", "#rows"]);
    for label in counts {
        table.row([
            Cell::Text(or_none(&label.label)),
            Cell::Text(or_none(&label.status)),
            Cell::Number(whole(label.rows)),
        ]);
    }
    table.finish()
}
