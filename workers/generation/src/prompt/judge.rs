//! Requests to a judge: grades for pairs of a query and a document, in a drawn order, so that no
//! grade always stands at the same place.

use serde::Serialize;

use super::asked::AskedJudgements;
use super::context::{self, GradeContext};
use super::template::{Prompt, PromptKind, RenderError};
use super::{Rendered, TextLimits};
use crate::draw;
use crate::scale::Scale;
use crate::text::cut;

/// Most pairs of one request.
pub const JUDGED_PAIRS_MAX: usize = 32;

/// A query and a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The query.
    pub query: &'a str,
    /// The document.
    pub document: &'a str,
}

/// One request to a judge.
#[derive(Debug, Clone, Copy)]
pub struct JudgeRequest<'a> {
    /// What the order of pairs is drawn for: the document or query that all of them share.
    pub item_id: &'a str,
    /// Seed of the order.
    pub seed: u64,
    /// The first [`JUDGED_PAIRS_MAX`] of them are judged.
    pub pairs: &'a [Pair<'a>],
    /// What grades mean: the wording that the generator had.
    pub scale: &'a Scale,
    /// Budgets of texts.
    pub limits: TextLimits,
}

impl JudgeRequest<'_> {
    /// What a reply must hold.
    #[must_use]
    pub fn asked(&self) -> AskedJudgements {
        let n_pairs = self.pairs.len().min(JUDGED_PAIRS_MAX);
        let order = draw::permutation(n_pairs, "judge", self.seed, self.item_id);
        AskedJudgements {
            scale: self.scale.clone(),
            order,
        }
    }
}

/// What the templates are given.
#[derive(Debug, Serialize)]
struct JudgeContext<'a> {
    pairs: Vec<PairContext<'a>>,
    fence: String,
    grades: Vec<GradeContext<'a>>,
    layout: String,
}

#[derive(Debug, Serialize)]
struct PairContext<'a> {
    key: String,
    query: &'a str,
    document: &'a str,
}

/// Whether a text was cut comes second.
fn context<'a>(request: &JudgeRequest<'a>, asked: &AskedJudgements) -> (JudgeContext<'a>, bool) {
    let mut truncated = false;
    let mut shown = |text: &'a str| {
        let (text, is_cut) = cut(text, request.limits.document_bytes);
        truncated |= is_cut;
        text
    };
    let pairs: Vec<PairContext<'a>> = asked
        .order
        .iter()
        .enumerate()
        .map(|(place, &index)| PairContext {
            key: asked.entry_key(place),
            query: shown(request.pairs[index].query),
            document: shown(request.pairs[index].document),
        })
        .collect();
    let context = JudgeContext {
        fence: context::fence(pairs.iter().flat_map(|pair| [pair.query, pair.document])),
        pairs,
        grades: context::grades(request.scale),
        layout: asked.layout(),
    };
    (context, truncated)
}

/// The messages of a request to a judge, and the schema of the reply.
pub fn render_judgement(
    prompt: &Prompt,
    request: &JudgeRequest<'_>,
) -> Result<Rendered, RenderError> {
    prompt.expect_kind(PromptKind::Judge)?;
    let asked = request.asked();
    let (context, truncated) = context(request, &asked);
    Ok(Rendered {
        messages: prompt.messages(&context)?,
        schema: asked.schema(),
        schema_name: "judgements",
        truncated,
    })
}

/// Contexts on which a user's template is tried out.
pub(super) fn sample_contexts() -> Vec<serde_json::Value> {
    let scale = Scale::trec();
    let pairs = [Pair {
        query: "a sample",
        document: "A sample.",
    }; 2];
    let request = JudgeRequest {
        item_id: "sample",
        seed: 0,
        pairs: &pairs,
        scale: &scale,
        limits: TextLimits::default(),
    };
    serde_json::to_value(context(&request, &request.asked()).0)
        .into_iter()
        .collect()
}
