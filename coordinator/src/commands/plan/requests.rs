//! What a run will ask of endpoints, before the first call: calls, tokens and money, estimated from
//! some real items.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use gleaner_schemas::{Reader, Shard};
use gleaner_workers::expected_requests::{PhaseRequests, RequestSample, Requests};
use gleaner_workers::stage::{DocumentSource, Need, PhaseInput};
use serde::Serialize;
use serde_json::Value;

use super::sample::{self, Sample};
use crate::checked_job::CheckedStage;
use crate::driver::{Driver, FinishedStage, OpenPhase, SoFar};
use crate::phase_input::Sources;
use crate::progress::count;
use crate::run_error::RunError;

/// A query that is not written yet.
const SOME_QUERY: &str = "how does a query look that is of usual length for its kind";

/// What a stage will ask of one endpoint, about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestsReport {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Calls, without second tries where a reply cannot be read.
    pub calls: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of replies.
    pub completion_tokens: u64,
    /// Money, where the job file tells prices.
    pub money: Option<f64>,
    /// Money that the job may spend there.
    pub budget: Option<f64>,
    /// The calls by what they are for.
    pub purposes: BTreeMap<&'static str, u64>,
}

impl RequestsReport {
    /// The report as one line.
    pub(super) fn render(&self) -> String {
        let mut text = format!("asks {} about {} times", self.endpoint, count(self.calls));
        if self.purposes.len() > 1 {
            let purposes = self.purposes.iter();
            let purposes =
                purposes.map(|(purpose, calls)| format!("{} to {purpose}", count(*calls)));
            let _ = write!(text, " ({})", purposes.collect::<Vec<_>>().join(", "));
        }
        let _ = write!(
            text,
            ": {} + {} tokens",
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

    fn add(&mut self, purpose: &'static str, requests: Requests) {
        let calls = whole(requests.calls);
        self.calls += calls;
        self.prompt_tokens += whole(requests.prompt_tokens);
        self.completion_tokens += whole(requests.completion_tokens);
        *self.purposes.entry(purpose).or_default() += calls;
    }
}

/// A little less than a whole number is one: averages are sums of fractions.
fn whole(number: f64) -> u64 {
    (number - 1e-6).ceil() as u64
}

/// How far a stage is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a> {
    /// What of it is complete.
    pub(super) so_far: &'a SoFar,
    /// The phase that has open tasks.
    pub(super) open: Option<&'a OpenPhase>,
}

/// What a stage will ask.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// By endpoint.
    pub(super) reports: Vec<RequestsReport>,
    /// A sentence where it cannot be told.
    pub(super) note: Option<String>,
}

/// Items of stages that are not complete, as far as they can be told.
#[derive(Debug, Default)]
pub(super) struct Items {
    of_stage: BTreeMap<String, f64>,
}

impl Items {
    /// What a stage that is not complete will ask. Stages must come in order.
    ///
    /// # Errors
    ///
    /// Of the inputs.
    pub(super) async fn requests(
        &mut self,
        driver: &Driver<'_>,
        checked: &CheckedStage,
        finished: &BTreeMap<String, FinishedStage>,
        progress: Option<Progress<'_>>,
    ) -> Result<Asked, RunError> {
        self.count_selection(driver, checked);
        let stage = &checked.stage;
        let nothing = RequestSample::default();
        let Some(first) = stage.outlook().into_iter().next() else {
            return Ok(Asked::default());
        };
        if stage.requests_for(&nothing)?.phases.is_empty() {
            return Ok(Asked::default());
        }
        let (sample, n_items) = self.input(driver, &first.input, finished).await?;
        let mut pairs = Vec::new();
        for need in stage.needs() {
            if let Need::Pairs(dataset) = need {
                let from = DocumentSource::Dataset(dataset);
                pairs = read(driver, &documents(from), finished).await?.0.pairs;
            }
        }
        let requests = stage.requests_for(&RequestSample {
            items: &sample.texts,
            pairs: &pairs,
        })?;
        if let Some(n_items) = n_items {
            let n_rows = n_items * requests.rows_per_item;
            self.of_stage.insert(checked.name.clone(), n_rows);
        }
        let mut asked = Asked::default();
        for phase in &requests.phases {
            let is_complete = |it: Progress<'_>| it.so_far.maps.contains(phase.phase);
            if progress.is_some_and(is_complete) {
                continue;
            }
            let open = progress
                .and_then(|it| it.open)
                .filter(|open| open.plan.phase == phase.phase);
            let left = match open {
                Some(open) => left_of(open, &sample).or(n_items),
                None => n_items,
            };
            // What is asked once was asked by the first task.
            let is_begun = open.is_some_and(|open| open.n_reused > 0);
            let once = phase.once * if is_begun { 0.0 } else { 1.0 };
            match left {
                Some(left) => asked.add(driver, phase, phase.per_item * left + once),
                None if phase.per_item == Requests::default() => asked.add(driver, phase, once),
                None => {
                    let Requests { calls, .. } = phase.per_item;
                    asked.note = Some(format!(
                        "asks {} {calls} time(s) for each item, to {}; how many items it has is known \
                         when its input is complete",
                        phase.endpoint, phase.purpose
                    ));
                }
            }
        }
        Ok(asked)
    }

    /// A sample of what a phase reads, and the items of it, where they can be told.
    async fn input(
        &self,
        driver: &Driver<'_>,
        input: &PhaseInput,
        finished: &BTreeMap<String, FinishedStage>,
    ) -> Result<(Sample, Option<f64>), RunError> {
        let stage = match input {
            PhaseInput::Documents { from, .. } => match from {
                DocumentSource::Stage(stage) => Some(stage),
                DocumentSource::Corpus | DocumentSource::Dataset(_) => None,
            },
            PhaseInput::Table { stage, .. } => Some(stage),
            PhaseInput::Inner { .. } => None,
        };
        let Some(stage) = stage.filter(|stage| !finished.contains_key(*stage)) else {
            let (sample, shards) = read(driver, input, finished).await?;
            let n_items = sample.items_of_files(&shards);
            return Ok((sample, n_items));
        };
        let sample = match input {
            PhaseInput::Table { .. } => Sample::of_text(SOME_QUERY),
            _ => {
                read(driver, &documents(DocumentSource::Corpus), finished)
                    .await?
                    .0
            }
        };
        let n_rows = self.of_stage.get(stage).copied();
        let n_items = n_rows.and_then(|n_rows| sample.items_of_chosen(n_rows));
        Ok((sample, n_items))
    }

    /// Rows that a selection will have, where the job file tells.
    fn count_selection(&mut self, driver: &Driver<'_>, checked: &CheckedStage) {
        if checked.kind.name() != "select" {
            return;
        }
        let params = checked.stage.params();
        let corpus = driver.inputs.corpus.n_rows();
        let asked = params.get("documents").and_then(Value::as_u64);
        let n_rows = asked.or_else(|| {
            let fraction = params.get("fraction")?.as_f64()?;
            Some((corpus? as f64 * fraction) as u64)
        });
        if let Some(n_rows) = n_rows {
            let most = corpus.map_or(n_rows, |corpus| n_rows.min(corpus));
            self.of_stage.insert(checked.name.clone(), most as f64);
        }
    }
}

impl Asked {
    fn add(&mut self, driver: &Driver<'_>, phase: &PhaseRequests, requests: Requests) {
        let endpoint = driver.job.job.file.endpoints.get(&phase.endpoint);
        let known = self
            .reports
            .iter()
            .position(|report| report.endpoint == phase.endpoint);
        let idx = known.unwrap_or_else(|| {
            self.reports.push(RequestsReport {
                endpoint: phase.endpoint.clone(),
                calls: 0,
                prompt_tokens: 0,
                completion_tokens: 0,
                money: None,
                budget: endpoint.and_then(|it| it.budget.as_ref()?.money),
                purposes: BTreeMap::new(),
            });
            self.reports.len() - 1
        });
        let report = &mut self.reports[idx];
        report.add(phase.purpose, requests);
        let price = endpoint.and_then(|endpoint| endpoint.price.as_ref());
        report.money = price.map(|price| {
            let prompt = report.prompt_tokens as f64 * price.input;
            (prompt + report.completion_tokens as f64 * price.output) / 1e6
        });
    }
}

/// Items of the tasks of a phase that have no attempt.
fn left_of(open: &OpenPhase, sample: &Sample) -> Option<f64> {
    let n_rows = open.plan.n_rows?.saturating_sub(open.rows_reused);
    sample.items_of_rows(n_rows as f64)
}

fn documents(from: DocumentSource) -> PhaseInput {
    PhaseInput::Documents { from, sample: None }
}

async fn read(
    driver: &Driver<'_>,
    input: &PhaseInput,
    finished: &BTreeMap<String, FinishedStage>,
) -> Result<(Sample, Vec<Shard>), RunError> {
    let sources = Sources {
        inputs: driver.inputs,
        stages: finished,
        own: ("", None),
        maps: &BTreeMap::new(),
        output: driver.output,
    };
    let (reader, shards): (Reader, Vec<Shard>) = sources.shards(input, u64::MAX)?;
    let sample = sample::read(driver.io, reader, &shards).await?;
    Ok((sample, shards))
}
