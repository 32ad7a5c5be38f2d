//! What requests took: tokens and money, a judge's too.

use gleaner_schemas::Version;
use serde::Serialize;
use serde_json::Value;

use super::{GenerationStage, number, rows};
use crate::run_error::RunError;
use crate::sql::{Session, quote_name};

/// Tokens of a price.
const TOKENS_PER_PRICE: f64 = 1e6;

/// What requests took.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Replies that rows were made of.
    pub replies: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of completions.
    pub completion_tokens: u64,
    /// Tokens of a judge's prompts.
    pub judge_prompt_tokens: u64,
    /// Tokens of a judge's replies.
    pub judge_completion_tokens: u64,
    /// Completions (a judge's too) whose server told no usage: their tokens are estimated.
    pub estimated: u64,
    /// Completions whose first reply could be used.
    pub at_first_try: u64,
    /// Completions.
    pub completions: u64,
    /// Rows that are ok.
    pub ok_rows: u64,
    /// Money, a judge's too, where the job file tells prices.
    pub money: Option<f64>,
    /// The part of it that a judge took, where there is one.
    pub judge_money: Option<f64>,
    /// All money for each row that is ok.
    pub money_per_ok_row: Option<f64>,
}

/// Asks what a stage took.
pub(crate) async fn cost(
    session: &Session,
    version: &Version,
    stage: &GenerationStage<'_>,
) -> Result<Cost, RunError> {
    let sum_of = |column: &str| match stage.has(column) {
        true => format!("sum({column})"),
        false => "0".to_owned(),
    };
    let estimated = match stage.has("tokens_estimated") {
        true => "count(*) FILTER (WHERE tokens_estimated)",
        false => "0",
    };
    // Tokens stand on the first row of each completion.
    let sql = format!(
        "SELECT sum(prompt_tokens) AS prompt, sum(completion_tokens) AS completion, {} AS \
         judge_prompt, {} AS judge_completion, {estimated} AS estimated, sum(CASE WHEN prompt_tokens \
         > 0 THEN attempts ELSE 0 END) AS replies, sum(CASE WHEN prompt_tokens > 0 THEN 1 ELSE 0 END) \
         AS completions, sum(CASE WHEN prompt_tokens > 0 AND attempts = 1 THEN 1 ELSE 0 END) AS \
         first, sum(CASE WHEN status = 'ok' THEN 1 ELSE 0 END) AS ok FROM {}",
        sum_of("judge_prompt_tokens"),
        sum_of("judge_completion_tokens"),
        quote_name(stage.name)
    );
    let rows = rows(session, &sql).await?;
    let Some(row) = rows.first() else {
        return Ok(Cost::default());
    };
    let mut cost = Cost {
        replies: number(row, "replies"),
        prompt_tokens: number(row, "prompt"),
        completion_tokens: number(row, "completion"),
        judge_prompt_tokens: number(row, "judge_prompt"),
        judge_completion_tokens: number(row, "judge_completion"),
        estimated: number(row, "estimated"),
        at_first_try: number(row, "first"),
        completions: number(row, "completions"),
        ok_rows: number(row, "ok"),
        ..Cost::default()
    };
    let money = |endpoint: Option<&str>, prompt: u64, completion: u64| {
        let price = version.job_file.get("endpoints")?.get(endpoint?)?;
        let price = price.get("price")?;
        let (input, output) = (
            price.get("input")?.as_f64()?,
            price.get("output")?.as_f64()?,
        );
        Some((prompt as f64 * input + completion as f64 * output) / TOKENS_PER_PRICE)
    };
    let judge = stage.params.pointer("/judge/endpoint");
    let judge = judge.and_then(Value::as_str);
    cost.judge_money = money(
        judge,
        cost.judge_prompt_tokens,
        cost.judge_completion_tokens,
    );
    let writer = stage.params.get("endpoint").and_then(Value::as_str);
    let written = money(writer, cost.prompt_tokens, cost.completion_tokens);
    cost.money = match (written, cost.judge_money) {
        (None, None) => None,
        (written, judged) => Some(written.unwrap_or(0.0) + judged.unwrap_or(0.0)),
    };
    cost.money_per_ok_row = cost
        .money
        .filter(|_| cost.ok_rows > 0)
        .map(|money| money / cost.ok_rows as f64);
    Ok(cost)
}
