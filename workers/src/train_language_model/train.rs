//! Map `train`: one task that reads the whole sample, trains, and yields the files of the model.
//!
//! A state is kept now and then beside the output ([`Checkpoints`]): whoever takes the task after
//! a worker was lost goes on from there, and comes to the same bytes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use gleaner_models::train::{
    Documents, Start, TrainError, TrainedTokenizer, Trainer, TrainingConfig, TrainingData,
};
use gleaner_schemas::columns::{TEXT, with_field_ids};
use gleaner_schemas::failure::error_chain;
use gleaner_schemas::{Failure, FailureKind, Lanes};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::START;
use super::kept::Kept;
use super::sample::KEY;
use super::state::{LogEntry, State};
use super::task::TrainTaskParams;
use crate::batch_columns::{arrow_failure, numbers, permanent, texts};
use crate::language_model::{ModelFacts, failure_kind};
use crate::stage::{Checkpoints, Derived, Emit, MapContext, MapStage};

/// Name of a file.
pub(super) const NAME: &str = "name";
/// A piece of its bytes.
pub(super) const CONTENT: &str = "content";
/// The pseudo-file that tells what is known of the model.
pub(super) const FACTS: &str = "gleaner-facts.json";
/// The pseudo-file that tells how the training went.
pub(super) const LOG: &str = "gleaner-log.json";

/// Bytes of a file in one row.
const PIECE_BYTES: usize = 8 << 20;
/// Time between two states that are kept.
const CHECKPOINT_PAUSE: Duration = Duration::from_secs(60);
/// Tokens that are held out, at most: measuring the loss must stay a small part of the work.
const HELD_OUT_TOKENS_MAX: u64 = 1 << 16;
/// Texts tokenised at a time.
const TEXTS_AT_A_TIME: usize = 1024;

/// The map over the sample.
pub(super) struct TrainStage {
    params: TrainTaskParams,
    schema: SchemaRef,
    lanes: Lanes,
    texts: Kept,
    sample: SampleFacts,
    /// Where the model to start from lies.
    start: Option<PathBuf>,
    memory_bytes: u64,
    cancel: CancellationToken,
    checkpoints: Arc<dyn Checkpoints>,
}

/// What a training had of its text; a part of what is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SampleFacts {
    /// Bytes of the texts that were kept.
    pub(super) bytes: u64,
    /// Bytes of the texts that were read.
    pub(super) bytes_read: u64,
    /// Texts that the tokenizer cannot encode, and why the first of them.
    pub(super) n_refused: u64,
    pub(super) refused: Option<String>,
}

impl TrainStage {
    pub(super) fn new(params: TrainTaskParams, context: &MapContext<'_>) -> Result<Self, Failure> {
        let start = match params.size {
            Some(_) => None,
            None => {
                let path = context.side_inputs.directory(START, "path", &mut |path| {
                    let value = Arc::new(path.to_owned());
                    Ok(Derived { value, bytes: 0 })
                })?;
                let path = path.value.downcast::<PathBuf>();
                Some(path.map_err(|_| permanent("the first model has no directory"))?)
            }
        };
        Ok(Self {
            schema: with_field_ids(&Schema::new(vec![
                Field::new(NAME, DataType::Utf8, false),
                Field::new(CONTENT, DataType::Binary, false),
            ])),
            lanes: Lanes::default(),
            texts: Kept::new(params.text_bytes_max),
            sample: SampleFacts::default(),
            start: start.map(|path| path.as_ref().clone()),
            params,
            memory_bytes: context.memory_bytes,
            cancel: context.cancel.clone(),
            checkpoints: Arc::clone(&context.checkpoints),
        })
    }

    fn start(&self, texts: &[(u64, String)]) -> Result<Start, Failure> {
        let started = match (&self.start, self.params.size()) {
            (Some(path), _) => Start::directory(path, self.params.eos.as_deref()),
            (None, Some(size)) => {
                let vocabulary = self.params.vocabulary.and_then(|n| usize::try_from(n).ok());
                let n_tokens = vocabulary.unwrap_or_else(|| size.shape().vocab_size);
                let texts = texts.iter().map(|(_, text)| text.as_str());
                TrainedTokenizer::from_texts(texts, n_tokens)
                    .and_then(|tokenizer| Start::scratch(size, &tokenizer, self.params.seed))
            }
            (None, None) => return Err(permanent("the parameters of a task name no model")),
        };
        started.map_err(|error| match &self.start {
            // The directory that was opened is a copy; the job file names another one.
            Some(path) => in_model(&train_failure(&error), path),
            None => train_failure(&error),
        })
    }

    fn data(&mut self, start: &Start, texts: &[(u64, String)]) -> Result<TrainingData, Failure> {
        (self.sample.n_refused, self.sample.refused) = (0, None);
        let mut documents = Documents::new(start.eos_id());
        // What is held out is not trained on.
        let wanted = self.params.tokens_wanted().map(|tokens| {
            let all = tokens as f64 / (1.0 - self.params.held_out);
            (all.ceil() as u64).min(tokens.saturating_add(HELD_OUT_TOKENS_MAX))
        });
        for texts in texts.chunks(TEXTS_AT_A_TIME) {
            self.stop_if_cancelled()?;
            let texts: Vec<&str> = texts.iter().map(|(_, text)| text.as_str()).collect();
            for encoded in start.tokenizer().encode_each(&texts, usize::MAX) {
                match encoded {
                    Ok(encoded) => documents.push(&encoded.ids),
                    Err(error) => {
                        self.sample.n_refused += 1;
                        self.sample.refused.get_or_insert(error.to_string());
                    }
                }
                if wanted.is_some_and(|wanted| documents.n_tokens() >= wanted) {
                    break;
                }
            }
            if wanted.is_some_and(|wanted| documents.n_tokens() >= wanted) {
                break;
            }
        }
        let data = documents.split(self.params.held_out, HELD_OUT_TOKENS_MAX, self.params.seed);
        data.map_err(|error| match &self.sample.refused {
            Some(refused) => permanent(format!("{error}; {refused}")),
            None => train_failure(&error),
        })
    }

    fn stop_if_cancelled(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::new(FailureKind::Transient, "cancelled"));
        }
        Ok(())
    }

    fn check_memory(&self, config: &TrainingConfig, start: &Start) -> Result<(), Failure> {
        let n_threads = rayon::current_num_threads();
        let needed = config.bytes_to_train(start.architecture(), n_threads);
        let needed = needed.map_err(|error| train_failure(&error))?;
        if needed > self.memory_bytes {
            return Err(permanent(format!(
                "training this model takes {needed} bytes of memory, a slot has {}; raise `memory` \
                 in the job file or train a smaller model",
                self.memory_bytes
            )));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        texts: &[(u64, String)],
    ) -> Result<(TrainingConfig, TrainingData, Start), Failure> {
        let start = self.start(texts)?;
        let config = self.params.config(start.architecture());
        self.check_memory(&config, &start)?;
        let data = self.data(&start, texts)?;
        Ok((config, data, start))
    }

    /// A new training, or one that goes on from the state that was kept, with its log.
    fn trainer(
        &mut self,
        texts: &[(u64, String)],
    ) -> Result<(Trainer, Vec<LogEntry>, ModelFacts), Failure> {
        let (config, data, start) = self.begin(texts)?;
        let facts = ModelFacts::new(
            Vec::new(),
            &config.trained(start.architecture()),
            start.tokenizer(),
            Some(start.eos_id()),
        );
        if let Some(kept) = self.checkpoints.latest()? {
            match State::decode(&kept) {
                Some(State { log, trainer }) => {
                    match Trainer::resume(config, data, start, trainer) {
                        Ok(trainer) => {
                            tracing::info!(step = trainer.n_steps_done(), "training goes on");
                            return Ok((trainer, log, facts));
                        }
                        Err(error) => tracing::warn!(%error, "training begins anew"),
                    }
                }
                None => tracing::warn!("training begins anew: the state that was kept is damaged"),
            }
            let (config, data, start) = self.begin(texts)?;
            return self.new_trainer(config, data, start, facts);
        }
        self.new_trainer(config, data, start, facts)
    }

    fn new_trainer(
        &self,
        config: TrainingConfig,
        data: TrainingData,
        start: Start,
        facts: ModelFacts,
    ) -> Result<(Trainer, Vec<LogEntry>, ModelFacts), Failure> {
        let trainer = Trainer::new(config, data, start).map_err(|error| train_failure(&error))?;
        let log = vec![LogEntry {
            step: 0,
            tokens: 0,
            learning_rate: None,
            loss: None,
            held_out_loss: trainer.best_held_out_loss(),
            gradient_norm: None,
        }];
        Ok((trainer, log, facts))
    }

    fn keep(&self, trainer: &Trainer, log: &[LogEntry]) -> Result<(), Failure> {
        let state = State::encode(log, trainer);
        self.checkpoints
            .keep(state.map_err(|error| train_failure(&error))?)
    }

    fn train(&self, trainer: &mut Trainer, log: &mut Vec<LogEntry>) -> Result<(), Failure> {
        let mut kept_at = Instant::now();
        loop {
            let report = trainer.step().map_err(|error| train_failure(&error))?;
            let Some(report) = report else { return Ok(()) };
            log.push(LogEntry::of(&report));
            if let Some(held_out_loss) = report.held_out_loss {
                tracing::info!(
                    step = report.step,
                    n_steps = report.n_steps,
                    tokens = report.n_tokens,
                    loss = format!("{:.4}", report.loss),
                    held_out_loss = format!("{held_out_loss:.4}"),
                    "training"
                );
            }
            if self.cancel.is_cancelled() {
                // Best effort: whoever goes on from an earlier state loses a minute.
                if let Err(failure) = self.keep(trainer, log) {
                    tracing::warn!(%failure, "cannot keep how far the training is");
                }
                return self.stop_if_cancelled();
            }
            if kept_at.elapsed() >= CHECKPOINT_PAUSE {
                if let Err(failure) = self.keep(trainer, log) {
                    tracing::warn!(%failure, "cannot keep how far the training is");
                }
                kept_at = Instant::now();
            }
        }
    }

    fn emit_file(&self, name: &str, bytes: &Bytes, emit: Emit<'_>) -> Result<(), Failure> {
        let mut start = 0;
        loop {
            let end = (start + PIECE_BYTES).min(bytes.len());
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from(vec![name])),
                Arc::new(BinaryArray::from(vec![&bytes[start..end]])),
            ];
            let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
            emit(rows.map_err(arrow_failure)?)?;
            if end == bytes.len() {
                return Ok(());
            }
            start = end;
        }
    }
}

impl MapStage for TrainStage {
    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn process(&mut self, batch: &RecordBatch, _emit: Emit<'_>) -> Result<(), Failure> {
        let (keys, texts) = (numbers(batch, KEY)?, texts(batch, TEXT)?);
        for row in 0..batch.num_rows() {
            self.texts.push(keys.value(row), texts.value(row));
        }
        self.lanes.rows_in += batch.num_rows() as u64;
        self.lanes.ok += batch.num_rows() as u64;
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> Result<(), Failure> {
        self.sample.bytes = self.texts.bytes();
        self.sample.bytes_read = self.texts.bytes_seen();
        let texts = self.texts.take();
        let (mut trainer, mut log, facts) = self.trainer(&texts)?;
        drop(texts);
        self.train(&mut trainer, &mut log)?;
        let n_tokens = log.last().map_or(0, |entry| entry.tokens);
        let trained = trainer.finish().map_err(|error| train_failure(&error))?;
        let told = json!({
            "model": facts,
            "training": {
                "n_steps": trained.n_steps(),
                "best_step": trained.best_step(),
                "tokens": n_tokens,
                "first_held_out_loss": log.first().and_then(|entry| entry.held_out_loss),
                "held_out_loss": trained.held_out_loss(),
                "sample": self.sample,
            },
        });
        for (name, bytes) in trained.files() {
            self.emit_file(name, bytes, emit)?;
        }
        self.emit_file(FACTS, &told.to_string().into(), emit)?;
        self.emit_file(LOG, &json!(log).to_string().into(), emit)
    }

    fn lanes(&self) -> Lanes {
        self.lanes
    }
}

/// A failure of the model that lies at `path`, in the words of the job file.
fn in_model(failure: &Failure, path: &std::path::Path) -> Failure {
    let message = crate::language_model::told_of(&failure.message, path, "to start from");
    Failure::new(failure.kind, message)
}

fn train_failure(error: &TrainError) -> Failure {
    Failure::new(failure_kind(error.kind()), error_chain(error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_copy_of_a_model_is_told_of_as_the_model() {
        let failure = permanent("tensor a of /cache/0af/model.safetensors: value 3 is NaN");
        let told = in_model(&failure, Path::new("/cache/0af"));
        assert_eq!(
            told.message,
            "the model to start from: tensor a of model.safetensors: value 3 is NaN"
        );
    }
}
