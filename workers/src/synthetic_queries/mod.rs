//! Stage `synthetic_queries`: queries that a language model writes for documents, each with a label
//! of relevance that it was asked for (arXiv 2305.11944, 2311.07930; SPTAR, arXiv 2307.08303).
//!
//! The phases are those of [`crate::generation`]. Between `write` and `filter`, if `bm25_top_k` is
//! given, [`ranks`] finds where the document of each query stands among all of the corpus.

mod params;
mod ranks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, Resource};
use schemars::{Schema, schema_for};
use serde_json::{Value, json};

pub use params::{QueriesParams, QueryFilter, Strategy};

use self::ranks::{CountTerms, QUERIES, RankDocuments, RankTask, STATISTICS};
use crate::batch_columns::permanent;
use crate::expected_requests::{RequestSample, StageRequests};
use crate::generation::estimate::for_sample;
use crate::generation::example_sets::{self, EXAMPLES, RATE_EXAMPLES, RateTask};
use crate::generation::filter::RANKS;
use crate::generation::params::endpoint;
use crate::generation::phases::{self, WRITE, WRITE_TASK_BYTES, of_reduce, reduce};
use crate::generation::setup::{Setup, expected, outlook, reduced, shared_reduce};
use crate::generation::write_stage::{QUERY, QUERY_ID};
use crate::loss_reduction::LogProbabilities;
use crate::loss_reduction::model_param::ServedModel;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, PhaseInput,
    ReduceInputs, ReduceOutput, ReducePhase, Stage, StageKind, Step,
};

/// Name of the kind.
pub(crate) const KIND: &str = "synthetic_queries";
const COUNT_TERMS: &str = "count_terms";
const RANK: &str = "rank";
/// The kind `synthetic_queries`.
#[derive(Debug)]
pub struct SyntheticQueriesKind;

impl StageKind for SyntheticQueriesKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn code_version(&self) -> u32 {
        3
    }

    fn params_schema(&self) -> Schema {
        schema_for!(QueriesParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params = QueriesParams::of(job, name)?;
        let mut setup = Setup::of(job, name, &params.shared())?;
        setup.rating = rating(job, name, &params)?;
        Ok(Arc::new(SyntheticQueries { params, setup }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        match context.phase {
            COUNT_TERMS => Ok(Box::new(CountTerms::new(context)?)),
            RANK => Ok(Box::new(RankDocuments::new(
                phases::task_params(context)?,
                context,
            )?)),
            _ => phases::open(context),
        }
    }
}

/// How the stage chooses few-shot examples, if it does.
fn rating(job: &Job, name: &str, params: &QueriesParams) -> Result<Option<RateTask>, JobError> {
    let Some(demonstrations) = &params.demonstrations else {
        return Ok(None);
    };
    let Some(select) = &demonstrations.select else {
        return Ok(None);
    };
    let named = select.endpoint.as_ref().unwrap_or(&params.endpoint);
    Ok(Some(RateTask {
        server: ServedModel {
            endpoint: endpoint(job, name, "demonstrations.select.endpoint", named)?,
            model: None,
            log_probabilities: LogProbabilities::Auto,
        },
        sets: select.sets,
        held_out: select.held_out,
        count: demonstrations.count,
        seed: params.seed,
    }))
}

#[derive(Debug)]
struct SyntheticQueries {
    params: QueriesParams,
    setup: Setup,
}

impl SyntheticQueries {
    fn input(&self) -> PhaseInput {
        PhaseInput::Documents {
            from: match &self.params.input {
                Some(stage) => DocumentSource::Stage(stage.clone()),
                None => DocumentSource::Corpus,
            },
            sample: None,
        }
    }

    fn corpus() -> PhaseInput {
        PhaseInput::Documents {
            from: DocumentSource::Corpus,
            sample: None,
        }
    }

    /// What ranks need, in order; `None` when they are there.
    fn next_of_ranks(&self, completed: &Completed<'_>) -> Option<Step> {
        let top_k = self.params.filter.bm25_top_k?;
        let queries = (QUERIES.to_owned(), of_reduce(QUERIES));
        let statistics = (STATISTICS.to_owned(), of_reduce(STATISTICS));
        let map = |name: &str, params: Value, side_inputs| {
            Some(Step::Map(MapPhase {
                name: name.to_owned(),
                params,
                input: Self::corpus(),
                decision: None,
                side_inputs,
                is_table: false,
            }))
        };
        if !completed.reduces.contains_key(QUERIES) {
            return Some(reduce(QUERIES, WRITE, Vec::new()));
        }
        if !completed.maps.contains_key(COUNT_TERMS) {
            return map(COUNT_TERMS, json!({}), vec![queries]);
        }
        if !completed.reduces.contains_key(STATISTICS) {
            return Some(reduce(STATISTICS, COUNT_TERMS, Vec::new()));
        }
        let (k1, b) = (self.params.filter.bm25_k1, self.params.filter.bm25_b);
        if !completed.maps.contains_key(RANK) {
            let rank_max = ranks::rank_max(top_k);
            let task = RankTask { k1, b, rank_max };
            return map(RANK, json!(task), vec![queries, statistics]);
        }
        if !completed.reduces.contains_key(RANKS) {
            return Some(reduce(RANKS, RANK, vec![queries]));
        }
        None
    }
}

impl Stage for SyntheticQueries {
    fn params(&self) -> Value {
        json!(self.params)
    }

    fn resource_of(&self, phase: &str) -> Resource {
        if phase == WRITE || phase == RATE_EXAMPLES {
            Resource::Network
        } else {
            Resource::Cpu
        }
    }

    fn task_bytes_max(&self, phase: &str) -> Option<u64> {
        (phase == WRITE).then_some(WRITE_TASK_BYTES)
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = match &self.params.input {
            Some(stage) => vec![Need::Stage(stage.clone())],
            None => vec![Need::Corpus],
        };
        needs.extend(self.setup.needs());
        needs
    }

    fn requests_for(&self, sample: &RequestSample<'_>) -> Result<StageRequests, Failure> {
        for_sample(&self.setup.writing, self.setup.rating.as_ref(), sample)
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let before = self
            .setup
            .next_before_filter(self.input(), false, completed)?;
        if let Some(step) = before.or_else(|| self.next_of_ranks(completed)) {
            return Ok(step);
        }
        let bm25_top_k = self.params.filter.bm25_top_k;
        let ranks = bm25_top_k.map(|_| (RANKS.to_owned(), of_reduce(RANKS)));
        Ok(self.setup.filter(bm25_top_k, ranks, completed))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        let ranks = self
            .params
            .filter
            .bm25_top_k
            .map(|_| [COUNT_TERMS, RANK].map(|name| expected(name, Self::corpus(), false)));
        outlook(self.input(), ranks.into_iter().flatten().collect())
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        let name = phase.name.as_str();
        let output = match name {
            EXAMPLES => {
                let task = self.setup.rating.as_ref();
                let task = task.ok_or_else(|| permanent("no examples are to be chosen"))?;
                Some(example_sets::choose(task, inputs)?)
            }
            QUERIES => Some((ranks::queries(inputs, WRITE)?, json!({}))),
            STATISTICS => Some((ranks::statistics(inputs, COUNT_TERMS)?, json!({}))),
            RANKS => {
                let top_k = self.params.filter.bm25_top_k.unwrap_or(0);
                let ranks = ranks::ranks(inputs, RANK, ranks::rank_max(top_k))?;
                Some((ranks, json!({})))
            }
            _ => shared_reduce(name, inputs, (QUERY_ID, QUERY))?,
        };
        reduced(KIND, name, output)
    }
}
