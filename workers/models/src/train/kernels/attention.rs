//! Causal attention, in blocks of queries: the matrix of weights of a whole sequence never exists.
//!
//! The backward pass computes the weights again from the logarithm of each row's sum (FlashAttention,
//! arXiv 2205.14135, section 3).

use super::math;
use crate::matrix::{Into, Matrix, MatrixMut, multiply};
use crate::scalar::exp;

/// Queries that are treated at once.
const BLOCK_ROWS: usize = 64;

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// A token attends to itself and the `window - 1` tokens before it.
    pub(crate) window: Option<usize>,
    /// Multiplies scores before the softmax.
    pub(crate) scale: f32,
}

/// Queries, keys and values, or their gradients: rows of all heads side by side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

/// Where gradients are added.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    pub(crate) q: &'a mut [f32],
    pub(crate) k: &'a mut [f32],
    pub(crate) v: &'a mut [f32],
}

/// One block of queries of one head of one sequence.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The first value of the block's queries (and of its outputs), and of the keys that it sees.
    q_start: usize,
    k_start: usize,
    /// Index of the first row's sum in `row_logs`.
    log_start: usize,
    n_rows: usize,
    n_keys: usize,
    /// Position of the block's first query, counted from the first key.
    first: usize,
    q_stride: usize,
    k_stride: usize,
}

impl Shape {
    fn blocks(self, n_rows: usize, length: usize) -> impl Iterator<Item = Block> {
        let (q_stride, k_stride) = (
            self.n_heads * self.head_dim,
            self.n_kv_heads * self.head_dim,
        );
        let per_kv_head = self.n_heads / self.n_kv_heads;
        let starts = move || (0..length).step_by(BLOCK_ROWS);
        (0..n_rows / length).flat_map(move |sequence| {
            (0..self.n_heads).flat_map(move |head| {
                starts().map(move |start| {
                    let end = length.min(start + BLOCK_ROWS);
                    let unseen = self
                        .window
                        .map_or(0, |window| (start + 1).saturating_sub(window));
                    Block {
                        q_start: (sequence * length + start) * q_stride + head * self.head_dim,
                        k_start: (sequence * length + unseen) * k_stride
                            + head / per_kv_head * self.head_dim,
                        log_start: (sequence * self.n_heads + head) * length + start,
                        n_rows: end - start,
                        n_keys: end - unseen,
                        first: start - unseen,
                        q_stride,
                        k_stride,
                    }
                })
            })
        })
    }

    /// The keys that a row of a block sees.
    #[inline(always)]
    fn seen(self, block: Block, row: usize) -> std::ops::Range<usize> {
        let end = block.first + row + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// `q k^T * scale` of a block.
    fn scores(self, block: Block, inputs: Inputs<'_>, scores: &mut [f32]) {
        let q = Matrix::strided(
            &inputs.q[block.q_start..],
            block.n_rows,
            self.head_dim,
            block.q_stride,
        );
        let k = self.keys(block, inputs.k);
        let out = MatrixMut::new(scores, block.n_rows, block.n_keys);
        multiply(out, Into::Replace, self.scale, q, k.transposed());
    }

    fn keys(self, block: Block, values: &[f32]) -> Matrix<'_> {
        Matrix::strided(
            &values[block.k_start..],
            block.n_keys,
            self.head_dim,
            block.k_stride,
        )
    }

    fn keys_mut(self, block: Block, values: &mut [f32]) -> MatrixMut<'_> {
        MatrixMut::strided(
            &mut values[block.k_start..],
            block.n_keys,
            self.head_dim,
            block.k_stride,
        )
    }
}

/// Writes the outputs, and the logarithm of every row's sum of exponentials.
pub(crate) fn forward(
    shape: Shape,
    length: usize,
    inputs: Inputs<'_>,
    out: &mut [f32],
    row_logs: &mut [f32],
    scratch: &mut Vec<f32>,
) {
    let n_rows = out.len() / (shape.n_heads * shape.head_dim);
    scratch.resize(BLOCK_ROWS * length, 0.0);
    for block in shape.blocks(n_rows, length) {
        let weights = &mut scratch[..block.n_rows * block.n_keys];
        shape.scores(block, inputs, weights);
        let rows = weights.chunks_exact_mut(block.n_keys).enumerate();
        math::vectorised(|| {
            for (row, weights) in rows {
                let seen = shape.seen(block, row);
                weights[..seen.start].fill(0.0);
                weights[seen.end..].fill(0.0);
                let weights = &mut weights[seen];
                let max = math::max(weights);
                let sum = math::exp_in_place(weights, max);
                math::scale(weights, 1.0 / sum);
                row_logs[block.log_start + row] = max + sum.ln();
            }
        });
        multiply(
            MatrixMut::strided(
                &mut out[block.q_start..],
                block.n_rows,
                shape.head_dim,
                block.q_stride,
            ),
            Into::Replace,
            1.0,
            Matrix::new(weights, block.n_rows, block.n_keys),
            shape.keys(block, inputs.v),
        );
    }
}

/// Adds to the gradients of queries, keys and values.
#[expect(
    clippy::too_many_arguments,
    reason = "what forward has, and the gradients"
)]
pub(crate) fn backward(
    shape: Shape,
    length: usize,
    inputs: Inputs<'_>,
    out: &[f32],
    row_logs: &[f32],
    d_out: &[f32],
    gradients: Gradients<'_>,
    scratch: &mut Vec<f32>,
) {
    let n_rows = out.len() / (shape.n_heads * shape.head_dim);
    scratch.resize(2 * BLOCK_ROWS * length, 0.0);
    let (all_weights, all_d_weights) = scratch.split_at_mut(BLOCK_ROWS * length);
    for block in shape.blocks(n_rows, length) {
        let size = block.n_rows * block.n_keys;
        let (weights, d_weights) = (&mut all_weights[..size], &mut all_d_weights[..size]);
        let as_block =
            |values| Matrix::strided(values, block.n_rows, shape.head_dim, block.q_stride);
        shape.scores(block, inputs, weights);
        multiply(
            MatrixMut::new(d_weights, block.n_rows, block.n_keys),
            Into::Replace,
            1.0,
            as_block(&d_out[block.q_start..]),
            shape.keys(block, inputs.v).transposed(),
        );
        let rows = weights.chunks_exact_mut(block.n_keys);
        let rows = rows
            .zip(d_weights.chunks_exact_mut(block.n_keys))
            .enumerate();
        math::vectorised(|| {
            for (row, (p, dp)) in rows {
                let seen = shape.seen(block, row);
                p[..seen.start].fill(0.0);
                p[seen.end..].fill(0.0);
                dp[..seen.start].fill(0.0);
                dp[seen.end..].fill(0.0);
                let start = block.q_start + row * block.q_stride;
                let head = start..start + shape.head_dim;
                let along = math::dot(&out[head.clone()], &d_out[head]);
                let log = row_logs[block.log_start + row];
                for (p, dp) in p[seen.clone()].iter_mut().zip(&mut dp[seen]) {
                    *p = exp(*p - log);
                    *dp = *p * (*dp - along);
                }
            }
        });
        let p = Matrix::new(weights, block.n_rows, block.n_keys);
        let ds = Matrix::new(d_weights, block.n_rows, block.n_keys);
        multiply(
            shape.keys_mut(block, gradients.v),
            Into::Add,
            1.0,
            p.transposed(),
            as_block(&d_out[block.q_start..]),
        );
        multiply(
            MatrixMut::strided(
                &mut gradients.q[block.q_start..],
                block.n_rows,
                shape.head_dim,
                block.q_stride,
            ),
            Into::Add,
            shape.scale,
            ds,
            shape.keys(block, inputs.k),
        );
        multiply(
            shape.keys_mut(block, gradients.k),
            Into::Add,
            shape.scale,
            ds.transposed(),
            as_block(&inputs.q[block.q_start..]),
        );
    }
}
