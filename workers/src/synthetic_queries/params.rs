//! Parameters of `synthetic_queries`.

use gleaner_generation::Flag;
use gleaner_generation::attributes::Grid;
use gleaner_generation::prompt::{DEMONSTRATIONS_MAX, PromptKind};
use gleaner_schemas::job::{Job, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::generation::params::{
    DemonstrationsParam, GradesParam, JudgeParam, LongDocuments, PromptParam, Sampling,
    default_rejects,
};
use crate::generation::writing::Purpose;

/// Most completions for one document.
const PER_DOCUMENT_MAX: u16 = 1000;
/// Longest part of a document that a prompt takes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

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
    #[serde(default = "one")]
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

pub(crate) fn trec() -> GradesParam {
    GradesParam::Named("trec".to_owned())
}

pub(crate) fn one() -> u16 {
    1
}

pub(crate) fn document_bytes() -> u64 {
    12_000
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
        if params.per_document == 0 || params.per_document > PER_DOCUMENT_MAX {
            return at(
                "per_document",
                format!("write a number from 1 to {PER_DOCUMENT_MAX}"),
            );
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
        check_document_bytes(job, name, params.document_bytes)?;
        check_demonstrations(job, name, params.demonstrations.as_ref())?;
        params.sampling.check(job, name)?;
        params.attributes.check().map_err(|error| {
            job.error_at(
                &format!("stages.{name}.attributes"),
                error.to_string(),
                None,
            )
        })?;
        Ok(params)
    }

    pub(crate) fn purpose(&self) -> Purpose {
        match self.strategy {
            Strategy::Joint => Purpose::QueriesJoint,
            Strategy::Separate => Purpose::QueriesSeparate,
        }
    }

    pub(crate) fn prompt_kind(&self) -> PromptKind {
        self.purpose().prompt_kind()
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

pub(crate) fn check_document_bytes(job: &Job, name: &str, bytes: u64) -> Result<(), JobError> {
    if (1..=DOCUMENT_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    let message = format!("write a number from 1 to {DOCUMENT_BYTES_MAX}");
    Err(job.error_at(&format!("stages.{name}.document_bytes"), message, None))
}

pub(crate) fn check_demonstrations(
    job: &Job,
    name: &str,
    demonstrations: Option<&DemonstrationsParam>,
) -> Result<(), JobError> {
    let Some(demonstrations) = demonstrations else {
        return Ok(());
    };
    let place = |key: &str| format!("stages.{name}.demonstrations.{key}");
    if !job.file.datasets.contains_key(&demonstrations.dataset) {
        let known: Vec<&str> = job.file.datasets.keys().map(String::as_str).collect();
        let help = gleaner_schemas::job::nearest(&demonstrations.dataset, known.iter().copied());
        let message = format!("there is no dataset `{}`", demonstrations.dataset);
        return Err(job.error_at(&place("dataset"), message, help));
    }
    if usize::from(demonstrations.count) > DEMONSTRATIONS_MAX || demonstrations.count == 0 {
        let message = format!("write a number from 1 to {DEMONSTRATIONS_MAX}");
        return Err(job.error_at(&place("count"), message, None));
    }
    if let Some(select) = &demonstrations.select {
        let range = 1..=DEMONSTRATIONS_MAX;
        for (key, value) in [("sets", select.sets), ("held_out", select.held_out)] {
            if !range.contains(&usize::from(value)) {
                let message = format!("write a number from 1 to {DEMONSTRATIONS_MAX}");
                return Err(job.error_at(&place(&format!("select.{key}")), message, None));
            }
        }
    }
    Ok(())
}
