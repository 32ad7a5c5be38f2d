//! What a stage will ask of endpoints, estimated from the prompts of some real items: before the
//! first call, nothing is known of replies but what they are asked to be.

use gleaner_generation::attributes::Attributes;
use gleaner_generation::prompt::{
    AskedGrades, DocumentsRequest, QueriesRequest, Rendered, TextLimits, render_graded_documents,
    render_queries,
};
use gleaner_generation::{Grade, Scale};
use gleaner_schemas::Failure;

use super::params::{PromptText, ensemble};
use super::writing::{Purpose, ScaleText, WritingParams};
use crate::batch_columns::permanent;

/// Bytes of text per token: English has about four.
const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens of a query in a reply, with its label and the JSON around it.
const QUERY_TOKENS: f64 = 35.0;
/// Tokens per word of a passage.
const TOKENS_PER_WORD: f64 = 1.4;
/// Tokens around a passage in a reply, and of a judge's grade.
const ENTRY_TOKENS: f64 = 20.0;
/// Tokens of a demonstration: its texts are cut to as much.
const DEMONSTRATION_TOKENS: f64 = 500.0;

/// What the requests for one item take on average.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRequests {
    /// Name of the endpoint.
    pub endpoint: String,
    /// Calls.
    pub calls: f64,
    /// Tokens of prompts.
    pub prompt_tokens: f64,
    /// Tokens of replies.
    pub completion_tokens: f64,
    /// Rows that come of it.
    pub rows: f64,
}

/// Averages over items with these texts.
pub(crate) fn for_items(
    params: &WritingParams,
    texts: &[String],
) -> Result<Vec<ItemRequests>, Failure> {
    let scale = params.scale.scale().map_err(permanent)?;
    let n_grades = scale.grades().len() as f64;
    let samples = f64::from(params.samples);
    let (mut calls, mut prompt_tokens, mut completion_tokens) = (0.0, 0.0, 0.0);
    let mut text_tokens = 0.0;
    for (idx, text) in texts.iter().enumerate() {
        let id = format!("estimate-{idx}");
        let attributes = Attributes::draw(params.seed, &id, &params.grid)
            .map_err(|error| permanent(error.to_string()))?;
        let rendered = render(params, &scale, &params.prompts, text, &attributes, &id)?;
        for one in &rendered {
            let bytes: usize = one
                .messages
                .iter()
                .map(|message| message.content.len())
                .sum();
            let schema = one.schema.to_string().len();
            prompt_tokens += (bytes + schema) as f64 / BYTES_PER_TOKEN;
            prompt_tokens += f64::from(params.n_demonstrations) * DEMONSTRATION_TOKENS;
        }
        calls += rendered.len() as f64;
        let per_grade = match params.purpose {
            Purpose::Documents => {
                f64::from(attributes.passage_words) * TOKENS_PER_WORD + ENTRY_TOKENS
            }
            Purpose::QueriesJoint | Purpose::QueriesSeparate => QUERY_TOKENS,
        };
        completion_tokens += n_grades * per_grade;
        text_tokens += text
            .len()
            .min(usize::try_from(params.document_bytes).unwrap_or(usize::MAX))
            as f64
            / BYTES_PER_TOKEN;
    }
    let n = (texts.len() as f64).max(1.0);
    let rows = samples * n_grades;
    let mut requests = vec![ItemRequests {
        endpoint: params.endpoint.name.clone(),
        calls: samples * calls / n,
        prompt_tokens: samples * prompt_tokens / n,
        completion_tokens: samples * completion_tokens / n,
        rows,
    }];
    if let Some(judge) = &params.judge {
        let written = completion_tokens / n / n_grades;
        let pairs = rows;
        let judged_calls = (pairs / gleaner_generation::prompt::JUDGED_PAIRS_MAX as f64).ceil();
        requests.push(ItemRequests {
            endpoint: judge.endpoint.name.clone(),
            calls: judged_calls,
            prompt_tokens: judged_calls * DEMONSTRATION_TOKENS
                + pairs * (text_tokens / n + written),
            completion_tokens: pairs * ENTRY_TOKENS,
            rows: 0.0,
        });
    }
    Ok(requests)
}

fn render(
    params: &WritingParams,
    scale: &Scale,
    prompts: &[PromptText],
    text: &str,
    attributes: &Attributes,
    id: &str,
) -> Result<Vec<Rendered>, Failure> {
    let ensemble = ensemble(params.purpose.prompt_kind(), prompts).map_err(permanent)?;
    let prompt = ensemble.choose(params.seed, id);
    let limits = TextLimits {
        document_bytes: usize::try_from(params.document_bytes).unwrap_or(usize::MAX),
        ..TextLimits::default()
    };
    let queries = |grades: AskedGrades<'_>| {
        let request = QueriesRequest {
            document: text,
            scale,
            grades,
            per_label: 1,
            attributes,
            demonstrations: &[],
            limits,
        };
        render_queries(prompt, &request).map_err(|error| permanent(error.to_string()))
    };
    match params.purpose {
        Purpose::QueriesJoint => Ok(vec![queries(AskedGrades::Joint)?]),
        Purpose::QueriesSeparate => {
            let grades: &[Grade] = scale.grades();
            grades
                .iter()
                .map(|grade| queries(AskedGrades::Separate(grade)))
                .collect()
        }
        Purpose::Documents => {
            let request = DocumentsRequest {
                query: text,
                scale,
                attributes,
                demonstrations: &[],
                limits,
            };
            let rendered = render_graded_documents(prompt, &request);
            Ok(vec![
                rendered.map_err(|error| permanent(error.to_string()))?,
            ])
        }
    }
}

impl ScaleText {
    fn scale(&self) -> Result<Scale, String> {
        self.clone().try_into()
    }
}
