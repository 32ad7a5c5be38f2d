//! What a stage will ask of endpoints, estimated from the prompts of some real items: before the
//! first call, nothing is known of replies but what they are asked to be.

use gleaner_generation::attributes::Attributes;
use gleaner_generation::prompt::{
    AskedGrades, DocumentsRequest, JudgeRequest, Pair, Prompt, PromptKind, QueriesRequest,
    Rendered, TextLimits, judged_parts, render_graded_documents, render_judgement, render_queries,
};
use gleaner_generation::{Grade, Scale};
use gleaner_schemas::Failure;

use super::example_sets::{RATE_EXAMPLES, RateTask, before_query_bytes};
use super::params::{PromptText, ensemble};
use super::phases::WRITE;
use super::write_params::{Purpose, WritingParams, is_left_out};
use crate::batch_columns::permanent;
use crate::expected_requests::{PhaseRequests, RequestSample, Requests, StageRequests};
use crate::loss_reduction::estimate::probes;

/// Bytes of text per token: English has about four.
pub(crate) const BYTES_PER_TOKEN: f64 = 4.0;
/// Tokens of a query in a reply, with its label and the JSON around it.
const QUERY_TOKENS: f64 = 35.0;
/// Tokens per word of a passage.
const TOKENS_PER_WORD: f64 = 1.4;
/// Tokens around a passage in a reply, and of a judge's grade.
const ENTRY_TOKENS: f64 = 20.0;
/// Tokens of a demonstration where none was looked at.
const DEMONSTRATION_TOKENS: f64 = 500.0;
/// Tokens around the texts of a demonstration.
const AROUND_PAIR_TOKENS: f64 = 10.0;
/// Items whose prompts are rendered; the others have as many requests, and about the same tokens.
const RENDERED: usize = 128;

/// What a stage of generation asks, by items and pairs of the dataset of demonstrations.
pub(crate) fn for_sample(
    params: &WritingParams,
    rating: Option<&RateTask>,
    sample: &RequestSample<'_>,
) -> Result<StageRequests, Failure> {
    let mut phases: Vec<PhaseRequests> = rating
        .map(|task| for_rating(task, sample.pairs))
        .into_iter()
        .collect();
    let scale: Scale = params.scale.clone().try_into().map_err(permanent)?;
    let n_grades = scale.grades().len() as f64;
    let samples = f64::from(params.samples);
    let n_items = (sample.items.len() as f64).max(1.0);
    let asked: Vec<&String> = sample
        .items
        .iter()
        .filter(|text| !is_left_out(params, text))
        .collect();
    let share = asked.len() as f64 / n_items;
    let each = for_each(params, &scale, &asked, sample)?;
    phases.push(PhaseRequests {
        phase: WRITE,
        purpose: "write",
        endpoint: params.endpoint.name.clone(),
        per_item: each.written * (samples * share),
        once: Requests::default(),
    });
    if let Some(judge) = &params.judge {
        phases.push(PhaseRequests {
            phase: WRITE,
            purpose: "judge",
            endpoint: judge.endpoint.name.clone(),
            per_item: each.judged * share,
            once: Requests::default(),
        });
    }
    Ok(StageRequests {
        phases,
        rows_per_item: samples * n_grades * share,
    })
}

/// Averages over items.
struct Each {
    /// Of one sample.
    written: Requests,
    /// Of a judge, for all samples.
    judged: Requests,
}

fn for_each(
    params: &WritingParams,
    scale: &Scale,
    asked: &[&String],
    sample: &RequestSample<'_>,
) -> Result<Each, Failure> {
    let step = asked.len().div_ceil(RENDERED).max(1);
    let limits = limits(params);
    let shown =
        f64::from(params.n_demonstrations) * pair_tokens(sample.pairs, limits.demonstration_bytes);
    let judge = params.judge.as_ref().map(|judge| &judge.prompt);
    let judge = judge.map(|prompt| ensemble(PromptKind::Judge, std::slice::from_ref(prompt)));
    let judge = judge.transpose().map_err(permanent)?;
    let (mut sum, mut judged, mut n) = (Requests::default(), Requests::default(), 0.0);
    for (idx, text) in asked.iter().enumerate().step_by(step) {
        let id = format!("estimate-{idx}");
        let attributes = Attributes::draw(params.seed, &id, &params.grid)
            .map_err(|error| permanent(error.to_string()))?;
        for one in render(params, scale, text, &attributes, &id)? {
            sum.calls += 1.0;
            sum.prompt_tokens += prompt_tokens(&one) + shown;
        }
        if let Some(judge) = &judge {
            let prompt = judge.choose(params.seed, &id);
            judged += judgement(params, prompt, scale, text, &attributes, &id)?;
        }
        let per_grade = match params.purpose {
            Purpose::Documents => {
                f64::from(attributes.passage_words) * TOKENS_PER_WORD + ENTRY_TOKENS
            }
            Purpose::QueriesJoint | Purpose::QueriesSeparate => QUERY_TOKENS,
        };
        sum.completion_tokens += scale.grades().len() as f64 * per_grade;
        n += 1.0;
    }
    let of_one = 1.0 / f64::max(n, 1.0);
    Ok(Each {
        written: sum * of_one,
        judged: judged * of_one,
    })
}

fn prompt_tokens(rendered: &Rendered) -> f64 {
    let messages = rendered.messages.iter();
    let messages: usize = messages.map(|message| message.content.len()).sum();
    (messages + rendered.schema.to_string().len()) as f64 / BYTES_PER_TOKEN
}

/// What a judge is asked of an item, whose texts are made up: as many as are asked for, and as long.
fn judgement(
    params: &WritingParams,
    prompt: &Prompt,
    scale: &Scale,
    text: &str,
    attributes: &Attributes,
    id: &str,
) -> Result<Requests, Failure> {
    let is_queries = params.purpose.is_queries();
    let tokens = match is_queries {
        true => QUERY_TOKENS - ENTRY_TOKENS,
        false => f64::from(attributes.passage_words) * TOKENS_PER_WORD,
    };
    let filler = "x".repeat((tokens * BYTES_PER_TOKEN) as usize);
    let n_texts = usize::from(params.samples) * scale.grades().len();
    let written: Vec<String> = (0..n_texts).map(|n| format!("{n} {filler}")).collect();
    let pairs: Vec<Pair<'_>> = written
        .iter()
        .map(|written| Pair {
            query: if is_queries { written } else { text },
            document: if is_queries { text } else { written },
        })
        .collect();
    let limits = limits(params);
    let mut judged = Requests {
        completion_tokens: n_texts as f64 * ENTRY_TOKENS,
        ..Requests::default()
    };
    for part in judged_parts(prompt, &pairs, &limits) {
        let request = JudgeRequest {
            item_id: id,
            seed: params.seed,
            pairs: &pairs[part],
            scale,
            limits,
        };
        let rendered = render_judgement(prompt, &request);
        let rendered = rendered.map_err(|error| permanent(error.to_string()))?;
        judged.calls += 1.0;
        judged.prompt_tokens += prompt_tokens(&rendered);
    }
    Ok(judged)
}

/// The requests that choose a set of demonstrations: for each set and each pair that is held out, of
/// what stands before its query, and of that with the query.
fn for_rating(task: &RateTask, pairs: &[(String, String)]) -> PhaseRequests {
    let n_rated = f64::from(task.sets) * f64::from(task.held_out);
    let pair = |of: fn(&(String, String)) -> usize, unknown: f64| match pairs.len() {
        0 => unknown,
        n => pairs.iter().map(of).sum::<usize>() as f64 / n as f64 / BYTES_PER_TOKEN,
    };
    let before = pair(|pair| before_query_bytes(&pair.0), DEMONSTRATION_TOKENS);
    let query = pair(|pair| pair.1.len(), QUERY_TOKENS);
    let set = f64::from(task.count) * (before + query);
    let rated = Requests {
        calls: 2.0,
        prompt_tokens: 2.0 * (set + before) + query,
        completion_tokens: 2.0,
    };
    PhaseRequests {
        phase: RATE_EXAMPLES,
        purpose: "rate examples",
        endpoint: task.server.endpoint.name.clone(),
        per_item: Requests::default(),
        once: rated * n_rated + probes(None),
    }
}

/// Tokens of a demonstration in a prompt, on average.
fn pair_tokens(pairs: &[(String, String)], bytes_max: usize) -> f64 {
    if pairs.is_empty() {
        return DEMONSTRATION_TOKENS;
    }
    let bytes = pairs
        .iter()
        .map(|(document, query)| document.len().min(bytes_max) + query.len().min(bytes_max));
    bytes.sum::<usize>() as f64 / pairs.len() as f64 / BYTES_PER_TOKEN + AROUND_PAIR_TOKENS
}

fn limits(params: &WritingParams) -> TextLimits {
    TextLimits {
        document_bytes: usize::try_from(params.document_bytes).unwrap_or(usize::MAX),
        ..TextLimits::default()
    }
}

fn render(
    params: &WritingParams,
    scale: &Scale,
    text: &str,
    attributes: &Attributes,
    id: &str,
) -> Result<Vec<Rendered>, Failure> {
    let prompts: &[PromptText] = &params.prompts;
    let ensemble = ensemble(params.purpose.prompt_kind(), prompts).map_err(permanent)?;
    let prompt = ensemble.choose(params.seed, id);
    let limits = limits(params);
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
