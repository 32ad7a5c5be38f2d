//! Requests to a judge: grades for pairs of a query and a document, in a drawn order, so that no
//! grade always stands at the same place.
//!
//! What all pairs of a request have in common, the document of several queries or the query of
//! several documents, is shown once.

use std::ops::Range;

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

/// Which pairs go into one request each: at most [`JUDGED_PAIRS_MAX`], and no more than the texts
/// of twice [`TextLimits::document_bytes`], so that a request is as large as one that writes, give or
/// take one text, however many samples were drawn. A request has at least one pair.
#[must_use]
pub fn judged_parts(prompt: &Prompt, pairs: &[Pair<'_>], limits: &TextLimits) -> Vec<Range<usize>> {
    let shared = if prompt.has_variable(SHARED_DOCUMENT) && prompt.has_variable(SHARED_QUERY) {
        Shared::of(pairs)
    } else {
        Shared::default()
    };
    let n_bytes = |text: &str| text.len().min(limits.document_bytes);
    let of_shared = |text: Option<&str>| text.map_or(0, n_bytes);
    let budget = limits.document_bytes.saturating_mul(2);
    let budget = budget.saturating_sub(of_shared(shared.document) + of_shared(shared.query));
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut n_bytes_in_part = 0_usize;
    for (index, pair) in pairs.iter().enumerate() {
        let mut own = 0;
        if shared.document.is_none() {
            own += n_bytes(pair.document);
        }
        if shared.query.is_none() {
            own += n_bytes(pair.query);
        }
        match parts.last_mut() {
            Some(part)
                if part.len() < JUDGED_PAIRS_MAX
                    && n_bytes_in_part.saturating_add(own) <= budget =>
            {
                part.end += 1;
                n_bytes_in_part += own;
            }
            _ => {
                parts.push(index..index + 1);
                n_bytes_in_part = own;
            }
        }
    }
    parts
}

/// What all pairs of a request have in common: not both, or there would be nothing to tell pairs
/// apart by, and nothing where there is one pair.
#[derive(Debug, Clone, Copy, Default)]
struct Shared<'a> {
    document: Option<&'a str>,
    query: Option<&'a str>,
}

impl<'a> Shared<'a> {
    fn of(pairs: &[Pair<'a>]) -> Self {
        let [first, others @ ..] = pairs else {
            return Self::default();
        };
        if others.is_empty() {
            return Self::default();
        }
        if others.iter().all(|pair| pair.document == first.document) {
            return Self {
                document: Some(first.document),
                query: None,
            };
        }
        let has_query = others.iter().all(|pair| pair.query == first.query);
        Self {
            document: None,
            query: has_query.then_some(first.query),
        }
    }
}

/// Variables of what is shared.
const SHARED_DOCUMENT: &str = "shared_document";
const SHARED_QUERY: &str = "shared_query";

/// What the templates are given.
#[derive(Debug, Serialize)]
struct JudgeContext<'a> {
    /// The document of all pairs; none where they differ. Pairs have it too, so that a template
    /// need not know of it.
    shared_document: Option<&'a str>,
    /// The query of all pairs; none where they differ.
    shared_query: Option<&'a str>,
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
    let n_pairs = request.pairs.len().min(JUDGED_PAIRS_MAX);
    let shared = Shared::of(&request.pairs[..n_pairs]);
    let shared_document = shared.document.map(&mut shown);
    let shared_query = shared.query.map(&mut shown);
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
        shared_document,
        shared_query,
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
    let pair = |query, document| Pair { query, document };
    let (one, other) = ("A sample.", "Another sample.");
    [
        [pair(one, one), pair(other, one)],
        [pair(one, one), pair(one, other)],
        [pair(one, one), pair(other, other)],
    ]
    .iter()
    .filter_map(|pairs| {
        let request = JudgeRequest {
            item_id: "sample",
            seed: 0,
            pairs,
            scale: &scale,
            limits: TextLimits::default(),
        };
        serde_json::to_value(context(&request, &request.asked()).0).ok()
    })
    .collect()
}
