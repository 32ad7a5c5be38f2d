//! Cross-entropy of all rows without ever holding all logits: blocks of the vocabulary, and for
//! each row the largest logit, the sum of exponentials so far, and the target's logit.

use super::operators::{exp_sum_of, largest};
use crate::product::{Matrix, Scratch};
use crate::scalar::{exp, vectorised};

/// Tokens of one block.
pub(super) const VOCABULARY_BLOCK: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Row {
    largest: f32,
    /// Of `e^(logit - largest)`.
    sum: f64,
    target: f32,
}

/// Buffers of a thread.
#[derive(Debug, Default)]
pub(super) struct LossScratch {
    /// `[rows][VOCABULARY_BLOCK]`
    logits: Vec<f32>,
    rows: Vec<Row>,
}

impl LossScratch {
    /// Bytes for `n_rows`.
    pub(super) fn bytes(n_rows: usize) -> usize {
        n_rows * (VOCABULARY_BLOCK * 4 + size_of::<Row>())
    }
}

/// The loss in nats of each row of `hidden` (`[rows, width]`) for its target.
pub(super) fn losses(
    head: &Matrix,
    hidden: &[f32],
    targets: &[u32],
    scratch: &mut LossScratch,
    product: &mut Scratch,
    losses: &mut [f32],
) {
    let n_rows = targets.len();
    let LossScratch { logits, rows } = scratch;
    rows.clear();
    let empty = Row {
        largest: f32::NEG_INFINITY,
        sum: 0.0,
        target: f32::NAN,
    };
    rows.resize(n_rows, empty);
    for start in (0..head.n_out()).step_by(VOCABULARY_BLOCK) {
        let block = start..head.n_out().min(start + VOCABULARY_BLOCK);
        let width = block.len();
        logits.resize(n_rows * VOCABULARY_BLOCK, 0.0);
        let logits = &mut logits[..n_rows * width];
        let x_stride = head.n_in();
        head.multiply_block(
            block.clone(),
            n_rows,
            hidden,
            x_stride,
            logits,
            width,
            false,
            product,
        );
        vectorised(
            #[inline(always)]
            || {
                for ((row, logits), target) in
                    rows.iter_mut().zip(logits.chunks_exact(width)).zip(targets)
                {
                    let most = largest(logits);
                    if most > row.largest {
                        // The first block has nothing to bring to the new scale.
                        if row.sum > 0.0 {
                            row.sum *= f64::from(exp(row.largest - most));
                        }
                        row.largest = most;
                    }
                    row.sum += f64::from(exp_sum_of(logits, row.largest));
                    let target = *target as usize;
                    if block.contains(&target) {
                        row.target = logits[target - block.start];
                    }
                }
            },
        );
    }
    for (loss, row) in losses.iter_mut().zip(rows) {
        *loss = (f64::from(row.largest) + row.sum.ln() - f64::from(row.target)) as f32;
    }
}
