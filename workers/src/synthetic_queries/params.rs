//! Parameters of `synthetic_queries`.

use gleaner_generation::Flag;
use gleaner_generation::attributes::Grid;
use gleaner_schemas::job::{Job, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generation::params::{
    DemonstrationsParam, GradesParam, JudgeParam, LongDocuments, PromptParam, Sampling,
    default_rejects, document_bytes, one_completion, trec,
};
use crate::generation::setup::Shared;
use crate::generation::write_params::Purpose;

/// How labels are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All in one completion, each lower grade relative to the relevant one (arXiv 2311.07930).
    #[default]
    Joint,
    /// A completion for each (arXiv 2305.11944).
    Separate,
}

/// Which queries stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueryFilter {
    /// Relevant queries must find their document among so many of the corpus by BM25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bm25_top_k: Option<u32>,
    /// How soon repetitions of a term count for nothing more.
    pub bm25_k1: f64,
    /// How much long documents are held back.
    pub bm25_b: f64,
    /// Flags for which queries are rejected.
    pub reject: Vec<Flag>,
}

impl Default for QueryFilter {
    fn default() -> Self {
        Self {
            bm25_top_k: None,
            bm25_k1: 0.9,
            bm25_b: 0.4,
            reject: default_rejects(),
        }
    }
}

/// Parameters of `synthetic_queries`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueriesParams {
    /// A materialised selection whose documents get queries; absent: the corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Name of the endpoint that writes.
    pub endpoint: String,
    /// Grades of relevance: `trec`, `esci`, `wands`, `binary`, or a list.
    #[serde(default = "trec")]
    pub grades: GradesParam,
    /// How labels are asked for.
    #[serde(default)]
    pub strategy: Strategy,
    /// Completions for each document.
    #[serde(default = "one_completion")]
    pub per_document: u16,
    /// Prompts, each item with one of them; absent: all that come with Gleaner.
    #[serde(default)]
    pub prompts: Vec<PromptParam>,
    /// Few-shot examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demonstrations: Option<DemonstrationsParam>,
    /// What attributes of queries are drawn from.
    #[serde(default)]
    pub attributes: Grid,
    /// How completions are drawn.
    #[serde(default)]
    pub sampling: Sampling,
    /// Seed of all draws.
    #[serde(default)]
    pub seed: u64,
    /// Bytes of a document that a prompt takes.
    #[serde(default = "document_bytes")]
    pub document_bytes: u64,
    /// What becomes of longer ones.
    #[serde(default)]
    pub long_documents: LongDocuments,
    /// Which queries stay.
    #[serde(default)]
    pub filter: QueryFilter,
    /// A second model that grades the queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeParam>,
    /// Directory of an encoder of BERT's kind (`config.json`, `tokenizer.json` or `vocab.txt`,
    /// safetensors), whose cosines of texts and what they were written for are a column of the table
    /// and are measured beside BM25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<String>,
}

impl QueriesParams {
    /// Reads and checks the parameters of a stage.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub fn of(job: &Job, name: &str) -> Result<Self, JobError> {
        let params: Self = job.stage_params(name)?;
        let at = |key: &str, message: String| {
            Err(job.error_at(&format!("stages.{name}.{key}"), message, None))
        };
        if let Some(input) = &params.input {
            check_selection(job, name, input)?;
        }
        if params.filter.bm25_top_k == Some(0) {
            return at(
                "filter.bm25_top_k",
                "nothing is among the first 0".to_owned(),
            );
        }
        let (k1, b) = (params.filter.bm25_k1, params.filter.bm25_b);
        if !(k1.is_finite() && k1 >= 0.0 && (0.0..=1.0).contains(&b)) {
            return at(
                "filter",
                "bm25_k1 is 0 or more, bm25_b from 0 to 1".to_owned(),
            );
        }
        Ok(params)
    }

    pub(crate) fn purpose(&self) -> Purpose {
        match self.strategy {
            Strategy::Joint => Purpose::QueriesJoint,
            Strategy::Separate => Purpose::QueriesSeparate,
        }
    }

    /// Those that both stages of generation have.
    pub(super) fn shared(&self) -> Shared<'_> {
        Shared {
            purpose: self.purpose(),
            endpoint: &self.endpoint,
            grades: &self.grades,
            completions: ("per_document", self.per_document),
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
            with_source_terms: self.filter.bm25_top_k.is_some(),
        }
    }
}

/// An input must be a selection that holds its documents.
pub(crate) fn check_selection(job: &Job, name: &str, input: &str) -> Result<(), JobError> {
    let place = format!("stages.{name}.input");
    let earlier = job.file.stages.before(name).any(|known| known == input);
    if !earlier {
        let known: Vec<&str> = job.file.stages.before(name).collect();
        let help = gleaner_schemas::job::nearest(input, known.iter().copied());
        let message = format!("there is no stage `{input}` before this one");
        return Err(job.error_at(&place, message, help));
    }
    let spec = job.file.stages.get(input);
    let is_selection = spec.is_some_and(|spec| {
        spec.kind == "select" && spec.params.get("materialize").is_some_and(|it| it == true)
    });
    if is_selection {
        return Ok(());
    }
    let help = "name a stage of kind select with `materialize: true`, or leave `input` out for the \
                corpus";
    let message = format!("stage `{input}` does not hold documents");
    Err(job.error_at(&place, message, Some(help.to_owned())))
}
