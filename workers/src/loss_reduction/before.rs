//! What is known of a `loss_reduction` stage before it runs: whether its models fit each other, the
//! job and the memory of a slot, and how its tasks are to be cut.

use gleaner_models::{Architecture, ModelError, check_device};
use gleaner_schemas::job::JobError;

use super::LossReduction;
use super::model_param::{ModelName, place_of};
use super::scorer::left_of;
use crate::forecast::{
    BeforeRun, ExpectedModel, ExpectedWorkers, Forecast, MemoryForecast, SameTokenizer, Speed,
};
use crate::language_model::{Device, load_options};

/// Operations that a core does in a second at least, on 32-bit numbers; with wide vectors it does
/// several times as many.
const OPERATIONS_PER_SECOND: f64 = 20e9;
/// The same of a GPU.
const OPERATIONS_PER_SECOND_GPU: f64 = 2e12;

/// A model of the stage by its name there.
type Named = (String, ExpectedModel);

impl LossReduction {
    pub(super) fn before(&self, before: &BeforeRun<'_>) -> Result<Forecast, JobError> {
        self.check_device(before)?;
        let n_servers = self
            .models
            .iter()
            .filter(|(_, model)| model.server().is_some())
            .count();
        if n_servers == self.models.len() {
            // How fast servers are, and what they have room for, is theirs.
            return Ok(Forecast::default());
        }
        let models = self.expected_models(before);
        let mut notes = Vec::new();
        if n_servers > 0 && self.params.eos.is_none() {
            notes.push(format!(
                "{}: models that compute here predict the first token of a document after the one \
                 that ends documents; unless the servers put a token before a text too, they count \
                 one less, and rows are rejected: name it (`eos: \"<|endoftext|>\"`)",
                self.name
            ));
        }
        self.check_tokenizers(before, &models, &mut notes)?;
        self.check_eos(before, &models)?;
        let context = self.check_context(before, &models)?;
        let architectures: Vec<&Architecture> = models
            .iter()
            .map(|(_, model)| &model.architecture)
            .collect();
        let is_here = matches!(before.workers, ExpectedWorkers::Here { .. });
        let computes_on_gpu = match self.params.device {
            Device::Cuda(_) => true,
            Device::Auto => is_here && self.params.device.is_accelerator(),
            Device::Cpu => false,
        };
        let memory = match computes_on_gpu {
            true => None,
            false => {
                let n_threads = before.workers.threads_per_slot();
                let slot_bytes = before.job.file.memory.bytes();
                let needed = self.memory(&architectures, context, n_threads, slot_bytes);
                let place = models.first().map_or("", |(name, _)| name.as_str());
                let place = self.place(place);
                let failed =
                    |error: ModelError| before.job.error_at(&place, error.to_string(), None);
                let needed = needed.map_err(failed)?;
                let enough = (needed.bytes - left_of(slot_bytes)) / 3 * 4 + 4;
                let help = ", write `dtype: bf16`, or use smaller models";
                let what = "scoring with these models";
                needed.check(before.job, &place, what, enough, help)?;
                Some(needed)
            }
        };
        let speed = self.speed(&architectures);
        Ok(Forecast {
            memory,
            task_bytes_max: speed.map(|speed| speed.task_bytes_max()),
            speed,
            notes,
            ..Forecast::default()
        })
    }

    fn place(&self, model: &str) -> String {
        place_of(&self.name, model)
    }

    fn check_device(&self, before: &BeforeRun<'_>) -> Result<(), JobError> {
        let (Device::Cuda(_), ExpectedWorkers::Here { .. }) = (self.params.device, before.workers)
        else {
            return Ok(());
        };
        let checked = check_device(&self.params.device.to_string());
        checked.map_err(|error| {
            let place = format!("stages.{}.device", self.name);
            let help = "write `device: cpu`, or give `--queue` and start workers on machines with a \
                        GPU, from a build with `--features cuda`";
            before.job.error_at(&place, error.to_string(), Some(help.to_owned()))
        })
    }

    fn expected_models(&self, before: &BeforeRun<'_>) -> Vec<Named> {
        let expected = |model: &ModelName| match model {
            ModelName::Directory(text) => Some(before.models.get(text)?.expected()),
            ModelName::Stage(stage) => before.stages.get(stage)?.model.clone(),
            ModelName::Train(_) | ModelName::Continue(..) | ModelName::Server(_) => None,
        };
        let models = self.models.iter();
        models
            .filter_map(|(name, model)| Some((name.clone(), expected(model)?)))
            .collect()
    }

    fn check_tokenizers(
        &self,
        before: &BeforeRun<'_>,
        models: &[Named],
        notes: &mut Vec<String>,
    ) -> Result<(), JobError> {
        let Some(((first_name, first), others)) = models.split_first() else {
            return Ok(());
        };
        for (name, model) in others {
            match first.tokenizer.same(&model.tokenizer) {
                SameTokenizer::Yes => {}
                SameTokenizer::Unlikely => notes.push(format!(
                    "{}: the models {first_name} and {name} are trained on different samples; should \
                     their tokenizers differ, their losses cannot be compared and the run will stop",
                    self.name
                )),
                SameTokenizer::No => {
                    let message = different_tokenizers(first_name, name);
                    let help = "train one from the other (`continue(prior, DATASET)`), or name \
                                models with the same tokenizer.json";
                    let place = self.place(name);
                    return Err(before.job.error_at(&place, message, Some(help.to_owned())));
                }
            }
        }
        Ok(())
    }

    fn check_eos(&self, before: &BeforeRun<'_>, models: &[Named]) -> Result<(), JobError> {
        let Some(eos) = &self.params.eos else {
            let Some((name, _)) = models.iter().find(|(_, model)| !model.has_eos) else {
                return Ok(());
            };
            let message =
                format!("the files of the model {name} do not tell which token ends a document");
            let help = "name it: `eos: \"<|endoftext|>\"`".to_owned();
            return Err(before.job.error_at(&self.place(name), message, Some(help)));
        };
        for (name, model) in &self.models {
            let ModelName::Directory(text) = model else {
                continue;
            };
            let inspected = before.models.get(text);
            if inspected.is_some_and(|model| model.tokenizer.id_of(eos).is_none()) {
                return Err(before.job.error_at(
                    &format!("stages.{}.eos", self.name),
                    format!("{eos:?} is no token of the model {name}"),
                    None,
                ));
            }
        }
        Ok(())
    }

    /// Tokens that the models see at a time.
    fn check_context(&self, before: &BeforeRun<'_>, models: &[Named]) -> Result<usize, JobError> {
        let shortest = models
            .iter()
            .min_by_key(|(_, model)| model.architecture.max_positions);
        let Some((name, model)) = shortest else {
            return Ok(2);
        };
        let longest = model.architecture.max_positions;
        let context = self
            .params
            .context
            .map_or(longest, |context| context as usize);
        if context > longest {
            return Err(before.job.error_at(
                &format!("stages.{}.context", self.name),
                format!(
                    "the context of {context} tokens is longer than the {longest} that the model \
                     {name} can see"
                ),
                None,
            ));
        }
        Ok(context)
    }

    /// Memory of a slot whose models compute on `n_threads` threads.
    fn memory(
        &self,
        architectures: &[&Architecture],
        context: usize,
        n_threads: usize,
        slot_bytes: u64,
    ) -> Result<MemoryForecast, ModelError> {
        let context = u32::try_from(context).unwrap_or(u32::MAX);
        let options = load_options(self.params.dtype, context, None);
        let (mut weights, mut working) = (0, 0);
        for architecture in architectures {
            let need = architecture.memory(&options)?;
            weights += need.weights_bytes;
            working += need.bytes(n_threads) - need.weights_bytes;
        }
        Ok(MemoryForecast::of(vec![
            ("weights", weights),
            ("buffers of its threads", working),
            ("documents and results", left_of(slot_bytes)),
        ]))
    }

    fn speed(&self, architectures: &[&Architecture]) -> Option<Speed> {
        let n_parameters: u64 = architectures.iter().map(|it| it.n_parameters()).sum();
        let operations = match self.params.device {
            Device::Cuda(_) => OPERATIONS_PER_SECOND_GPU,
            Device::Auto | Device::Cpu => OPERATIONS_PER_SECOND,
        };
        (n_parameters > 0).then(|| Speed {
            tokens_per_second: operations / (2.0 * n_parameters as f64),
            row_tokens_max: self.params.max_tokens.map(u64::from),
        })
    }
}

pub(super) fn different_tokenizers(one: &str, other: &str) -> String {
    format!(
        "the models {one} and {other} have different tokenizers: their losses are about other \
         tokens and cannot be compared"
    )
}
