//! From ids to text, a token at a time.

use gleaner_models::Tokenizer;

use crate::ServingError;

/// Tokens before one that its text may depend on.
const REACH: usize = 16;

/// What `id` adds to the text of the ids before it. Characters of which it has only some bytes stand
/// as U+FFFD, and are whole in what the next tokens add.
pub(crate) fn added(
    tokenizer: &Tokenizer,
    before: &[u32],
    id: u32,
) -> Result<String, ServingError> {
    let near = &before[before.len().saturating_sub(REACH)..];
    let mut ids = near.to_vec();
    let known = tokenizer.decode(&ids)?;
    ids.push(id);
    let mut text = tokenizer.decode(&ids)?;
    let known = known.trim_end_matches('\u{FFFD}');
    if text.starts_with(known) {
        text.drain(..known.len());
    }
    Ok(text)
}
