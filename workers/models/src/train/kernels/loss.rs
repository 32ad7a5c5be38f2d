//! The cross-entropy of the head, in blocks of rows: logits of all rows never exist at once.

use super::math;
use crate::matrix::{Into, Matrix, MatrixMut, multiply};

/// A target that is not scored.
pub(crate) const UNSCORED: u32 = u32::MAX;

/// Rows whose logits exist at once.
const BLOCK_ROWS: usize = 128;

/// Where gradients are added.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    pub(crate) hidden: &'a mut [f32],
    pub(crate) head: &'a mut [f32],
    /// Multiplies the gradient of every token's loss, as `1 / number of tokens`.
    pub(crate) scale: f32,
}

/// Writes each row's loss in nats (0 where it is unscored), and adds to the gradients if asked for.
///
/// `hidden` is `targets x width`, `head` is `vocabulary x width`.
pub(crate) fn cross_entropy(
    width: usize,
    hidden: &[f32],
    head: &[f32],
    targets: &[u32],
    losses: &mut [f32],
    mut gradients: Option<Gradients<'_>>,
    scratch: &mut Vec<f32>,
) {
    let vocab_size = head.len() / width;
    scratch.resize(BLOCK_ROWS * vocab_size, 0.0);
    let head_matrix = Matrix::new(head, vocab_size, width);
    let blocks = targets
        .chunks(BLOCK_ROWS)
        .zip(losses.chunks_mut(BLOCK_ROWS));
    for (block, (targets, losses)) in blocks.enumerate() {
        let n_rows = targets.len();
        let start = block * BLOCK_ROWS * width;
        let place = start..start + n_rows * width;
        let hidden = Matrix::new(&hidden[place.clone()], n_rows, width);
        let logits = &mut scratch[..n_rows * vocab_size];
        multiply(
            MatrixMut::new(logits, n_rows, vocab_size),
            Into::Replace,
            1.0,
            hidden,
            head_matrix.transposed(),
        );
        let scale = gradients.as_ref().map(|gradients| gradients.scale);
        let rows = logits.chunks_exact_mut(vocab_size).zip(targets);
        math::vectorised(|| {
            for ((logits, &target), loss) in rows.zip(losses) {
                *loss = row_loss(logits, target, scale);
            }
        });
        if let Some(gradients) = &mut gradients {
            let d_logits = Matrix::new(logits, n_rows, vocab_size);
            let d_hidden = MatrixMut::new(&mut gradients.hidden[place], n_rows, width);
            multiply(d_hidden, Into::Add, 1.0, d_logits, head_matrix);
            let d_head = MatrixMut::new(gradients.head, vocab_size, width);
            multiply(d_head, Into::Add, 1.0, d_logits.transposed(), hidden);
        }
    }
}

/// A row's loss; with a scale, its logits become their gradient.
#[inline(always)]
fn row_loss(logits: &mut [f32], target: u32, scale: Option<f32>) -> f32 {
    if target == UNSCORED {
        logits.fill(0.0);
        return 0.0;
    }
    let target = target as usize;
    let max = math::max(logits);
    let at_target = logits[target];
    let sum = math::exp_in_place(logits, max);
    if let Some(scale) = scale {
        math::scale(logits, scale / sum);
        logits[target] -= scale;
    }
    (max - at_target) + sum.ln()
}
