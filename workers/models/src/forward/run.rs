//! One pack through the layers.

use std::ops::Range;

use super::CausalModel;
use super::attention::{AttentionScratch, attend};
use super::loss::{LossScratch, losses};
use super::operators::{
    activate_rows, add_bias, add_normalised_rows, normalise_heads, normalise_rows, rotate_heads,
};
use super::pack::Pack;
use super::weights::{LayerWeights, NormWeights};
use super::{PACK_ROWS, WeightType};
use crate::architecture::{Architecture, Placement, QkNorm};
use crate::product::Scratch;

/// Rows of one block of the feed-forward part: what is between its products stays in the cache.
const MLP_ROWS: usize = 192;

/// The buffers of a thread; they grow to the largest pack and stay.
#[derive(Debug, Default)]
pub(super) struct WorkingSet {
    /// The residual stream, `[rows, hidden]`.
    stream: Vec<f32>,
    /// Normalised rows, or what is to be normalised, `[rows, hidden]`.
    normed: Vec<f32>,
    /// The stream where models that begin alike go apart, `[rows, hidden]`.
    at_the_split: Vec<f32>,
    /// `[rows, queries + keys + values]`
    qkv: Vec<f32>,
    /// `[rows, queries]`
    attended: Vec<f32>,
    /// `[MLP_ROWS, inner]`, twice that with a gate.
    inner: Vec<f32>,
    /// One row, `[hidden]`.
    row: Vec<f32>,
    targets: Vec<u32>,
    losses: Vec<f32>,
    attention: AttentionScratch,
    loss: LossScratch,
    product: Scratch,
}

impl WorkingSet {
    /// Bytes it grows to.
    pub(super) fn bytes(architecture: &Architecture, weights: WeightType, context: usize) -> u64 {
        let n_rows = PACK_ROWS.max(context);
        let (hidden, query) = (architecture.hidden_size, architecture.query_size());
        let row = 3 * hidden + 2 * query + 2 * architecture.kv_size() + 2;
        let inner = inner_stride(architecture);
        let widest = hidden.max(query).max(architecture.intermediate_size);
        let bytes = 4 * (n_rows * row + MLP_ROWS * inner + hidden)
            + AttentionScratch::bytes(architecture, context)
            + LossScratch::bytes(n_rows)
            + Scratch::bytes(weights, widest, n_rows);
        bytes as u64
    }

    /// The losses of each sequence of a pack under each of some models whose first `n_shared` layers,
    /// and the embedding, are the same.
    pub(super) fn run(
        &mut self,
        models: &[&CausalModel],
        n_shared: usize,
        pack: &Pack,
        sequences: &[&[u32]],
    ) -> Vec<Vec<Vec<f32>>> {
        let Some((first, others)) = models.split_first() else {
            return Vec::new();
        };
        let n_rows = pack.n_rows;
        self.targets.clear();
        let inputs = |&sequence: &usize| {
            let ids = sequences[sequence];
            &ids[..ids.len() - 1]
        };
        for &sequence in &pack.sequences {
            self.targets.extend_from_slice(&sequences[sequence][1..]);
        }
        let places = pack.sequences.iter().map(inputs);
        let places = places.flat_map(|ids| ids.iter().copied().enumerate());
        let mut sequences_alone = SequencesAlone { pack, sequences };
        self.begin(first, n_rows, places);
        self.through(first, 0..n_shared, &mut sequences_alone);
        if !others.is_empty() {
            self.at_the_split.clone_from(&self.stream);
        }
        let mut losses = Vec::with_capacity(models.len());
        for (number, model) in models.iter().enumerate() {
            if number > 0 {
                self.stream.copy_from_slice(&self.at_the_split);
            }
            let n_layers = model.architecture.n_layers();
            self.through(model, n_shared..n_layers, &mut sequences_alone);
            losses.push(self.end(model, pack, sequences));
        }
        losses
    }

    /// The losses of each sequence, from the rows behind the last layer.
    fn end(&mut self, model: &CausalModel, pack: &Pack, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
        self.normalise(&model.architecture, &model.weights.final_norm);
        self.losses.resize(pack.n_rows, 0.0);
        losses(
            model.weights.head(),
            &self.normed,
            &self.targets,
            &mut self.loss,
            &mut self.product,
            &mut self.losses,
        );
        let mut rest = &self.losses[..pack.n_rows];
        let of_sequence = |&sequence: &usize| {
            let (losses, others) = rest.split_at(sequences[sequence].len() - 1);
            rest = others;
            losses.to_vec()
        };
        pack.sequences.iter().map(of_sequence).collect()
    }

    /// Rows, each a position and an id, through all layers: normalised for the head, in `normed`.
    pub(super) fn layers(
        &mut self,
        model: &CausalModel,
        n_rows: usize,
        places: impl Iterator<Item = (usize, u32)>,
        mix: &mut impl Mix,
    ) {
        let architecture = &model.architecture;
        self.begin(model, n_rows, places);
        self.through(model, 0..architecture.n_layers(), mix);
        self.normalise(architecture, &model.weights.final_norm);
    }

    /// Rows, each a position and an id, in the stream before the first layer.
    fn begin(
        &mut self,
        model: &CausalModel,
        n_rows: usize,
        places: impl Iterator<Item = (usize, u32)>,
    ) {
        let hidden = model.architecture.hidden_size;
        self.embed(model, n_rows, places);
        self.normed.resize(n_rows * hidden, 0.0);
        self.row.resize(hidden, 0.0);
    }

    /// The stream through some layers.
    fn through(&mut self, model: &CausalModel, layers: Range<usize>, mix: &mut impl Mix) {
        for number in layers {
            self.layer(model, number, mix);
        }
    }

    /// The normalised rows after [`WorkingSet::layers`], and room for a product.
    pub(super) fn normed(&mut self) -> (&[f32], &mut Scratch) {
        (&self.normed, &mut self.product)
    }

    fn embed(
        &mut self,
        model: &CausalModel,
        n_rows: usize,
        places: impl Iterator<Item = (usize, u32)>,
    ) {
        let hidden = model.architecture.hidden_size;
        self.stream.resize(n_rows * hidden, 0.0);
        let rows = self.stream.chunks_exact_mut(hidden);
        for ((position, id), row) in places.zip(rows) {
            model.weights.embedding.row(id as usize, row);
            let place = model
                .weights
                .positions
                .get(position * hidden..(position + 1) * hidden);
            if let Some(place) = place {
                row.iter_mut().zip(place).for_each(|(x, place)| *x += place);
            }
        }
    }

    fn normalise(&mut self, architecture: &Architecture, norm: &NormWeights) {
        let width = architecture.hidden_size;
        let (weight, bias) = (&norm.weight, &norm.bias);
        normalise_rows(
            architecture.norm,
            &self.stream,
            weight,
            bias,
            &mut self.normed,
            width,
        );
    }

    fn layer(&mut self, model: &CausalModel, number: usize, mix: &mut impl Mix) {
        let architecture = &model.architecture;
        let weights = &model.weights.layers[number];
        match architecture.placement {
            Placement::Before => {
                self.normalise(architecture, &weights.attention_norm);
                self.attention(model, number, mix);
                self.attention_output(architecture, weights, true);
                self.normalise(architecture, &weights.mlp_norm);
                self.mlp(architecture, weights, true);
            }
            Placement::After => {
                self.normed.copy_from_slice(&self.stream);
                self.attention(model, number, mix);
                self.attention_output(architecture, weights, false);
                self.add_normalised(architecture, &weights.attention_norm);
                self.normed.copy_from_slice(&self.stream);
                self.mlp(architecture, weights, false);
                self.add_normalised(architecture, &weights.mlp_norm);
            }
            Placement::Parallel => {
                self.normalise(architecture, &weights.attention_norm);
                self.attention(model, number, mix);
                // Before attention is added: both read the same stream.
                self.normalise(architecture, &weights.mlp_norm);
                self.attention_output(architecture, weights, true);
                self.mlp(architecture, weights, true);
            }
        }
    }

    /// Adds the normalised `normed` to the stream.
    fn add_normalised(&mut self, architecture: &Architecture, norm: &NormWeights) {
        let (source, target) = (&self.normed, &mut self.stream);
        let (weight, bias) = (&norm.weight, &norm.bias);
        add_normalised_rows(
            architecture.norm,
            source,
            weight,
            bias,
            target,
            &mut self.row,
        );
    }

    /// From `normed` to `attended`.
    fn attention(&mut self, model: &CausalModel, number: usize, mix: &mut impl Mix) {
        let architecture = &model.architecture;
        let weights = &model.weights.layers[number];
        let (hidden, query, kv) = (
            architecture.hidden_size,
            architecture.query_size(),
            architecture.kv_size(),
        );
        let (n_rows, stride) = (self.normed.len() / hidden, query + 2 * kv);
        self.qkv.resize(n_rows * stride, 0.0);
        self.attended.resize(n_rows * query, 0.0);
        let (normed, product) = (&self.normed, &mut self.product);
        weights.qkv.multiply(
            n_rows,
            normed,
            hidden,
            &mut self.qkv,
            stride,
            false,
            product,
        );
        add_bias(&weights.qkv_bias, &mut self.qkv, stride);
        if let Some(clip) = architecture.clip_qkv {
            // Not a number stays one.
            self.qkv.iter_mut().for_each(|x| *x = x.clamp(-clip, clip));
        }
        if architecture.qk_norm != QkNorm::None {
            let eps = architecture.norm.eps;
            for row in self.qkv.chunks_exact_mut(stride) {
                normalise_heads(eps, &weights.query_norm, &mut row[..query]);
                normalise_heads(eps, &weights.key_norm, &mut row[query..query + kv]);
            }
        }
        mix.mix(
            model,
            number,
            &mut self.qkv,
            &mut self.attended,
            &mut self.attention,
        );
    }

    /// From `attended`: added to the stream, or put into `normed`.
    fn attention_output(&mut self, architecture: &Architecture, weights: &LayerWeights, add: bool) {
        let (hidden, query) = (architecture.hidden_size, architecture.query_size());
        let n_rows = self.stream.len() / hidden;
        let target = if add {
            &mut self.stream
        } else {
            &mut self.normed
        };
        let (attended, product) = (&self.attended, &mut self.product);
        weights
            .output
            .multiply(n_rows, attended, query, target, hidden, add, product);
        add_bias(&weights.output_bias, target, hidden);
    }

    /// From `normed`: added to the stream, or put back into `normed`.
    fn mlp(&mut self, architecture: &Architecture, weights: &LayerWeights, add: bool) {
        let hidden = architecture.hidden_size;
        let n_inner = architecture.intermediate_size;
        let stride = inner_stride(architecture);
        let n_rows = self.stream.len() / hidden;
        for start in (0..n_rows).step_by(MLP_ROWS) {
            let n = MLP_ROWS.min(n_rows - start);
            let rows = start * hidden..(start + n) * hidden;
            self.inner.resize(MLP_ROWS * stride, 0.0);
            let inner = &mut self.inner[..n * stride];
            let product = &mut self.product;
            let normed = &self.normed[rows.clone()];
            weights
                .up
                .multiply(n, normed, hidden, inner, stride, false, product);
            add_bias(&weights.up_bias, inner, stride);
            activate_rows(
                architecture.activation,
                architecture.gated,
                inner,
                stride,
                n_inner,
            );
            let target = match add {
                true => &mut self.stream[rows],
                false => &mut self.normed[rows],
            };
            weights
                .down
                .multiply(n, inner, stride, target, hidden, add, product);
            add_bias(&weights.down_bias, target, hidden);
        }
    }
}

/// What rows learn from others, the only part of a layer that looks beyond a row.
pub(super) trait Mix {
    /// Turns queries and keys by their positions, and attends: `qkv` holds rows of queries, keys and
    /// values side by side, `attended` takes rows of all heads.
    fn mix(
        &mut self,
        model: &CausalModel,
        layer: usize,
        qkv: &mut [f32],
        attended: &mut [f32],
        scratch: &mut AttentionScratch,
    );
}

/// The sequences of a pack, from their first position on; none sees another.
struct SequencesAlone<'a> {
    pack: &'a Pack,
    sequences: &'a [&'a [u32]],
}

impl Mix for SequencesAlone<'_> {
    fn mix(
        &mut self,
        model: &CausalModel,
        layer: usize,
        qkv: &mut [f32],
        attended: &mut [f32],
        scratch: &mut AttentionScratch,
    ) {
        let architecture = &model.architecture;
        let query = architecture.query_size();
        let stride = query + 2 * architecture.kv_size();
        let mut start = 0;
        for &sequence in &self.pack.sequences {
            let end = start + self.sequences[sequence].len() - 1;
            let qkv = &mut qkv[start * stride..end * stride];
            rotate(model, layer, 0, qkv);
            let attended = &mut attended[start * query..end * query];
            attend(
                architecture,
                &architecture.layers[layer],
                qkv,
                attended,
                scratch,
            );
            start = end;
        }
    }
}

/// Turns queries and keys of rows that follow each other from `position` on, where the layer does.
pub(super) fn rotate(model: &CausalModel, layer: usize, position: usize, qkv: &mut [f32]) {
    let architecture = &model.architecture;
    if !architecture.layers[layer].rotary {
        return;
    }
    let (query, kv) = (architecture.query_size(), architecture.kv_size());
    let half = model.cosines.len() / model.context.max(1);
    for (at, row) in (position..).zip(qkv.chunks_exact_mut(query + 2 * kv)) {
        let table = at * half..(at + 1) * half;
        let (cosines, sines) = (&model.cosines[table.clone()], &model.sines[table]);
        rotate_heads(
            &mut row[..query + kv],
            architecture.head_dim,
            cosines,
            sines,
        );
    }
}

fn inner_stride(architecture: &Architecture) -> usize {
    architecture.intermediate_size * if architecture.gated { 2 } else { 1 }
}
