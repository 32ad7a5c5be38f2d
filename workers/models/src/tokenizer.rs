//! Text to token ids: the model's `tokenizer.json`, with every text read as text.
//!
//! Special-token strings in a text are text, none is added, nothing is padded or cut.

use std::path::Path;
use std::{fmt, fs};

use rayon::prelude::*;
use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use crate::ModelError;
use crate::long_text::{PIECE_BYTES, Token, encode_in_pieces};

/// The ids of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The text has more.
    pub is_cut: bool,
}

/// A tokenizer; the same for all threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    fingerprint: String,
    /// One more than the largest id it can give.
    n_ids: usize,
    /// Names and ids of control tokens.
    controls: Vec<(String, u32)>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("fingerprint", &self.fingerprint)
            .field("n_ids", &self.n_ids)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is no tokenizer.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let bytes = fs::read(path).map_err(|source| ModelError::read(path, source))?;
        Self::from_bytes(&bytes, path)
    }

    /// As [`Tokenizer::open`], of a file's bytes; `path` is for errors.
    ///
    /// # Errors
    ///
    /// If the bytes are no tokenizer.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, ModelError> {
        let malformed = |problem: String| ModelError::malformed(path, problem);
        let json: Value = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| malformed(format!("no tokenizer: {e}")))?;
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| malformed(format!("no tokenizer: {e}")))?;
        let vocabulary = inner.get_vocab(true);
        let n_ids = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let controls = added.into_iter().filter(|(_, token)| token.special);
        let mut controls: Vec<_> = controls
            .map(|(id, token)| (token.content, id))
            .filter(|(name, _)| !name.is_empty())
            .collect();
        controls.sort_unstable();
        Ok(Self {
            inner,
            fingerprint: fingerprint(json),
            n_ids,
            controls,
        })
    }

    /// The same for two tokenizers that give the same ids for every text, whatever they are called
    /// and however their files are formatted: two models can be compared by their losses only if
    /// they share it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// One more than the largest id.
    #[must_use]
    pub fn n_ids(&self) -> usize {
        self.n_ids
    }

    /// The id of a token, special ones too.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The ids of a text; empty for an empty text.
    ///
    /// # Errors
    ///
    /// If the tokenizer cannot encode the text (one without a token for unknown words).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.encode_up_to(text, usize::MAX)?.ids)
    }

    /// The first `n_ids_max` ids of a text. What is behind them is not looked at where the text is
    /// long, and memory is bounded whatever its length.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_up_to(&self, text: &str, n_ids_max: usize) -> Result<Encoded, ModelError> {
        let failed = |e| ModelError::input(format!("the text cannot be tokenized: {e}"));
        let mut ids = if text.len() <= PIECE_BYTES {
            let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
            encoding.get_ids().to_vec()
        } else {
            let n_wanted = n_ids_max.saturating_add(1);
            encode_in_pieces(text, n_wanted, |piece| {
                let encoding = self.inner.encode(piece, false).map_err(failed)?;
                let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
                let token = |(&id, &(start, end))| Token { id, start, end };
                Ok(ids.map(token).collect())
            })?
        };
        let is_cut = ids.len() > n_ids_max;
        ids.truncate(n_ids_max);
        Ok(Encoded { ids, is_cut })
    }

    /// Each text as by [`Tokenizer::encode_up_to`], in parallel on the current rayon pool; the order
    /// is kept, and a text that fails disturbs no other.
    pub fn encode_each<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        n_ids_max: usize,
    ) -> Vec<Result<Encoded, ModelError>> {
        let texts = texts.par_iter();
        texts
            .map(|text| self.encode_up_to(text.as_ref(), n_ids_max))
            .collect()
    }

    /// The ids of a text in which the names of control tokens mean those tokens, such as a chat
    /// template's.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`].
    pub fn encode_with_control_tokens(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((start, end, id)) = self.first_control_token(rest) {
            ids.extend(self.encode(&rest[..start])?);
            ids.push(id);
            rest = &rest[end..];
        }
        ids.extend(self.encode(rest)?);
        Ok(ids)
    }

    /// Whether the name of a control token stands in a text.
    #[must_use]
    pub fn has_control_token(&self, text: &str) -> bool {
        self.first_control_token(text).is_some()
    }

    /// Ids of control tokens, which stand for no text.
    #[must_use]
    pub fn control_ids(&self) -> Vec<u32> {
        self.controls.iter().map(|(_, id)| *id).collect()
    }

    /// Start, end and id; of several at one place the longest.
    fn first_control_token(&self, text: &str) -> Option<(usize, usize, u32)> {
        let found = self.controls.iter().filter_map(|(name, id)| {
            let start = text.find(name.as_str())?;
            Some((start, start + name.len(), *id))
        });
        found.min_by_key(|&(start, end, _)| (start, std::cmp::Reverse(end)))
    }

    /// The text of ids; control tokens have none.
    ///
    /// # Errors
    ///
    /// If the tokenizer has no such id, or cannot decode.
    pub fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let text = self.inner.decode(ids, true);
        text.map_err(|e| ModelError::input(format!("the ids cannot be decoded: {e}")))
    }

    /// The ids of several texts, in parallel on the current rayon pool; the order is kept.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::encode`], of the first text that fails.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, ModelError> {
        let encoded = texts.par_iter().map(|text| self.encode(text.as_ref()));
        encoded.collect()
    }
}

/// Hashes what decides about ids: not padding, cutting or what is added around a text, and merges
/// the same whether they are written as pairs or as strings.
fn fingerprint(mut json: Value) -> String {
    if let Value::Object(map) = &mut json {
        for key in [
            "version",
            "truncation",
            "padding",
            "post_processor",
            "decoder",
        ] {
            map.remove(key);
        }
        if let Some(Value::Array(merges)) = map.get_mut("model").and_then(|m| m.get_mut("merges")) {
            for merge in merges {
                let halves = merge.as_str().and_then(|pair| pair.split_once(' '));
                if let Some((left, right)) = halves {
                    *merge = Value::from(vec![left, right]);
                }
            }
        }
    }
    let mut hasher = Xxh3::new();
    hash_value(&json, &mut hasher);
    format!("{:032x}", hasher.digest128())
}

/// Each value with a mark of its kind and its length, keys in order: no two values collide by
/// their text.
fn hash_value(value: &Value, hasher: &mut Xxh3) {
    match value {
        // An absent key and null say the same.
        Value::Null => hasher.update(b"n"),
        Value::Bool(flag) => hasher.update(if *flag { b"t" } else { b"f" }),
        Value::Number(number) => {
            hasher.update(b"#");
            hash_text(&number.to_string(), hasher);
        }
        Value::String(text) => {
            hasher.update(b"s");
            hash_text(text, hasher);
        }
        Value::Array(values) => {
            hasher.update(b"[");
            hasher.update(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| hash_value(value, hasher));
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().filter(|(_, value)| !value.is_null()).collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            hasher.update(b"{");
            hasher.update(&(entries.len() as u64).to_le_bytes());
            for (key, value) in entries {
                hash_text(key, hasher);
                hash_value(value, hasher);
            }
        }
    }
}

fn hash_text(text: &str, hasher: &mut Xxh3) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}
