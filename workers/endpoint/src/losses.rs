//! The losses of a text under a server's model: how they are asked for, and how a reply tells them.
//!
//! A completion of one token is asked for, since servers differ in what none means: some write as
//! much as fits. What matters is what the reply says about the prompt:
//!
//! - `echo` with `logprobs` (OpenAI's legacy completions; llama-cpp-python, SGLang, vLLM): the
//!   prompt's tokens stand before the generated one, with their texts;
//! - `prompt_logprobs` (vLLM): they stand in a list of their own, with their ids.
//!
//! The first token of a prompt is predicted by nothing, and has no likelihood.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::json;

use crate::failure;
use crate::request::{CompletionRequest, Parameters, Prompt};

/// Tokens that are generated, to be thrown away.
const N_GENERATED: u32 = 1;
/// What servers write for a likelihood of zero, where their JSON has no infinity.
const LOG_LIKELIHOOD_OF_ZERO: f64 = -9999.0;
/// Log-likelihoods that rounding may put above zero.
const ROUNDING: f64 = 1e-3;

/// How a server is asked for the losses of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossDialect {
    /// `prompt_logprobs: 0`.
    PromptLogprobs,
    /// `echo: true, logprobs: 1`.
    Echo,
}

impl fmt::Display for LossDialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PromptLogprobs => "`prompt_logprobs`",
            Self::Echo => "`echo` and `logprobs`",
        })
    }
}

/// A token of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// Its id, where the server tells it.
    pub id: Option<u32>,
    /// Its text, where the server tells it; not exact where a character has several tokens.
    pub text: Option<String>,
    /// Natural logarithm of its likelihood after those before it; none for the first.
    pub log_likelihood: Option<f64>,
}

/// Why a reply does not tell the losses of its prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LossesError {
    /// It is no such reply.
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    /// It has nothing about the prompt.
    #[error("the answer does not tell log-probabilities of the prompt: {0}")]
    NotTold(&'static str),
    /// It leaves out, or cannot have, what it says of one token.
    #[error("token {token} of the prompt {what}")]
    Token {
        /// The token, counted from 0.
        token: usize,
        /// What is wrong with it.
        what: String,
    },
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    logprobs: Option<Listed>,
    #[serde(default)]
    prompt_logprobs: Option<Vec<Option<BTreeMap<String, Candidate>>>>,
}

/// Lists with an entry per token. Servers add others.
#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    tokens: Option<Vec<Option<String>>>,
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
}

/// A token that might have stood at a place.
#[derive(Deserialize)]
struct Candidate {
    #[serde(default)]
    logprob: Option<f64>,
    #[serde(default)]
    rank: Option<u64>,
    #[serde(default)]
    decoded_token: Option<String>,
}

impl LossDialect {
    /// Both, in the order in which they are tried: ids tell more than texts.
    pub const ALL: [Self; 2] = [Self::PromptLogprobs, Self::Echo];

    /// Asks for the losses of `text`, under another model than the endpoint's if one is named.
    #[must_use]
    pub fn request(self, text: String, model: Option<String>) -> CompletionRequest {
        let extra = match self {
            Self::PromptLogprobs => vec![("prompt_logprobs", json!(0))],
            Self::Echo => vec![("echo", json!(true)), ("logprobs", json!(1))],
        };
        let extra = extra.into_iter().map(|(key, it)| (key.to_owned(), it));
        CompletionRequest {
            prompt: Prompt::Text(text),
            parameters: Parameters {
                temperature: 0.0,
                max_tokens: N_GENERATED,
                extra: extra.collect(),
                ..Parameters::default()
            },
            schema: None,
            stage: "losses".to_owned(),
            sample: 0,
            model,
        }
    }

    /// The tokens of `prompt`, from the body of an answer to [`LossDialect::request`].
    ///
    /// # Errors
    ///
    /// If it does not tell the likelihood of every token but the first.
    pub fn decode(self, body: &[u8], prompt: &str) -> Result<Vec<PromptToken>, LossesError> {
        let text = String::from_utf8_lossy(body);
        let body: Body = serde_json::from_str(text.trim()).map_err(|cause| {
            let beginning = failure::bounded(text.get(..200).unwrap_or(&text));
            LossesError::Malformed(format!("{cause}: {beginning}"))
        })?;
        let n_generated = body.usage.and_then(|usage| usage.completion_tokens);
        let Some(choice) = body.choices.into_iter().next() else {
            return Err(LossesError::NotTold("it has no choice"));
        };
        let tokens = match self {
            Self::PromptLogprobs => prompt_logprobs(choice)?,
            Self::Echo => echoed(choice, n_generated, prompt)?,
        };
        if tokens.is_empty() {
            return Err(LossesError::NotTold("it has no token of it"));
        }
        checked(tokens)
    }
}

/// Of a list with all candidates by id that the server tells for each place.
fn prompt_logprobs(choice: Choice) -> Result<Vec<PromptToken>, LossesError> {
    let Some(places) = choice.prompt_logprobs else {
        return Err(LossesError::NotTold("it has no `prompt_logprobs`"));
    };
    let tokens = places.into_iter().enumerate().map(|(token, candidates)| {
        let candidates = candidates.unwrap_or_default();
        // One was asked for: the token that stands there. A server that adds its likeliest tells
        // that it is another one by a lower rank.
        let n_candidates = candidates.len();
        if n_candidates > 2 {
            let what =
                format!("has {n_candidates} candidates, and none that is told to stand there");
            return Err(LossesError::Token { token, what });
        }
        let found = candidates
            .into_iter()
            .max_by_key(|(_, candidate)| candidate.rank);
        Ok(match found {
            Some((id, candidate)) => PromptToken {
                id: id.parse().ok(),
                text: candidate.decoded_token,
                log_likelihood: candidate.logprob,
            },
            None => PromptToken {
                id: None,
                text: None,
                log_likelihood: None,
            },
        })
    });
    tokens.collect()
}

/// Of lists in which the generated token stands behind those of the prompt.
fn echoed(
    choice: Choice,
    n_generated: Option<u64>,
    prompt: &str,
) -> Result<Vec<PromptToken>, LossesError> {
    let Some(listed) = choice.logprobs else {
        return Err(LossesError::NotTold("it has no `logprobs`"));
    };
    let Some(likelihoods) = listed.token_logprobs else {
        return Err(LossesError::NotTold("it has no `token_logprobs`"));
    };
    let texts = listed.tokens.unwrap_or_default();
    if !texts.is_empty() && texts.len() != likelihoods.len() {
        let (n_texts, n_likelihoods) = (texts.len(), likelihoods.len());
        return Err(LossesError::Malformed(format!(
            "{n_texts} tokens have {n_likelihoods} log-probabilities"
        )));
    }
    let n_generated = match n_generated {
        Some(n_generated) => n_generated.min(u64::from(N_GENERATED)) as usize,
        // Texts tell as well: those before the last one are the prompt already.
        None => {
            let others = texts.len().saturating_sub(1);
            let lengths = texts[..others].iter().flatten().map(String::len);
            usize::from(texts.is_empty() || lengths.sum::<usize>() >= prompt.len())
        }
    };
    let n_tokens = likelihoods.len().saturating_sub(n_generated);
    let texts = texts.into_iter().chain(std::iter::repeat(None));
    let tokens = likelihoods.into_iter().zip(texts).take(n_tokens);
    Ok(tokens
        .map(|(log_likelihood, text)| PromptToken {
            id: None,
            text,
            log_likelihood,
        })
        .collect())
}

fn checked(mut tokens: Vec<PromptToken>) -> Result<Vec<PromptToken>, LossesError> {
    for (token, it) in tokens.iter_mut().enumerate() {
        let Some(log_likelihood) = it.log_likelihood else {
            if token == 0 {
                continue;
            }
            let what = "has no log-probability".to_owned();
            return Err(LossesError::Token { token, what });
        };
        if log_likelihood > ROUNDING {
            let what = format!("has a log-probability of {log_likelihood}, above zero");
            return Err(LossesError::Token { token, what });
        }
        it.log_likelihood = Some(if log_likelihood <= LOG_LIKELIHOOD_OF_ZERO {
            f64::NEG_INFINITY
        } else {
            log_likelihood.min(0.0)
        });
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
