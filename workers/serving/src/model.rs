//! A model that answers.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gleaner_models::{
    CausalModel, Continuation, LanguageModel as _, LoadOptions, ModelDirectory, Tokenizer,
};
use serde_json::Value;

use crate::decoding::added;
use crate::guided::{Guided, Stop};
use crate::sampling::Sampler;
use crate::{ChatTemplate, Form, Message, Sampling, ServingError};

/// Tokens of a prompt that are read between two looks at whether anybody still waits.
const PREFILL: usize = 256;

/// A model in memory, with what it takes to talk to it.
#[derive(Debug)]
pub struct ServedModel {
    model: CausalModel,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Tokens that end a turn.
    ends: Vec<u32>,
    /// Tokens that are no text.
    controls: Vec<u32>,
}

/// Why a completion ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, a text to stop at came, or the answer is whole.
    Stop,
    /// No token is left: of the request, or of the context.
    Length,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Its words.
    pub text: String,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
}

impl ServedModel {
    /// Reads the model of a directory.
    ///
    /// # Errors
    ///
    /// If it is no model that can be run, or takes more memory than the options allow.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Self, ServingError> {
        let directory = ModelDirectory::open(path)?;
        let template = ChatTemplate::read(path)?;
        let model = directory.load(options)?;
        let mut ends: Vec<u32> = directory.eos_id(None).ok().into_iter().collect();
        let (_, tokenizer) = directory.into_parts();
        ends.extend(tokenizer.id_of(template.eos_token()));
        for name in ["config.json", "generation_config.json"] {
            ends.extend(eos_ids(&path.join(name)));
        }
        ends.sort_unstable();
        ends.dedup();
        let controls = tokenizer.control_ids();
        Ok(Self {
            model,
            tokenizer,
            template,
            ends,
            controls,
        })
    }

    /// The longest prompt and answer together, in tokens.
    #[must_use]
    pub fn context(&self) -> usize {
        self.model.context()
    }

    /// The ids of messages, up to where the answer begins.
    ///
    /// # Errors
    ///
    /// As [`ChatTemplate::encode`].
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, ServingError> {
        self.template.encode(&self.tokenizer, messages)
    }

    /// The ids of a text to go on with.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot encode it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, ServingError> {
        Ok(self.tokenizer.encode(text)?)
    }

    /// Goes on with a prompt, by a form if there is one. The same for the same seed.
    ///
    /// # Errors
    ///
    /// If the prompt does not fit, or it was cancelled.
    pub fn complete(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        form: Option<&Form>,
        is_cancelled: &AtomicBool,
    ) -> Result<Completion, ServingError> {
        let start = [self.ends.first().copied().unwrap_or(0)];
        // Models go on with something.
        let prompt = if prompt.is_empty() { &start } else { prompt };
        let n_room = self.context().saturating_sub(prompt.len());
        if n_room == 0 {
            return Err(ServingError::ContextLength {
                context: self.context(),
                n_prompt: prompt.len(),
            });
        }
        let is_cancelled = || is_cancelled.load(Ordering::Relaxed);
        let mut text = self.model.begin();
        let mut logits = Vec::new();
        for part in prompt.chunks(PREFILL) {
            if is_cancelled() {
                return Err(ServingError::Cancelled);
            }
            let after = text.extend(part)?;
            logits.clear();
            logits.extend_from_slice(after);
        }
        let n_max = sampling.max_tokens.min(n_room);
        let begun = Begun {
            text,
            logits,
            sampler: Sampler::new(sampling),
            n_max,
            is_cancelled: &is_cancelled,
        };
        let written = match form {
            Some(form) => self.write_by(form, begun)?,
            None => self.write_freely(&sampling.stop, begun)?,
        };
        Ok(Completion {
            text: written.text,
            finish_reason: written.finish_reason,
            prompt_tokens: prompt.len(),
            completion_tokens: written.n_tokens,
        })
    }

    fn write_by(&self, form: &Form, mut begun: Begun<'_>) -> Result<Written, ServingError> {
        let mut guided = Guided {
            tokenizer: &self.tokenizer,
            text: &mut begun.text,
            sampler: &mut begun.sampler,
            ends: &self.ends,
            controls: &self.controls,
            n_left: begun.n_max,
            answer: String::new(),
            is_cancelled: begun.is_cancelled,
            logits: begun.logits,
        };
        let finish_reason = match guided.write(form) {
            Ok(()) => FinishReason::Stop,
            Err(Stop::Length) => FinishReason::Length,
            Err(Stop::Failed(error)) => return Err(error),
        };
        Ok(Written {
            n_tokens: begun.n_max - guided.n_left,
            text: guided.answer,
            finish_reason,
        })
    }

    fn write_freely(&self, stop: &[String], mut begun: Begun<'_>) -> Result<Written, ServingError> {
        let mut ids: Vec<u32> = Vec::new();
        let is_text = |id: &u32| self.ends.contains(id) || !self.controls.contains(id);
        let mut finish_reason = FinishReason::Length;
        let mut text = String::new();
        while ids.len() < begun.n_max {
            if (begun.is_cancelled)() {
                return Err(ServingError::Cancelled);
            }
            let logits = (0..).zip(begun.logits.iter().copied());
            let id = begun.sampler.draw(logits.filter(|(id, _)| is_text(id)));
            let Some(id) = id.filter(|id| !self.ends.contains(id)) else {
                finish_reason = FinishReason::Stop;
                break;
            };
            text.push_str(&added(&self.tokenizer, &ids, id)?);
            ids.push(id);
            if stop.iter().any(|stop| text.contains(stop.as_str())) {
                finish_reason = FinishReason::Stop;
                break;
            }
            if ids.len() < begun.n_max {
                let after = begun.text.extend(&[id])?;
                begun.logits.clear();
                begun.logits.extend_from_slice(after);
            }
        }
        let mut text = self.tokenizer.decode(&ids)?;
        let end = stop
            .iter()
            .filter_map(|stop| text.find(stop.as_str()))
            .min();
        text.truncate(end.unwrap_or(text.len()));
        Ok(Written {
            text,
            finish_reason,
            n_tokens: ids.len(),
        })
    }
}

/// A prompt that was read.
struct Begun<'a> {
    text: Continuation<'a>,
    logits: Vec<f32>,
    sampler: Sampler,
    /// Most tokens of the answer.
    n_max: usize,
    is_cancelled: &'a dyn Fn() -> bool,
}

struct Written {
    text: String,
    finish_reason: FinishReason,
    n_tokens: usize,
}

fn eos_ids(path: &Path) -> Vec<u32> {
    let ids = || -> Option<Vec<u32>> {
        let json: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let ids = &json["eos_token_id"];
        let one = std::slice::from_ref(ids);
        let ids = ids.as_array().map_or(one, Vec::as_slice).iter();
        Some(
            ids.filter_map(|id| u32::try_from(id.as_u64()?).ok())
                .collect(),
        )
    };
    ids().unwrap_or_default()
}
