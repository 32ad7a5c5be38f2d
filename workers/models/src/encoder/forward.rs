//! The forward pass of an encoder over one text: every token sees every other.

use super::config::{EncoderConfig, Pooling};
use super::weights::{EncoderWeights, LayerWeights, Linear, NormWeights};
use crate::forward::operators::{activate_rows, add_bias, exp_sum, largest, normalise_rows};
use crate::matrix::{Into, Matrix, MatrixMut, multiply};
use crate::scalar::vectorised;

/// Rows of some width, one for each token.
struct Rows<'a> {
    config: &'a EncoderConfig,
    n_tokens: usize,
}

/// The vector of a text, of length 1. `ids` are known tokens, no more than fit.
pub(super) fn embed(config: &EncoderConfig, weights: &EncoderWeights, ids: &[u32]) -> Vec<f32> {
    let n = config.n_dimensions;
    let rows = Rows {
        config,
        n_tokens: ids.len(),
    };
    let mut hidden = vec![0.0; ids.len() * n];
    for (idx, (row, id)) in hidden.chunks_exact_mut(n).zip(ids).enumerate() {
        let word = &weights.words[*id as usize * n..][..n];
        let position = &weights.positions[(config.first_position + idx) * n..][..n];
        for (place, ((word, position), kind)) in row
            .iter_mut()
            .zip(word.iter().zip(position).zip(&weights.kind))
        {
            *place = word + position + kind;
        }
    }
    let mut hidden = rows.normed(&hidden, &weights.norm);
    for layer in &weights.layers {
        hidden = rows.layer(&hidden, layer);
    }
    let mut pooled = match config.pooling {
        Pooling::Cls => hidden[..n].to_vec(),
        Pooling::Mean => {
            let mut sum = vec![0.0; n];
            for row in hidden.chunks_exact(n) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            sum
        }
    };
    let length = pooled.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        pooled.iter_mut().for_each(|x| *x /= length);
    }
    pooled
}

impl Rows<'_> {
    fn normed(&self, rows: &[f32], norm: &NormWeights) -> Vec<f32> {
        let mut target = vec![0.0; rows.len()];
        normalise_rows(
            self.config.norm,
            rows,
            &norm.weight,
            &norm.bias,
            &mut target,
            self.config.n_dimensions,
        );
        target
    }

    fn linear(&self, rows: &[f32], linear: &Linear) -> Vec<f32> {
        let n_out = linear.bias.len();
        let n_in = linear.weight.len() / n_out.max(1);
        let mut target = vec![0.0; self.n_tokens * n_out];
        multiply(
            MatrixMut::new(&mut target, self.n_tokens, n_out),
            Into::Replace,
            1.0,
            Matrix::new(rows, self.n_tokens, n_in),
            Matrix::new(&linear.weight, n_out, n_in).transposed(),
        );
        add_bias(&linear.bias, &mut target, n_out);
        target
    }

    /// Attention and the second half, each added to what it was given and normalised after it.
    fn layer(&self, hidden: &[f32], layer: &LayerWeights) -> Vec<f32> {
        let attended = self.attention(hidden, layer);
        let attended = added(self.linear(&attended, &layer.output), hidden);
        let hidden = self.normed(&attended, &layer.attention_norm);
        let mut inner = self.linear(&hidden, &layer.up);
        let n_inner = self.config.n_inner;
        activate_rows(self.config.activation, false, &mut inner, n_inner, n_inner);
        let out = added(self.linear(&inner, &layer.down), &hidden);
        self.normed(&out, &layer.norm)
    }

    fn attention(&self, hidden: &[f32], layer: &LayerWeights) -> Vec<f32> {
        let (n, n_tokens) = (self.config.n_dimensions, self.n_tokens);
        let size = n / self.config.n_heads;
        let scale = (size as f32).sqrt().recip();
        let query = self.linear(hidden, &layer.query);
        let key = self.linear(hidden, &layer.key);
        let value = self.linear(hidden, &layer.value);
        let mut attended = vec![0.0; n_tokens * n];
        let mut scores = vec![0.0; n_tokens * n_tokens];
        for head in 0..self.config.n_heads {
            let at = head * size;
            let of = |rows| Matrix::strided(rows, n_tokens, size, n);
            multiply(
                MatrixMut::new(&mut scores, n_tokens, n_tokens),
                Into::Replace,
                scale,
                of(&query[at..]),
                of(&key[at..]).transposed(),
            );
            vectorised(
                #[inline(always)]
                || {
                    for row in scores.chunks_exact_mut(n_tokens) {
                        let sum = exp_sum(row, 1.0, largest(row));
                        row.iter_mut().for_each(|x| *x /= sum);
                    }
                },
            );
            multiply(
                MatrixMut::strided(&mut attended[at..], n_tokens, size, n),
                Into::Replace,
                1.0,
                Matrix::new(&scores, n_tokens, n_tokens),
                of(&value[at..]),
            );
        }
        attended
    }
}

fn added(mut rows: Vec<f32>, others: &[f32]) -> Vec<f32> {
    rows.iter_mut().zip(others).for_each(|(x, y)| *x += y);
    rows
}
