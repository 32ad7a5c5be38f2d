//! Stage `graded_documents`: for a query, documents at several levels of relevance, written by a
//! language model in one completion (SyCL, arXiv 2503.23239).
//!
//! The phases are those of [`crate::generation`].

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_generation::Flag;
use gleaner_generation::attributes::Grid;
use gleaner_generation::prompt::PromptKind;
use gleaner_schemas::columns::{DOC_ID, STATUS, TEXT};
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, Resource};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batch_columns::permanent;
use crate::generation::estimate::{ItemRequests, for_items};
use crate::generation::filter::{self, DUPLICATES, FilterTask};
use crate::generation::params::{
    DemonstrationsParam, EndpointIdentity, GradesParam, JudgeParam, LongDocuments, PromptParam,
    PromptText, Sampling, default_rejects, endpoint, prompts,
};
use crate::generation::phases::{
    FILTER, WRITE, WRITE_TASK_BYTES, WriteTask, judge_task, next_of_demonstrations, notes,
    of_reduce, open, reduce, write_side_inputs,
};
use crate::generation::write_stage::{QUERY, QUERY_ID};
use crate::generation::writing::{JudgeTask, Purpose, ScaleText, WritingParams};
use crate::generation::{DEMONSTRATIONS, duplicates, reduce_demonstrations};
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapPhase, MapStage, Need, Outcome,
    PhaseInput, ReduceInputs, ReduceOutput, ReducePhase, Stage, StageKind, Step,
};
use crate::synthetic_queries::{
    self, check_demonstrations, check_document_bytes, document_bytes, one, trec,
};

/// Name of the kind.
pub(crate) const KIND: &str = "graded_documents";
/// Most completions for one query.
const PER_QUERY_MAX: u16 = 1000;
/// Queries are short, and each takes seconds: so many bytes of them in one task.
const QUERY_TASK_BYTES: u64 = 64 << 10;

/// Parameters of `graded_documents`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentsParams {
    /// A stage of kind `synthetic_queries`, whose queries get documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// A dataset whose texts are queries, in place of `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<String>,
    /// Name of the endpoint that writes.
    pub endpoint: String,
    /// Grades of relevance: `trec`, `esci`, `wands`, `binary`, or a list.
    #[serde(default = "trec")]
    pub grades: GradesParam,
    /// Completions for each query: each gives a document of each grade.
    #[serde(default = "one")]
    pub per_query: u16,
    /// Prompts, each item with one of them; absent: all that come with Gleaner.
    #[serde(default)]
    pub prompts: Vec<PromptParam>,
    /// Few-shot examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demonstrations: Option<DemonstrationsParam>,
    /// What attributes of documents are drawn from.
    #[serde(default)]
    pub attributes: Grid,
    /// How completions are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// Seed of all draws.
    #[serde(default)]
    pub seed: u64,
    /// Bytes of a text that a prompt takes.
    #[serde(default = "document_bytes")]
    pub document_bytes: u64,
    /// What becomes of longer queries.
    #[serde(default)]
    pub long_documents: LongDocuments,
    /// Which documents stay.
    #[serde(default)]
    pub filter: DocumentFilter,
    /// A second model that grades the documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeParam>,
    /// Directory of an encoder of BERT's kind (`config.json`, `tokenizer.json` or `vocab.txt`,
    /// safetensors), whose cosines of texts and what they were written for are a column of the table
    /// and are measured beside BM25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<String>,
}

/// Which documents stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DocumentFilter {
    /// Flags for which documents are rejected.
    pub reject: Vec<Flag>,
}

impl Default for DocumentFilter {
    fn default() -> Self {
        Self {
            reject: default_rejects(),
        }
    }
}

/// The kind `graded_documents`.
#[derive(Debug)]
pub struct GradedDocumentsKind;

impl StageKind for GradedDocumentsKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn code_version(&self) -> u32 {
        2
    }

    fn params_schema(&self) -> Schema {
        schema_for!(DocumentsParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params: DocumentsParams = job.stage_params(name)?;
        check_input(job, name, &params)?;
        check_document_bytes(job, name, params.document_bytes)?;
        check_demonstrations(job, name, params.demonstrations.as_ref())?;
        if params
            .demonstrations
            .as_ref()
            .is_some_and(|it| it.select.is_some())
        {
            let place = format!("stages.{name}.demonstrations.select");
            let message = "examples are chosen by the losses of queries, in synthetic_queries only";
            return Err(job.error_at(&place, message, None));
        }
        params.sampling.check(job, name)?;
        if params.per_query == 0 || params.per_query > PER_QUERY_MAX {
            let message = format!("write a number from 1 to {PER_QUERY_MAX}");
            return Err(job.error_at(&format!("stages.{name}.per_query"), message, None));
        }
        params.attributes.check().map_err(|error| {
            job.error_at(
                &format!("stages.{name}.attributes"),
                error.to_string(),
                None,
            )
        })?;
        let scale = params.grades.scale(job, name)?;
        let judge = match &params.judge {
            Some(judge) => Some(judge_task(job, name, judge)?),
            None => None,
        };
        let kind = PromptKind::GradedDocuments;
        Ok(Arc::new(GradedDocuments {
            prompts: prompts(job, name, "prompts", kind, &params.prompts)?,
            scale: ScaleText::of(&scale),
            endpoint: endpoint(job, name, "endpoint", &params.endpoint)?,
            judge,
            params,
        }))
    }

    fn open(&self, context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
        open(context)
    }
}

fn check_input(job: &Job, name: &str, params: &DocumentsParams) -> Result<(), JobError> {
    let key = format!("stages.{name}");
    let help = "name a stage of kind synthetic_queries as `input`, or a dataset whose text column \
                holds queries as `queries`";
    match (&params.input, &params.queries) {
        (Some(input), None) => {
            let is_earlier = job.file.stages.before(name).any(|known| known == input);
            let spec = job.file.stages.get(input).filter(|_| is_earlier);
            match spec.map(|spec| spec.kind.as_str()) {
                Some(synthetic_queries::KIND) => Ok(()),
                Some(kind) => {
                    let message =
                        format!("stage `{input}` is of kind {kind}, which has no queries");
                    Err(job.error_at(&format!("{key}.input"), message, Some(help.to_owned())))
                }
                None => {
                    let message = format!("there is no stage `{input}` before this one");
                    Err(job.error_at(&format!("{key}.input"), message, Some(help.to_owned())))
                }
            }
        }
        (None, Some(dataset)) if job.file.datasets.contains_key(dataset) => Ok(()),
        (None, Some(dataset)) => {
            let known: Vec<&str> = job.file.datasets.keys().map(String::as_str).collect();
            let nearest = gleaner_schemas::job::nearest(dataset, known.iter().copied());
            let message = format!("there is no dataset `{dataset}`");
            Err(job.error_at(&format!("{key}.queries"), message, nearest))
        }
        _ => Err(job.error_at_key(
            &key,
            "write exactly one of `input` and `queries`",
            Some(help.to_owned()),
        )),
    }
}

#[derive(Debug)]
struct GradedDocuments {
    params: DocumentsParams,
    scale: ScaleText,
    endpoint: EndpointIdentity,
    prompts: Vec<PromptText>,
    judge: Option<JudgeTask>,
}

impl GradedDocuments {
    fn input(&self) -> PhaseInput {
        match (&self.params.input, &self.params.queries) {
            (Some(stage), _) => PhaseInput::Table {
                stage: stage.clone(),
                columns: [QUERY_ID, QUERY, STATUS, DOC_ID]
                    .map(str::to_owned)
                    .to_vec(),
                with_documents: false,
            },
            (None, queries) => PhaseInput::Documents {
                from: DocumentSource::Dataset(queries.clone().unwrap_or_default()),
                sample: None,
            },
        }
    }

    fn write_task(&self) -> WriteTask {
        let params = &self.params;
        WriteTask {
            reads_queries: params.input.is_some(),
            writing: WritingParams {
                purpose: Purpose::Documents,
                endpoint: self.endpoint.clone(),
                scale: self.scale.clone(),
                samples: params.per_query,
                prompts: self.prompts.clone(),
                n_demonstrations: params.demonstrations.as_ref().map_or(0, |it| it.count),
                grid: params.attributes.clone(),
                sampling: params.sampling.clone(),
                seed: params.seed,
                document_bytes: params.document_bytes,
                long_documents: params.long_documents,
                judge: self.judge.clone(),
                with_source_terms: false,
                with_similarity: params.embeddings.is_some(),
            },
        }
    }
}

impl Stage for GradedDocuments {
    fn params(&self) -> Value {
        json!(self.params)
    }

    fn resource_of(&self, phase: &str) -> Resource {
        if phase == WRITE {
            Resource::Network
        } else {
            Resource::Cpu
        }
    }

    fn task_bytes_max(&self, phase: &str) -> Option<u64> {
        let most = QUERY_TASK_BYTES.min(WRITE_TASK_BYTES);
        (phase == WRITE).then_some(most)
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = match (&self.params.input, &self.params.queries) {
            (Some(stage), _) => vec![Need::Stage(stage.clone())],
            (None, queries) => queries.iter().cloned().map(Need::Dataset).collect(),
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
        if let Some(step) = next_of_demonstrations(dataset, None, completed) {
            return Ok(step);
        }
        if !completed.maps.contains_key(WRITE) {
            return Ok(Step::Map(MapPhase {
                name: WRITE.to_owned(),
                params: json!(self.write_task()),
                input: self.input(),
                decision: None,
                side_inputs: write_side_inputs(
                    dataset.map(|_| DEMONSTRATIONS),
                    self.params.embeddings.as_deref(),
                    completed,
                )?,
                is_table: false,
            }));
        }
        if !completed.reduces.contains_key(DUPLICATES) {
            return Ok(reduce(DUPLICATES, WRITE, Vec::new()));
        }
        if completed.maps.contains_key(FILTER) {
            return Ok(Step::Done(Outcome {
                notes: notes(completed),
                ..Outcome::default()
            }));
        }
        let task = FilterTask {
            purpose: Purpose::Documents,
            reject: self.params.filter.reject.clone(),
            keep: self.params.judge.as_ref().map(|judge| judge.keep),
            bm25_top_k: None,
            with_similarity: self.params.embeddings.is_some(),
        };
        Ok(Step::Map(MapPhase {
            name: FILTER.to_owned(),
            params: json!(task),
            input: PhaseInput::Inner {
                phase: WRITE.to_owned(),
                columns: filter::columns(Purpose::Documents, self.params.embeddings.is_some()),
                in_one_task: false,
            },
            decision: None,
            side_inputs: vec![(DUPLICATES.to_owned(), of_reduce(DUPLICATES))],
            is_table: true,
        }))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        let inner = PhaseInput::Inner {
            phase: WRITE.to_owned(),
            columns: Vec::new(),
            in_one_task: false,
        };
        [(WRITE, self.input(), false), (FILTER, inner, true)]
            .map(|(name, input, is_table)| ExpectedPhase {
                name: name.to_owned(),
                input,
                is_table,
            })
            .to_vec()
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        let (table, facts) = match phase.name.as_str() {
            DEMONSTRATIONS => (reduce_demonstrations(inputs)?, json!({})),
            DUPLICATES => {
                let (table, with_near) = duplicates::find(inputs, WRITE, DOC_ID, TEXT)?;
                (table, json!({ "with_near": with_near }))
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
