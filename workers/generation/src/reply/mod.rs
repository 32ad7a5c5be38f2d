//! From the text of a completion to rows.
//!
//! 1. `tree` finds the JSON in it and reads it, mending what models do to JSON;
//! 2. [`parse_texts`] and [`parse_judgements`] look for what was asked, whatever shape it comes in;
//! 3. what is not there, or there twice, or not as asked, becomes a [`ReplyProblem`].
//!
//! The reply is checked against the request, never against the promise of the server to keep to a
//! schema: there are servers that say 200 and ignore it. Nothing panics, whatever the text.

mod judgements;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod texts;
mod tree;

use crate::flags::{Flag, Flags};

pub use judgements::{ParsedJudgements, parse_judgements};
pub use texts::{Item, Parsed, parse_texts};

/// Longest reply that is read, in bytes.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model was done.
    Complete,
    /// The limit of tokens was reached.
    Truncated,
    /// For a reason that nobody knows, or none was given.
    Unknown,
}

impl Finish {
    /// From `finish_reason`, or what other servers call it. A filtered reply has its own class and
    /// does not come here.
    #[must_use]
    pub fn from_reason(reason: Option<&str>) -> Self {
        match reason {
            Some("stop" | "end_turn" | "stop_sequence" | "eos" | "eos_token" | "completed") => {
                Self::Complete
            }
            Some("length" | "max_tokens" | "model_length" | "max_output_tokens") => Self::Truncated,
            _ => Self::Unknown,
        }
    }
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What the model wrote.
    pub text: &'a str,
    /// Why it ended.
    pub finish: Finish,
    /// Whether the server was given the schema and should have kept to it.
    pub schema_sent: bool,
}

/// What is wrong with a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyProblem {
    /// It ends in the middle.
    #[error("the reply ends in the middle: the limit of tokens is too low for it")]
    Truncated,
    /// There is nothing.
    #[error("the reply is empty")]
    Empty,
    /// There is no JSON in it that could be read.
    #[error("the reply holds no JSON: it begins {beginning:?}")]
    NotJson {
        /// Its first characters.
        beginning: String,
    },
    /// There is something else than what was asked.
    #[error("the reply is not of the form asked for: {detail}")]
    SchemaViolation {
        /// What was expected and found.
        detail: String,
    },
    /// More than was asked of a label.
    #[error("the reply has `{label}` {found} times, asked was {asked}")]
    GradeDoubled {
        /// The label, or the key of the pair that a judge judged twice.
        label: String,
        /// How many there are.
        found: usize,
        /// How many there should be.
        asked: usize,
    },
    /// Less than was asked of a label.
    #[error("the reply has `{label}` {found} times, asked was {asked}")]
    GradeMissing {
        /// The label, or the key of the pair that a judge left out.
        label: String,
        /// How many there are.
        found: usize,
        /// How many there should be.
        asked: usize,
    },
}

/// What to do about a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask once more, then give the item up.
    OneMoreTry {
        /// With a larger limit of tokens: the same one would end in the middle again.
        larger_limit: bool,
    },
}

impl ReplyProblem {
    /// Its name in tables.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Empty => "empty",
            Self::NotJson { .. } => "not_json",
            Self::SchemaViolation { .. } => "schema_violation",
            Self::GradeDoubled { .. } => "grade_doubled",
            Self::GradeMissing { .. } => "grade_missing",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn action(&self) -> Action {
        Action::OneMoreTry {
            larger_limit: matches!(self, Self::Truncated),
        }
    }
}

/// Characters of a reply that an error shows.
const BEGINNING_CHARS: usize = 80;

/// What is wrong before anything was looked for.
fn unreadable(reply: &Reply<'_>) -> Option<ReplyProblem> {
    if reply.text.trim().is_empty() {
        // Whatever was cut off, there was nothing: models that think can use all tokens for that.
        return Some(match reply.finish {
            Finish::Truncated => ReplyProblem::Truncated,
            Finish::Complete | Finish::Unknown => ReplyProblem::Empty,
        });
    }
    (reply.text.len() > REPLY_BYTES_MAX).then(|| ReplyProblem::SchemaViolation {
        detail: format!(
            "it has {} bytes, at most {REPLY_BYTES_MAX} are read",
            reply.text.len()
        ),
    })
}

/// The problem of a text in which no JSON was found.
fn without_json(reply: &Reply<'_>) -> ReplyProblem {
    match reply.finish {
        Finish::Truncated => ReplyProblem::Truncated,
        Finish::Complete | Finish::Unknown => ReplyProblem::NotJson {
            beginning: reply.text.trim().chars().take(BEGINNING_CHARS).collect(),
        },
    }
}

/// Flags of the reply as a whole.
fn reply_flags(reply: &Reply<'_>, is_repaired: bool, conforms: bool) -> Flags {
    let mut flags = Flags::NONE;
    flags.insert_if(is_repaired, Flag::JsonRepaired);
    flags.insert_if(reply.finish == Finish::Unknown, Flag::UnknownFinishReason);
    // A reply that was cut off could not keep to the schema.
    let was_cut = reply.finish == Finish::Truncated;
    flags.insert_if(
        reply.schema_sent && !conforms && !was_cut,
        Flag::SchemaIgnoredByServer,
    );
    flags
}
