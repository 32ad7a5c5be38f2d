//! The same networks over candle's plain operators in f64, and the gradients of its autograd: what
//! the hand-written passes are compared with.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::forward::Batch;
use super::kernels::loss::UNSCORED;
use super::network::{Network, Place, Step};
use crate::architecture::{Activation, NormKind};

/// The sum of all losses, and its gradient.
pub(crate) fn loss_and_gradient(
    network: &Network,
    parameters: &[f32],
    batch: Batch<'_>,
) -> Result<(f64, Vec<f64>)> {
    let device = Device::Cpu;
    let parameters = Tensor::from_slice(parameters, parameters.len(), &device)?;
    let parameters = Var::from_tensor(&parameters.to_dtype(DType::F64)?)?;
    let loss = Plain {
        network,
        parameters: parameters.as_tensor(),
        batch,
    }
    .loss()?;
    let gradients = loss.backward()?;
    let gradient = gradients
        .get(parameters.as_tensor())
        .map(Tensor::to_vec1::<f64>);
    Ok((loss.to_scalar()?, gradient.transpose()?.unwrap_or_default()))
}

struct Plain<'a> {
    network: &'a Network,
    parameters: &'a Tensor,
    batch: Batch<'a>,
}

impl Plain<'_> {
    fn at(&self, place: &Place) -> Result<Tensor> {
        self.parameters.narrow(0, place.start, place.len())
    }

    fn matrix(&self, place: &Place, n_in: usize) -> Result<Tensor> {
        self.at(place)?.reshape((place.len() / n_in, n_in))
    }

    fn loss(&self) -> Result<Tensor> {
        let mut nodes: Vec<Option<Tensor>> = vec![None; self.network.widths.len()];
        for step in &self.network.steps {
            let (out, value) = self.step(step, &nodes)?;
            nodes[out] = Some(value);
        }
        let hidden = node(&nodes, self.network.hidden);
        let head = self.matrix(&self.network.head, self.network.hidden_size)?;
        let logits = hidden.matmul(&head.t()?)?;
        let max = logits.max_keepdim(D::Minus1)?.detach();
        let sums = logits
            .broadcast_sub(&max)?
            .exp()?
            .sum_keepdim(D::Minus1)?
            .log()?;
        let logs = logits.broadcast_sub(&(sums + max)?)?;
        let scored = |target: &u32| *target != UNSCORED;
        let ids: Vec<u32> = self
            .batch
            .targets
            .iter()
            .map(|t| if scored(t) { *t } else { 0 })
            .collect();
        let mask: Vec<f64> = self
            .batch
            .targets
            .iter()
            .map(|t| f64::from(u8::from(scored(t))))
            .collect();
        let n = ids.len();
        let ids = Tensor::from_vec(ids, (n, 1), logs.device())?;
        let mask = Tensor::from_vec(mask, (n, 1), logs.device())?;
        (logs.gather(&ids, 1)? * mask)?.sum_all()?.neg()
    }

    fn step(&self, step: &Step, nodes: &[Option<Tensor>]) -> Result<(usize, Tensor)> {
        let device = Device::Cpu;
        let n_rows = self.batch.inputs.len();
        let length = self.batch.length;
        let widths = &self.network.widths;
        Ok(match step {
            Step::Embed {
                table,
                positions,
                out,
            } => {
                let ids = Tensor::from_slice(self.batch.inputs, n_rows, &device)?;
                let mut x = self.matrix(table, widths[*out])?.index_select(&ids, 0)?;
                if let Some(positions) = positions {
                    let ids: Vec<u32> = (0..n_rows).map(|row| (row % length) as u32).collect();
                    let ids = Tensor::from_vec(ids, n_rows, &device)?;
                    x = (x + self
                        .matrix(positions, widths[*out])?
                        .index_select(&ids, 0)?)?;
                }
                (*out, x)
            }
            Step::Norm {
                kind,
                eps,
                width,
                weight,
                bias,
                input,
                out,
                ..
            } => {
                let mut x = node(nodes, *input).reshape(((), *width))?;
                if *kind == NormKind::Layer {
                    x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
                }
                let deviation = (x.sqr()?.mean_keepdim(1)? + f64::from(*eps))?.sqrt()?;
                x = x.broadcast_div(&deviation)?;
                if let Some(weight) = weight {
                    x = x.broadcast_mul(&self.at(weight)?)?;
                }
                if let Some(bias) = bias {
                    x = x.broadcast_add(&self.at(bias)?)?;
                }
                (*out, x.reshape((n_rows, ()))?)
            }
            Step::Linear {
                weight,
                bias,
                input,
                out,
            } => {
                let x = node(nodes, *input).matmul(&self.matrix(weight, widths[*input])?.t()?)?;
                let x = match bias {
                    Some(bias) => x.broadcast_add(&self.at(bias)?)?,
                    None => x,
                };
                (*out, x)
            }
            Step::Clamp { limit, input, out } => {
                let limit = f64::from(*limit);
                (*out, node(nodes, *input).minimum(limit)?.maximum(-limit)?)
            }
            Step::Rotate {
                node: at,
                n_heads,
                head_dim,
            } => {
                let Some(tables) = &self.network.rotary else {
                    return Ok((*at, node(nodes, *at)));
                };
                let x = node(nodes, *at).reshape((n_rows / length, length, *n_heads, *head_dim))?;
                let half = tables.dims / 2;
                let table = |values: &[f32]| {
                    Tensor::from_slice(&values[..length * half], (1, length, 1, half), &device)?
                        .to_dtype(DType::F64)
                };
                let (cos, sin) = (table(&tables.cos)?, table(&tables.sin)?);
                let (a, b) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
                let low = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
                let high = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
                let mut parts = vec![low, high];
                if *head_dim > 2 * half {
                    parts.push(x.narrow(3, 2 * half, head_dim - 2 * half)?);
                }
                (*at, Tensor::cat(&parts, 3)?.reshape((n_rows, ()))?)
            }
            Step::Attend {
                shape,
                q,
                k,
                v,
                out,
                ..
            } => {
                let heads = |at: usize, n: usize| {
                    node(nodes, at)
                        .reshape((n_rows / length, length, n, shape.head_dim))?
                        .transpose(1, 2)?
                        .contiguous()
                };
                let groups = shape.n_heads / shape.n_kv_heads;
                let repeat = |x: Tensor| {
                    let (batch, n, length, dim) = x.dims4()?;
                    x.unsqueeze(2)?
                        .expand((batch, n, groups, length, dim))?
                        .reshape((batch, n * groups, length, dim))
                };
                let q = heads(*q, shape.n_heads)?;
                let k = repeat(heads(*k, shape.n_kv_heads)?)?;
                let v = repeat(heads(*v, shape.n_kv_heads)?)?;
                let scores = (q.matmul(&k.t()?)? * f64::from(shape.scale))?;
                let mask: Vec<f64> = (0..length * length)
                    .map(|place| {
                        let (row, column) = (place / length, place % length);
                        let seen = column <= row && shape.window.is_none_or(|w| row - column < w);
                        if seen { 0.0 } else { -1e9 }
                    })
                    .collect();
                let mask = Tensor::from_vec(mask, (1, 1, length, length), &device)?;
                let weights = scores.broadcast_add(&mask)?;
                let weights = weights
                    .broadcast_sub(&weights.max_keepdim(D::Minus1)?.detach())?
                    .exp()?;
                let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
                (
                    *out,
                    weights.matmul(&v)?.transpose(1, 2)?.reshape((n_rows, ()))?,
                )
            }
            Step::Activate { f, input, up, out } => {
                let x = node(nodes, *input);
                let y = match f {
                    Activation::Silu => x.silu()?,
                    Activation::Gelu => x.gelu_erf()?,
                    Activation::GeluTanh => x.gelu()?,
                    Activation::Relu => x.relu()?,
                };
                (
                    *out,
                    match up {
                        Some(up) => (y * node(nodes, *up))?,
                        None => y,
                    },
                )
            }
            Step::Add { a, b, out } => (*out, (node(nodes, *a) + node(nodes, *b))?),
        })
    }
}

fn node(nodes: &[Option<Tensor>], at: usize) -> Tensor {
    nodes[at].clone().expect("steps write before they read")
}
