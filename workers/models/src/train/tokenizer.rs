//! A byte-level BPE tokenizer from texts (GPT-2, section 2.2): every text has tokens, none is
//! unknown, and decoding gives the text back.
//!
//! Id 0 is `<|endoftext|>`, then the 256 bytes, then merges, the most frequent first. The same texts
//! in the same order give the same files.

use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::TrainError;
use crate::Tokenizer;

/// The token that ends a document; its id is 0.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The smallest vocabulary: the end of text, the bytes and one merge.
pub const VOCAB_SIZE_MIN: usize = 258;

/// The largest vocabulary.
pub const VOCAB_SIZE_MAX: usize = 1 << 17;

/// Pieces of one word that is longer than this many characters are not merged across: a file of
/// base64 does not become tokens of its own.
const TOKEN_CHARS_MAX: usize = 32;

/// Bytes of text after which [`TrainedTokenizer::from_texts`] reads no further: words' frequencies
/// have settled long before.
pub const SAMPLE_BYTES_MAX: usize = 8 << 20;

/// A new tokenizer.
#[derive(Debug)]
pub struct TrainedTokenizer {
    tokenizer: Tokenizer,
    json: Bytes,
}

impl TrainedTokenizer {
    /// Learns at most `vocab_size` tokens from the first [`SAMPLE_BYTES_MAX`] bytes of the texts;
    /// fewer if the texts have no more pairs that occur twice.
    ///
    /// # Errors
    ///
    /// If the size cannot be, or there is no text.
    pub fn from_texts<T: AsRef<str>>(
        texts: impl IntoIterator<Item = T>,
        vocab_size: usize,
    ) -> Result<Self, TrainError> {
        if !(VOCAB_SIZE_MIN..=VOCAB_SIZE_MAX).contains(&vocab_size) {
            return Err(TrainError::Setting {
                name: "vocabulary",
                found: vocab_size.to_string(),
                expected: "between 258 and 131072 tokens",
            });
        }
        let sample = sample(texts);
        if sample.is_empty() {
            return Err(TrainError::NoText {
                what: "learn a tokenizer from",
            });
        }
        let failed = |e: tokenizers::Error| TrainError::Write {
            what: "tokenizer.json".to_owned(),
            problem: e.to_string(),
        };
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .max_token_length(Some(TOKEN_CHARS_MAX))
            .build();
        let mut inner = TokenizerBuilder::<
            BPE,
            tokenizers::NormalizerWrapper,
            ByteLevel,
            tokenizers::PostProcessorWrapper,
            ByteLevel,
        >::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)))
        .build()
        .map_err(failed)?;
        inner
            .train(&mut trainer, sample.into_iter())
            .map_err(failed)?;
        let json = Bytes::from(inner.to_string(false).map_err(failed)?);
        let tokenizer = Tokenizer::from_bytes(&json, Path::new("tokenizer.json"))?;
        Ok(Self { tokenizer, json })
    }

    /// What encodes texts.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The bytes of `tokenizer.json`.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// `tokenizer.json` and `tokenizer_config.json` for a model of this context, in tokens.
    pub(crate) fn files(&self, context: usize) -> Vec<(String, Bytes)> {
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": false,
        });
        vec![
            ("tokenizer.json".to_owned(), self.json.clone()),
            (
                "tokenizer_config.json".to_owned(),
                Bytes::from(format!("{config:#}\n")),
            ),
        ]
    }
}

/// The first texts that have any, up to the byte that a sample ends with.
fn sample<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut n_bytes = 0;
    let mut sample = Vec::new();
    for text in texts {
        let text = text.as_ref();
        if text.is_empty() {
            continue;
        }
        if n_bytes >= SAMPLE_BYTES_MAX {
            break;
        }
        n_bytes += text.len();
        sample.push(text.to_owned());
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Vec<String> {
        (0..400)
            .map(|i| {
                format!(
                    "the quick brown fox number {i} jumps over the lazy dog, déjà vu {}",
                    i * i
                )
            })
            .collect()
    }

    #[test]
    fn the_same_texts_give_the_same_bytes() {
        let one = TrainedTokenizer::from_texts(texts(), 400).expect("trained");
        let other = TrainedTokenizer::from_texts(texts(), 400).expect("trained");
        assert_eq!(one.json(), other.json());
        assert_eq!(one.tokenizer().n_ids(), 400);
        assert_eq!(one.tokenizer().id_of(END_OF_TEXT), Some(0));
    }

    #[test]
    fn every_text_has_tokens_and_special_strings_are_text() {
        let trained = TrainedTokenizer::from_texts(texts(), 300).expect("trained");
        let ids = trained
            .tokenizer()
            .encode("日本 \u{0} <|endoftext|>")
            .expect("encoded");
        assert!(ids.len() > 8 && !ids.contains(&0), "{ids:?}");
    }

    #[test]
    fn bad_input_is_refused() {
        let empty = TrainedTokenizer::from_texts(["", ""], 300);
        assert!(matches!(empty, Err(TrainError::NoText { .. })));
        let small = TrainedTokenizer::from_texts(["a"], 10);
        assert!(matches!(small, Err(TrainError::Setting { .. })));
        // Nothing occurs twice: bytes alone.
        let few = TrainedTokenizer::from_texts(["ab"], 300).expect("trained");
        assert_eq!(few.tokenizer().n_ids(), 257);
    }
}
