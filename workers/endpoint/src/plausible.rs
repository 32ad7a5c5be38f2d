//! Which counts of tokens can be: servers that do not count tell zeros, and broken ones anything.
//!
//! What a server tells is what it charges, so it is believed even above what it was asked for: a
//! template that it adds, or thoughts that it does not show, are charged too. What cannot be is taken
//! as not told, and then the most that the request may take counts, so that a budget neither loses its
//! meaning by zeros nor is used up by one absurd number.

use crate::reply::{Reply, Usage};
use crate::request::TokenBound;

/// What is charged beyond the bound of a request may be so many times that bound.
const FACTOR: u64 = 16;
/// And so much more: hidden templates and thoughts do not depend on what is asked.
const MORE: u64 = 32 << 10;

impl Usage {
    /// Without what cannot be of `body`, the answer to a request that takes at most `bound`.
    #[must_use]
    pub fn plausible(mut self, body: &[u8], bound: TokenBound) -> Self {
        let within = |told: Option<u64>, bound: u64| {
            let most = bound.saturating_mul(FACTOR).saturating_add(MORE);
            told.filter(|told| *told <= most)
        };
        // Every prompt has a token.
        self.prompt_tokens = within(self.prompt_tokens, bound.prompt).filter(|it| *it > 0);
        self.completion_tokens = within(self.completion_tokens, bound.completion);
        let all = bound.prompt.saturating_add(bound.completion);
        self.total_tokens = within(self.total_tokens, all);
        if self.completion_tokens == Some(0) && Reply::decode(body).is_ok() {
            self.completion_tokens = None;
        }
        self
    }
}

impl Reply {
    /// A text has a token: a server that tells of none does not count.
    pub(crate) fn counted(mut self) -> Self {
        self.usage.completion_tokens = self.usage.completion_tokens.filter(|it| *it > 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_not_told() {
        let bound = TokenBound {
            prompt: 1000,
            completion: 100,
        };
        let check = |text: &str, usage: &str, prompt, completion| {
            let body = format!(r#"{{"choices":[{{"text":"{text}"}}],"usage":{usage}}}"#);
            let usage = Usage::of_body(body.as_bytes()).plausible(body.as_bytes(), bound);
            let found = (usage.prompt_tokens, usage.completion_tokens);
            assert_eq!(found, (prompt, completion), "{body}");
        };
        let told = r#"{"prompt_tokens":7,"completion_tokens":5}"#;
        check("a", told, Some(7), Some(5));
        let zeros = r#"{"prompt_tokens":0,"completion_tokens":0}"#;
        check("a", zeros, None, None);
        check("", zeros, None, Some(0));
        // More than was asked for is charged as well, but not anything.
        let more = r#"{"prompt_tokens":2000,"completion_tokens":9000}"#;
        check("a", more, Some(2000), Some(9000));
        let absurd = r#"{"prompt_tokens":1e30,"completion_tokens":100000}"#;
        check("a", absurd, None, None);
    }
}
