//! Parameters of `train_language_model`, from what was typed to what it means.

use gleaner_models::train::{Size, VOCAB_SIZE_MAX, VOCAB_SIZE_MIN};
use gleaner_schemas::job::{Job, JobError, nearest};
use gleaner_schemas::units::Ratio;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::importance_weights::{CORPUS, check_input};
use crate::stage::DocumentSource;

/// Parameters of a `train_language_model` stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainParams {
    /// Train from scratch a model of this size: `1m`, `5m`, `20m`, `125m` parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Train further from this model: an earlier stage that trains one, or a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What is sampled: `corpus`, or an earlier `select` stage with `materialize: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "corpus"))]
    pub input: Option<String>,
    /// Train on this dataset instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Tokens to train on; what is there is repeated if it has fewer. Default: by the size, or one
    /// epoch where a model is trained further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// How often each document is trained on, instead of `tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u64>,
    /// Tokens of a new model's tokenizer; default: by the size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 258, max = 131_072))]
    pub vocabulary: Option<u64>,
    /// Highest learning rate; default: by the size, lower where a model is trained further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Of a model that is trained further: its first layers that stay as they are, and its embedding with
    /// them; a head that is the embedding becomes one of its own. What the model then has in common with
    /// the first one is computed once for both. 0 trains everything; default: a third of its layers,
    /// rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_layers: Option<u32>,
    /// Seed of the sample, the first weights and the order of the documents.
    #[serde(default)]
    pub seed: u64,
    /// Share of the tokens that is held out and never trained on; default: 2%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "2%"))]
    pub held_out: Option<Ratio>,
    /// Measurements of the held-out loss without a better one after which training ends early; 0
    /// never ends early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<u32>,
    /// The token that joins documents, where the files of the first model do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
    /// Train anew although an earlier version of this output has the model.
    #[serde(default)]
    pub refit: bool,
}

/// Share of the tokens that is held out where the job file does not say.
const HELD_OUT: f64 = 0.02;

/// The model that training starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    Size(Size),
    Stage(String),
    Directory(String),
}

impl TrainParams {
    /// Reads and checks the parameters of a stage.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub fn of(job: &Job, name: &str) -> Result<Self, JobError> {
        let params: Self = job.stage_params(name)?;
        let at = |key: &str| format!("stages.{name}.{key}");
        params.start(job, name)?;
        if params.input.is_some() && params.dataset.is_some() {
            return Err(job.error_at(
                &at("dataset"),
                "a model is trained on `input` or on `dataset`, not on both",
                None,
            ));
        }
        if let Some(dataset) = &params.dataset
            && !job.file.datasets.contains_key(dataset)
        {
            return Err(job.error_at(
                &at("dataset"),
                format!("there is no dataset `{dataset}`"),
                nearest(dataset, job.file.datasets.keys().map(String::as_str)),
            ));
        }
        if let Some(input) = &params.input {
            check_input(job, name, input)?;
        }
        if params.tokens.is_some() && params.epochs.is_some() {
            let message = "`tokens` and `epochs` say the same in two ways: keep one";
            return Err(job.error_at(&at("epochs"), message, None));
        }
        for (key, number) in [("tokens", params.tokens), ("epochs", params.epochs)] {
            if number == Some(0) {
                return Err(job.error_at(&at(key), "nothing would be trained on", None));
            }
        }
        if let Some(n_tokens) = params.vocabulary
            && !(VOCAB_SIZE_MIN as u64..=VOCAB_SIZE_MAX as u64).contains(&n_tokens)
        {
            let message = format!(
                "a vocabulary of {n_tokens} tokens cannot be: {VOCAB_SIZE_MIN} to {VOCAB_SIZE_MAX}"
            );
            return Err(job.error_at(&at("vocabulary"), message, None));
        }
        if let Some(rate) = params.learning_rate
            && !(rate > 0.0 && rate < 1.0)
        {
            let message = format!("a learning rate of {rate} cannot be: above 0, below 1");
            return Err(job.error_at(&at("learning_rate"), message, None));
        }
        if params.held_out_share() >= 1.0 {
            let message = "nothing would be left to train on";
            return Err(job.error_at(&at("held_out"), message, None));
        }
        if params.from.is_some() && params.vocabulary.is_some() {
            let message = "a model that is trained further keeps its vocabulary";
            return Err(job.error_at(&at("vocabulary"), message, None));
        }
        if params.size.is_some() && params.frozen_layers.is_some() {
            let message = "a new model has no layers that could stay as they are";
            return Err(job.error_at(&at("frozen_layers"), message, None));
        }
        Ok(params)
    }

    /// What training starts from.
    pub(super) fn start(&self, job: &Job, name: &str) -> Result<Start, JobError> {
        match (&self.size, &self.from) {
            (Some(size), None) => size.parse().map(Start::Size).map_err(|_| {
                let known: Vec<&str> = Size::ALL.iter().map(|size| size.name()).collect();
                job.error_at(
                    &format!("stages.{name}.size"),
                    format!(
                        "there is no size {size:?}; the sizes are {}",
                        known.join(", ")
                    ),
                    nearest(size, known),
                )
            }),
            (None, Some(from)) if job.file.stages.before(name).any(|it| it == from) => {
                let kind = job.file.stages.get(from).map(|spec| spec.kind.as_str());
                if kind == Some(super::KIND) {
                    return Ok(Start::Stage(from.clone()));
                }
                Err(job.error_at(
                    &format!("stages.{name}.from"),
                    format!("stage `{from}` trains no language model"),
                    None,
                ))
            }
            (None, Some(from)) => Ok(Start::Directory(from.clone())),
            (Some(_), Some(_)) => Err(job.error_at(
                &format!("stages.{name}.size"),
                "a model is trained from scratch (`size`) or further (`from`), not both",
                None,
            )),
            (None, None) => Err(job.error_at_key(
                &format!("stages.{name}"),
                "there is nothing to train",
                Some("give `size` (from scratch) or `from` (a model to train further)".to_owned()),
            )),
        }
    }

    /// Share of the tokens that is held out.
    pub(super) fn held_out_share(&self) -> f64 {
        self.held_out.map_or(HELD_OUT, Ratio::as_f64)
    }

    pub(super) fn source(&self) -> DocumentSource {
        match (&self.dataset, self.input.as_deref()) {
            (Some(dataset), _) => DocumentSource::Dataset(dataset.clone()),
            (None, None | Some(CORPUS)) => DocumentSource::Corpus,
            (None, Some(stage)) => DocumentSource::Stage(stage.to_owned()),
        }
    }
}
