//! Tokens to train on: documents joined by the end-of-text token, some documents held out.
//!
//! Which documents are held out is a function of their tokens and the seed: identical documents are
//! all held out or all trained on, so that the held-out loss is of documents never trained on.

use super::TrainError;
use super::random::{Random, hash_bytes};

/// The share of tokens that is held out where nothing else is said.
pub const HELD_OUT_SHARE: f64 = 0.05;

/// The most tokens that are held out where nothing else is said: measuring stays a small part of
/// the work.
pub const HELD_OUT_TOKENS_MAX: u64 = 20_000;

/// Tokens of a held-out document that are measured, its first ones: the mean is of many documents,
/// not of a few long ones. What is behind them is not trained on either.
pub const HELD_OUT_DOCUMENT_TOKENS: usize = 256;

/// Documents as token ids, in the order given.
#[derive(Debug, Clone)]
pub struct Documents {
    eos_id: u32,
    tokens: Vec<u32>,
    /// The end of each document in `tokens`.
    ends: Vec<usize>,
}

/// The tokens of training, and of measuring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainingData {
    pub(crate) train: Vec<u32>,
    pub(crate) held_out: Vec<u32>,
    n_documents: usize,
    n_held_out_documents: usize,
}

impl Documents {
    /// No documents yet; `eos_id` joins them.
    #[must_use]
    pub fn new(eos_id: u32) -> Self {
        Self {
            eos_id,
            tokens: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Adds the token ids of a document; one without any is left out.
    pub fn push(&mut self, ids: &[u32]) {
        if !ids.is_empty() {
            self.tokens.extend_from_slice(ids);
            self.ends.push(self.tokens.len());
        }
    }

    /// Tokens so far, without those that join documents.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.tokens.len() as u64
    }

    /// Documents with tokens so far.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.ends.len()
    }

    fn document(&self, number: usize) -> &[u32] {
        let start = if number == 0 {
            0
        } else {
            self.ends[number - 1]
        };
        &self.tokens[start..self.ends[number]]
    }

    /// Splits off the held-out documents: documents of a random order until they have `share` of all
    /// tokens, or `tokens_max` are to be measured (the last one goes beyond); a share of 0 holds none
    /// out.
    ///
    /// # Errors
    ///
    /// If there is no text, or a held-out part was asked for and takes everything.
    pub fn split(
        &self,
        share: f64,
        tokens_max: u64,
        seed: u64,
    ) -> Result<TrainingData, TrainError> {
        if !(0.0..1.0).contains(&share) {
            return Err(TrainError::Setting {
                name: "held-out share",
                found: share.to_string(),
                expected: "at least 0 and below 1",
            });
        }
        if self.ends.is_empty() {
            return Err(TrainError::NoText { what: "train on" });
        }
        let key = Random::new(seed, "held out").next_u64();
        let hashes: Vec<u64> = (0..self.n_documents())
            .map(|number| {
                let ids = self.document(number).iter();
                let bytes: Vec<u8> = ids.flat_map(|id| id.to_le_bytes()).collect();
                Random::new(hash_bytes(&bytes) ^ key, "document").next_u64()
            })
            .collect();
        let mut order: Vec<usize> = (0..hashes.len()).collect();
        order.sort_by_key(|&number| hashes[number]);
        let wanted = (self.tokens.len() as f64 * share) as u64;
        let mut last_hash = None;
        let (mut n_held_out, mut n_measured) = (0, 0);
        if share > 0.0 {
            for &number in &order {
                let is_enough = n_held_out >= wanted || n_measured >= tokens_max;
                if is_enough && last_hash.is_some() {
                    break;
                }
                let n_tokens = self.document(number).len();
                n_held_out += n_tokens as u64;
                n_measured += n_tokens.min(HELD_OUT_DOCUMENT_TOKENS) as u64;
                last_hash = Some(hashes[number]);
            }
        }
        let is_held_out = |number: usize| last_hash.is_some_and(|last| hashes[number] <= last);
        let mut data = TrainingData {
            train: vec![self.eos_id],
            held_out: vec![self.eos_id],
            n_documents: 0,
            n_held_out_documents: 0,
        };
        for number in 0..self.n_documents() {
            let (stream, n_documents) = if is_held_out(number) {
                (&mut data.held_out, &mut data.n_held_out_documents)
            } else {
                (&mut data.train, &mut data.n_documents)
            };
            let document = self.document(number);
            let is_cut = is_held_out(number) && document.len() > HELD_OUT_DOCUMENT_TOKENS;
            if is_cut {
                stream.extend_from_slice(&document[..HELD_OUT_DOCUMENT_TOKENS]);
            } else {
                stream.extend_from_slice(document);
            }
            stream.push(self.eos_id);
            *n_documents += 1;
        }
        if share > 0.0 && data.n_documents == 0 {
            order.dedup_by_key(|number| hashes[*number]);
            return Err(TrainError::NoHeldOut {
                n_documents: order.len(),
                share,
            });
        }
        Ok(data)
    }
}

impl TrainingData {
    /// Tokens to train on, with those that join documents.
    #[must_use]
    pub fn n_tokens(&self) -> u64 {
        self.train.len() as u64
    }

    /// Tokens that the held-out loss is measured on.
    #[must_use]
    pub fn n_held_out_tokens(&self) -> u64 {
        if self.n_held_out_documents == 0 {
            0
        } else {
            self.held_out.len() as u64
        }
    }

    /// Documents to train on.
    #[must_use]
    pub fn n_documents(&self) -> usize {
        self.n_documents
    }

    /// Documents that are held out.
    #[must_use]
    pub fn n_held_out_documents(&self) -> usize {
        self.n_held_out_documents
    }

    /// Refuses ids that the model does not know.
    pub(crate) fn check(&self, vocab_size: usize) -> Result<(), TrainError> {
        let ids = self.train.iter().chain(&self.held_out);
        match ids.copied().find(|&id| id as usize >= vocab_size) {
            Some(id) => Err(TrainError::Token { id, vocab_size }),
            None => Ok(()),
        }
    }

    /// Tells other data apart when training is resumed.
    pub(crate) fn fingerprint(&self) -> String {
        let bytes =
            |ids: &[u32]| -> Vec<u8> { ids.iter().flat_map(|id| id.to_le_bytes()).collect() };
        format!(
            "{:016x}{:016x}",
            hash_bytes(&bytes(&self.train)),
            hash_bytes(&bytes(&self.held_out))
        )
    }
}

/// The order of sequences: a function of seed, epoch and number, known without going through it.
#[derive(Debug)]
pub(crate) struct Order {
    seed: u64,
    n_sequences: usize,
    epoch: u64,
    order: Vec<u32>,
}

impl Order {
    pub(crate) fn new(seed: u64, n_sequences: usize) -> Self {
        Self {
            seed,
            n_sequences,
            epoch: u64::MAX,
            order: Vec::new(),
        }
    }

    /// The sequence at a place of the endless row of epochs.
    pub(crate) fn at(&mut self, place: u64) -> usize {
        let n = self.n_sequences as u64;
        let epoch = place / n;
        if epoch != self.epoch {
            self.order =
                Random::new(self.seed.wrapping_add(epoch), "order").order(self.n_sequences);
            self.epoch = epoch;
        }
        self.order[(place % n) as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(n: u32) -> Documents {
        let mut documents = Documents::new(0);
        for i in 0..n {
            documents.push(&[1 + i % 50, 2, 3, 4]);
        }
        documents.push(&[]);
        documents
    }

    #[test]
    fn held_out_documents_are_never_trained_on() {
        let data = documents(100).split(0.1, 1000, 3).expect("split");
        assert_eq!(data.n_documents() + data.n_held_out_documents(), 100);
        // Every document is there twice: both copies are on one side.
        assert!((10..=14).contains(&data.n_held_out_documents()), "{data:?}");
        for document in data.held_out[1..].chunks(5) {
            assert!(!data.train[1..].chunks(5).any(|other| other == document));
        }
        assert_eq!(documents(100).split(0.1, 1000, 3).expect("split"), data);
        assert_ne!(documents(100).split(0.1, 1000, 4).expect("split"), data);
        let few = documents(100).split(0.5, 9, 3).expect("split");
        assert!(few.n_held_out_documents() <= 4, "the limit in tokens holds");
    }

    #[test]
    fn bad_input_is_refused() {
        let empty = documents(0).split(0.1, 1000, 3);
        assert!(matches!(empty, Err(TrainError::NoText { .. })));
        let single = documents(1).split(0.1, 1000, 3);
        assert!(matches!(
            single,
            Err(TrainError::NoHeldOut { n_documents: 1, .. })
        ));
        let share = documents(9).split(1.0, 1000, 3);
        assert!(matches!(share, Err(TrainError::Setting { .. })));
        let none = documents(1).split(0.0, 1000, 3).expect("none held out");
        assert_eq!((none.n_documents(), none.n_held_out_tokens()), (1, 0));
    }

    #[test]
    fn every_epoch_has_every_sequence_once_in_another_order() {
        let mut order = Order::new(1, 10);
        let mut epoch = |e: u64| (0..10).map(|i| order.at(e * 10 + i)).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        assert_eq!(epoch(0), first, "going back gives the same");
        for mut epoch in [first, second] {
            epoch.sort_unstable();
            assert_eq!(epoch, (0..10).collect::<Vec<_>>());
        }
    }
}
