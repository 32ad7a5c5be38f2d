//! What tasks of `write` are given: everything that their rows depend on besides their items.

use gleaner_generation::attributes::Grid;
use gleaner_generation::prompt::PromptKind;
use gleaner_generation::{Grade, Scale};
use serde::{Deserialize, Serialize};

use super::asking::Untold;
use super::params::{EndpointIdentity, LongDocuments, PromptText, Sampling};
use super::rows::{Lane, Status};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// Queries for a document, all labels in one completion.
    QueriesJoint,
    /// The same, a completion for each label.
    QueriesSeparate,
    /// A passage of each grade, for a query.
    Documents,
}

impl Purpose {
    /// The prompts that it takes.
    pub(crate) fn prompt_kind(self) -> PromptKind {
        match self {
            Self::QueriesJoint => PromptKind::QueriesJoint,
            Self::QueriesSeparate => PromptKind::QueriesSeparate,
            Self::Documents => PromptKind::GradedDocuments,
        }
    }

    pub(crate) fn is_queries(self) -> bool {
        self != Self::Documents
    }
}

/// A scale as tasks are given it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScaleText {
    name: String,
    grades: Vec<Grade>,
}

impl TryFrom<ScaleText> for Scale {
    type Error = String;

    fn try_from(text: ScaleText) -> Result<Self, String> {
        Self::new(text.name, text.grades).map_err(|error| error.to_string())
    }
}

impl ScaleText {
    pub(crate) fn of(scale: &Scale) -> Self {
        Self {
            name: scale.name().to_owned(),
            grades: scale.grades().to_vec(),
        }
    }
}

/// A judge as tasks are given it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JudgeTask {
    pub(crate) endpoint: EndpointIdentity,
    pub(crate) prompt: PromptText,
}

/// Everything that the rows of a task depend on besides its items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WritingParams {
    pub(crate) purpose: Purpose,
    pub(crate) endpoint: EndpointIdentity,
    pub(crate) scale: ScaleText,
    /// Completions for each item.
    pub(crate) samples: u16,
    pub(crate) prompts: Vec<PromptText>,
    /// Demonstrations for each item.
    pub(crate) n_demonstrations: u16,
    pub(crate) grid: Grid,
    pub(crate) sampling: Sampling,
    pub(crate) seed: u64,
    pub(crate) document_bytes: u64,
    pub(crate) long_documents: LongDocuments,
    pub(crate) judge: Option<JudgeTask>,
    /// Whether rows tell how often the document has the terms of its query.
    pub(crate) with_source_terms: bool,
    /// Whether rows tell the cosine of their text and what it was written for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) with_similarity: bool,
}

/// Why nothing is asked about a text, if that is so.
pub(super) fn why_left_out(params: &WritingParams, text: &str) -> Option<Untold> {
    if text.trim().is_empty() {
        return Some(Untold {
            status: Status::Rejected,
            lane: Lane::Ineligible,
            reason: "there is no text".to_owned(),
        });
    }
    let is_too_long =
        params.long_documents == LongDocuments::Reject && text.len() as u64 > params.document_bytes;
    is_too_long.then(|| Untold {
        status: Status::Rejected,
        lane: Lane::Rejected,
        reason: format!("longer than {} bytes", params.document_bytes),
    })
}

/// Whether nothing is asked about a text.
pub(super) fn is_left_out(params: &WritingParams, text: &str) -> bool {
    why_left_out(params, text).is_some()
}
