//! Parameters that both stages of generation have, as they stand in the job file, and as tasks are
//! given them: with prompts and scales spelled out, so that a task's id depends on what they say
//! and not on where they lie.

use std::collections::BTreeMap;
use std::path::Path;

use gleaner_generation::prompt::{Ensemble, Prompt, PromptKind, built_in_prompt, built_in_prompts};
use gleaner_generation::{Flag, Grade, Scale};
use gleaner_schemas::job::{Endpoint, Job, JobError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest prompt file that is read.
const PROMPT_FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest completion that may be asked for.
const MAX_TOKENS_MAX: u32 = 1 << 20;

/// Grades of relevance: the name of a scale, or a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GradesParam {
    /// `trec`, `esci`, `wands` or `binary`.
    Named(String),
    /// Grades with labels and definitions, 0 is irrelevant.
    Listed(Vec<Grade>),
}

impl GradesParam {
    /// The scale.
    ///
    /// # Errors
    ///
    /// If there is no such scale, or the list is none.
    pub fn scale(&self, job: &Job, stage: &str) -> Result<Scale, JobError> {
        let scale = match self {
            Self::Named(name) => Scale::built_in(name),
            Self::Listed(grades) => Scale::new(stage, grades.clone()),
        };
        scale.map_err(|error| {
            job.error_at(&format!("stages.{stage}.grades"), error.to_string(), None)
        })
    }
}

/// A prompt: the name of a built-in one, or a file or text of the user's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PromptParam {
    /// Name of a built-in prompt.
    Named(String),
    /// One of several, with its weight.
    Weighted(WeightedPrompt),
}

/// A prompt with its weight among others; exactly one of `name`, `file` and `text`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedPrompt {
    /// Name of a built-in prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A file, relative to the job file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The text of a prompt file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Share of the items, relative to the others.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// Defaults of both stages.
pub(crate) fn trec() -> GradesParam {
    GradesParam::Named("trec".to_owned())
}

pub(crate) fn one_completion() -> u16 {
    1
}

pub(crate) fn document_bytes() -> u64 {
    12_000
}

/// A prompt as tasks are given it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptText {
    /// What it says: the name of a built-in prompt stands for its text.
    pub source: PromptSource,
    /// Its id, which depends on the text.
    pub id: String,
    /// Share of the items.
    pub weight: f64,
}

/// Where a prompt's text is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptSource {
    /// In this program.
    BuiltIn(String),
    /// Here.
    Text(String),
}

impl PromptText {
    fn prompt(&self, kind: PromptKind) -> Result<Prompt, String> {
        let prompt = match &self.source {
            PromptSource::BuiltIn(name) => built_in_prompt(kind, name)
                .ok_or_else(|| format!("this program has no prompt {name}"))?,
            PromptSource::Text(text) => {
                Prompt::parse(kind, text).map_err(|error| error.to_string())?
            }
        };
        if prompt.id() == self.id {
            Ok(prompt)
        } else {
            Err(format!(
                "the prompt {} of this program is another one ({}); run workers and coordinator of \
                 the same version",
                self.id,
                prompt.id()
            ))
        }
    }
}

/// The prompts that a stage names, or all built-in ones of the kind.
///
/// # Errors
///
/// If a prompt does not exist, cannot be read or is not valid.
pub fn prompts(
    job: &Job,
    stage: &str,
    key: &str,
    kind: PromptKind,
    named: &[PromptParam],
) -> Result<Vec<PromptText>, JobError> {
    let at = |message: String| job.error_at(&format!("stages.{stage}.{key}"), message, None);
    let built_in = |prompt: &Prompt, weight| PromptText {
        source: PromptSource::BuiltIn(prompt.name().to_owned()),
        id: prompt.id().to_owned(),
        weight,
    };
    if named.is_empty() {
        let all = built_in_prompts(kind);
        return Ok(all.iter().map(|prompt| built_in(prompt, 1.0)).collect());
    }
    let mut prompts = Vec::new();
    for param in named {
        let weighted = match param {
            PromptParam::Named(name) => WeightedPrompt {
                name: Some(name.clone()),
                file: None,
                text: None,
                weight: 1.0,
            },
            PromptParam::Weighted(weighted) => weighted.clone(),
        };
        let weight = weighted.weight;
        let text = match (weighted.name, weighted.file, weighted.text) {
            (Some(name), None, None) => {
                let known = || {
                    let all = built_in_prompts(kind);
                    let names: Vec<String> = all.iter().map(|it| it.name().to_owned()).collect();
                    names.join(", ")
                };
                let prompt = built_in_prompt(kind, &name).ok_or_else(|| {
                    at(format!(
                        "there is no prompt `{name}`; there are {}",
                        known()
                    ))
                })?;
                prompts.push(built_in(&prompt, weight));
                continue;
            }
            (None, Some(file), None) => read_prompt(job, &file).map_err(at)?,
            (None, None, Some(text)) => text,
            _ => {
                let message = "a prompt has exactly one of `name`, `file` and `text`";
                return Err(at(message.to_owned()));
            }
        };
        let prompt = Prompt::parse(kind, &text).map_err(|error| at(error.to_string()))?;
        prompts.push(PromptText {
            id: prompt.id().to_owned(),
            source: PromptSource::Text(text),
            weight,
        });
    }
    ensemble(kind, &prompts).map_err(at)?;
    Ok(prompts)
}

/// A prompt file lies beside the job file that names it.
fn read_prompt(job: &Job, file: &str) -> Result<String, String> {
    let folder = Path::new(&job.source.name)
        .parent()
        .unwrap_or(Path::new(""));
    let path = folder.join(file);
    let cannot = |reason: String| format!("cannot read the prompt {}: {reason}", path.display());
    let meta = std::fs::metadata(&path).map_err(|error| cannot(error.to_string()))?;
    if !meta.is_file() || meta.len() > PROMPT_FILE_BYTES_MAX {
        return Err(cannot("it is no text file of at most 1 MiB".to_owned()));
    }
    std::fs::read_to_string(&path).map_err(|error| cannot(error.to_string()))
}

/// The prompts that tasks were given.
///
/// # Errors
///
/// If this program has not the same ones.
pub fn ensemble(kind: PromptKind, prompts: &[PromptText]) -> Result<Ensemble, String> {
    let members = prompts
        .iter()
        .map(|text| Ok((text.prompt(kind)?, text.weight)))
        .collect::<Result<Vec<_>, String>>()?;
    Ensemble::new(members).map_err(|error| error.to_string())
}

/// Few-shot examples: a dataset whose text is a document and whose source is a query for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationsParam {
    /// Name of the dataset; its `columns: {text: ..., source: ...}` name document and query.
    pub dataset: String,
    /// Examples for each item.
    #[serde(default = "three")]
    pub count: u16,
    /// Shows the same examples for all items: of several sets that under which a model finds real
    /// queries likeliest (SPTAR); absent: other examples for each item. Of `synthetic_queries` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<SelectParam>,
}

/// How a set of few-shot examples is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectParam {
    /// Name of the endpoint whose model rates: it must tell log-probabilities of prompts; absent: the
    /// one that writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Sets that are rated.
    #[serde(default = "eight")]
    pub sets: u16,
    /// Pairs of the dataset whose queries are rated; they are never shown.
    #[serde(default = "sixteen")]
    pub held_out: u16,
}

fn eight() -> u16 {
    8
}

fn sixteen() -> u16 {
    16
}

fn three() -> u16 {
    3
}

/// How completions are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 is the likeliest token each time.
    #[serde(default = "seven_tenths")]
    pub temperature: f64,
    /// Only the likeliest tokens up to this probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Longest completion; absent: what is asked for takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Further parameters of the server, as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Value>,
}

fn seven_tenths() -> f64 {
    0.7
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: seven_tenths(),
            top_p: None,
            max_tokens: None,
            extra: BTreeMap::new(),
        }
    }
}

impl Sampling {
    /// # Errors
    ///
    /// For values that no server takes.
    pub fn check(&self, job: &Job, stage: &str) -> Result<(), JobError> {
        let at = |key: &str, message: &str| {
            let path = format!("stages.{stage}.sampling.{key}");
            Err(job.error_at(&path, message.to_owned(), None))
        };
        if !(0.0..=2.0).contains(&self.temperature) {
            return at("temperature", "a temperature is a number from 0 to 2");
        }
        if self
            .top_p
            .is_some_and(|top_p| !(top_p > 0.0 && top_p <= 1.0))
        {
            return at("top_p", "top_p is a number above 0, at most 1");
        }
        if self
            .max_tokens
            .is_some_and(|n| n == 0 || n > MAX_TOKENS_MAX)
        {
            return at("max_tokens", "no completion has that many tokens");
        }
        const OWN: [&str; 12] = [
            "model",
            "messages",
            "prompt",
            "temperature",
            "top_p",
            "max_tokens",
            "seed",
            "n",
            "stream",
            "response_format",
            "max_completion_tokens",
            "best_of",
        ];
        if let Some(own) = self.extra.keys().find(|key| OWN.contains(&key.as_str())) {
            return at("extra", &format!("`{own}` is set by Gleaner"));
        }
        Ok(())
    }
}

/// A second model that grades what the first wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeParam {
    /// Name of an endpoint; another model than the generator's tells more.
    pub endpoint: String,
    /// Its prompt; absent: the built-in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PromptParam>,
    /// Which texts stay.
    #[serde(default)]
    pub keep: gleaner_generation::checks::Keep,
}

/// What becomes of documents that are longer than a prompt has room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LongDocuments {
    /// Their beginning is used; less of it where the server says that its model's context is shorter.
    #[default]
    Truncate,
    /// They are rejected; the rows of those that the model's context has no room for fail.
    Reject,
}

/// Flags for which texts are rejected unless the job says otherwise: each makes a text useless for
/// training.
#[must_use]
pub fn default_rejects() -> Vec<Flag> {
    vec![
        Flag::QueryCopied,
        Flag::MetaTalk,
        Flag::GradeWordLeak,
        Flag::FewShotLeak,
        Flag::Duplicate,
        Flag::Repetition,
    ]
}

/// An endpoint as rows depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointIdentity {
    /// Name in the job file: how it is used now is found under it.
    pub name: String,
    /// Base URL.
    pub url: String,
    /// Name of the model.
    pub model: String,
}

/// The endpoint that a stage names.
///
/// # Errors
///
/// If there is none.
pub fn endpoint(
    job: &Job,
    stage: &str,
    key: &str,
    name: &str,
) -> Result<EndpointIdentity, JobError> {
    let known = || {
        let names: Vec<&str> = job.file.endpoints.keys().map(String::as_str).collect();
        if names.is_empty() {
            "write one: `endpoints: {llm: {url: \"http://127.0.0.1:8000/v1\", model: ...}}`"
                .to_owned()
        } else {
            format!("there are {}", names.join(", "))
        }
    };
    let Some(Endpoint { url, model, .. }) = job.file.endpoints.get(name) else {
        let message = format!("there is no endpoint `{name}`");
        return Err(job.error_at(&format!("stages.{stage}.{key}"), message, Some(known())));
    };
    Ok(EndpointIdentity {
        name: name.to_owned(),
        url: url.trim_end_matches('/').to_owned(),
        model: model.clone(),
    })
}
