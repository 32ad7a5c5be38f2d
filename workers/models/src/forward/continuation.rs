//! Texts that grow by a token at a time: what the model keeps of earlier tokens.

use super::attention::AttentionScratch;
use super::operators::{exp_sum, largest};
use super::run::{Mix, WorkingSet, rotate};
use super::{CausalModel, PACK_ROWS};
use crate::scalar::vectorised;
use crate::{ModelError, WeightType};

/// A text, as far as it is known, and what the model needs of it to go on.
#[derive(Debug)]
pub struct Continuation<'a> {
    model: &'a CausalModel,
    working: WorkingSet,
    memory: Memory,
    logits: Vec<f32>,
}

impl CausalModel {
    /// A text without a token.
    #[must_use]
    pub fn begin(&self) -> Continuation<'_> {
        let n_layers = self.architecture.n_layers();
        Continuation {
            model: self,
            working: WorkingSet::default(),
            memory: Memory {
                n_tokens: 0,
                keys: vec![Vec::new(); n_layers],
                values: vec![Vec::new(); n_layers],
                scores: Vec::new(),
            },
            logits: Vec::new(),
        }
    }

    /// What a [`Continuation`] of `n_tokens` takes, in bytes.
    #[must_use]
    pub fn continuation_bytes(&self, n_tokens: usize) -> u64 {
        let row = self.architecture.kv_size() * 2 * self.architecture.n_layers() + 1;
        let memory = 4 * (n_tokens * row + self.architecture.vocab_size);
        memory as u64 + WorkingSet::bytes(&self.architecture, WeightType::F32, 1)
    }
}

impl Continuation<'_> {
    /// Tokens so far.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.memory.n_tokens
    }

    /// Appends tokens, and gives the logits of what may follow them, `[vocabulary]`; of no token,
    /// those after the last ones.
    ///
    /// # Errors
    ///
    /// If the text grows longer than the context, or has an id that the model does not know.
    pub fn extend(&mut self, ids: &[u32]) -> Result<&[f32], ModelError> {
        let model = self.model;
        let n_tokens = self.memory.n_tokens + ids.len();
        if n_tokens > model.context {
            return Err(ModelError::input(format!(
                "a text of {n_tokens} tokens, the context is {}",
                model.context
            )));
        }
        model.architecture.check(&[ids], model.context)?;
        let hidden = model.architecture.hidden_size;
        for part in ids.chunks(PACK_ROWS) {
            let places = (self.memory.n_tokens..).zip(part.iter().copied());
            self.working
                .layers(model, part.len(), places, &mut self.memory);
            self.memory.n_tokens += part.len();
            let head = model.weights.head();
            self.logits.resize(head.n_out(), 0.0);
            let (normed, product) = self.working.normed();
            let last = &normed[(part.len() - 1) * hidden..];
            let width = head.n_out();
            head.multiply(1, last, hidden, &mut self.logits, width, false, product);
        }
        Ok(&self.logits)
    }
}

/// Keys and values of the tokens so far.
#[derive(Debug)]
struct Memory {
    n_tokens: usize,
    /// By layer, `[tokens, keys]`, turned by their positions.
    keys: Vec<Vec<f32>>,
    /// By layer, `[tokens, values]`.
    values: Vec<Vec<f32>>,
    scores: Vec<f32>,
}

impl Mix for Memory {
    fn mix(
        &mut self,
        model: &CausalModel,
        layer: usize,
        qkv: &mut [f32],
        attended: &mut [f32],
        _: &mut AttentionScratch,
    ) {
        let architecture = &model.architecture;
        let (query, kv) = (architecture.query_size(), architecture.kv_size());
        let (stride, head_dim) = (query + 2 * kv, architecture.head_dim);
        let group = architecture.n_heads / architecture.n_kv_heads;
        rotate(model, layer, self.n_tokens, qkv);
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for row in qkv.chunks_exact(stride) {
            keys.extend_from_slice(&row[query..query + kv]);
            values.extend_from_slice(&row[query + kv..]);
        }
        let layer = &architecture.layers[layer];
        let rows = qkv
            .chunks_exact(stride)
            .zip(attended.chunks_exact_mut(query));
        for (token, (row, attended)) in (self.n_tokens..).zip(rows) {
            let first = layer.window.map_or(0, |n| (token + 1).saturating_sub(n));
            let seen = first * kv..(token + 1) * kv;
            let (keys, values) = (&keys[seen.clone()], &values[seen]);
            for head in 0..architecture.n_heads {
                let place = head / group * head_dim;
                let query = &row[head * head_dim..(head + 1) * head_dim];
                let attended = &mut attended[head * head_dim..(head + 1) * head_dim];
                let scores = &mut self.scores;
                vectorised(
                    #[inline(always)]
                    || {
                        let keys = keys.chunks_exact(kv).map(|row| &row[place..][..head_dim]);
                        scores.clear();
                        scores.extend(
                            keys.map(|key| query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>()),
                        );
                        let shift = match layer.attention_scale > 0.0 {
                            true => largest(scores),
                            false => 0.0,
                        };
                        let sum = exp_sum(scores, layer.attention_scale, shift);
                        attended.fill(0.0);
                        let values = values.chunks_exact(kv).map(|row| &row[place..][..head_dim]);
                        for (weight, value) in scores.iter().zip(values) {
                            let weight = weight / sum;
                            for (x, value) in attended.iter_mut().zip(value) {
                                *x += weight * value;
                            }
                        }
                    },
                );
            }
        }
    }
}
