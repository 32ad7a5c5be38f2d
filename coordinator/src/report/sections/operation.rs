//! How the requests of a stage of generation fared: money for what is kept, attempts, latency,
//! failures by class, and which texts were flagged.

use gleaner_schemas::VersionStage;
use serde::Serialize;

use crate::report::distribution::{Spread, Values};
use crate::report::html::{Cell, Table, facts, number, optional, percent, whole};
use crate::report::input::{Input, count, text};
use crate::run_error::RunError;
use crate::sql::quote_name;
use crate::summary::generation::{Cost, GenerationStage, cost};

/// Columns without which a table does not tell.
const NEEDED: [&str; 6] = [
    "status",
    "reason",
    "flags",
    "attempts",
    "prompt_tokens",
    "completion_tokens",
];
/// Shares of latencies that are shown.
const SHARES: [f64; 3] = [0.5, 0.95, 0.995];

#[derive(Debug, Serialize)]
pub(super) struct Operation {
    cost: Cost,
    /// Completions by the replies that they needed.
    attempts: Vec<Attempts>,
    /// Of the last reply of each completion, in milliseconds.
    latency_ms: Option<Spread>,
    /// Rows without a usable text, by the class of the reason.
    classes: Vec<Class>,
    /// Rows with a text that have a flag.
    flags: Vec<FlagRate>,
}

#[derive(Debug, Serialize)]
struct Attempts {
    attempts: u64,
    completions: u64,
}

#[derive(Debug, Serialize)]
struct Class {
    status: String,
    class: String,
    rows: u64,
    /// Of all rows.
    share: f64,
}

#[derive(Debug, Serialize)]
struct FlagRate {
    flag: String,
    rows: u64,
    /// Of the rows that have a text.
    share: f64,
}

impl Operation {
    /// Asks; `None` of a table that does not tell.
    pub(super) async fn gather(
        input: &Input,
        name: &str,
        stage: &VersionStage,
    ) -> Result<Option<Self>, RunError> {
        let Some(table) = input.version().tables.get(name) else {
            return Ok(None);
        };
        if input.columns_of(name, &NEEDED).len() < NEEDED.len() {
            return Ok(None);
        }
        let of = GenerationStage {
            name,
            kind: &stage.kind,
            params: &stage.params,
            schema: &table.schema,
        };
        let latency_ms = match input.has(name, "latency_ms") {
            true => {
                let values = Values::column(input, name, "latency_ms");
                let spread = values.spread(input).await?;
                (spread.n > 0).then_some(spread)
            }
            false => None,
        };
        Ok(Some(Self {
            cost: cost(input.session(), input.version(), &of).await?,
            attempts: attempts(input, name).await?,
            latency_ms,
            classes: classes(input, name).await?,
            flags: flags(input, name, &stage.kind).await?,
        }))
    }

    pub(super) fn render(&self) -> String {
        let cost = &self.cost;
        let mut told = vec![
            ("rows that are kept", whole(cost.ok_rows)),
            ("replies", whole(cost.replies)),
        ];
        if cost.completions > 0 {
            let first = cost.at_first_try as f64 / cost.completions as f64;
            let each = cost.replies as f64 / cost.completions as f64;
            told.push(("usable at the first try", percent(first)));
            told.push(("replies for each completion", number(each)));
        }
        if cost.estimated > 0 {
            told.push(("replies without usage, estimated", whole(cost.estimated)));
        }
        if let Some(money) = cost.money {
            let about = if cost.estimated > 0 { "about " } else { "" };
            told.push(("money", format!("{about}{}", number(money))));
        }
        if let Some(money) = cost.judge_money {
            told.push(("of it the judge's", number(money)));
        }
        if let Some(money) = cost.money_per_ok_row {
            told.push(("money for each row that is kept", number(money)));
        }
        let mut html = facts(&told);
        if let Some(latency) = &self.latency_ms {
            let mut table = Table::new(
                "Latency of replies, in milliseconds",
                &["#replies", "#mean", "#p50", "#p95", "#p99.5", "#longest"],
            );
            let quantiles = SHARES.map(|share| Cell::Number(optional(latency.quantile(share))));
            let cells = [
                Cell::Number(whole(latency.n)),
                Cell::Number(optional(latency.mean)),
            ];
            let longest = [Cell::Number(optional(latency.max))];
            table.row(cells.into_iter().chain(quantiles).chain(longest));
            html.push_str(&table.finish());
        }
        let titles = ["#replies needed", "#completions"];
        let mut table = Table::new("Attempts", &titles);
        for it in &self.attempts {
            table.row([
                Cell::Number(whole(it.attempts)),
                Cell::Number(whole(it.completions)),
            ]);
        }
        html.push_str(&table.finish());
        if !self.classes.is_empty() {
            let titles = ["status", "class", "#rows", "#of all rows"];
            let mut table = Table::new("Rows without a usable text, by class", &titles);
            for it in &self.classes {
                table.row([
                    Cell::Text(it.status.clone()),
                    Cell::Text(it.class.clone()),
                    Cell::Number(whole(it.rows)),
                    Cell::Number(percent(it.share)),
                ]);
            }
            html.push_str(&table.finish());
        }
        if !self.flags.is_empty() {
            let titles = ["flag", "#rows", "#of all texts"];
            let mut table = Table::new("Flags of texts", &titles);
            for it in &self.flags {
                table.row([
                    Cell::Text(it.flag.clone()),
                    Cell::Number(whole(it.rows)),
                    Cell::Number(percent(it.share)),
                ]);
            }
            html.push_str(&table.finish());
        }
        html
    }
}

async fn attempts(input: &Input, name: &str) -> Result<Vec<Attempts>, RunError> {
    // Tokens stand on the first row of each completion.
    let sql = format!(
        "SELECT CAST(attempts AS BIGINT) AS attempts, count(*) AS n FROM {} WHERE prompt_tokens > 0 \
         GROUP BY 1 ORDER BY 1",
        quote_name(name)
    );
    let rows = input.rows(&sql).await?;
    let attempts = rows.iter().map(|row| Attempts {
        attempts: count(row, "attempts"),
        completions: count(row, "n"),
    });
    Ok(attempts.collect())
}

async fn classes(input: &Input, name: &str) -> Result<Vec<Class>, RunError> {
    let table = quote_name(name);
    let sql = format!(
        "SELECT status, coalesce(split_part(reason, ':', 1), '(none)') AS class, count(*) AS n FROM \
         {table} WHERE status <> 'ok' GROUP BY 1, 2 ORDER BY n DESC, 1, 2"
    );
    let n_rows = input.n_rows(name).unwrap_or(0).max(1);
    let rows = input.rows(&sql).await?;
    let classes = rows.iter().map(|row| Class {
        status: text(row, "status").unwrap_or_default(),
        class: text(row, "class").unwrap_or_default(),
        rows: count(row, "n"),
        share: count(row, "n") as f64 / n_rows as f64,
    });
    Ok(classes.collect())
}

async fn flags(input: &Input, name: &str, kind: &str) -> Result<Vec<FlagRate>, RunError> {
    let written = if kind == "synthetic_queries" {
        "query"
    } else {
        "text"
    };
    let table = quote_name(name);
    let with_text = format!("FROM {table} WHERE {written} IS NOT NULL");
    let n_texts = input
        .row(&format!("SELECT count(*) AS n {with_text}"))
        .await?;
    let n_texts = count(&n_texts, "n").max(1);
    let sql = format!(
        "SELECT flag, count(*) AS n FROM (SELECT unnest(flags) AS flag {with_text}) GROUP BY flag \
         ORDER BY n DESC, flag"
    );
    let rows = input.rows(&sql).await?;
    let flags = rows.iter().map(|row| FlagRate {
        flag: text(row, "flag").unwrap_or_default(),
        rows: count(row, "n"),
        share: count(row, "n") as f64 / n_texts as f64,
    });
    Ok(flags.collect())
}
