//! Layers in candle's operators.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor};

use super::LOSS_ROWS;
use crate::architecture::{
    Activation, Architecture, Layer, NormKind, Placement, Positions, QkNorm,
};
use crate::{ModelDirectory, ModelError, Part};

/// Weights on a device.
#[derive(Debug)]
pub(super) struct Network {
    device: Device,
    dtype: DType,
    weights: HashMap<(Option<usize>, Part), Tensor>,
}

impl Network {
    pub(super) fn load(
        directory: &ModelDirectory,
        device: Device,
        dtype: DType,
    ) -> std::result::Result<Self, ModelError> {
        let mut weights = HashMap::new();
        for slot in directory.architecture().slots() {
            let values = directory.read(&slot)?;
            let tensor = Tensor::from_vec(values, slot.shape.clone(), &device)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .map_err(|e| ModelError::Device {
                    problem: format!("cannot hold {:?}: {e}", slot.part),
                })?;
            weights.insert((slot.layer, slot.part), tensor);
        }
        Ok(Self {
            device,
            dtype,
            weights,
        })
    }

    /// The losses of a batch; its first sequence is the longest.
    pub(super) fn losses(&self, a: &Architecture, batch: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let n_batch = batch.len();
        let n_tokens = batch.first().map_or(0, |ids| ids.len() - 1);
        let padded = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.resize(n_tokens, 0);
            ids
        };
        let inputs: Vec<u32> = batch
            .iter()
            .flat_map(|ids| padded(&ids[..ids.len() - 1]))
            .collect();
        let targets: Vec<u32> = batch.iter().flat_map(|ids| padded(&ids[1..])).collect();
        let inputs = Tensor::from_vec(inputs, (n_batch * n_tokens,), &self.device)?;
        let targets = Tensor::from_vec(targets, (n_batch * n_tokens, 1), &self.device)?;
        let embedding = self.get(None, Part::Embedding)?;
        let mut x = embedding
            .embedding(&inputs)?
            .reshape((n_batch, n_tokens, a.hidden_size))?;
        if let Some(positions) = self.weights.get(&(None, Part::PositionEmbedding)) {
            x = x.broadcast_add(&positions.narrow(0, 0, n_tokens)?)?;
        }
        let rotary = match &a.positions {
            Positions::Learned => None,
            Positions::Rotary(rotary) => {
                let (cosines, sines) = rotary.tables(n_tokens);
                let shape = (n_tokens, rotary.dims / 2);
                let table = |values: Vec<f32>| Tensor::from_vec(values, shape, &self.device);
                Some((table(cosines)?, table(sines)?))
            }
        };
        for (number, layer) in a.layers.iter().enumerate() {
            let rotary = rotary.as_ref().filter(|_| layer.rotary);
            x = self.layer(a, number, layer, &x, rotary)?;
        }
        let x = self.norm(a, None, Part::FinalNorm, Part::FinalNormBias, &x)?;
        let x = x.reshape((n_batch * n_tokens, a.hidden_size))?;
        let head = if a.tied_head {
            embedding
        } else {
            self.get(None, Part::Head)?
        };
        let mut all = Vec::with_capacity(n_batch * n_tokens);
        for start in (0..n_batch * n_tokens).step_by(LOSS_ROWS) {
            let n = LOSS_ROWS.min(n_batch * n_tokens - start);
            let logits = x
                .narrow(0, start, n)?
                .matmul(&head.t()?)?
                .to_dtype(DType::F32)?;
            let most = logits.max_keepdim(D::Minus1)?;
            let sums = logits.broadcast_sub(&most)?.exp()?.sum_keepdim(D::Minus1)?;
            let chosen = logits.gather(&targets.narrow(0, start, n)?.contiguous()?, 1)?;
            let losses = ((sums.log()? + most)? - chosen)?;
            all.extend(losses.flatten_all()?.to_vec1::<f32>()?);
        }
        let rows = all.chunks(n_tokens.max(1)).zip(batch);
        Ok(rows
            .map(|(losses, ids)| losses[..ids.len() - 1].to_vec())
            .collect())
    }

    fn get(&self, layer: Option<usize>, part: Part) -> Result<&Tensor> {
        let missing = || candle_core::Error::Msg(format!("no weight {part:?}"));
        self.weights.get(&(layer, part)).ok_or_else(missing)
    }

    fn product(&self, layer: usize, weight: Part, bias: Part, x: &Tensor) -> Result<Tensor> {
        let y = x.broadcast_matmul(&self.get(Some(layer), weight)?.t()?)?;
        match self.weights.get(&(Some(layer), bias)) {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    fn norm(
        &self,
        a: &Architecture,
        layer: Option<usize>,
        weight: Part,
        bias: Part,
        x: &Tensor,
    ) -> Result<Tensor> {
        let mut x = x.to_dtype(DType::F32)?;
        if a.norm.kind == NormKind::Layer {
            x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        }
        let mut y = root_mean_square(&x, a.norm.eps)?.to_dtype(self.dtype)?;
        if let Some(weight) = self.weights.get(&(layer, weight)) {
            y = y.broadcast_mul(weight)?;
        }
        if let Some(bias) = self.weights.get(&(layer, bias)) {
            y = y.broadcast_add(bias)?;
        }
        Ok(y)
    }

    fn layer(
        &self,
        a: &Architecture,
        number: usize,
        layer: &Layer,
        x: &Tensor,
        rotary: Option<&(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let attention_norm = |x: &Tensor| {
            self.norm(
                a,
                Some(number),
                Part::AttentionNorm,
                Part::AttentionNormBias,
                x,
            )
        };
        let mlp_norm = |x: &Tensor| self.norm(a, Some(number), Part::MlpNorm, Part::MlpNormBias, x);
        let attention = |x: &Tensor| self.attention(a, number, layer, x, rotary);
        let mlp = |x: &Tensor| self.mlp(a, number, x);
        match a.placement {
            Placement::Before => {
                let x = (x + attention(&attention_norm(x)?)?)?;
                &x + mlp(&mlp_norm(&x)?)?
            }
            Placement::After => {
                let x = (x + attention_norm(&attention(x)?)?)?;
                &x + mlp_norm(&mlp(&x)?)?
            }
            Placement::Parallel => (x + attention(&attention_norm(x)?)?)? + mlp(&mlp_norm(x)?)?,
        }
    }

    fn attention(
        &self,
        a: &Architecture,
        number: usize,
        layer: &Layer,
        x: &Tensor,
        rotary: Option<&(Tensor, Tensor)>,
    ) -> Result<Tensor> {
        let (n_batch, n_tokens, _) = x.dims3()?;
        let heads = |weight: Part, bias: Part, norm: Part, n_heads: usize| {
            let mut y = self.product(number, weight, bias, x)?;
            if let Some(clip) = a.clip_qkv {
                y = y.clamp(-clip, clip)?;
            }
            let norm = self.weights.get(&(Some(number), norm));
            if let (QkNorm::Whole, Some(weight)) = (a.qk_norm, norm) {
                y = self.norm_heads(a, weight, &y)?;
            }
            let mut y = y.reshape((n_batch, n_tokens, n_heads, a.head_dim))?;
            if let (QkNorm::PerHead, Some(weight)) = (a.qk_norm, norm) {
                y = self.norm_heads(a, weight, &y)?;
            }
            y.transpose(1, 2)?.contiguous()
        };
        let mut query = heads(Part::Query, Part::QueryBias, Part::QueryNorm, a.n_heads)?;
        let mut key = heads(Part::Key, Part::KeyBias, Part::KeyNorm, a.n_kv_heads)?;
        // Values have no norm: Head stands for a part that no layer has.
        let value = heads(Part::Value, Part::ValueBias, Part::Head, a.n_kv_heads)?;
        if let Some((cosines, sines)) = rotary {
            query = rotate(&query, cosines, sines)?;
            key = rotate(&key, cosines, sines)?;
        }
        let group = a.n_heads / a.n_kv_heads;
        let repeat = |x: &Tensor| {
            let shape = (n_batch, a.n_kv_heads, group, n_tokens, a.head_dim);
            x.unsqueeze(2)?
                .broadcast_as(shape)?
                .reshape((n_batch, a.n_heads, n_tokens, a.head_dim))
        };
        let (key, value) = (repeat(&key)?, repeat(&value)?);
        let scores = query
            .matmul(&key.t()?.contiguous()?)?
            .to_dtype(DType::F32)?;
        let scores = (scores * f64::from(layer.attention_scale))?;
        let scores = scores.broadcast_add(&self.mask(layer, n_tokens)?)?;
        let shifted = scores
            .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
            .exp()?;
        let shares = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?;
        let mixed = shares.to_dtype(self.dtype)?.matmul(&value)?;
        let mixed = mixed
            .transpose(1, 2)?
            .reshape((n_batch, n_tokens, a.query_size()))?;
        self.product(number, Part::Output, Part::OutputBias, &mixed)
    }

    fn norm_heads(&self, a: &Architecture, weight: &Tensor, x: &Tensor) -> Result<Tensor> {
        let y = root_mean_square(&x.to_dtype(DType::F32)?, a.norm.eps)?;
        y.to_dtype(self.dtype)?.broadcast_mul(weight)
    }

    /// 0 where a query sees a key, minus infinity elsewhere: `[queries, keys]`.
    fn mask(&self, layer: &Layer, n_tokens: usize) -> Result<Tensor> {
        let window = layer.window.unwrap_or(n_tokens);
        let seen = |query: usize, key: usize| key <= query && query - key < window;
        let mask: Vec<f32> = (0..n_tokens)
            .flat_map(|query| (0..n_tokens).map(move |key| (query, key)))
            .map(|(query, key)| {
                if seen(query, key) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            })
            .collect();
        Tensor::from_vec(mask, (n_tokens, n_tokens), &self.device)
    }

    fn mlp(&self, a: &Architecture, number: usize, x: &Tensor) -> Result<Tensor> {
        let activate = |x: Tensor| match a.activation {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu_erf(),
            Activation::GeluTanh => x.gelu(),
            Activation::Relu => x.relu(),
        };
        let up = self.product(number, Part::Up, Part::UpBias, x)?;
        let inner = match a.gated {
            true => (activate(self.product(number, Part::Gate, Part::GateBias, x)?)? * up)?,
            false => activate(up)?,
        };
        self.product(number, Part::Down, Part::DownBias, &inner)
    }
}

fn root_mean_square(x: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)
}

/// Turns the first dimensions of `[batch, heads, tokens, head_dim]` by tables of
/// `[tokens, dims / 2]`.
fn rotate(x: &Tensor, cosines: &Tensor, sines: &Tensor) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let (half, head_dim) = (cosines.dim(1)?, x.dim(3)?);
    let (first, second) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let rest = x.narrow(3, 2 * half, head_dim - 2 * half)?;
    let turned_first = (first.broadcast_mul(cosines)? - second.broadcast_mul(sines)?)?;
    let turned_second = (second.broadcast_mul(cosines)? + first.broadcast_mul(sines)?)?;
    let mut parts = vec![turned_first, turned_second];
    if head_dim > 2 * half {
        parts.push(rest);
    }
    Tensor::cat(&parts, 3)?.to_dtype(dtype)
}
