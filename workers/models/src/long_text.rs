//! Token ids of long texts, piece by piece: what a tokenizer holds of a text while it works is a
//! hundred times its ids, so that a text is never given to it whole beyond [`PIECE_BYTES`].
//!
//! Pieces overlap. Where two neighbours give the same tokens at the same places for a while
//! ([`AGREED_TOKENS`]), they are joined in the middle of that: what a tokenizer does there depends on
//! nothing at either piece's end. Where they never agree (a word of thousands of characters), the
//! later piece begins at a border between tokens of the earlier one, and they are joined right there.
//! Either way the ids are a function of the text, and those of its beginning do not depend on how
//! much of it is asked for.

/// Bytes that a tokenizer is given at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// Bytes that two pieces share.
const OVERLAP_BYTES: usize = 4 << 10;
/// Tokens that two pieces must agree about.
const AGREED_TOKENS: usize = 32;

/// A token of a piece, with its place in the whole text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) id: u32,
    /// Where it begins, in bytes.
    pub(crate) start: usize,
    /// Where it ends.
    pub(crate) end: usize,
}

/// The ids of a text, at least its first `n_wanted` if it has so many; `encode` gives the tokens of
/// a piece, their places counted from the piece's start.
pub(crate) fn encode_in_pieces<E>(
    text: &str,
    n_wanted: usize,
    encode: impl Fn(&str) -> Result<Vec<Token>, E>,
) -> Result<Vec<u32>, E> {
    let piece = |start: usize| -> Result<(Vec<Token>, usize), E> {
        let end = floor_char_boundary(text, start + PIECE_BYTES);
        let mut tokens = encode(&text[start..end])?;
        for token in &mut tokens {
            token.start += start;
            token.end += start;
        }
        Ok((tokens, end))
    };
    let mut ids = Vec::new();
    let (mut tokens, mut end) = piece(0)?;
    while end < text.len() {
        let start = border(&tokens, text, end);
        let (next, next_end) = piece(start)?;
        let joint = joint(&tokens, &next, start);
        ids.extend(tokens[..joint.0].iter().map(|token| token.id));
        tokens = next;
        tokens.drain(..joint.1);
        end = next_end;
        if ids.len() >= n_wanted {
            return Ok(ids);
        }
    }
    ids.extend(tokens.iter().map(|token| token.id));
    Ok(ids)
}

/// Where the next piece begins: at a token of this one, about [`OVERLAP_BYTES`] before its end.
fn border(tokens: &[Token], text: &str, end: usize) -> usize {
    let wanted = floor_char_boundary(text, end - OVERLAP_BYTES);
    let at = tokens.partition_point(|token| token.start < wanted);
    let found = tokens[at..]
        .iter()
        .map(|token| token.start)
        .find(|&start| text.is_char_boundary(start));
    // Always before the end, so that each piece begins behind the one before it.
    found.filter(|&start| start < end).unwrap_or(wanted)
}

/// How many tokens to take of a piece, and how many to leave out of the next one, which begins at
/// `start`.
fn joint(tokens: &[Token], next: &[Token], start: usize) -> (usize, usize) {
    let first = tokens.partition_point(|token| token.start < start);
    let mut longest = (0, 0, 0);
    let (mut here, mut there) = (first, 0);
    while here < tokens.len() && there < next.len() {
        let n_equal = tokens[here..]
            .iter()
            .zip(&next[there..])
            .take_while(|(a, b)| a == b)
            .count();
        if n_equal > longest.2 {
            longest = (here, there, n_equal);
        }
        if n_equal > 0 {
            (here, there) = (here + n_equal, there + n_equal);
        } else if tokens[here].start < next[there].start {
            here += 1;
        } else if tokens[here].start > next[there].start {
            there += 1;
        } else {
            (here, there) = (here + 1, there + 1);
        }
    }
    let (here, there, n_equal) = longest;
    if n_equal < AGREED_TOKENS {
        return (first, 0);
    }
    (here + n_equal / 2, there + n_equal / 2)
}

fn floor_char_boundary(text: &str, place: usize) -> usize {
    let mut place = place.min(text.len());
    while !text.is_char_boundary(place) {
        place -= 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and single other characters; a word of more than eight letters is cut into eights from
    /// its start, as a piece sees it: what a piece's start changes must not be seen.
    fn encode(text: &str) -> Result<Vec<Token>, ()> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut length = 0;
        for (start, letter) in text.char_indices() {
            let end = start + letter.len_utf8();
            let continues = letter.is_alphabetic() && length > 0 && length < 8;
            length = match (letter.is_alphabetic(), continues) {
                (true, true) => length + 1,
                (true, false) => 1,
                (false, _) => 0,
            };
            match tokens.last_mut().filter(|_| continues) {
                Some(last) => {
                    last.end = end;
                    last.id = last.id.wrapping_mul(31).wrapping_add(u32::from(letter));
                }
                None => tokens.push(Token {
                    id: u32::from(letter),
                    start,
                    end,
                }),
            }
        }
        Ok(tokens)
    }

    fn whole(text: &str) -> Vec<u32> {
        encode(text).unwrap().iter().map(|token| token.id).collect()
    }

    #[test]
    fn pieces_give_the_ids_of_the_whole() {
        let words: String = (0..60_000_u32)
            .map(|n| format!("wörd{} ", n.wrapping_mul(2_654_435_761) % 9973))
            .collect();
        let check = |text: &str| {
            let found = encode_in_pieces(text, usize::MAX, encode).unwrap();
            assert!(found == whole(text), "{} bytes", text.len());
            let some = encode_in_pieces(text, 1000, encode).unwrap();
            assert!(some.len() >= 1000.min(found.len()) && found.starts_with(&some));
        };
        check("");
        check("a b");
        check(&words);
        check(&words[1..PIECE_BYTES - 1]);
        check(&"日本語 ".repeat(40_000));
        // One word without an end: pieces begin at its tokens.
        check(&"x".repeat(3 * PIECE_BYTES + 5));
    }

    #[test]
    fn a_text_is_given_to_the_tokenizer_in_pieces_of_bounded_size() {
        let text = "word ".repeat(200_000);
        let found = encode_in_pieces(&text, usize::MAX, |piece| {
            assert!(piece.len() <= PIECE_BYTES);
            encode(piece)
        });
        assert_eq!(found.map(|ids| ids.len()), Ok(400_000));
    }
}
