//! Losses and gradients of a batch of sequences, on one thread: several threads run several batches.
//!
//! 1. Forward: every [`Step`] writes its node; all nodes are kept.
//! 2. The head and the cross-entropy, in blocks of rows.
//! 3. Backward: the steps from the last to the first, each adding to the gradients of what it read.
//!
//! The result depends on the values only, never on which workspace or thread it ran on.

use std::mem;

use super::kernels::{activation, attention, loss, math, norm, rotary};
use super::network::{Network, Place, Step};
use crate::matrix::{Into, Matrix, MatrixMut, multiply};

/// Sequences of one length: row after row, `inputs` predict `targets`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// Tokens per sequence.
    pub(crate) length: usize,
    /// Token ids below the vocabulary's size.
    pub(crate) inputs: &'a [u32],
    /// Ids as well, or [`loss::UNSCORED`].
    pub(crate) targets: &'a [u32],
}

/// Buffers of one batch in work, used again by the next.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    values: Vec<Vec<f32>>,
    gradients: Vec<Vec<f32>>,
    scratch: Vec<f32>,
    losses: Vec<f32>,
}

impl Workspace {
    /// The loss of every row in nats; 0 where it is unscored.
    pub(crate) fn losses(
        &mut self,
        network: &Network,
        parameters: &[f32],
        batch: Batch<'_>,
    ) -> &[f32] {
        self.forward(network, parameters, batch);
        self.head(network, parameters, batch, None);
        &self.losses
    }

    /// The same, and adds `scale` times the gradient of the sum of losses to `gradient`, at the places of
    /// what is trained.
    pub(crate) fn losses_and_gradient(
        &mut self,
        network: &Network,
        parameters: &[f32],
        batch: Batch<'_>,
        scale: f32,
        gradient: &mut [f32],
    ) -> &[f32] {
        self.forward(network, parameters, batch);
        let n_rows = batch.inputs.len();
        self.gradients.resize_with(network.widths.len(), Vec::new);
        for (node, values) in self.gradients.iter_mut().enumerate() {
            values.clear();
            if !network.without_gradient[node] {
                values.resize(n_rows * network.widths[node], 0.0);
            }
        }
        self.head(network, parameters, batch, Some((scale, gradient)));
        for step in network.steps[network.first_trained..].iter().rev() {
            self.step_back(network, parameters, batch, step, gradient);
        }
        &self.losses
    }

    fn forward(&mut self, network: &Network, parameters: &[f32], batch: Batch<'_>) {
        assert!(
            batch.length > 0 && batch.inputs.len().is_multiple_of(batch.length),
            "whole sequences"
        );
        assert_eq!(
            batch.inputs.len(),
            batch.targets.len(),
            "a target for every token"
        );
        let n_rows = batch.inputs.len();
        self.values.resize_with(network.widths.len(), Vec::new);
        for (values, width) in self.values.iter_mut().zip(&network.widths) {
            values.resize(n_rows * width, 0.0);
        }
        for step in &network.steps {
            self.step(network, parameters, batch, step);
        }
    }

    fn head(
        &mut self,
        network: &Network,
        parameters: &[f32],
        batch: Batch<'_>,
        gradient: Option<(f32, &mut [f32])>,
    ) {
        self.losses.resize(batch.targets.len(), 0.0);
        let gradients = match gradient {
            None => None,
            Some((scale, gradient)) => Some(loss::Gradients {
                hidden: &mut self.gradients[network.hidden],
                head: &mut gradient[network.head.clone()],
                scale,
            }),
        };
        loss::cross_entropy(
            network.hidden_size,
            &self.values[network.hidden],
            &parameters[network.head.clone()],
            batch.targets,
            &mut self.losses,
            gradients,
            &mut self.scratch,
        );
    }

    fn step(&mut self, network: &Network, parameters: &[f32], batch: Batch<'_>, step: &Step) {
        let values = &mut self.values;
        match step {
            Step::Embed {
                table,
                positions,
                out,
            } => {
                let width = network.widths[*out];
                let table = &parameters[table.clone()];
                let rows = values[*out].chunks_exact_mut(width).zip(batch.inputs);
                for (place, (row, &token)) in rows.enumerate() {
                    row.copy_from_slice(embedding(table, width, token as usize));
                    if let Some(positions) = positions {
                        let position = place % batch.length;
                        math::add(
                            row,
                            embedding(&parameters[positions.clone()], width, position),
                        );
                    }
                }
            }
            Step::Norm {
                kind,
                eps,
                width,
                weight,
                bias,
                input,
                out,
                stats,
            } => {
                let (mut y, mut kept) =
                    (mem::take(&mut values[*out]), mem::take(&mut values[*stats]));
                let (weight, bias) = (at(parameters, weight), at(parameters, bias));
                norm::forward(
                    (*kind, *eps),
                    *width,
                    weight,
                    bias,
                    &values[*input],
                    &mut y,
                    &mut kept,
                );
                (values[*out], values[*stats]) = (y, kept);
            }
            Step::Linear {
                weight,
                bias,
                input,
                out,
            } => {
                let mut y = mem::take(&mut values[*out]);
                let (n_in, n_out) = (network.widths[*input], network.widths[*out]);
                let n_rows = batch.inputs.len();
                if let Some(bias) = at(parameters, bias) {
                    for row in y.chunks_exact_mut(n_out) {
                        row.copy_from_slice(bias);
                    }
                }
                let into = if bias.is_some() {
                    Into::Add
                } else {
                    Into::Replace
                };
                let weight = Matrix::new(&parameters[weight.clone()], n_out, n_in);
                let x = Matrix::new(&values[*input], n_rows, n_in);
                multiply(
                    MatrixMut::new(&mut y, n_rows, n_out),
                    into,
                    1.0,
                    x,
                    weight.transposed(),
                );
                values[*out] = y;
            }
            Step::Clamp { limit, input, out } => {
                let mut y = mem::take(&mut values[*out]);
                for (y, x) in y.iter_mut().zip(&values[*input]) {
                    *y = x.clamp(-limit, *limit);
                }
                values[*out] = y;
            }
            Step::Rotate {
                node,
                n_heads,
                head_dim,
            } => {
                if let Some(tables) = &network.rotary {
                    let heads = (*n_heads, *head_dim);
                    rotary::rotate(
                        rotary::Turn::Forth,
                        tables,
                        heads,
                        batch.length,
                        &mut values[*node],
                    );
                }
            }
            Step::Attend {
                shape,
                q,
                k,
                v,
                out,
                row_logs,
            } => {
                let (mut y, mut logs) = (
                    mem::take(&mut values[*out]),
                    mem::take(&mut values[*row_logs]),
                );
                let inputs = attention::Inputs {
                    q: &values[*q],
                    k: &values[*k],
                    v: &values[*v],
                };
                attention::forward(
                    *shape,
                    batch.length,
                    inputs,
                    &mut y,
                    &mut logs,
                    &mut self.scratch,
                );
                (values[*out], values[*row_logs]) = (y, logs);
            }
            Step::Activate { f, input, up, out } => {
                let mut y = mem::take(&mut values[*out]);
                let up = up.map(|up| values[up].as_slice());
                activation::forward(*f, &values[*input], up, &mut y);
                values[*out] = y;
            }
            Step::Add { a, b, out } => {
                let mut y = mem::take(&mut values[*out]);
                y.copy_from_slice(&values[*a]);
                math::vectorised(|| math::add(&mut y, &values[*b]));
                values[*out] = y;
            }
        }
    }

    fn step_back(
        &mut self,
        network: &Network,
        parameters: &[f32],
        batch: Batch<'_>,
        step: &Step,
        gradient: &mut [f32],
    ) {
        let values = &self.values;
        let gradients = &mut self.gradients;
        match step {
            Step::Embed {
                table,
                positions,
                out,
            } => {
                let width = network.widths[*out];
                let rows = gradients[*out].chunks_exact(width).zip(batch.inputs);
                for (place, (row, &token)) in rows.enumerate() {
                    math::add(
                        embedding_mut(&mut gradient[table.clone()], width, token as usize),
                        row,
                    );
                    if let Some(positions) = positions {
                        let position = place % batch.length;
                        math::add(
                            embedding_mut(&mut gradient[positions.clone()], width, position),
                            row,
                        );
                    }
                }
            }
            Step::Norm {
                kind,
                width,
                weight,
                bias,
                input,
                out,
                stats,
                ..
            } => {
                let mut d_input = mem::take(&mut gradients[*input]);
                let (d_weight, d_bias) = two_at(gradient, weight, bias);
                norm::backward(
                    *kind,
                    *width,
                    at(parameters, weight),
                    &values[*input],
                    &values[*stats],
                    &gradients[*out],
                    &mut d_input,
                    d_weight,
                    d_bias,
                    &mut self.scratch,
                );
                gradients[*input] = d_input;
            }
            Step::Linear {
                weight,
                bias,
                input,
                out,
            } => {
                let mut d_input = mem::take(&mut gradients[*input]);
                let (n_in, n_out) = (network.widths[*input], network.widths[*out]);
                let n_rows = batch.inputs.len();
                let d_out = Matrix::new(&gradients[*out], n_rows, n_out);
                let w = Matrix::new(&parameters[weight.clone()], n_out, n_in);
                multiply(
                    MatrixMut::new(&mut d_input, n_rows, n_in),
                    Into::Add,
                    1.0,
                    d_out,
                    w,
                );
                let x = Matrix::new(&values[*input], n_rows, n_in);
                let d_weight = MatrixMut::new(&mut gradient[weight.clone()], n_out, n_in);
                multiply(d_weight, Into::Add, 1.0, d_out.transposed(), x);
                if let Some(bias) = bias {
                    let d_bias = &mut gradient[bias.clone()];
                    for row in gradients[*out].chunks_exact(n_out) {
                        math::add(d_bias, row);
                    }
                }
                gradients[*input] = d_input;
            }
            Step::Clamp { limit, input, out } => {
                let mut d_input = mem::take(&mut gradients[*input]);
                let outs = values[*input].iter().zip(&gradients[*out]);
                for (dx, (x, dy)) in d_input.iter_mut().zip(outs) {
                    *dx += if x.abs() <= *limit { *dy } else { 0.0 };
                }
                gradients[*input] = d_input;
            }
            Step::Rotate {
                node,
                n_heads,
                head_dim,
            } => {
                if let Some(tables) = &network.rotary {
                    let heads = (*n_heads, *head_dim);
                    rotary::rotate(
                        rotary::Turn::Back,
                        tables,
                        heads,
                        batch.length,
                        &mut gradients[*node],
                    );
                }
            }
            Step::Attend {
                shape,
                q,
                k,
                v,
                out,
                row_logs,
            } => {
                let [mut d_q, mut d_k, mut d_v] =
                    [*q, *k, *v].map(|node| mem::take(&mut gradients[node]));
                attention::backward(
                    *shape,
                    batch.length,
                    attention::Inputs {
                        q: &values[*q],
                        k: &values[*k],
                        v: &values[*v],
                    },
                    &values[*out],
                    &values[*row_logs],
                    &gradients[*out],
                    attention::Gradients {
                        q: &mut d_q,
                        k: &mut d_k,
                        v: &mut d_v,
                    },
                    &mut self.scratch,
                );
                (gradients[*q], gradients[*k], gradients[*v]) = (d_q, d_k, d_v);
            }
            Step::Activate { f, input, up, out } => {
                let mut d_input = mem::take(&mut gradients[*input]);
                let mut d_up = up.map(|up| mem::take(&mut gradients[up]));
                let gate = match (up, &mut d_up) {
                    (Some(up), Some(d_up)) => Some((values[*up].as_slice(), d_up.as_mut_slice())),
                    _ => None,
                };
                activation::backward(*f, &values[*input], &gradients[*out], &mut d_input, gate);
                gradients[*input] = d_input;
                if let (Some(up), Some(d_up)) = (up, d_up) {
                    gradients[*up] = d_up;
                }
            }
            Step::Add { a, b, out } => {
                for node in [*a, *b] {
                    let mut d_input = mem::take(&mut gradients[node]);
                    math::vectorised(|| math::add(&mut d_input, &gradients[*out]));
                    gradients[node] = d_input;
                }
            }
        }
    }
}

fn embedding(table: &[f32], width: usize, row: usize) -> &[f32] {
    &table[row * width..(row + 1) * width]
}

fn embedding_mut(table: &mut [f32], width: usize, row: usize) -> &mut [f32] {
    &mut table[row * width..(row + 1) * width]
}

fn at<'a>(parameters: &'a [f32], place: &Option<Place>) -> Option<&'a [f32]> {
    place.clone().map(|place| &parameters[place])
}

/// Two disjoint places to write; the first stands before the second.
fn two_at<'a>(
    gradient: &'a mut [f32],
    first: &Option<Place>,
    second: &Option<Place>,
) -> (Option<&'a mut [f32]>, Option<&'a mut [f32]>) {
    match (first.clone(), second.clone()) {
        (Some(first), Some(second)) => {
            let (low, high) = gradient.split_at_mut(second.start);
            (Some(&mut low[first]), Some(&mut high[..second.len()]))
        }
        (Some(first), None) => (Some(&mut gradient[first]), None),
        (None, Some(second)) => (None, Some(&mut gradient[second])),
        (None, None) => (None, None),
    }
}
