//! Documents to look at: some of each tenth of the scores, drawn by a hash of their ids, so that
//! every report of a version shows the same ones.

use std::fmt::Write as _;

use serde::Serialize;

use super::distribution::{Spread, Values};
use super::html::{Cell, Table, Text, number, optional};
use super::input::{Input, count, float, text};
use crate::run_error::RunError;
use crate::sql::quote_name;
use crate::summary::documents::{Place, add_excerpts};

/// What ids are hashed with: a report's sample has nothing to do with a selection's.
const SEED: &str = "report";
/// Candidates of each tenth: so many that ten are among them, and few enough to be ranked quickly.
const CANDIDATES_PER_TENTH: f64 = 200.0;
/// Characters of an id that are shown.
const ID_CHARS_MAX: usize = 80;

/// A tenth of the rows by their scores.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tenth {
    /// From 1, the lowest, to 10.
    pub(crate) tenth: u64,
    /// The highest score in it; of the last the highest of all.
    pub(crate) high: Option<f64>,
    /// Some of its documents, highest score first.
    pub(crate) documents: Vec<Example>,
}

/// A document.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Example {
    /// Its id, or its sequence's.
    pub(crate) id: String,
    /// Where it comes from.
    pub(crate) source: Option<String>,
    /// Its score.
    pub(crate) score: f64,
    /// Further numbers of its row, by name.
    pub(crate) further: Vec<(String, Option<f64>)>,
    /// How its text begins, where that could be read.
    pub(crate) excerpt: Option<String>,
    #[serde(skip)]
    place: Option<Place>,
}

/// A condition that a sample of about `n_wanted` of `n` rows passes, as SQL over an id.
pub(crate) fn sample(id: &str, n_wanted: f64, n: u64) -> String {
    let share = n_wanted / n.max(1) as f64;
    if share >= 1.0 {
        return "true".to_owned();
    }
    let below = (share * f64::from(u32::MAX)) as u32;
    format!("{} < '{below:08x}'", hash(id))
}

/// What rows are drawn in the order of, as SQL over an id.
pub(crate) fn hash(id: &str) -> String {
    format!("md5(concat('{SEED}/', {id}))")
}

/// Some documents of each tenth of `values`, with the numbers in `further`: names, and SQL.
pub(crate) async fn tenths(
    input: &Input,
    values: &Values,
    spread: &Spread,
    further: &[(&str, String)],
) -> Result<Vec<Tenth>, RunError> {
    if input.n_examples == 0 || spread.n == 0 {
        return Ok(Vec::new());
    }
    let has = |column: &str| input.has(&values.table, column);
    let id = if has("doc_id") {
        "doc_id"
    } else {
        "sequence_id"
    };
    if !has(id) {
        return Ok(Vec::new());
    }
    let or_null = |column: &'static str| if has(column) { column } else { "NULL" };
    let tenths = (1..10_u32).filter_map(|tenth| {
        let high = spread.quantile(f64::from(tenth) / 10.0)?;
        Some(format!("WHEN x <= ({high:e}) THEN {tenth} "))
    });
    let mut extra = format!(
        ", {id} AS id, {} AS source, {} AS input_file, {} AS input_row",
        or_null("source"),
        or_null("input_file"),
        or_null("input_row"),
    );
    for (idx, (_, sql)) in further.iter().enumerate() {
        let _ = write!(extra, ", {sql} AS further_{idx}");
    }
    let sql = format!(
        "SELECT * FROM (
           SELECT *, row_number() OVER (
             PARTITION BY tenth ORDER BY {}, id, input_file, input_row) AS r
           FROM (SELECT *, CASE {}ELSE 10 END AS tenth FROM {} WHERE {})
         ) WHERE r <= {} ORDER BY tenth DESC, x DESC, id, input_file, input_row",
        hash("id"),
        tenths.collect::<String>(),
        values.sql(&extra),
        sample("id", 10.0 * CANDIDATES_PER_TENTH, spread.n),
        input.n_examples,
    );
    let mut found: Vec<Tenth> = (1..=10)
        .rev()
        .map(|tenth: u64| Tenth {
            tenth,
            high: match tenth {
                10 => spread.max,
                tenth => spread.quantile(tenth as f64 / 10.0),
            },
            documents: Vec::new(),
        })
        .collect();
    for row in input.rows(&sql).await? {
        let tenth = count(&row, "tenth");
        let (Some(id), Some(score)) = (text(&row, "id"), float(&row, "x")) else {
            continue;
        };
        let numbers = further
            .iter()
            .enumerate()
            .map(|(idx, (name, _))| ((*name).to_owned(), float(&row, &format!("further_{idx}"))));
        let example = Example {
            id,
            source: text(&row, "source"),
            score,
            further: numbers.collect(),
            excerpt: None,
            place: text(&row, "input_file")
                .zip(row.get("input_row").and_then(serde_json::Value::as_u64)),
        };
        if let Some(tenth) = found.iter_mut().find(|it| it.tenth == tenth) {
            tenth.documents.push(example);
        }
    }
    let examples = found.iter_mut().flat_map(|tenth| &mut tenth.documents);
    let wanted = examples.map(|example| (example.place.clone(), &mut example.excerpt));
    add_excerpts(&input.io, input.version(), wanted.collect()).await;
    found.retain(|tenth| !tenth.documents.is_empty());
    Ok(found)
}

/// The documents, tenth by tenth, to be opened one by one.
pub(crate) fn render(score: &str, tenths: &[Tenth]) -> String {
    let mut html = String::new();
    if tenths.is_empty() {
        return html;
    }
    html.push_str("<h4>Examples by tenths of the score</h4>\n");
    for tenth in tenths {
        let ends = match tenth.tenth {
            10 => ", the highest",
            1 => ", the lowest",
            _ => "",
        };
        let _ = write!(
            html,
            "<details><summary>Tenth {} of 10{ends}: {score} up to {}</summary>",
            tenth.tenth,
            optional(tenth.high)
        );
        let further = tenth.documents.first().map(|it| &it.further);
        let mut titles = vec![
            "document".to_owned(),
            "source".to_owned(),
            format!("#{score}"),
        ];
        titles.extend(further.into_iter().flatten().map(|it| format!("#{}", it.0)));
        titles.push("how it begins".to_owned());
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let mut table = Table::new("", &titles);
        for document in &tenth.documents {
            let mut cells = vec![
                Cell::Text(shortened(&document.id)),
                Cell::Text(document.source.clone().unwrap_or_default()),
                Cell::Number(number(document.score)),
            ];
            let further = document.further.iter();
            cells.extend(further.map(|(_, value)| Cell::Number(optional(*value))));
            cells.push(Cell::Html(match &document.excerpt {
                Some(excerpt) => format!("<span class=excerpt dir=auto>{}</span>", Text(excerpt)),
                None => "<span class=hint>not read</span>".to_owned(),
            }));
            table.row(cells);
        }
        html.push_str(&table.finish());
        html.push_str("</details>\n");
    }
    html
}

fn shortened(id: &str) -> String {
    match id.char_indices().nth(ID_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => id.to_owned(),
    }
}

/// A further number: a column, by its own name.
pub(crate) fn own(column: &str) -> (&str, String) {
    (column, quote_name(column))
}
