//! One question to an endpoint, with one more try where the reply cannot be read.

use std::sync::Arc;

use gleaner_endpoint::{
    ChatMessage, CompletionRequest, FailureClass, FinishReason, Parameters, Prompt, Reply,
    ResponseSchema, Usage,
};
use gleaner_generation::prompt::Rendered;
use gleaner_generation::reply::{Action, Finish, Reply as Completion, ReplyProblem};
use gleaner_schemas::Failure;
use tokio_util::sync::CancellationToken;

use super::params::Sampling;
use super::rows::{Lane, Made, Status};
use crate::endpoint::exchange::{Exchange, NoAnswer};

/// A question is asked once more if its reply cannot be read.
const TRIES: u16 = 2;
/// Room for a reply that was cut off, times the first.
const LARGER: u32 = 2;

/// Bytes of text per token, where a server does not tell: English has about four. Budgets count more,
/// since they must not be exceeded.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens of a prompt, about.
fn prompt_tokens(rendered: &Rendered) -> u64 {
    let bytes: usize = rendered
        .messages
        .iter()
        .map(|message| message.content.len())
        .sum();
    bytes as u64 / BYTES_PER_TOKEN
}

/// Whom a question is for and how.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// The endpoint.
    pub(crate) exchange: Arc<Exchange>,
    /// How completions are drawn.
    pub(crate) sampling: Sampling,
    /// Longest completion where `sampling` does not say.
    pub(crate) max_tokens: u32,
    /// What it is for: questions for different things are never the same.
    pub(crate) purpose: &'static str,
    /// Of the task.
    pub(crate) rank: u64,
    /// Sent along, where the server heeds it.
    pub(crate) seed: u64,
    /// Cancelled with the task.
    pub(crate) cancel: CancellationToken,
}

/// Why a question has no usable reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Untold {
    /// How its rows end.
    pub(crate) status: Status,
    /// Where its input row ends, if it has no better ones.
    pub(crate) lane: Lane,
    /// The class of the failure, and the server's words where there are any.
    pub(crate) reason: String,
}

/// What a reply came to.
#[derive(Debug, Clone)]
pub(crate) struct Told<T> {
    /// What was read, however incomplete.
    pub(crate) value: Option<T>,
    /// What is missing of it, or why there is nothing.
    pub(crate) untold: Option<Untold>,
    /// Whether there is nothing because the prompt is too long for the model.
    pub(crate) is_overflow: bool,
    /// What it took.
    pub(crate) made: Made,
}

/// A reply that was read: what is in it, what is wrong with it, and how many parts it has.
pub(crate) struct Read<T> {
    pub(crate) value: T,
    pub(crate) problems: Vec<ReplyProblem>,
    pub(crate) n_parts: usize,
}

impl Asker {
    /// Asks, reads, and asks once more where something is missing. The better of two replies
    /// counts.
    pub(crate) async fn ask<T>(
        &self,
        rendered: &Rendered,
        prompt_id: &str,
        sample: u16,
        read: impl Fn(&Completion<'_>) -> Read<T>,
    ) -> Result<Told<T>, Failure> {
        let mut made = Made {
            model: self.exchange.facts().model.clone(),
            prompt_id: prompt_id.to_owned(),
            sample,
            ..Made::default()
        };
        let mut best: Option<Read<T>> = None;
        let mut untold = None;
        let (mut is_larger, mut is_overflow) = (false, false);
        for attempt in 0..TRIES {
            made.attempts += 1;
            let request = self.request(rendered, sample, attempt, is_larger);
            let answer = match self.exchange.ask(request, self.rank, &self.cancel).await {
                Ok(answer) => answer,
                Err(NoAnswer::Task(failure)) => return Err(failure),
                Err(NoAnswer::Item { class, message }) => {
                    is_overflow = class == FailureClass::ContextOverflow;
                    untold.get_or_insert(of_class(class, &message));
                    break;
                }
            };
            let body = &answer.stored.body;
            let decoded = Reply::decode(body);
            let usage = match &decoded {
                Ok(reply) => reply.usage,
                Err(_) => Usage::of_body(body),
            };
            let text_bytes = decoded.as_ref().map_or(0, |reply| reply.choice.text.len());
            let completion_tokens = text_bytes as u64 / BYTES_PER_TOKEN;
            let (prompt, completion) =
                usage.or_estimates(prompt_tokens(rendered), completion_tokens);
            made.is_estimated |= !usage.is_whole();
            made.prompt_tokens += prompt;
            made.completion_tokens += completion;
            made.latency_ms = Some(answer.stored.latency_ms);
            let reply = match decoded {
                Ok(reply) => reply,
                Err(error) => {
                    let is_again = matches!(
                        error.class,
                        FailureClass::Truncated | FailureClass::Empty | FailureClass::NotJson
                    );
                    untold = Some(of_class(error.class, &error.message));
                    is_larger = error.class == FailureClass::Truncated;
                    if is_again {
                        continue;
                    }
                    break;
                }
            };
            if reply.is_lossy && reply.choice.text.contains(char::REPLACEMENT_CHARACTER) {
                let message = "the text has bytes that are not UTF-8";
                untold = Some(of_class(FailureClass::NotJson, message));
                is_larger = false;
                continue;
            }
            let finish = match reply.choice.finish_reason {
                FinishReason::Stop => Finish::Complete,
                FinishReason::Length => Finish::Truncated,
                FinishReason::ContentFilter | FinishReason::Missing | FinishReason::Other(_) => {
                    Finish::Unknown
                }
            };
            let found = read(&Completion {
                text: &reply.choice.text,
                finish,
                schema_sent: answer.stored.asked_for_schema,
            });
            let first_problem = found.problems.first();
            untold = first_problem.map(of_problem);
            is_larger = found.problems.iter().any(|problem| {
                let Action::OneMoreTry { larger_limit } = problem.action();
                larger_limit
            });
            let is_complete = untold.is_none();
            if is_complete
                || best
                    .as_ref()
                    .is_none_or(|best| best.n_parts < found.n_parts)
            {
                best = Some(found);
            }
            if is_complete {
                break;
            }
        }
        // What is missing is told by the reply that counts.
        if let Some(best) = &best
            && untold.is_some()
        {
            untold = best.problems.first().map(of_problem);
        }
        Ok(Told {
            is_overflow: is_overflow && best.is_none(),
            value: best.map(|best| best.value),
            untold,
            made,
        })
    }

    fn request(
        &self,
        rendered: &Rendered,
        sample: u16,
        attempt: u16,
        is_larger: bool,
    ) -> CompletionRequest {
        let max_tokens = self.sampling.max_tokens.unwrap_or(self.max_tokens);
        let messages = rendered.messages.iter().map(|message| ChatMessage {
            role: message.role.as_str().to_owned(),
            content: message.content.clone(),
        });
        CompletionRequest {
            prompt: Prompt::Chat(messages.collect()),
            parameters: Parameters {
                temperature: self.sampling.temperature,
                top_p: self.sampling.top_p,
                max_tokens: if is_larger {
                    max_tokens.saturating_mul(LARGER)
                } else {
                    max_tokens
                },
                // Another seed for another try: the same one would give the same reply.
                seed: Some(
                    self.seed
                        .wrapping_add(u64::from(sample) * u64::from(TRIES) + u64::from(attempt))
                        & SEED_MAX,
                ),
                stop: Vec::new(),
                extra: self.sampling.extra.clone(),
            },
            schema: Some(ResponseSchema {
                name: rendered.schema_name.to_owned(),
                schema: rendered.schema.clone(),
            }),
            stage: self.purpose.to_owned(),
            sample: u32::from(sample) * u32::from(TRIES) + u32::from(attempt),
            model: None,
        }
    }
}

/// Servers take seeds of 31 bits.
const SEED_MAX: u64 = (1 << 31) - 1;

fn of_problem(problem: &ReplyProblem) -> Untold {
    Untold {
        status: Status::Rejected,
        lane: Lane::Rejected,
        reason: format!("{}: {problem}", problem.class()),
    }
}

fn of_class(class: FailureClass, message: &str) -> Untold {
    let (status, lane) = match class {
        FailureClass::Truncated | FailureClass::Empty | FailureClass::NotJson => {
            (Status::Rejected, Lane::Rejected)
        }
        _ => (Status::Failed, Lane::Failed),
    };
    Untold {
        status,
        lane,
        reason: format!("{class}: {message}"),
    }
}
