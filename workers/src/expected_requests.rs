//! What stages will ask of language-model servers before they do: what `gleaner plan` adds up.

use std::ops::{Add, AddAssign, Mul};

/// Requests, in all or on average.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Requests {
    /// How many.
    pub calls: f64,
    /// Tokens of their prompts.
    pub prompt_tokens: f64,
    /// Tokens of their replies.
    pub completion_tokens: f64,
}

impl Add for Requests {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            completion_tokens: self.completion_tokens + other.completion_tokens,
        }
    }
}

impl AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<f64> for Requests {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            calls: self.calls * factor,
            prompt_tokens: self.prompt_tokens * factor,
            completion_tokens: self.completion_tokens * factor,
        }
    }
}

/// What a phase asks of one endpoint for one purpose. Second tries, of replies that cannot be read,
/// are not among it: nobody knows before.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseRequests {
    /// Name of the phase.
    pub phase: &'static str,
    /// What they are for, in a word or two.
    pub purpose: &'static str,
    /// Name of the endpoint.
    pub endpoint: String,
    /// For each item of the sample, on average.
    pub per_item: Requests,
    /// However many items there are.
    pub once: Requests,
}

/// What a stage asks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageRequests {
    /// By phase, in their order.
    pub phases: Vec<PhaseRequests>,
    /// Rows of its table that come of an item of the sample, on average, if no filter rejects any.
    pub rows_per_item: f64,
}

/// Some of what a stage reads.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSample<'a> {
    /// Texts of items.
    pub items: &'a [String],
    /// Documents and queries for them, of the dataset that the stage names as pairs.
    pub pairs: &'a [(String, String)],
}
