//! Requests for queries that a document has a given relevance to.

use serde::Serialize;

use super::asked::{AskedTexts, TextKind};
use super::context::{self, AttributesContext, DemonstrationContext, GradeContext};
use super::demonstrations::Demonstration;
use super::template::{Prompt, PromptKind, RenderError};
use super::{Rendered, TextLimits};
use crate::attributes::{Attributes, Grid};
use crate::scale::{Grade, Scale};
use crate::text::cut;

/// Most queries of one label in one completion.
pub const PER_LABEL_MAX: u16 = 8;

/// Which labels one completion is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedGrades<'a> {
    /// All, each relative to the most relevant one ([`PromptKind::QueriesJoint`]).
    Joint,
    /// One ([`PromptKind::QueriesSeparate`]).
    Separate(&'a Grade),
}

/// One request for queries.
#[derive(Debug, Clone, Copy)]
pub struct QueriesRequest<'a> {
    /// The document that they are for.
    pub document: &'a str,
    /// Whose labels are asked for.
    pub scale: &'a Scale,
    /// Which of them.
    pub grades: AskedGrades<'a>,
    /// Queries of each label, at most [`PER_LABEL_MAX`].
    pub per_label: u16,
    /// What was drawn for the document.
    pub attributes: &'a Attributes,
    /// What was chosen for the document.
    pub demonstrations: &'a [&'a Demonstration],
    /// Budgets of texts.
    pub limits: TextLimits,
}

impl QueriesRequest<'_> {
    /// What a reply must hold.
    #[must_use]
    pub fn asked(&self) -> AskedTexts {
        let grades: Vec<&Grade> = match self.grades {
            AskedGrades::Joint => self.scale.grades().iter().collect(),
            AskedGrades::Separate(grade) => vec![grade],
        };
        let per_label = self.per_label.clamp(1, PER_LABEL_MAX);
        AskedTexts::new(
            self.scale,
            &grades,
            per_label,
            TextKind::Query,
            self.limits.query_chars,
        )
    }

    fn kind(&self) -> PromptKind {
        match self.grades {
            AskedGrades::Joint => PromptKind::QueriesJoint,
            AskedGrades::Separate(_) => PromptKind::QueriesSeparate,
        }
    }
}

/// What the templates are given.
#[derive(Debug, Serialize)]
struct QueriesContext<'a> {
    document: &'a str,
    document_truncated: bool,
    fence: String,
    grades: Vec<GradeContext<'a>>,
    /// The most relevant grade.
    best: GradeContext<'a>,
    /// The grade asked for, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<GradeContext<'a>>,
    per_label: u16,
    #[serde(flatten)]
    attributes: AttributesContext<'a>,
    demonstrations: Vec<DemonstrationContext<'a>>,
    layout: String,
}

/// Whether a text was cut comes second.
fn context<'a>(request: &QueriesRequest<'a>, asked: &AskedTexts) -> (QueriesContext<'a>, bool) {
    let (document, document_truncated) = cut(request.document, request.limits.document_bytes);
    let (demonstrations, demonstrations_truncated) =
        context::demonstrations(request.demonstrations, &request.limits);
    let fence = context::fence(
        demonstrations
            .iter()
            .flat_map(|shown| [shown.document, shown.query])
            .chain([document]),
    );
    let context = QueriesContext {
        document,
        document_truncated,
        fence,
        grades: context::grades(request.scale),
        best: GradeContext::from(&request.scale.grades()[0]),
        target: match request.grades {
            AskedGrades::Joint => None,
            AskedGrades::Separate(grade) => Some(GradeContext::from(grade)),
        },
        per_label: asked.per_label,
        attributes: AttributesContext::new(request.attributes, "the document"),
        demonstrations,
        layout: asked.layout(),
    };
    (context, document_truncated || demonstrations_truncated)
}

/// The messages of a request for queries, and the schema of the reply.
pub fn render_queries(
    prompt: &Prompt,
    request: &QueriesRequest<'_>,
) -> Result<Rendered, RenderError> {
    prompt.expect_kind(request.kind())?;
    let asked = request.asked();
    let (context, truncated) = context(request, &asked);
    Ok(Rendered {
        messages: prompt.messages(&context)?,
        schema: asked.schema(),
        schema_name: "graded_queries",
        truncated,
    })
}

/// Contexts on which a user's template is tried out.
pub(super) fn sample_contexts(is_separate: bool) -> Vec<serde_json::Value> {
    let scale = Scale::trec();
    let demonstration = super::demonstrations::sample();
    let shown = [&demonstration];
    let Ok(attributes) = Attributes::draw(0, "sample", &Grid::default()) else {
        return vec![];
    };
    let grades = match is_separate {
        true => AskedGrades::Separate(&scale.grades()[1]),
        false => AskedGrades::Joint,
    };
    let cases: [(&[&Demonstration], usize); 2] = [(&[], 4), (&shown, 1_000)];
    cases
        .into_iter()
        .filter_map(|(demonstrations, document_bytes)| {
            let request = QueriesRequest {
                document: "A sample.",
                scale: &scale,
                grades,
                per_label: 1,
                attributes: &attributes,
                demonstrations,
                limits: TextLimits {
                    document_bytes,
                    ..TextLimits::default()
                },
            };
            serde_json::to_value(context(&request, &request.asked()).0).ok()
        })
        .collect()
}
