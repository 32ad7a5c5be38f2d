//! Progress that is shown in two places.

use std::sync::Arc;

use super::board::Board;
use crate::observation::Observation;
use crate::progress::Progress;

/// Shows progress as before, and keeps a board up to date.
#[derive(Debug)]
pub struct Watched {
    shown: Arc<dyn Progress>,
    board: Board,
}

impl Watched {
    /// Tells both.
    #[must_use]
    pub fn new(shown: Arc<dyn Progress>, board: Board) -> Self {
        Self { shown, board }
    }
}

impl Progress for Watched {
    fn phase_started(
        &self,
        stage: &str,
        phase: &str,
        n_tasks: u64,
        n_rows: Option<u64>,
        bytes: u64,
    ) {
        self.shown
            .phase_started(stage, phase, n_tasks, n_rows, bytes);
        self.board
            .phase_started(stage, phase, n_tasks, n_rows, bytes);
    }

    fn advanced(&self, n_tasks: u64, n_rows: u64, bytes: u64) {
        self.shown.advanced(n_tasks, n_rows, bytes);
        self.board.advanced(n_tasks, n_rows, bytes);
    }

    fn phase_finished(&self, stage: &str, phase: &str) {
        self.shown.phase_finished(stage, phase);
        self.board.phase_finished(stage, phase);
    }

    fn note(&self, text: &str) {
        self.shown.note(text);
        self.board.note(text);
    }

    fn observe(&self, observation: &Observation<'_>) {
        self.shown.observe(observation);
        self.board.observe(observation);
    }
}
