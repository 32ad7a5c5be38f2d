//! What is known of a training before it runs: the model that it will yield, and its memory.

use gleaner_models::Architecture;
use gleaner_models::train::{Length, TrainError, TrainingConfig};
use gleaner_schemas::job::JobError;

use super::TrainLanguageModel;
use super::params::Start;
use crate::forecast::{
    BeforeRun, ExpectedModel, ExpectedTokenizer, ExpectedWorkers, Forecast, MemoryForecast,
};
use crate::stage::DocumentSource;

/// Bytes of a parameter in a checkpoint: weights, two moments, the best weights.
const CHECKPOINT_BYTES: u64 = 16;
/// Bytes that a token takes while the data is put together.
const TOKEN_BYTES: u64 = 8;
/// Bytes of text per token, told low.
const TEXT_BYTES_PER_TOKEN: u64 = 3;
/// Operations that a core does in a second at least.
const OPERATIONS_PER_SECOND: f64 = 20e9;
/// Operations of a training step per parameter and token.
const OPERATIONS: f64 = 6.0;
/// A training that may last longer is told of.
const HOURS_TOLD: f64 = 1.0;

/// Why there is no figure of the memory, or too high a one.
enum NoMemory {
    Job(JobError),
    Train(TrainError),
}

impl TrainLanguageModel {
    pub(super) fn before(&self, before: &BeforeRun<'_>) -> Result<Forecast, JobError> {
        let place = |key: &str| format!("stages.{}.{key}", self.name);
        let failed = |key: &str, error: TrainError| {
            before.job.error_at(&place(key), error.to_string(), None)
        };
        let start = match &self.start {
            Start::Size(size) => {
                let n_tokens = self.params.vocabulary.and_then(|n| usize::try_from(n).ok());
                let n_tokens = n_tokens.unwrap_or_else(|| size.shape().vocab_size);
                let architecture = size.architecture(n_tokens);
                let input = self.params.dataset.as_ref().map_or_else(
                    || format!("input {:?}", self.params.source()),
                    |dataset| format!("dataset {dataset}"),
                );
                Some(ExpectedModel {
                    architecture: architecture.map_err(|error| failed("size", error))?,
                    tokenizer: ExpectedTokenizer::Trained {
                        from: (input, n_tokens as u64),
                        sample: (self.params.seed, self.task.text_bytes_max),
                    },
                    has_eos: true,
                })
            }
            Start::Stage(stage) => before.stages.get(stage).and_then(|it| it.model.clone()),
            Start::Directory(text) => {
                let model = before.models.get(text);
                if let (Some(eos), Some(model)) = (&self.params.eos, model)
                    && model.tokenizer.id_of(eos).is_none()
                {
                    let message = format!("{eos:?} is no token of the model {text}");
                    return Err(before.job.error_at(&place("eos"), message, None));
                }
                model.map(crate::language_model::InspectedModel::expected)
            }
        };
        // A stage whose forecast failed is told of already.
        let Some(start) = start else {
            return Ok(Forecast::default());
        };
        if !start.has_eos && self.params.eos.is_none() {
            let message = "the files of the model to start from do not tell which token ends a \
                           document";
            let help = "train it by a stage of its own (`kind: train_language_model`) and name the \
                        token there: `eos: \"<|endoftext|>\"`";
            return Err(before
                .job
                .error_at(&place("from"), message, Some(help.to_owned())));
        }
        let config = self.task.config(&start.architecture);
        let n_layers = start.architecture.n_layers();
        if config.frozen_layers > 0 && config.frozen_layers >= n_layers {
            let message = format!("the model has {n_layers} layers: freeze fewer than that");
            return Err(before.job.error_at(&place("frozen_layers"), message, None));
        }
        let key = match self.start {
            Start::Size(_) => "size",
            _ => "from",
        };
        let memory = self.check_memory(before, &place(key), &config, &start.architecture);
        let memory = memory.map_err(|error| match error {
            NoMemory::Job(error) => error,
            NoMemory::Train(error) => failed(key, error),
        })?;
        Ok(Forecast {
            notes: self.foreseen(before, &config, &start.architecture),
            // What is trained has the token that it was trained with.
            model: Some(ExpectedModel {
                architecture: config.trained(&start.architecture),
                ..start
            }),
            memory: Some(memory),
            ..Forecast::default()
        })
    }

    fn check_memory(
        &self,
        before: &BeforeRun<'_>,
        place: &str,
        config: &TrainingConfig,
        architecture: &Architecture,
    ) -> Result<MemoryForecast, NoMemory> {
        let n_threads = match before.workers {
            ExpectedWorkers::Here { n_threads, .. } => n_threads,
            // As many as can be busy.
            ExpectedWorkers::Elsewhere => usize::MAX,
        };
        let task = &self.task;
        let there = match self.params.source() {
            DocumentSource::Corpus => Some(before.corpus_bytes),
            DocumentSource::Dataset(name) => before.dataset_bytes.get(&name).copied(),
            DocumentSource::Stage(_) => None,
        };
        let with_tokens = |text: u64| {
            let n_tokens = text / TEXT_BYTES_PER_TOKEN;
            let n_tokens = task.tokens_wanted().map_or(n_tokens, |it| it.min(n_tokens));
            text + TOKEN_BYTES * n_tokens
        };
        let all_of_it = there.map_or(task.bytes_wanted(), |there| there.min(task.bytes_wanted()));
        let text = all_of_it.min(task.text_bytes_max);
        let training = config.bytes_to_train(architecture, n_threads);
        let training = training.map_err(NoMemory::Train)?;
        let checkpoint = CHECKPOINT_BYTES * config.trained(architecture).n_parameters();
        let memory = MemoryForecast::of(vec![
            ("weights, moments and gradients", training),
            ("a checkpoint", checkpoint),
            ("text and tokens", with_tokens(text)),
        ]);
        // Enough for the training and all of its text, or twice what the training takes: text and
        // tokens never take more than half.
        let fixed = training.saturating_add(checkpoint);
        let enough = fixed.saturating_add(with_tokens(all_of_it).min(fixed));
        let help = " or train a smaller model";
        memory
            .check(before.job, place, "training this model", enough, help)
            .map_err(NoMemory::Job)?;
        Ok(memory)
    }

    fn foreseen(
        &self,
        before: &BeforeRun<'_>,
        config: &TrainingConfig,
        architecture: &Architecture,
    ) -> Vec<String> {
        let n_threads = match before.workers {
            ExpectedWorkers::Here { n_threads, .. } => n_threads,
            ExpectedWorkers::Elsewhere => 1,
        };
        let Length::Tokens(n_tokens) = config.length else {
            return Vec::new();
        };
        let operations = OPERATIONS * architecture.n_parameters() as f64 * n_tokens as f64;
        let n_busy = n_threads.clamp(1, config.lanes) as f64;
        let hours = operations / (OPERATIONS_PER_SECOND * n_busy) / 3600.0;
        if hours < HOURS_TOLD {
            return Vec::new();
        }
        vec![format!(
            "{}: training on {n_tokens} tokens may take {hours:.0} hours on {n_busy:.0} threads",
            self.name
        )]
    }
}
