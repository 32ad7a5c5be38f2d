//! Requests for passages, one of each grade, for a query.

use serde::Serialize;

use super::asked::{AskedTexts, TextKind};
use super::context::{self, AttributesContext, DemonstrationContext, GradeContext};
use super::demonstrations::Demonstration;
use super::template::{Prompt, PromptKind, RenderError};
use super::{Rendered, TextLimits};
use crate::attributes::{Attributes, Grid};
use crate::scale::{Grade, Scale};
use crate::text::cut;

/// One request for passages.
#[derive(Debug, Clone, Copy)]
pub struct DocumentsRequest<'a> {
    /// The query that they are for.
    pub query: &'a str,
    /// Of each of its grades a passage is asked for.
    pub scale: &'a Scale,
    /// What was drawn for the query.
    pub attributes: &'a Attributes,
    /// What was chosen for the query.
    pub demonstrations: &'a [&'a Demonstration],
    /// Budgets of texts.
    pub limits: TextLimits,
}

/// Characters of a passage for each word asked for: one and a half times the words, of ten
/// characters with their space, which is more than any language takes on average.
const CHARS_PER_WORD: usize = 15;
/// Characters beyond that, for very short passages.
const CHARS_EXTRA: usize = 200;

impl DocumentsRequest<'_> {
    /// What a reply must hold.
    #[must_use]
    pub fn asked(&self) -> AskedTexts {
        let grades: Vec<&Grade> = self.scale.grades().iter().collect();
        let chars_max = self.attributes.passage_words as usize * CHARS_PER_WORD + CHARS_EXTRA;
        AskedTexts::new(self.scale, &grades, 1, TextKind::Passage, chars_max)
    }
}

/// What the templates are given.
#[derive(Debug, Serialize)]
struct DocumentsContext<'a> {
    query: &'a str,
    fence: String,
    grades: Vec<GradeContext<'a>>,
    /// The most relevant grade.
    best: GradeContext<'a>,
    #[serde(flatten)]
    attributes: AttributesContext<'a>,
    demonstrations: Vec<DemonstrationContext<'a>>,
    layout: String,
}

/// Whether a text was cut comes second.
fn context<'a>(request: &DocumentsRequest<'a>, asked: &AskedTexts) -> (DocumentsContext<'a>, bool) {
    let (query, query_truncated) = cut(request.query, request.limits.document_bytes);
    let (demonstrations, demonstrations_truncated) =
        context::demonstrations(request.demonstrations, &request.limits);
    let fence = context::fence(
        demonstrations
            .iter()
            .flat_map(|shown| [shown.document, shown.query])
            .chain([query]),
    );
    let context = DocumentsContext {
        query,
        fence,
        grades: context::grades(request.scale),
        best: GradeContext::from(&request.scale.grades()[0]),
        attributes: AttributesContext::new(request.attributes, "the query"),
        demonstrations,
        layout: asked.layout(),
    };
    (context, query_truncated || demonstrations_truncated)
}

/// The messages of a request for passages, and the schema of the reply.
pub fn render_graded_documents(
    prompt: &Prompt,
    request: &DocumentsRequest<'_>,
) -> Result<Rendered, RenderError> {
    prompt.expect_kind(PromptKind::GradedDocuments)?;
    let asked = request.asked();
    let (context, truncated) = context(request, &asked);
    Ok(Rendered {
        messages: prompt.messages(&context)?,
        schema: asked.schema(),
        schema_name: "graded_passages",
        truncated,
    })
}

/// Contexts on which a user's template is tried out.
pub(super) fn sample_contexts() -> Vec<serde_json::Value> {
    let scale = Scale::trec();
    let demonstration = super::demonstrations::sample();
    let shown = [&demonstration];
    let Ok(attributes) = Attributes::draw(0, "sample", &Grid::default()) else {
        return vec![];
    };
    let cases: [&[&Demonstration]; 2] = [&[], &shown];
    cases
        .into_iter()
        .filter_map(|demonstrations| {
            let request = DocumentsRequest {
                query: "a sample",
                scale: &scale,
                attributes: &attributes,
                demonstrations,
                limits: TextLimits::default(),
            };
            serde_json::to_value(context(&request, &request.asked()).0).ok()
        })
        .collect()
}
