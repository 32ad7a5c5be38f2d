//! The tokenizer of an encoder: `tokenizer.json`, or BERT's `vocab.txt` of word pieces.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::maybe;
use crate::{ModelError, Tokenizer};

/// Longest word that is cut into pieces, in characters, as BERT has it.
const WORD_CHARS_MAX: usize = 100;

/// The tokenizer, and the file that it comes from.
pub(super) fn tokenizer(directory: &Path) -> Result<(PathBuf, Tokenizer), ModelError> {
    let path = directory.join("tokenizer.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let tokenizer = Tokenizer::from_bytes(&bytes, &path)?;
            return Ok((path, tokenizer));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(ModelError::read(&path, error)),
    }
    let vocabulary = directory.join("vocab.txt");
    let text = match fs::read_to_string(&vocabulary) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ModelError::Missing {
                directory: directory.to_owned(),
                what: "tokenizer.json, nor vocab.txt,".to_owned(),
            });
        }
        Err(error) => return Err(ModelError::read(&vocabulary, error)),
    };
    let config = maybe(directory, "tokenizer_config.json")?;
    let lower = config
        .as_ref()
        .and_then(|(_, it)| it.get("do_lower_case")?.as_bool());
    let json = word_pieces(&text, lower.unwrap_or(true)).to_string();
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), &vocabulary)?;
    Ok((vocabulary, tokenizer))
}

/// What `tokenizer.json` would say.
fn word_pieces(vocabulary: &str, lower: bool) -> Value {
    let ids: Map<String, Value> = vocabulary
        .lines()
        .enumerate()
        .map(|(id, token)| (token.trim_end().to_owned(), json!(id)))
        .collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": null,
            "lowercase": lower,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": null,
        "decoder": null,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": WORD_CHARS_MAX,
            "vocab": ids,
        },
    })
}
