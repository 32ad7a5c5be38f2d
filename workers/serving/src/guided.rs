//! Answers that are written by their schema: what it fixes is not asked of the model.

use gleaner_models::{Continuation, Tokenizer};
use serde_json::Value;

use crate::decoding::added;
use crate::sampling::Sampler;
use crate::{Form, ServingError};

/// Tokens that do not fit at a place, until it is taken that none does.
const TRIES_MAX: usize = 256;
/// Digits of an integer.
const DIGITS_MAX: usize = 18;

/// Writes one answer.
pub(crate) struct Guided<'a, 'm> {
    pub tokenizer: &'a Tokenizer,
    pub text: &'a mut Continuation<'m>,
    pub sampler: &'a mut Sampler,
    /// Tokens that end a turn.
    pub ends: &'a [u32],
    /// Tokens that are no text.
    pub controls: &'a [u32],
    /// Tokens that may still be written.
    pub n_left: usize,
    /// What is written.
    pub answer: String,
    /// Asked before each token.
    pub is_cancelled: &'a dyn Fn() -> bool,
    /// After the last token that was written.
    pub logits: Vec<f32>,
}

/// Why an answer is not whole.
pub(crate) enum Stop {
    /// No token is left.
    Length,
    Failed(ServingError),
}

impl<E: Into<ServingError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Guided<'_, '_> {
    /// Writes an answer of a form.
    pub(crate) fn write(&mut self, form: &Form) -> Result<(), Stop> {
        match form {
            Form::Object(members) => self.write_object(members),
            Form::Array {
                items,
                n_min,
                n_max,
            } => self.write_array(items, *n_min, *n_max),
            Form::Text { chars_max } => self.write_text(*chars_max),
            Form::OneOf(values) => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                self.choose(&values).map(drop)
            }
            Form::Integer { min, max } => self.write_integer(*min, *max),
        }
    }

    fn write_object(&mut self, members: &[(String, Form)]) -> Result<(), Stop> {
        for (idx, (name, form)) in members.iter().enumerate() {
            let before = if idx == 0 { "{" } else { ", " };
            let value = Value::from(name.as_str());
            // With the quote, where one must follow: it is one token with what stands before it.
            let quote = if matches!(form, Form::Text { .. }) {
                "\""
            } else {
                ""
            };
            self.put(&format!("{before}{value}: {quote}"))?;
            self.write(form)?;
        }
        self.put(if members.is_empty() { "{}" } else { "}" })
    }

    fn write_array(&mut self, items: &Form, n_min: usize, n_max: usize) -> Result<(), Stop> {
        self.put("[")?;
        for n_written in 0..n_max {
            let separator = if n_written == 0 { " " } else { ", " };
            if n_written >= n_min {
                let choice = self.choose(&["]".to_owned(), separator.to_owned()])?;
                if choice == 0 {
                    return Ok(());
                }
            } else if n_written > 0 {
                self.put(separator)?;
            }
            if matches!(items, Form::Text { .. }) {
                self.put("\"")?;
            }
            self.write(items)?;
        }
        self.put("]")
    }

    /// The inside of a string, whose opening quote is written, and its closing one.
    fn write_text(&mut self, chars_max: usize) -> Result<(), Stop> {
        let mut ids: Vec<u32> = Vec::new();
        let mut inside = Inside::default();
        while inside.n_chars < chars_max {
            let Some((id, piece)) = self.draw_inside(&ids, &inside)? else {
                break;
            };
            let taken = inside.take(&piece, chars_max);
            if taken.len() < piece.len() {
                // Only what stands before the closing quote.
                self.answer.push_str(&inside.text);
                return self.put(&format!("{taken}\""));
            }
            inside.text.push_str(&piece);
            self.append(&[id])?;
            ids.push(id);
            // Characters may be whole only now.
            inside.text = self.tokenizer.decode(&ids)?;
        }
        if inside.escape.is_some() {
            inside.close_escape();
        }
        self.answer.push_str(&inside.text);
        self.put("\"")
    }

    /// A token that can stand at this place of a string, and its text; `None` for its end.
    fn draw_inside(&mut self, ids: &[u32], inside: &Inside) -> Result<Option<(u32, String)>, Stop> {
        let mut excluded: Vec<u32> = Vec::new();
        for _ in 0..TRIES_MAX {
            let (ends, controls) = (self.ends, self.controls);
            let logits = (0..).zip(self.logits.iter().copied());
            let id = self.sampler.draw(logits.filter(|(id, _)| {
                !excluded.contains(id) && (ends.contains(id) || !controls.contains(id))
            }));
            let Some(id) = id else { break };
            if ends.contains(&id) {
                return Ok(None);
            }
            let piece = added(self.tokenizer, ids, id)?;
            if !piece.is_empty() && inside.takes(&piece) {
                return Ok(Some((id, piece)));
            }
            excluded.push(id);
        }
        Ok(None)
    }

    fn write_integer(&mut self, min: i64, max: i64) -> Result<(), Stop> {
        if let Some(n_values) = max.checked_sub(min)
            && n_values < 256
        {
            let values: Vec<String> = (min..=max).map(|value| value.to_string()).collect();
            return self.choose(&values).map(drop);
        }
        let mut digits = String::new();
        let mut ids = Vec::new();
        while digits.len() < DIGITS_MAX {
            let logits = (0..).zip(self.logits.iter().copied());
            let controls = self.controls;
            let Some(id) = self
                .sampler
                .draw(logits.filter(|(id, _)| !controls.contains(id)))
            else {
                break;
            };
            let piece = added(self.tokenizer, &ids, id)?;
            let fits = !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit());
            if !fits {
                break;
            }
            self.append(&[id])?;
            ids.push(id);
            digits.push_str(&piece);
        }
        digits.truncate(DIGITS_MAX);
        // In range whatever was written; what the model has read of it may differ then.
        let value: i64 = digits.parse().unwrap_or(0);
        self.answer.push_str(&value.clamp(min, max).to_string());
        Ok(())
    }

    /// Writes one of several texts, token by token as the model likes; gives its place.
    fn choose(&mut self, texts: &[String]) -> Result<usize, Stop> {
        let mut open: Vec<(usize, Vec<u32>)> = Vec::with_capacity(texts.len());
        for (idx, text) in texts.iter().enumerate() {
            open.push((idx, self.tokenizer.encode(text)?));
        }
        let mut n_written = 0;
        loop {
            // One that another one begins with is taken when nothing else is likelier: never, as
            // no JSON value begins with another but numbers.
            let done = open.iter().find(|(_, ids)| ids.len() <= n_written);
            let only = if open.len() == 1 { open.first() } else { None };
            if let Some((idx, ids)) = only.or(done) {
                let rest = ids.get(n_written..).unwrap_or(&[]).to_vec();
                let idx = *idx;
                self.append(&rest)?;
                self.answer.push_str(&texts[idx]);
                return Ok(idx);
            }
            let mut next: Vec<u32> = open.iter().map(|(_, ids)| ids[n_written]).collect();
            next.sort_unstable();
            next.dedup();
            let id = if next.len() == 1 {
                next[0]
            } else {
                let logits = next.iter().map(|&id| {
                    let logit = self.logits.get(id as usize).copied();
                    (id, logit.unwrap_or(f32::NEG_INFINITY))
                });
                // Where the model says nothing of any, the first.
                self.sampler.draw(logits).unwrap_or(next[0])
            };
            self.append(&[id])?;
            open.retain(|(_, ids)| ids[n_written] == id);
            n_written += 1;
        }
    }

    /// Writes a text as it is.
    fn put(&mut self, text: &str) -> Result<(), Stop> {
        let ids = self.tokenizer.encode(text)?;
        self.append(&ids)?;
        self.answer.push_str(text);
        Ok(())
    }

    fn append(&mut self, ids: &[u32]) -> Result<(), Stop> {
        if ids.is_empty() {
            return Ok(());
        }
        if (self.is_cancelled)() {
            return Err(Stop::Failed(ServingError::Cancelled));
        }
        self.n_left = self.n_left.checked_sub(ids.len()).ok_or(Stop::Length)?;
        let logits = self.text.extend(ids)?;
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        Ok(())
    }
}

/// Where within a JSON string one is.
#[derive(Debug, Default)]
struct Inside {
    text: String,
    n_chars: usize,
    /// What of an escape is there: the backslash and what follows.
    escape: Option<String>,
}

impl Inside {
    /// Whether a piece can stand here: no bare control characters, no broken escapes.
    fn takes(&self, piece: &str) -> bool {
        let mut escape = self.escape.clone();
        for char in piece.chars() {
            match &mut escape {
                Some(begun) => {
                    begun.push(char);
                    match is_escape(begun) {
                        Escape::Whole => escape = None,
                        Escape::Begun => {}
                        Escape::Broken => return false,
                    }
                }
                None if char == '\\' => escape = Some(char.to_string()),
                None if char == '"' => return true,
                None if char.is_control() => return false,
                None => {}
            }
        }
        true
    }

    /// Goes on by a piece that can stand here; what of it is before the closing quote or the
    /// greatest length.
    fn take<'p>(&mut self, piece: &'p str, chars_max: usize) -> &'p str {
        for (at, char) in piece.char_indices() {
            match &mut self.escape {
                Some(begun) => {
                    begun.push(char);
                    if matches!(is_escape(begun), Escape::Whole) {
                        self.escape = None;
                        self.n_chars += 1;
                    }
                }
                None if char == '"' => return &piece[..at],
                None if self.n_chars == chars_max => return &piece[..at],
                None if char == '\\' => self.escape = Some(char.to_string()),
                None => self.n_chars += 1,
            }
        }
        piece
    }

    /// Takes away an escape that was begun.
    fn close_escape(&mut self) {
        if let Some(begun) = self.escape.take() {
            let n_kept = self.text.len().saturating_sub(begun.len());
            if self.text.is_char_boundary(n_kept) {
                self.text.truncate(n_kept);
            }
        }
    }
}

enum Escape {
    Whole,
    Begun,
    Broken,
}

/// What a backslash and the characters behind it are. Halves of surrogate pairs are broken: a
/// reply with a lone one is no text.
fn is_escape(begun: &str) -> Escape {
    let mut chars = begun.chars().skip(1);
    match chars.next() {
        None => Escape::Begun,
        Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::Whole,
        Some('u') => {
            let digits: Vec<char> = chars.collect();
            let are_digits = digits.iter().all(char::is_ascii_hexdigit);
            let is_surrogate = matches!(
                digits.as_slice(),
                ['d' | 'D', '8' | '9' | 'a'..='f' | 'A'..='F', ..]
            );
            match digits.len() {
                _ if !are_digits || is_surrogate => Escape::Broken,
                4 => Escape::Whole,
                _ => Escape::Begun,
            }
        }
        Some(_) => Escape::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_take_what_json_does() {
        let begun = |text: &str| Inside {
            escape: (!text.is_empty()).then(|| text.to_owned()),
            ..Inside::default()
        };
        for (escape, piece, expected) in [
            ("", "words", true),
            ("", "line\n", false),
            ("", "line\\n", true),
            ("", "end\", then\n", true),
            ("", "\\x", false),
            ("\\", "\"", true),
            ("\\", "a", false),
            ("\\u", "00e9", true),
            ("\\u", "00g9", false),
            ("", "\\ud83d\\ude00", false),
            ("", "\\ud7ff", true),
        ] {
            assert_eq!(begun(escape).takes(piece), expected, "{escape}{piece}");
        }
    }

    #[test]
    fn strings_end_at_their_quote_or_greatest_length() {
        let taken = |piece: &str, chars_max: usize| {
            let mut inside = Inside::default();
            inside.take(piece, chars_max).to_owned()
        };
        assert_eq!(taken("so it ends\", and", 99), "so it ends");
        assert_eq!(taken("so \\\"it\\\" ends", 99), "so \\\"it\\\" ends");
        assert_eq!(taken("äöü", 2), "äö");
        assert_eq!(taken("\\u00e9\\n!", 2), "\\u00e9\\n");
        let mut inside = Inside::default();
        let _ = inside.take("abc\\u00", 99);
        inside.text = "abc\\u00".to_owned();
        inside.close_escape();
        assert_eq!(inside.text, "abc");
    }
}
