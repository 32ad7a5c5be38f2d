//! What is kept of a training while it goes on: the trainer's own state, then the log.

use bytes::Bytes;
use gleaner_models::train::{StepReport, TrainError, Trainer};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A row of the stage's table: one step, or the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LogEntry {
    pub(super) step: u64,
    pub(super) tokens: u64,
    pub(super) learning_rate: Option<f64>,
    pub(super) loss: Option<f64>,
    pub(super) held_out_loss: Option<f64>,
    pub(super) gradient_norm: Option<f64>,
}

impl LogEntry {
    pub(super) fn of(report: &StepReport) -> Self {
        Self {
            step: report.step,
            tokens: report.n_tokens,
            learning_rate: Some(report.learning_rate),
            loss: Some(report.loss),
            held_out_loss: report.held_out_loss,
            gradient_norm: Some(report.gradient_norm),
        }
    }
}

/// What is kept of a training: the trainer's state, its log, and the length of the log.
pub(super) struct State<'a> {
    pub(super) log: Vec<LogEntry>,
    pub(super) trainer: &'a [u8],
}

impl<'a> State<'a> {
    /// The state of a trainer in one buffer: it is large, and is not copied.
    pub(super) fn encode(log: &[LogEntry], trainer: &Trainer) -> Result<Bytes, TrainError> {
        let log = json!(log).to_string();
        let mut bytes = trainer.checkpoint(log.len() + 8)?;
        append(&mut bytes, &log);
        Ok(bytes.into())
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (rest, length) = bytes.split_last_chunk::<8>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (trainer, log) = rest.split_at_checked(rest.len().checked_sub(length)?)?;
        Some(Self {
            log: serde_json::from_slice(log).ok()?,
            trainer,
        })
    }
}

fn append(bytes: &mut Vec<u8>, log: &str) {
    bytes.extend_from_slice(log.as_bytes());
    bytes.extend_from_slice(&(log.len() as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was_kept_and_a_cut_one_not_at_all() {
        let log = vec![LogEntry {
            step: 1,
            tokens: 2,
            learning_rate: Some(0.1),
            loss: None,
            held_out_loss: Some(3.5),
            gradient_norm: None,
        }];
        let mut bytes = b"trainer".to_vec();
        append(&mut bytes, &json!(log).to_string());
        let state = State::decode(&bytes).unwrap();
        assert_eq!((state.log, state.trainer), (log, b"trainer".as_slice()));
        for n_bytes in [0, 7, 20, bytes.len() - 1] {
            assert!(State::decode(&bytes[..n_bytes]).is_none(), "{n_bytes}");
        }
    }
}
