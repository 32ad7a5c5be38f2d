//! Stage `synthetic_queries`: queries that a language model writes for documents, each with a label
//! of relevance that it was asked for (arXiv 2305.11944, 2311.07930; SPTAR, arXiv 2307.08303).
//!
//! The phases are those of [`crate::generation`]. Between `write` and `filter`, if `bm25_top_k` is
//! given, [`ranks`] finds where the document of each query stands among all of the corpus.

mod params;
mod ranks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, Resource};
use schemars::{Schema, schema_for};
use serde_json::{Value, json};

pub use params::{QueriesParams, QueryFilter, Strategy};
pub(crate) use params::{check_demonstrations, check_document_bytes, document_bytes, one, trec};

use self::ranks::{CountTerms, QUERIES, RankDocuments, RankTask, STATISTICS};
use crate::batch_columns::permanent;
use crate::generation::estimate::{ItemRequests, for_items};
use crate::generation::example_sets::{self, EXAMPLES, RATE_EXAMPLES, RateTask};
use crate::generation::filter::{self, DUPLICATES, FilterTask, RANKS};
use crate::generation::params::{EndpointIdentity, PromptText, endpoint, prompts};
use crate::generation::phases::{
    self, FILTER, WRITE, WRITE_TASK_BYTES, WriteTask, judge_task, next_of_demonstrations, notes,
    of_reduce, reduce, write_side_inputs,
};
use crate::generation::write_stage::{QUERY, QUERY_ID};
use crate::generation::writing::{JudgeTask, ScaleText, WritingParams};
use crate::generation::{DEMONSTRATIONS, duplicates, reduce_demonstrations};
use crate::loss_reduction::LogProbabilities;
use crate::loss_reduction::model_param::ServedModel;
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Stage, StageKind, Step,
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
        2
    }

    fn params_schema(&self) -> Schema {
        schema_for!(QueriesParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params = QueriesParams::of(job, name)?;
        let scale = params.grades.scale(job, name)?;
        let writer = endpoint(job, name, "endpoint", &params.endpoint)?;
        let judge = match &params.judge {
            Some(judge) => Some(judge_task(job, name, judge)?),
            None => None,
        };
        let rating = rating(job, name, &params)?;
        let kind = params.prompt_kind();
        Ok(Arc::new(SyntheticQueries {
            prompts: prompts(job, name, "prompts", kind, &params.prompts)?,
            scale: ScaleText::of(&scale),
            endpoint: writer,
            judge,
            rating,
            params,
        }))
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
    scale: ScaleText,
    endpoint: EndpointIdentity,
    prompts: Vec<PromptText>,
    judge: Option<JudgeTask>,
    /// How few-shot examples are chosen, where they are the same for all.
    rating: Option<RateTask>,
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

    fn write_task(&self) -> WriteTask {
        let params = &self.params;
        WriteTask {
            reads_queries: false,
            writing: WritingParams {
                purpose: params.purpose(),
                endpoint: self.endpoint.clone(),
                scale: self.scale.clone(),
                samples: params.per_document,
                prompts: self.prompts.clone(),
                n_demonstrations: params.demonstrations.as_ref().map_or(0, |it| it.count),
                grid: params.attributes.clone(),
                sampling: params.sampling.clone(),
                seed: params.seed,
                document_bytes: params.document_bytes,
                long_documents: params.long_documents,
                judge: self.judge.clone(),
                with_source_terms: params.filter.bm25_top_k.is_some(),
                with_similarity: params.embeddings.is_some(),
            },
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
        let dataset = self.params.demonstrations.as_ref();
        needs.extend(dataset.map(|it| Need::Pairs(it.dataset.clone())));
        needs.extend(self.params.embeddings.clone().map(Need::Encoder));
        needs
    }

    fn requests_for(&self, texts: &[String]) -> Result<Vec<ItemRequests>, Failure> {
        for_items(&self.write_task().writing, texts)
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let dataset = self
            .params
            .demonstrations
            .as_ref()
            .map(|it| it.dataset.as_str());
        if let Some(step) = next_of_demonstrations(dataset, self.rating.as_ref(), completed) {
            return Ok(step);
        }
        if !completed.maps.contains_key(WRITE) {
            return Ok(Step::Map(MapPhase {
                name: WRITE.to_owned(),
                params: json!(self.write_task()),
                input: self.input(),
                decision: None,
                side_inputs: write_side_inputs(
                    dataset.map(|_| match self.rating {
                        Some(_) => EXAMPLES,
                        None => DEMONSTRATIONS,
                    }),
                    self.params.embeddings.as_deref(),
                    completed,
                )?,
                is_table: false,
            }));
        }
        if !completed.reduces.contains_key(DUPLICATES) {
            return Ok(reduce(DUPLICATES, WRITE, Vec::new()));
        }
        if let Some(step) = self.next_of_ranks(completed) {
            return Ok(step);
        }
        if completed.maps.contains_key(FILTER) {
            return Ok(Step::Done(Outcome {
                notes: notes(completed),
                ..Outcome::default()
            }));
        }
        let purpose = self.params.purpose();
        let task = FilterTask {
            purpose,
            reject: self.params.filter.reject.clone(),
            keep: self.params.judge.as_ref().map(|judge| judge.keep),
            bm25_top_k: self.params.filter.bm25_top_k,
            with_similarity: self.params.embeddings.is_some(),
        };
        let mut side_inputs = vec![(DUPLICATES.to_owned(), of_reduce(DUPLICATES))];
        if task.bm25_top_k.is_some() {
            side_inputs.push((RANKS.to_owned(), of_reduce(RANKS)));
        }
        Ok(Step::Map(MapPhase {
            name: FILTER.to_owned(),
            params: json!(task),
            input: PhaseInput::Inner {
                phase: WRITE.to_owned(),
                columns: filter::columns(purpose, self.params.embeddings.is_some()),
                in_one_task: false,
            },
            decision: None,
            side_inputs,
            is_table: true,
        }))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        let expected = |name: &str, input, is_table| ExpectedPhase {
            name: name.to_owned(),
            input,
            is_table,
        };
        let mut phases = vec![expected(WRITE, self.input(), false)];
        if self.params.filter.bm25_top_k.is_some() {
            phases.push(expected(COUNT_TERMS, Self::corpus(), false));
            phases.push(expected(RANK, Self::corpus(), false));
        }
        let input = PhaseInput::Inner {
            phase: WRITE.to_owned(),
            columns: Vec::new(),
            in_one_task: false,
        };
        phases.push(expected(FILTER, input, true));
        phases
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        let (table, facts) = match phase.name.as_str() {
            DEMONSTRATIONS => (reduce_demonstrations(inputs)?, json!({})),
            EXAMPLES => {
                let task = self.rating.as_ref();
                let task = task.ok_or_else(|| permanent("no examples are to be chosen"))?;
                example_sets::choose(task, inputs)?
            }
            DUPLICATES => {
                let (table, with_near) = duplicates::find(inputs, WRITE, QUERY_ID, QUERY)?;
                (table, json!({ "with_near": with_near }))
            }
            QUERIES => (ranks::queries(inputs, WRITE)?, json!({})),
            STATISTICS => (ranks::statistics(inputs, COUNT_TERMS)?, json!({})),
            RANKS => {
                let top_k = self.params.filter.bm25_top_k.unwrap_or(0);
                (
                    ranks::ranks(inputs, RANK, ranks::rank_max(top_k))?,
                    json!({}),
                )
            }
            other => return Err(permanent(format!("{KIND} has no reduce {other}"))),
        };
        Ok(ReduceOutput {
            facts,
            tables: BTreeMap::from([(phase.name.clone(), vec![table])]),
            ..ReduceOutput::default()
        })
    }
}
