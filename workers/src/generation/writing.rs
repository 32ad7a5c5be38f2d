//! What a language model is asked to write for one item, and what comes of it as rows: queries for
//! a document, or graded documents for a query.

use std::sync::Arc;

use futures::future::try_join_all;
use gleaner_generation::attributes::Attributes;
use gleaner_generation::checks::{Source, check_passage, check_query};
use gleaner_generation::ids::{QueryIdentity, document_id, query_id};
use gleaner_generation::prompt::{
    AskedGrades, AskedTexts, Demonstration, DocumentsRequest, Ensemble, Prompt, PromptKind,
    QueriesRequest, Rendered, TextLimits, choose_demonstrations, render_graded_documents,
    render_queries,
};
use gleaner_generation::reply::{Item as ReplyItem, parse_texts};
use gleaner_generation::{Flags, Grade, Scale};
use gleaner_schemas::Failure;
use tokio_util::sync::CancellationToken;

use super::asking::{Asker, Read, Told, Untold};
use super::params::{LongDocuments, Sampling, ensemble};
use super::rows::{Judged, Lane, Made, Status};
use super::source_terms::{SourceTerms, add_source_terms};
use super::write_params::{Purpose, WritingParams, why_left_out};
use crate::batch_columns::permanent;
use crate::endpoint::access::Endpoints;

/// Longest completions where the job file does not say: queries are short, passages have up to 500
/// words in each of up to eight grades.
const QUERY_TOKENS: u32 = 1024;
const PASSAGE_TOKENS: u32 = 4096;
const JUDGE_TOKENS: u32 = 1024;
/// A document is not cut to less, however small the model's context is.
const CUT_BYTES_MIN: usize = 64;

/// A document or a query to write for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Item {
    /// Its id.
    pub(crate) id: String,
    /// Its text; empty where it has none.
    pub(crate) text: String,
    /// Where a document comes from, or the document that a query was made from.
    pub(crate) source: Option<String>,
    pub(crate) input_file: String,
    pub(crate) input_row: u64,
    /// Why nothing is to be written for it.
    pub(crate) left_out: Option<Untold>,
}

/// A text that was written, or that was asked for and did not come.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Of the query, or of the document that was written.
    pub(crate) id: Option<String>,
    pub(crate) label: Option<String>,
    pub(crate) grade: Option<i8>,
    pub(crate) text: Option<String>,
    pub(crate) judged_grade: Option<i8>,
    pub(crate) status: Status,
    pub(crate) lane: Lane,
    pub(crate) reason: Option<String>,
    pub(crate) flags: Flags,
    pub(crate) made: Arc<Made>,
    pub(crate) judged: Judged,
    pub(crate) is_first_of_completion: bool,
    pub(crate) source_terms: Option<SourceTerms>,
}

/// An item with all that was written for it.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) item: Item,
    pub(crate) rows: Vec<Row>,
}

/// Writes for items. Shared by those that are under way.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(super) params: WritingParams,
    pub(super) scale: Scale,
    ensemble: Ensemble,
    demonstrations: Vec<Demonstration>,
    asker: Asker,
    pub(super) judge: Option<(Asker, Prompt)>,
}

impl Writer {
    pub(crate) fn new(
        params: WritingParams,
        demonstrations: Vec<Demonstration>,
        endpoints: Endpoints<'_>,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let scale = Scale::try_from(params.scale.clone())
            .map_err(|error| permanent(format!("the parameters of a task: {error}")))?;
        let members = ensemble(params.purpose.prompt_kind(), &params.prompts).map_err(permanent)?;
        let is_queries = params.purpose.is_queries();
        let rank = endpoints.exchanges.next_rank();
        let asker = Asker {
            exchange: endpoints.exchange(&params.endpoint)?,
            sampling: params.sampling.clone(),
            max_tokens: if is_queries {
                QUERY_TOKENS
            } else {
                PASSAGE_TOKENS
            },
            purpose: if is_queries { "queries" } else { "documents" },
            rank,
            seed: params.seed,
            cancel: cancel.clone(),
        };
        let judge = match &params.judge {
            Some(judge) => {
                let prompts = std::slice::from_ref(&judge.prompt);
                let ensemble = ensemble(PromptKind::Judge, prompts).map_err(permanent)?;
                let asker = Asker {
                    exchange: endpoints.exchange(&judge.endpoint)?,
                    // A judge gives its likeliest grade.
                    sampling: Sampling {
                        temperature: 0.0,
                        ..Sampling::default()
                    },
                    max_tokens: JUDGE_TOKENS,
                    purpose: "judge",
                    rank,
                    seed: params.seed,
                    cancel: cancel.clone(),
                };
                Some((asker, ensemble.choose(0, "").clone()))
            }
            None => None,
        };
        Ok(Self {
            params,
            scale,
            ensemble: members,
            demonstrations,
            asker,
            judge,
        })
    }

    pub(crate) fn purpose(&self) -> Purpose {
        self.params.purpose
    }

    /// Budgets of the texts in prompts.
    pub(super) fn limits(&self) -> TextLimits {
        TextLimits {
            document_bytes: usize::try_from(self.params.document_bytes).unwrap_or(usize::MAX),
            ..TextLimits::default()
        }
    }

    /// Requests that may be in flight.
    pub(crate) fn concurrency(&self) -> usize {
        self.asker.exchange.concurrency()
    }

    /// Settles with the budgets.
    pub(crate) async fn settle(&self) -> Result<(), Failure> {
        self.asker.exchange.settle().await?;
        if let Some((judge, _)) = &self.judge {
            judge.exchange.settle().await?;
        }
        Ok(())
    }

    /// Settles with the budgets, beside whatever comes next.
    pub(crate) fn settle_later(&self, handle: &tokio::runtime::Handle) {
        self.asker.exchange.settle_later(handle);
        if let Some((judge, _)) = &self.judge {
            judge.exchange.settle_later(handle);
        }
    }

    /// All that is to be written for an item.
    pub(crate) async fn write(self: Arc<Self>, item: Item) -> Result<Written, Failure> {
        let left_out = item.left_out.clone();
        if let Some(untold) = left_out.or_else(|| why_left_out(&self.params, &item.text)) {
            let made = Arc::new(Made::default());
            let rows = vec![missing(&made, None, None, &untold)];
            return Ok(Written { item, rows });
        }
        let samples = (0..self.params.samples).map(|sample| self.sample(&item, sample));
        let mut rows: Vec<Row> = try_join_all(samples).await?.into_iter().flatten().collect();
        self.judge_rows(&item, &mut rows).await?;
        if self.params.with_source_terms {
            add_source_terms(&item.text, &mut rows)?;
        }
        Ok(Written { item, rows })
    }

    /// One completion for an item, or one for each label.
    async fn sample(&self, item: &Item, sample: u16) -> Result<Vec<Row>, Failure> {
        // Each sample has its own attributes, prompt and examples.
        let draw_id = format!("{}#{sample}", item.id);
        let seed = self.params.seed;
        let attributes = Attributes::draw(seed, &draw_id, &self.params.grid)
            .map_err(|error| permanent(error.to_string()))?;
        let prompt = self.ensemble.choose(seed, &draw_id);
        let n_shown = usize::from(self.params.n_demonstrations);
        let shown = choose_demonstrations(seed, &item.id, n_shown, &self.demonstrations);
        let limits = self.limits();
        let drawn = Drawn {
            sample,
            attributes: &attributes,
            prompt,
            shown: &shown,
            limits,
        };
        let grades: Vec<&Grade> = self.scale.grades().iter().collect();
        match self.params.purpose {
            Purpose::QueriesJoint => {
                self.queries(item, &drawn, AskedGrades::Joint, &grades)
                    .await
            }
            Purpose::QueriesSeparate => {
                let asked = grades.into_iter().map(async |grade| {
                    let asked = AskedGrades::Separate(grade);
                    self.queries(item, &drawn, asked, &[grade]).await
                });
                Ok(try_join_all(asked).await?.into_iter().flatten().collect())
            }
            Purpose::Documents => self.documents(item, &drawn, &grades).await,
        }
    }

    /// With as much of the document as the model's context has room for.
    async fn queries(
        &self,
        item: &Item,
        drawn: &Drawn<'_>,
        asked: AskedGrades<'_>,
        grades: &[&Grade],
    ) -> Result<Vec<Row>, Failure> {
        let mut request = QueriesRequest {
            document: &item.text,
            scale: &self.scale,
            grades: asked,
            per_label: 1,
            attributes: drawn.attributes,
            demonstrations: drawn.shown,
            limits: drawn.limits,
        };
        let mut n_before = 0;
        let told = loop {
            let rendered = render_queries(drawn.prompt, &request);
            let rendered = rendered.map_err(|error| permanent(error.to_string()))?;
            let mut told = self.texts(&rendered, drawn, &request.asked()).await?;
            told.made.attempts += n_before;
            let shorter = self.shorter(request.limits, item.text.len());
            match shorter.filter(|_| told.is_overflow) {
                Some(shorter) => {
                    request.limits = shorter;
                    n_before = told.made.attempts;
                }
                None => break told,
            }
        };
        let id = |label: &str, _grade: i8| {
            query_id(&QueryIdentity {
                document_id: &item.id,
                prompt_id: drawn.prompt.id(),
                label,
                sample: drawn.sample,
                seed: self.params.seed,
            })
        };
        Ok(self.rows(item, drawn, &told, grades, id, check_query))
    }

    /// Half of what a prompt took of a document of `bytes`, if that leaves something and documents may
    /// be cut.
    pub(super) fn shorter(&self, limits: TextLimits, bytes: usize) -> Option<TextLimits> {
        let document_bytes = bytes.min(limits.document_bytes) / 2;
        let may_be_cut = self.params.long_documents == LongDocuments::Truncate;
        (may_be_cut && document_bytes >= CUT_BYTES_MIN).then_some(TextLimits {
            document_bytes,
            ..limits
        })
    }

    async fn documents(
        &self,
        item: &Item,
        drawn: &Drawn<'_>,
        grades: &[&Grade],
    ) -> Result<Vec<Row>, Failure> {
        let request = DocumentsRequest {
            query: &item.text,
            scale: &self.scale,
            attributes: drawn.attributes,
            demonstrations: drawn.shown,
            limits: drawn.limits,
        };
        let rendered = render_graded_documents(drawn.prompt, &request);
        let rendered = rendered.map_err(|error| permanent(error.to_string()))?;
        let told = self.texts(&rendered, drawn, &request.asked()).await?;
        let id = |_label: &str, grade: i8| document_id(&item.id, grade, drawn.sample);
        Ok(self.rows(item, drawn, &told, grades, id, check_passage))
    }

    async fn texts(
        &self,
        rendered: &Rendered,
        drawn: &Drawn<'_>,
        asked: &AskedTexts,
    ) -> Result<Told<Vec<ReplyItem>>, Failure> {
        self.asker
            .ask(rendered, drawn.prompt.id(), drawn.sample, |reply| {
                let parsed = parse_texts(reply, asked);
                Read {
                    n_parts: parsed.items.len(),
                    value: parsed.items,
                    problems: parsed.problems,
                }
            })
            .await
    }

    /// A row for each grade that was asked for, whether its text came or not.
    fn rows(
        &self,
        item: &Item,
        drawn: &Drawn<'_>,
        told: &Told<Vec<ReplyItem>>,
        grades: &[&Grade],
        id: impl Fn(&str, i8) -> String,
        check: fn(&str, &Source<'_>) -> Flags,
    ) -> Vec<Row> {
        let source = Source {
            text: &item.text,
            attributes: drawn.attributes,
            scale: &self.scale,
            demonstrations: drawn.shown,
            demonstration_bytes: drawn.limits.demonstration_bytes,
        };
        let made = Arc::new(told.made.clone());
        let items = told.value.as_deref().unwrap_or_default();
        let mut rows: Vec<Row> = Vec::new();
        for grade in grades {
            let found = items.iter().find(|found| found.grade == grade.grade);
            let mut row = match (found, &told.untold) {
                (Some(found), _) => Row {
                    id: None,
                    label: None,
                    grade: None,
                    flags: check(&found.text, &source).union(found.flags),
                    text: Some(found.text.clone()),
                    judged_grade: None,
                    status: Status::Ok,
                    lane: Lane::Ok,
                    reason: None,
                    made: Arc::clone(&made),
                    judged: Judged::default(),
                    is_first_of_completion: false,
                    source_terms: None,
                },
                (None, Some(untold)) => missing(&made, None, None, untold),
                (None, None) => missing(
                    &made,
                    None,
                    None,
                    &Untold {
                        status: Status::Rejected,
                        lane: Lane::Rejected,
                        reason: "grade_missing: the reply does not have it".to_owned(),
                    },
                ),
            };
            row.id = Some(id(&grade.label, grade.grade));
            row.label = Some(grade.label.clone());
            row.grade = Some(grade.grade);
            row.is_first_of_completion = rows.is_empty();
            rows.push(row);
        }
        rows
    }
}

/// What was drawn for a sample.
struct Drawn<'a> {
    sample: u16,
    attributes: &'a Attributes,
    prompt: &'a Prompt,
    shown: &'a [&'a Demonstration],
    limits: TextLimits,
}

/// A row without a text.
fn missing(made: &Arc<Made>, label: Option<String>, grade: Option<i8>, untold: &Untold) -> Row {
    Row {
        id: None,
        label,
        grade,
        text: None,
        judged_grade: None,
        status: untold.status,
        lane: untold.lane,
        reason: Some(untold.reason.clone()),
        flags: Flags::NONE,
        made: Arc::clone(made),
        judged: Judged::default(),
        is_first_of_completion: true,
        source_terms: None,
    }
}
