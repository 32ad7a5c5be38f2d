//! What a run will ask of endpoints, before the first call: calls, tokens and money, estimated from
//! some real items.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{Array as _, AsArray as _};
use gleaner_schemas::columns::TEXT;
use gleaner_schemas::{DocumentColumns, Slice};
use gleaner_storage::documents::{BatchLimits, DocumentReader};
use gleaner_storage::table::BlockingIo;
use serde::Serialize;
use serde_json::Value;

use crate::checked_job::CheckedStage;
use crate::driver::{Driver, FinishedStage};
use crate::inputs::InputSet;
use crate::progress::count;
use crate::run_error::RunError;

/// Items that are looked at.
const ITEMS_SAMPLED: usize = 50;
/// Files that they are taken from.
const FILES_SAMPLED: usize = 5;
/// Memory for reading them.
const SAMPLE_MEMORY_BYTES: u64 = 64 << 20;
/// A query that is not written yet.
const SOME_QUERY: &str = "how does a query look that is of usual length for its kind";

/// What a stage will ask of one endpoint, about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestsReport {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Calls.
    pub calls: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub completion_tokens: u64,
    /// Money, where the job file tells prices.
    pub money: Option<f64>,
    /// Money that the job may spend there.
    pub budget: Option<f64>,
}

impl RequestsReport {
    /// The report as one line.
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "asks {} about {} times: {} + {} tokens",
            self.endpoint,
            count(self.calls),
            count(self.prompt_tokens),
            count(self.completion_tokens)
        );
        if let Some(money) = self.money {
            let _ = write!(text, ", about {money:.4} money");
        }
        if let Some(budget) = self.budget {
            let _ = write!(text, " (the job may spend {budget})");
        }
        text
    }
}

/// Items of stages that are not complete, as far as they can be told.
#[derive(Debug, Default)]
pub(super) struct Items {
    of_stage: BTreeMap<String, u64>,
}

impl Items {
    /// What a stage will ask; nothing for stages without endpoints. Stages must come in order.
    ///
    /// # Errors
    ///
    /// Of the inputs.
    pub(super) async fn requests(
        &mut self,
        driver: &Driver<'_>,
        checked: &CheckedStage,
        finished: &BTreeMap<String, FinishedStage>,
    ) -> Result<Vec<RequestsReport>, RunError> {
        let params = checked.stage.params();
        let n_items = self.count(driver, checked, &params, finished);
        if checked
            .stage
            .requests_for(&[SOME_QUERY.to_owned()])?
            .is_empty()
        {
            return Ok(Vec::new());
        }
        let queries = params.get("queries").and_then(Value::as_str);
        let reads_queries = checked.kind.name() == "graded_documents" && queries.is_none();
        let set = match queries {
            Some(dataset) => driver.inputs.datasets.get(dataset),
            None => Some(&driver.inputs.corpus),
        };
        let texts = match set {
            Some(set) if !reads_queries => sample(driver.io, set).await?,
            _ => vec![SOME_QUERY.to_owned()],
        };
        let stage = std::sync::Arc::clone(&checked.stage);
        let per_item = stage.requests_for(&texts)?;
        let rows: f64 = per_item.iter().map(|it| it.rows).sum();
        let Some(n_items) = n_items else {
            return Ok(Vec::new());
        };
        if rows > 0.0 {
            let n_rows = (rows * n_items as f64).round() as u64;
            self.of_stage.insert(checked.name.clone(), n_rows);
        }
        let endpoints = &driver.job.job.file.endpoints;
        let reports = per_item.iter().map(|it| {
            let times = |each: f64| (each * n_items as f64).ceil() as u64;
            let (prompt_tokens, completion_tokens) =
                (times(it.prompt_tokens), times(it.completion_tokens));
            let endpoint = endpoints.get(&it.endpoint);
            let price = endpoint.and_then(|endpoint| endpoint.price.as_ref());
            RequestsReport {
                endpoint: it.endpoint.clone(),
                calls: times(it.calls),
                prompt_tokens,
                completion_tokens,
                money: price.map(|price| {
                    (prompt_tokens as f64 * price.input + completion_tokens as f64 * price.output)
                        / 1e6
                }),
                budget: endpoint.and_then(|it| it.budget.as_ref()?.money),
            }
        });
        Ok(reports.collect())
    }

    /// Items that a stage reads, and of a selection, that it yields.
    fn count(
        &mut self,
        driver: &Driver<'_>,
        checked: &CheckedStage,
        params: &Value,
        finished: &BTreeMap<String, FinishedStage>,
    ) -> Option<u64> {
        let corpus = driver.inputs.corpus.n_rows();
        if checked.kind.name() == "select" {
            let asked = params.get("documents").and_then(Value::as_u64);
            let n_rows = asked.or_else(|| {
                let fraction = params.get("fraction")?.as_f64()?;
                Some((corpus? as f64 * fraction) as u64)
            });
            if let Some(n_rows) = n_rows {
                let most = corpus.map_or(n_rows, |corpus| n_rows.min(corpus));
                self.of_stage.insert(checked.name.clone(), most);
            }
            return None;
        }
        if let Some(dataset) = params.get("queries").and_then(Value::as_str) {
            return driver.inputs.datasets.get(dataset)?.n_rows();
        }
        match params.get("input").and_then(Value::as_str) {
            Some(stage) => finished
                .get(stage)
                .map(|stage| stage.completed.lanes.ok)
                .or_else(|| self.of_stage.get(stage).copied()),
            None => corpus,
        }
    }
}

/// Texts of the first rows of some files.
async fn sample(io: &BlockingIo, set: &InputSet) -> Result<Vec<String>, RunError> {
    let step = (set.files.len() / FILES_SAMPLED).max(1);
    let files: Vec<_> = set
        .files
        .iter()
        .step_by(step)
        .take(FILES_SAMPLED)
        .map(|file| std::sync::Arc::clone(&file.file))
        .collect();
    let (io, columns): (BlockingIo, DocumentColumns) = (io.clone(), set.columns.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut texts = Vec::new();
        let per_file = ITEMS_SAMPLED.div_ceil(files.len().max(1));
        for file in files {
            let slice = Slice {
                bytes: file.bytes,
                file,
                row_groups: None,
                first_row: 0,
                n_rows: None,
                row_group_facts: Vec::new(),
            };
            let limits = BatchLimits::for_memory(SAMPLE_MEMORY_BYTES);
            // A file that cannot be read is told of elsewhere.
            let Ok(mut reader) = DocumentReader::open(&io, &slice, &columns, None, limits) else {
                continue;
            };
            let Ok(Some(batch)) = reader.next_batch() else {
                continue;
            };
            let Some(text) = batch
                .column_by_name(TEXT)
                .and_then(|it| it.as_string_view_opt())
            else {
                continue;
            };
            let rows = (0..text.len())
                .filter(|&row| text.is_valid(row))
                .take(per_file);
            texts.extend(rows.map(|row| text.value(row).to_owned()));
        }
        texts
    });
    read.await
        .map_err(|error| RunError::Internal(format!("reading a sample panicked: {error}")))
}
