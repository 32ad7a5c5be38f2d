//! The forward pass on processors.
//!
//! 1. A batch of sequences becomes [packs](pack) of about 512 rows, one row per token that
//!    predicts another; packs are the work items of a pool, so that cores never wait for each other
//!    between operators.
//! 2. A pack runs through the layers in the buffers of a [`WorkingSet`]; attention is within each
//!    sequence ([`attention`]), all else over all rows at once.
//! 3. The [loss] is taken in blocks of the vocabulary.
//!
//! Nothing of a row depends on the rows beside it: batches, order and threads change no loss. What
//! models that begin alike have in common is [computed once](shared).

mod attention;
mod continuation;
mod loss;
pub(crate) mod operators;
mod pack;
mod run;
mod shared;
mod weights;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::architecture::{Architecture, Positions};
use crate::product::WeightType;
use crate::{LanguageModel, ModelDirectory, ModelError};
pub use continuation::Continuation;
use pack::{Pack, packs};
use run::WorkingSet;
use shared::{Group, groups};
use weights::ForwardWeights;

/// Rows of a pack: weights stream once for all of them.
const PACK_ROWS: usize = 512;

/// How a model is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// How weights are kept and multiplied.
    pub weights: WeightType,
    /// Threads; `None`: all cores.
    pub n_threads: Option<NonZero<usize>>,
    /// The longest sequence, in tokens; `None`: what the model can.
    pub context: Option<usize>,
    /// What weights and the buffers of one thread may take together, in bytes (those of other threads
    /// are for others to count); `None`: no limit.
    pub memory_bytes_max: Option<u64>,
}

/// What a loaded model takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights, shared by all threads.
    pub weights_bytes: u64,
    /// Buffers of each thread.
    pub working_bytes_per_thread: u64,
    /// Threads.
    pub n_threads: usize,
}

impl MemoryNeed {
    /// Weights, and the buffers of so many threads.
    #[must_use]
    pub fn bytes(&self, n_threads: usize) -> u64 {
        let working = self.working_bytes_per_thread * n_threads as u64;
        self.weights_bytes + working
    }

    /// All together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.bytes(self.n_threads)
    }
}

/// A model on the processor.
#[derive(Debug)]
pub struct CausalModel {
    architecture: Architecture,
    context: usize,
    weights: ForwardWeights,
    /// Cosines and sines, `[context, rotated dimensions / 2]`; empty with learned positions.
    cosines: Vec<f32>,
    sines: Vec<f32>,
    pool: Arc<ThreadPool>,
    /// Buffers that no thread uses at the moment; at most one per thread of the pool.
    idle: Mutex<Vec<WorkingSet>>,
}

impl Architecture {
    /// What a model of this architecture takes on processors.
    ///
    /// # Errors
    ///
    /// If the context is longer than the model's.
    pub fn memory(&self, options: &LoadOptions) -> Result<MemoryNeed, ModelError> {
        let context = context(self, options)?;
        let tables = match &self.positions {
            Positions::Learned => 0,
            Positions::Rotary(rotary) => context as u64 * rotary.dims as u64 * 4,
        };
        Ok(MemoryNeed {
            weights_bytes: ForwardWeights::bytes(self, options.weights) + tables,
            working_bytes_per_thread: WorkingSet::bytes(self, options.weights, context),
            n_threads: n_threads(options),
        })
    }
}

impl ModelDirectory {
    /// What [`ModelDirectory::load`] would take.
    ///
    /// # Errors
    ///
    /// If the context is longer than the model's.
    pub fn memory(&self, options: &LoadOptions) -> Result<MemoryNeed, ModelError> {
        self.architecture().memory(options)
    }

    /// Reads all weights.
    ///
    /// # Errors
    ///
    /// If the model needs more memory than allowed, if a file cannot be read, or if a weight is
    /// not finite.
    pub fn load(&self, options: &LoadOptions) -> Result<CausalModel, ModelError> {
        let need = self.memory(options)?;
        if let Some(available_bytes) = options.memory_bytes_max
            && need.bytes(1) > available_bytes
        {
            return Err(ModelError::Memory {
                what: format!("the model in {}", self.path().display()),
                needed_bytes: need.bytes(1),
                available_bytes,
            });
        }
        let context = context(self.architecture(), options)?;
        let (cosines, sines) = match &self.architecture().positions {
            Positions::Learned => (Vec::new(), Vec::new()),
            Positions::Rotary(rotary) => rotary.tables(context),
        };
        Ok(CausalModel {
            architecture: self.architecture().clone(),
            context,
            weights: ForwardWeights::load(self, options.weights)?,
            cosines,
            sines,
            pool: shared_pool(need.n_threads)?,
            idle: Mutex::default(),
        })
    }
}

fn context(architecture: &Architecture, options: &LoadOptions) -> Result<usize, ModelError> {
    let (longest, asked) = (architecture.max_positions, options.context);
    match asked {
        Some(context) if context > longest || context < 2 => Err(ModelError::input(format!(
            "a context of {context} tokens: the model takes 2 to {longest}"
        ))),
        context => Ok(context.unwrap_or(longest)),
    }
}

fn n_threads(options: &LoadOptions) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZero::get);
    options.n_threads.map_or_else(cores, NonZero::get)
}

/// One pool per process and number of threads, for all models.
fn shared_pool(n_threads: usize) -> Result<Arc<ThreadPool>, ModelError> {
    static POOLS: Mutex<BTreeMap<usize, Arc<ThreadPool>>> = Mutex::new(BTreeMap::new());
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pool) = pools.get(&n_threads) {
        return Ok(Arc::clone(pool));
    }
    let builder = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .thread_name(|n| format!("model-{n}"));
    let pool = builder.build().map(Arc::new).map_err(|e| {
        ModelError::input(format!("cannot start {n_threads} threads for models: {e}"))
    })?;
    pools.insert(n_threads, Arc::clone(&pool));
    Ok(pool)
}

impl LanguageModel for CausalModel {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn context(&self) -> usize {
        self.context
    }

    fn losses(&self, sequences: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut losses = losses_together(&[self], sequences)?;
        Ok(losses.pop().unwrap_or_default())
    }
}

/// The losses of the same sequences under several models, in the order of the models: work of all
/// models is in flight at once, and the first layers that models have in common, with the embedding
/// before them, are computed once.
///
/// # Errors
///
/// As [`LanguageModel::losses`].
pub fn losses_together(
    models: &[&CausalModel],
    sequences: &[&[u32]],
) -> Result<Vec<Vec<Vec<f32>>>, ModelError> {
    let Some(first) = models.first() else {
        return Ok(Vec::new());
    };
    for model in models {
        model.architecture.check(sequences, model.context)?;
    }
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
    let packs = packs(&lengths, PACK_ROWS);
    let groups = groups(models);
    // The packs of all models, the largest first.
    let items: Vec<(&Group, &Pack)> = packs
        .iter()
        .flat_map(|pack| groups.iter().map(move |group| (group, pack)))
        .collect();
    let done: Vec<Vec<Vec<Vec<f32>>>> = first.pool.install(|| {
        let items = items.par_iter().with_max_len(1);
        items
            .map(|(group, pack)| run(models, group, pack, sequences))
            .collect()
    });
    let empty: Vec<Vec<f32>> = vec![Vec::new(); sequences.len()];
    let mut losses = vec![empty; models.len()];
    for ((group, pack), of_models) in items.iter().zip(done) {
        for (&model, of_pack) in group.different.iter().zip(of_models) {
            for (&sequence, of_sequence) in pack.sequences.iter().zip(of_pack) {
                losses[model][sequence] = of_sequence;
            }
        }
    }
    for group in &groups {
        for &model in &group.equal {
            losses[model] = losses[group.different[0]].clone();
        }
    }
    Ok(losses)
}

/// The losses of a pack under the different models of a group.
fn run(
    models: &[&CausalModel],
    group: &Group,
    pack: &Pack,
    sequences: &[&[u32]],
) -> Vec<Vec<Vec<f32>>> {
    let models: Vec<&CausalModel> = group.different.iter().map(|&model| models[model]).collect();
    let idle = || {
        let idle = models[0].idle.lock();
        idle.unwrap_or_else(PoisonError::into_inner)
    };
    let mut working = idle().pop().unwrap_or_default();
    let losses = working.run(&models, group.n_shared_layers, pack, sequences);
    idle().push(working);
    losses
}

impl CausalModel {
    /// Threads that its work runs on; tokenizing may share them.
    #[must_use]
    pub fn pool(&self) -> &Arc<ThreadPool> {
        &self.pool
    }
}
