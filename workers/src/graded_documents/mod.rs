//! Stage `graded_documents`: for a query, documents at several levels of relevance, written by a
//! language model in one completion (SyCL, arXiv 2503.23239).
//!
//! The phases are those of [`crate::generation`].

#[cfg(test)]
mod tests;

use std::sync::Arc;

use gleaner_generation::Flag;
use gleaner_generation::attributes::Grid;
use gleaner_schemas::columns::{DOC_ID, STATUS, TEXT};
use gleaner_schemas::job::{Job, JobError};
use gleaner_schemas::{Failure, Resource};
use schemars::{JsonSchema, Schema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::expected_requests::{RequestSample, StageRequests};
use crate::generation::estimate::for_sample;
use crate::generation::params::{
    DemonstrationsParam, GradesParam, JudgeParam, LongDocuments, PromptParam, Sampling,
    default_rejects, document_bytes, one_completion, trec,
};
use crate::generation::phases::{WRITE, WRITE_TASK_BYTES, open};
use crate::generation::setup::{Setup, Shared, outlook, reduced, shared_reduce};
use crate::generation::write_params::Purpose;
use crate::generation::write_stage::{QUERY, QUERY_ID};
use crate::stage::{
    Completed, DocumentSource, ExpectedPhase, MapContext, MapStage, Need, PhaseInput, ReduceInputs,
    ReduceOutput, ReducePhase, Stage, StageKind, Step,
};
use crate::synthetic_queries;

/// Name of the kind.
pub(crate) const KIND: &str = "graded_documents";
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
    #[serde(default = "one_completion")]
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
        3
    }

    fn params_schema(&self) -> Schema {
        schema_for!(DocumentsParams)
    }

    fn check(&self, job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
        let params: DocumentsParams = job.stage_params(name)?;
        check_input(job, name, &params)?;
        let demonstrations = params.demonstrations.as_ref();
        if demonstrations.is_some_and(|it| it.select.is_some()) {
            let place = format!("stages.{name}.demonstrations.select");
            let message = "examples are chosen by the losses of queries, in synthetic_queries only";
            return Err(job.error_at(&place, message, None));
        }
        let setup = Setup::of(job, name, &params.shared())?;
        Ok(Arc::new(GradedDocuments { params, setup }))
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

impl DocumentsParams {
    /// Those that both stages of generation have.
    fn shared(&self) -> Shared<'_> {
        Shared {
            purpose: Purpose::Documents,
            endpoint: &self.endpoint,
            grades: &self.grades,
            completions: ("per_query", self.per_query),
            prompts: &self.prompts,
            demonstrations: self.demonstrations.as_ref(),
            attributes: &self.attributes,
            sampling: &self.sampling,
            seed: self.seed,
            document_bytes: self.document_bytes,
            long_documents: self.long_documents,
            judge: self.judge.as_ref(),
            embeddings: self.embeddings.as_deref(),
            reject: &self.filter.reject,
            with_source_terms: false,
        }
    }
}

#[derive(Debug)]
struct GradedDocuments {
    params: DocumentsParams,
    setup: Setup,
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
        needs.extend(self.setup.needs());
        needs
    }

    fn requests_for(&self, sample: &RequestSample<'_>) -> Result<StageRequests, Failure> {
        for_sample(&self.setup.writing, None, sample)
    }

    fn next(&self, completed: &Completed<'_>) -> Result<Step, Failure> {
        let reads_queries = self.params.input.is_some();
        let before = self
            .setup
            .next_before_filter(self.input(), reads_queries, completed)?;
        Ok(before.unwrap_or_else(|| self.setup.filter(None, None, completed)))
    }

    fn outlook(&self) -> Vec<ExpectedPhase> {
        outlook(self.input(), Vec::new())
    }

    fn reduce(
        &self,
        phase: &ReducePhase,
        inputs: &mut dyn ReduceInputs,
    ) -> Result<ReduceOutput, Failure> {
        let output = shared_reduce(&phase.name, inputs, (DOC_ID, TEXT))?;
        reduced(KIND, &phase.name, output)
    }
}
