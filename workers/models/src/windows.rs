//! The sequences of a unit, and what their losses sum up to. Pure functions of token ids.
//!
//! `unit: document`: the end-of-sequence token, then the document's tokens, in windows that
//! overlap by one token: every token of the document is predicted once. `unit: sequence`:
//! documents one after another, each ended by the end-of-sequence token, cut into the context
//! length; what is left at the end is dropped.

/// The windows of a document: `context` tokens each, the last one shorter. None for a document
/// without tokens, which has nothing to predict.
///
/// # Panics
///
/// If `context` is below 2.
pub fn document_windows(
    eos_id: u32,
    ids: &[u32],
    context: usize,
) -> impl Iterator<Item = Vec<u32>> {
    assert!(context >= 2, "a context of {context} predicts nothing");
    let mut last = eos_id;
    let window = move |ids: &[u32]| {
        let mut window = Vec::with_capacity(ids.len() + 1);
        window.push(last);
        window.extend_from_slice(ids);
        last = window[ids.len()];
        window
    };
    ids.chunks(context - 1).map(window)
}

/// A part of a packed sequence that comes from one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The document, as the caller numbers them.
    pub document: u64,
    /// Its first token within the document; the end-of-sequence token counts as its last.
    pub document_start: usize,
    /// The first token within the sequence.
    pub start: usize,
    /// Tokens.
    pub n_tokens: usize,
}

/// A sequence of exactly `context` tokens, with what it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedSequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The documents it covers, in order.
    pub spans: Vec<Span>,
}

/// Cuts a stream of documents into sequences.
#[derive(Debug)]
pub struct Packer {
    eos_id: u32,
    context: usize,
    open: PackedSequence,
}

impl Packer {
    /// A packer for sequences of `context` tokens.
    ///
    /// # Panics
    ///
    /// If `context` is below 2.
    #[must_use]
    pub fn new(eos_id: u32, context: usize) -> Self {
        assert!(context >= 2, "a context of {context} predicts nothing");
        let open = PackedSequence {
            ids: Vec::new(),
            spans: Vec::new(),
        };
        Self {
            eos_id,
            context,
            open,
        }
    }

    /// Adds a document; gives the sequences that it filled.
    pub fn push(&mut self, document: u64, ids: &[u32]) -> Vec<PackedSequence> {
        let mut full = Vec::new();
        let n_ids = ids.len() + 1;
        let mut done = 0;
        while done < n_ids {
            let start = self.open.ids.len();
            let n_tokens = (self.context - start).min(n_ids - done);
            let end = done + n_tokens;
            self.open
                .ids
                .extend_from_slice(&ids[done..end.min(ids.len())]);
            if end == n_ids {
                self.open.ids.push(self.eos_id);
            }
            self.open.spans.push(Span {
                document,
                document_start: done,
                start,
                n_tokens,
            });
            done = end;
            if self.open.ids.len() == self.context {
                let next = Self::new(self.eos_id, self.context).open;
                full.push(std::mem::replace(&mut self.open, next));
            }
        }
        full
    }

    /// What waits for more at the end of the stream, if anything: shorter than a sequence.
    #[must_use]
    pub fn finish(self) -> Option<PackedSequence> {
        (!self.open.ids.is_empty()).then_some(self.open)
    }
}

/// The losses of two models for the same predicted tokens, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossReduction {
    /// Predicted tokens.
    pub n_tokens: usize,
    /// Mean loss under the prior model, in nats per token.
    pub prior_nll: f64,
    /// Mean loss under the conditional model, in nats per token.
    pub conditional_nll: f64,
    /// `prior_nll - conditional_nll`: larger is better.
    pub loss_reduction: f64,
    /// Share of the tokens that the conditional model predicts better.
    pub win_fraction: f32,
    /// Share of the summed reduction that the best tenth of the tokens carries (rounded up to
    /// whole tokens); above 1 where the others lose. 0 where the sum is not positive.
    pub top_decile_share: f32,
}

/// A loss that is not a number or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFiniteLoss {
    /// The predicted token, counted from 0.
    pub token: usize,
    /// Under the conditional model; else under the prior.
    pub conditional: bool,
}

/// Sums up the losses of a document or sequence; `None` without a predicted token.
///
/// # Errors
///
/// The first loss that is not finite.
///
/// # Panics
///
/// If the two are of different length.
pub fn loss_reduction(
    prior: &[f32],
    conditional: &[f32],
) -> Result<Option<LossReduction>, NonFiniteLoss> {
    assert_eq!(prior.len(), conditional.len(), "losses of the same tokens");
    let n_tokens = prior.len();
    if n_tokens == 0 {
        return Ok(None);
    }
    let pairs = || prior.iter().zip(conditional);
    let broken = |(a, b): (&f32, &f32)| !(a.is_finite() && b.is_finite());
    if let Some(token) = pairs().position(broken) {
        return Err(NonFiniteLoss {
            token,
            conditional: prior[token].is_finite(),
        });
    }
    let mean = |losses: &[f32]| losses.iter().map(|&x| f64::from(x)).sum::<f64>() / n_tokens as f64;
    let (prior_nll, conditional_nll) = (mean(prior), mean(conditional));
    let n_won = pairs()
        .filter(|(prior, conditional)| conditional < prior)
        .count();
    let mut reductions: Vec<f64> = pairs()
        .map(|(prior, conditional)| f64::from(*prior) - f64::from(*conditional))
        .collect();
    let total: f64 = reductions.iter().sum();
    reductions.sort_unstable_by(|a, b| b.total_cmp(a));
    let best: f64 = reductions[..n_tokens.div_ceil(10)].iter().sum();
    Ok(Some(LossReduction {
        n_tokens,
        prior_nll,
        conditional_nll,
        loss_reduction: prior_nll - conditional_nll,
        win_fraction: (n_won as f64 / n_tokens as f64) as f32,
        top_decile_share: if total > 0.0 {
            (best / total) as f32
        } else {
            0.0
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_a_document_is_predicted_once() {
        let check = |ids: &[u32], expect: &[&[u32]]| {
            assert_eq!(document_windows(0, ids, 4).collect::<Vec<_>>(), expect);
        };
        check(&[], &[]);
        check(&[7], &[&[0, 7]]);
        check(&[1, 2, 3], &[&[0, 1, 2, 3]]);
        check(&[1, 2, 3, 4], &[&[0, 1, 2, 3], &[3, 4]]);
        check(
            &[1, 2, 3, 4, 5, 6, 7],
            &[&[0, 1, 2, 3], &[3, 4, 5, 6], &[6, 7]],
        );
    }

    #[test]
    fn a_stream_is_cut_with_its_spans() {
        let span = |document, document_start, start, n_tokens| Span {
            document,
            document_start,
            start,
            n_tokens,
        };
        let mut packer = Packer::new(0, 4);
        assert_eq!(packer.push(5, &[1, 2]), []);
        assert_eq!(
            packer.push(6, &[3, 4, 5, 6, 7]),
            [
                PackedSequence {
                    ids: vec![1, 2, 0, 3],
                    spans: vec![span(5, 0, 0, 3), span(6, 0, 3, 1)],
                },
                PackedSequence {
                    ids: vec![4, 5, 6, 7],
                    spans: vec![span(6, 1, 0, 4)],
                },
            ]
        );
        let full = packer.push(7, &[]);
        assert_eq!(full, []);
        let full = packer.push(8, &[9, 9]);
        assert_eq!(full[0].ids, [0, 0, 9, 9]);
        assert_eq!(full[0].spans[..2], [span(6, 5, 0, 1), span(7, 0, 1, 1)]);
        let open = packer.finish().unwrap();
        assert_eq!((open.ids, open.spans), (vec![0], vec![span(8, 2, 0, 1)]));
    }

    #[test]
    fn reductions() {
        assert_eq!(loss_reduction(&[], &[]), Ok(None));
        let check = |prior: &[f32], conditional: &[f32], expect: (f64, f32, f32)| {
            let found = loss_reduction(prior, conditional).unwrap().unwrap();
            let found = (
                found.loss_reduction,
                found.win_fraction,
                found.top_decile_share,
            );
            assert_eq!(found, expect);
        };
        check(&[2.0], &[2.0], (0.0, 0.0, 0.0));
        check(&[2.0, 4.0], &[1.0, 1.0], (2.0, 1.0, 0.75));
        check(&[2.0, 1.0], &[1.0, 3.0], (-0.5, 0.5, 0.0));
        check(&[3.0; 10], &[2.0; 10], (1.0, 1.0, 0.1));
        check(&[3.0; 4], &[0.0, 3.0, 4.0, 3.0], (0.5, 0.25, 1.5));
        let broken = |token, conditional| Err(NonFiniteLoss { token, conditional });
        assert_eq!(
            loss_reduction(&[1.0, f32::NAN], &[1.0, 1.0]),
            broken(1, false)
        );
        assert_eq!(
            loss_reduction(&[1.0, 1.0], &[f32::INFINITY, 1.0]),
            broken(0, true)
        );
    }
}
