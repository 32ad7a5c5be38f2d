//! What the tasks of a phase have taken beyond one offer each, and which came to nothing.

use gleaner_schemas::Failure;

use super::{Ledger, State};

/// What was needed beyond one offer per task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Offers of tasks that had been offered before, and had failed or come to nothing.
    pub n_offered_again: u64,
    /// Copies of offers, made because a message seemed lost or a worker slow.
    pub n_copies: u64,
    /// Failures that workers recorded.
    pub n_failures: u64,
}

impl Ledger {
    /// What was needed beyond one offer per task so far.
    #[must_use]
    pub fn effort(&self) -> Effort {
        self.effort
    }

    /// How many tasks were ever given up: where [`Ledger::given_up_since`] goes on next time. An
    /// attempt that comes late takes a task out of quarantine, but not out of this number.
    #[must_use]
    pub fn n_given_up(&self) -> usize {
        self.given_up.len()
    }

    /// The tasks that are quarantined, of those that were given up after the first `n`: number
    /// and failure.
    pub fn given_up_since(&self, n: usize) -> impl Iterator<Item = (usize, &Failure)> {
        let later = self.given_up.get(n..).unwrap_or_default();
        later.iter().filter_map(|&idx| {
            let idx = idx as usize;
            match &self.entries[idx].state {
                State::Quarantined(failure) => Some((idx, failure.as_ref())),
                _ => None,
            }
        })
    }

    /// Tasks that were given up: number, failure, offers made.
    pub fn quarantined(&self) -> impl Iterator<Item = (usize, &Failure, u32)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(idx, entry)| match &entry.state {
                State::Quarantined(failure) => Some((idx, failure.as_ref(), entry.n_offers)),
                _ => None,
            })
    }
}
