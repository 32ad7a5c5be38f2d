//! Parameters of `loss_reduction`, from what was typed to what it means.

use std::collections::BTreeMap;

use gleaner_schemas::job::{Job, JobError, StageSpec, nearest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::model_param::{ModelName, ModelParam, ServedModel, ServerParam, key_of, place_of};
use super::rows::{CONDITIONAL, PRIOR};
use crate::forecast::ImpliedStage;
use crate::generation::params::endpoint;
use crate::importance_weights::{CORPUS, check_input};
use crate::language_model::{Device, Dtype};
use crate::stage::DocumentSource;
use crate::train_language_model;

/// What one row of the table is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A document, scored by itself in windows of the context.
    #[default]
    Document,
    /// A sequence of exactly `context` tokens, packed across the documents of a row group, or of a
    /// file where there are none.
    Sequence,
}

/// Parameters of a `loss_reduction` stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossParams {
    /// What is scored: `corpus`, or an earlier `select` stage with `materialize: true`.
    #[serde(default = "default_input")]
    pub input: String,
    /// The model whose losses are subtracted from: an earlier stage that trains one, a directory
    /// in the Hugging Face layout, `train(SIZE)`, trained on a sample of the input, or
    /// `{endpoint: NAME}`, a server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<ModelParam>,
    /// The model whose losses are subtracted: the same, or `continue(prior, DATASET)`, trained
    /// further on a dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditional: Option<ModelParam>,
    /// Further models by name, whose losses stand beside the others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelParam>,
    /// What one row is about.
    #[serde(default)]
    pub unit: Unit,
    /// Tokens that a model sees at a time; default: the most that all models can. Servers are sent
    /// no text that has more for sure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub context: Option<u32>,
    /// Documents are cut after so many tokens, and marked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u32>,
    /// Numbers that a model computes with.
    #[serde(default)]
    pub dtype: Dtype,
    /// Where a model computes.
    #[serde(default)]
    pub device: Device,
    /// The token that ends a document and stands before the first; default: what the models' files
    /// tell. Servers are sent it before each text only if it is given; else the first token of a
    /// document has no loss, unless the server puts one before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
    /// Add a list of the losses of all tokens for each model.
    #[serde(default)]
    pub token_losses: bool,
}

fn default_input() -> String {
    CORPUS.to_owned()
}

/// Name of the stage that trains a model of stage `name`.
fn trained_stage(name: &str, model: &str) -> String {
    format!("{name}_{model}")
}

impl LossParams {
    /// Reads and checks the parameters of a stage.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub fn of(job: &Job, name: &str) -> Result<Self, JobError> {
        let params: Self = job.stage_params(name)?;
        let at = |key: &str| format!("stages.{name}.{key}");
        if params.conditional.is_some() && params.prior.is_none() {
            return Err(job.error_at(
                &at(CONDITIONAL),
                "there is no `prior` that its losses could be compared with",
                None,
            ));
        }
        if params.prior.is_none() && params.models.is_empty() {
            return Err(job.error_at_key(
                &format!("stages.{name}"),
                "there is no model",
                Some("give `prior` and `conditional`".to_owned()),
            ));
        }
        for model in params.models.keys() {
            let is_plain = !model.is_empty()
                && model
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !is_plain || [PRIOR, CONDITIONAL].contains(&model.as_str()) {
                return Err(job.error_at_key(
                    &at(&format!("models.{model}")),
                    format!("{model:?} cannot be the name of a further model"),
                    Some(
                        "use lower-case letters, digits and `_`; `prior` and `conditional` are \
                         keys of their own"
                            .to_owned(),
                    ),
                ));
            }
        }
        if params.context.is_some_and(|context| context < 2) {
            let message = "a context of fewer than 2 tokens predicts nothing";
            return Err(job.error_at(&at("context"), message, None));
        }
        if params.max_tokens == Some(0) {
            return Err(job.error_at(&at("max_tokens"), "no token would be left", None));
        }
        check_input(job, name, &params.input)?;
        params.check_servers(job, name)?;
        for (model, _) in params.named() {
            params.resolve(job, name, &model)?;
        }
        Ok(params)
    }

    /// What servers cannot do, and what is of no use to them.
    fn check_servers(&self, job: &Job, name: &str) -> Result<(), JobError> {
        let named = self.named();
        let is_server = |model: &ModelParam| matches!(model, ModelParam::Server(_));
        if !named.iter().any(|(_, model)| is_server(model)) {
            return Ok(());
        }
        if self.unit == Unit::Sequence {
            return Err(job.error_at(
                &format!("stages.{name}.unit"),
                "sequences are cut of tokens, and a server is given texts: without its tokenizer \
                 they cannot be packed",
                Some("write `unit: document`".to_owned()),
            ));
        }
        if !named.iter().all(|(_, model)| is_server(model)) {
            return Ok(());
        }
        let spec = job.file.stages.get(name);
        for key in ["dtype", "device"] {
            if spec.is_some_and(|spec| spec.params.contains_key(key)) {
                return Err(job.error_at_key(
                    &format!("stages.{name}.{key}"),
                    format!(
                        "`{key}` is about models that compute here, and all of these are servers'"
                    ),
                    Some(format!("leave `{key}` out")),
                ));
            }
        }
        Ok(())
    }

    /// All models by name: the prior, the conditional, then others.
    pub(super) fn named(&self) -> Vec<(String, ModelParam)> {
        let first = [(PRIOR, &self.prior), (CONDITIONAL, &self.conditional)];
        let first = first
            .into_iter()
            .filter_map(|(name, model)| Some((name.to_owned(), model.clone()?)));
        let more = self
            .models
            .iter()
            .map(|(name, model)| (name.clone(), model.clone()));
        first.chain(more).collect()
    }

    /// How the job file names a model.
    fn param(&self, model: &str) -> Option<&ModelParam> {
        match model {
            PRIOR => self.prior.as_ref(),
            CONDITIONAL => self.conditional.as_ref(),
            _ => self.models.get(model),
        }
    }

    /// What a model's text means in this job; trained ones are stages by now.
    pub(super) fn resolve(
        &self,
        job: &Job,
        name: &str,
        model: &str,
    ) -> Result<ModelName, JobError> {
        let text = match self.param(model) {
            Some(ModelParam::Server(server)) => {
                return Ok(ModelName::Server(served(job, name, model, server)?));
            }
            Some(ModelParam::Text(text)) => text.as_str(),
            None => "",
        };
        match self.parse(job, name, model, text)? {
            ModelName::Train(_) | ModelName::Continue(..) => {
                Ok(ModelName::Stage(trained_stage(name, model)))
            }
            other => Ok(other),
        }
    }

    fn parse(&self, job: &Job, name: &str, model: &str, text: &str) -> Result<ModelName, JobError> {
        let place = place_of(name, model);
        let Some(parsed) = ModelName::of(text) else {
            return Err(job.error_at(
                &place,
                format!("{text:?} has too few or too many arguments"),
                Some("write `train(SIZE)` or `continue(MODEL, DATASET)`".to_owned()),
            ));
        };
        if let ModelName::Directory(text) = &parsed
            && job.file.stages.before(name).any(|it| it == text)
        {
            let kind = job.file.stages.get(text).map(|spec| spec.kind.as_str());
            if kind != Some(train_language_model::KIND) {
                return Err(job.error_at(
                    &place,
                    format!("stage `{text}` trains no language model"),
                    None,
                ));
            }
            return Ok(ModelName::Stage(text.clone()));
        }
        if let ModelName::Continue(from, dataset) = &parsed {
            if !job.file.datasets.contains_key(dataset) {
                return Err(job.error_at(
                    &place,
                    format!("there is no dataset `{dataset}`"),
                    nearest(dataset, job.file.datasets.keys().map(String::as_str)),
                ));
            }
            let known: Vec<String> = self.named().into_iter().map(|(name, _)| name).collect();
            if from == model || !known.contains(from) {
                return Err(job.error_at(
                    &place,
                    format!("`{from}` is no other model of this stage"),
                    nearest(from, known.iter().map(String::as_str)),
                ));
            }
            if let Some(ModelParam::Server(_)) = self.param(from) {
                return Err(job.error_at(
                    &place,
                    format!("the model `{from}` is a server's, and cannot be trained further here"),
                    Some("start from a stage, a directory or `train(SIZE)`".to_owned()),
                ));
            }
        }
        Ok(parsed)
    }

    /// The stages that train models of this stage.
    pub(super) fn implied(&self, job: &Job, name: &str) -> Result<Vec<ImpliedStage>, JobError> {
        let mut stages: Vec<ImpliedStage> = Vec::new();
        for (model, param) in self.named() {
            let ModelParam::Text(text) = param else {
                continue;
            };
            let params = match self.parse(job, name, &model, &text)? {
                ModelName::Train(size) => {
                    json!({ "size": size, "input": self.input })
                }
                ModelName::Continue(from, dataset) => {
                    let from = match self.resolve(job, name, &from)? {
                        ModelName::Stage(text) | ModelName::Directory(text) => text,
                        // The others are stages by then, or were refused.
                        _ => from,
                    };
                    let mut params = json!({ "from": from, "dataset": dataset });
                    if let Some(eos) = &self.eos {
                        params["eos"] = json!(eos);
                    }
                    params
                }
                _ => continue,
            };
            let stage = trained_stage(name, &model);
            if job.file.stages.get(&stage).is_some() {
                return Err(job.error_at_key(
                    &format!("stages.{stage}"),
                    format!("stage `{name}` has a stage of this name for its model `{model}`"),
                    Some("give this stage another name".to_owned()),
                ));
            }
            let spec = StageSpec {
                kind: train_language_model::KIND.to_owned(),
                publish: None,
                params: match params {
                    Value::Object(params) => params,
                    _ => Map::new(),
                },
            };
            stages.push(ImpliedStage {
                name: stage,
                spec,
                asked_at: place_of(name, &model),
            });
        }
        in_order(stages).map_err(|names| {
            job.error_at_key(
                &format!("stages.{name}"),
                format!("the models {names} start from each other"),
                Some("begin with `train(SIZE)` or a directory".to_owned()),
            )
        })
    }

    pub(super) fn source(&self) -> DocumentSource {
        match self.input.as_str() {
            CORPUS => DocumentSource::Corpus,
            stage => DocumentSource::Stage(stage.to_owned()),
        }
    }
}

/// Parameters of the map `score`: everything that the rows depend on besides models and texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScoreParams {
    pub(crate) unit: Unit,
    /// 0 where only servers compute, and the job file does not tell what they see.
    pub(crate) context: u32,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) dtype: Dtype,
    pub(crate) device: Device,
    pub(crate) eos: Option<String>,
    pub(crate) token_losses: bool,
    /// Names of the models.
    pub(crate) models: Vec<String>,
    /// Those of them that servers compute.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) servers: BTreeMap<String, ServedModel>,
}

/// The model that a server computes.
fn served(
    job: &Job,
    name: &str,
    model: &str,
    server: &ServerParam,
) -> Result<ServedModel, JobError> {
    let key = format!("{}.endpoint", key_of(model));
    let endpoint = endpoint(job, name, &key, &server.endpoint)?;
    let other = server.model.clone().filter(|it| *it != endpoint.model);
    Ok(ServedModel {
        endpoint,
        model: other,
        log_probabilities: server.log_probabilities,
    })
}

/// The stages so that what one starts from comes before it; else the names of those for which that
/// cannot be.
fn in_order(mut stages: Vec<ImpliedStage>) -> Result<Vec<ImpliedStage>, String> {
    let mut ordered: Vec<ImpliedStage> = Vec::new();
    while !stages.is_empty() {
        let is_free = |stage: &ImpliedStage| {
            let from = stage.spec.params.get("from").and_then(Value::as_str);
            !stages.iter().any(|other| Some(other.name.as_str()) == from)
        };
        let Some(idx) = stages.iter().position(is_free) else {
            let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
            return Err(names.join(", "));
        };
        ordered.push(stages.remove(idx));
    }
    Ok(ordered)
}
