//! The state of a training as bytes: what is resumed gives the same final weights as what was never
//! interrupted.
//!
//! Layout: the magic line, the length of the state as u64, the state as JSON, then vectors of f32
//! (weights, first and second moments, and the best weights where the state says so), the XXH3 of
//! all before it as u64; everything little-endian.

use serde::{Deserialize, Serialize};

use super::TrainError;
use super::config::TrainingConfig;
use super::random::hash_bytes;

const MAGIC: &[u8] = b"gleaner training checkpoint 1\n";

/// Everything but the vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) config: TrainingConfig,
    /// Of the data.
    pub(crate) data: String,
    /// Of the model's description and tokenizer.
    pub(crate) model: String,
    pub(crate) n_parameters: usize,
    pub(crate) progress: Progress,
}

/// How far training is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Steps that were made.
    pub(crate) step: u64,
    /// Tokens that were trained on.
    pub(crate) n_tokens: u64,
    /// The lowest held-out loss and its step.
    pub(crate) best: Option<(f64, u64)>,
    /// Measurements since then.
    pub(crate) n_worse: u32,
    /// Training has ended before its length.
    pub(crate) stopped: bool,
}

impl Progress {
    /// Takes in a measurement; gives whether it is the lowest.
    pub(crate) fn measured(&mut self, loss: f64, patience: Option<u32>) -> bool {
        if self.best.is_none_or(|(lowest, _)| loss < lowest) {
            self.best = Some((loss, self.step));
            self.n_worse = 0;
            return true;
        }
        self.n_worse += 1;
        self.stopped = patience.is_some_and(|patience| self.n_worse >= patience);
        false
    }
}

/// A state and vectors as bytes; `room` is left behind them, for what the caller adds without a copy.
pub(crate) fn encode(
    state: &State,
    vectors: &[&[f32]],
    room: usize,
) -> Result<Vec<u8>, TrainError> {
    let state = serde_json::to_vec(state).map_err(|e| TrainError::Write {
        what: "checkpoint".to_owned(),
        problem: e.to_string(),
    })?;
    let n_values: usize = vectors.iter().map(|vector| vector.len()).sum();
    let mut bytes = Vec::with_capacity(MAGIC.len() + state.len() + 4 * n_values + 16 + room);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(state.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&state);
    for vector in vectors {
        bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
    }
    let hash = hash_bytes(&bytes);
    bytes.extend_from_slice(&hash.to_le_bytes());
    Ok(bytes)
}

/// The state, and the values of all vectors one after the other, four bytes each.
pub(crate) fn decode(bytes: &[u8]) -> Result<(State, &[[u8; 4]]), TrainError> {
    let damaged = |problem: &str| TrainError::Checkpoint {
        problem: problem.to_owned(),
    };
    let (body, hash) = bytes
        .split_last_chunk::<8>()
        .ok_or_else(|| damaged("too short to be one"))?;
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("does not begin as a checkpoint of this version does"))?;
    if hash_bytes(body) != u64::from_le_bytes(*hash) {
        return Err(damaged("the checksum is not that of its bytes (cut?)"));
    }
    let (length, rest) = rest
        .split_first_chunk::<8>()
        .ok_or_else(|| damaged("no state"))?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (state, values) = rest
        .split_at_checked(length)
        .ok_or_else(|| damaged("no whole state"))?;
    let state = serde_json::from_slice(state).map_err(|e| damaged(&e.to_string()))?;
    Ok((state, values.as_chunks::<4>().0))
}

/// Takes the next values of a checkpoint into a vector, as many as it has.
pub(crate) fn take(values: &mut &[[u8; 4]], vector: &mut [f32]) {
    let (now, later) = values.split_at(vector.len().min(values.len()));
    for (value, four) in vector.iter_mut().zip(now) {
        *value = f32::from_le_bytes(*four);
    }
    *values = later;
}
