//! Causal attention within the sequences of a pack.
//!
//! For each head, keys are brought into panels once per sequence; then blocks of queries take
//! their scores against all keys they may see, a softmax row by row, and the weighted values. A
//! block of scores is all that is held.

use super::operators::{exp_sum, largest, sum};
use crate::architecture::{Architecture, Layer};
use crate::product::{PANEL, panel_f32};
use crate::scalar::vectorised;

/// Queries of one block: a multiple of the kernel's rows.
const BLOCK: usize = 48;

/// Buffers of a thread.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    /// `[panel of keys][head_dim][PANEL]`
    keys: Vec<f32>,
    /// `[panel of dimensions][key][PANEL]`
    values: Vec<f32>,
    /// All values are.
    finite: bool,
    /// `[BLOCK][keys]`
    scores: Vec<f32>,
}

impl AttentionScratch {
    /// Bytes for sequences of up to `n_positions`.
    pub(super) fn bytes(architecture: &Architecture, n_positions: usize) -> usize {
        let n_keys = n_positions.next_multiple_of(PANEL);
        let head_dim = architecture.head_dim;
        4 * n_keys * (head_dim + head_dim.next_multiple_of(PANEL) + BLOCK)
    }
}

/// Attention of one sequence: `qkv` holds its rows of queries, keys and values side by side,
/// `attended` takes rows of `n_heads * head_dim`.
pub(super) fn attend(
    architecture: &Architecture,
    layer: &Layer,
    qkv: &[f32],
    attended: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let (query_size, kv_size) = (architecture.query_size(), architecture.kv_size());
    let (stride, head_dim) = (query_size + 2 * kv_size, architecture.head_dim);
    let group = architecture.n_heads / architecture.n_kv_heads;
    let n_tokens = qkv.len() / stride;
    for kv_head in 0..architecture.n_kv_heads {
        let keys_at = query_size + kv_head * head_dim;
        scratch.take(qkv, stride, keys_at, keys_at + kv_size, head_dim);
        for head in kv_head * group..(kv_head + 1) * group {
            // A value that is not finite spoils what it is multiplied with, were it by 0: then each
            // query goes alone, without the values after it.
            let step = if scratch.finite { BLOCK } else { 1 };
            for start in (0..n_tokens).step_by(step) {
                let block = start..n_tokens.min(start + step);
                let queries = &qkv[start * stride + head * head_dim..];
                let target = &mut attended[start * query_size + head * head_dim..];
                scratch.block(
                    layer, block, n_tokens, queries, stride, head_dim, target, query_size,
                );
            }
        }
    }
}

impl AttentionScratch {
    /// Brings the keys and values of one head into panels.
    fn take(
        &mut self,
        qkv: &[f32],
        stride: usize,
        keys_at: usize,
        values_at: usize,
        head_dim: usize,
    ) {
        let n_tokens = qkv.len() / stride;
        self.keys.clear();
        self.keys
            .resize(n_tokens.next_multiple_of(PANEL) * head_dim, 0.0);
        let panel_size = head_dim * PANEL;
        let n_value_panels = head_dim.div_ceil(PANEL);
        self.values.clear();
        self.values.resize(n_value_panels * n_tokens * PANEL, 0.0);
        for (token, row) in qkv.chunks_exact(stride).enumerate() {
            let panel = &mut self.keys[token / PANEL * panel_size..][..panel_size];
            let places = panel.iter_mut().skip(token % PANEL).step_by(PANEL);
            places
                .zip(&row[keys_at..keys_at + head_dim])
                .for_each(|(place, key)| *place = *key);
            let values = row[values_at..values_at + head_dim].chunks(PANEL);
            for (panel, values) in values.enumerate() {
                let place = (panel * n_tokens + token) * PANEL;
                self.values[place..place + values.len()].copy_from_slice(values);
            }
        }
        self.finite = vectorised(
            #[inline(always)]
            || sum(&self.values, |value| value * 0.0) == 0.0,
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "two strided matrices and a block"
    )]
    fn block(
        &mut self,
        layer: &Layer,
        block: std::ops::Range<usize>,
        n_tokens: usize,
        queries: &[f32],
        stride: usize,
        head_dim: usize,
        target: &mut [f32],
        target_stride: usize,
    ) {
        let n_rows = block.len();
        let first_of = |token: usize| layer.window.map_or(0, |n| (token + 1).saturating_sub(n));
        // All panels that any query of the block sees.
        let first_panel = first_of(block.start) / PANEL;
        let (first, last) = (first_panel * PANEL, block.end);
        let width = (last - first).next_multiple_of(PANEL);
        if self.scores.len() < BLOCK * width {
            self.scores.resize(BLOCK * width, 0.0);
        }
        let panel_size = head_dim * PANEL;
        for panel in first_panel..last.div_ceil(PANEL) {
            let keys = &self.keys[panel * panel_size..][..panel_size];
            let scores = &mut self.scores[panel * PANEL - first..];
            let size = PANEL.min(width);
            panel_f32(
                queries, stride, head_dim, keys, PANEL, scores, width, size, n_rows, false,
            );
        }
        let mut sums = [0.0; BLOCK];
        vectorised(
            #[inline(always)]
            || {
                let rows = self.scores.chunks_exact_mut(width).zip(&mut sums);
                for (token, (row, sum)) in block.clone().zip(rows) {
                    let seen = first_of(token) - first..token + 1 - first;
                    row[..seen.start].fill(0.0);
                    row[seen.end..].fill(0.0);
                    let row = &mut row[seen];
                    let shift = match layer.attention_scale > 0.0 {
                        true => largest(row),
                        false => 0.0,
                    };
                    *sum = exp_sum(row, layer.attention_scale, shift);
                }
            },
        );
        let n_keys = last - first;
        for panel in 0..head_dim.div_ceil(PANEL) {
            let values = &self.values[(panel * n_tokens + first) * PANEL..][..n_keys * PANEL];
            let columns = panel * PANEL..head_dim.min((panel + 1) * PANEL);
            let target = &mut target[columns.start..];
            panel_f32(
                &self.scores,
                width,
                n_keys,
                values,
                PANEL,
                target,
                target_stride,
                columns.len(),
                n_rows,
                false,
            );
        }
        vectorised(
            #[inline(always)]
            || {
                for (row, sum) in sums.iter().take(n_rows).enumerate() {
                    let scale = 1.0 / sum;
                    let row = &mut target[row * target_stride..][..head_dim];
                    row.iter_mut().for_each(|x| *x *= scale);
                }
            },
        );
    }
}
