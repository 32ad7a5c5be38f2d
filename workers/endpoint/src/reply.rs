//! Reads a reply, leniently: what a server leaves out or invents never costs what was paid for.

use serde::Deserialize;
use serde_json::Value;

use crate::failure::{self, FailureClass};
use crate::request::CompletionRequest;
use crate::said::Said;

/// Why a completion ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// It was complete.
    Stop,
    /// It reached its longest length.
    Length,
    /// The server's filter held it back.
    ContentFilter,
    /// The server did not say.
    Missing,
    /// Something else.
    Other(String),
}

/// One completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// Tokens, as far as the server counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Of the completion.
    pub completion_tokens: Option<u64>,
    /// Of both, where that is all that is told.
    pub total_tokens: Option<u64>,
}

/// A reply that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The first completion; no more are asked for.
    pub choice: Choice,
    /// Tokens.
    pub usage: Usage,
    /// Whether bytes that are no UTF-8 were replaced.
    pub is_lossy: bool,
}

/// Why a reply cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct ReplyError {
    /// The class.
    pub class: FailureClass,
    /// What is wrong.
    pub message: String,
}

fn error(class: FailureClass, message: impl Into<String>) -> ReplyError {
    ReplyError {
        class,
        message: message.into(),
    }
}

impl Usage {
    /// The tokens that a body tells of, if it is JSON at all.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Self {
        /// The rest of a body is passed over.
        #[derive(Deserialize)]
        struct WithUsage {
            #[serde(default)]
            usage: Value,
        }
        let text = String::from_utf8_lossy(body);
        let body: Option<WithUsage> = serde_json::from_str(text.trim()).ok();
        body.map(|body| Self::of(&body.usage)).unwrap_or_default()
    }

    fn of(usage: &Value) -> Self {
        let number = |names: &[&str]| {
            let named = names.iter().filter_map(|name| usage.get(name));
            named.filter_map(n_tokens).next()
        };
        // No prompt is without tokens: such a server does not count.
        let prompt = number(&["prompt_tokens", "input_tokens"]).filter(|&n| n > 0);
        let completion = number(&["completion_tokens", "output_tokens"]);
        let total = number(&["total_tokens"]).filter(|&n| n > 0);
        let rest = |known: Option<u64>| total?.checked_sub(known?);
        let prompt_tokens = prompt.or_else(|| rest(completion));
        let completion_tokens = completion.or_else(|| rest(prompt));
        let is_all = prompt_tokens.is_none() && completion_tokens.is_none();
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: total.filter(|_| is_all),
        }
    }

    /// Whether the server told both.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.prompt_tokens.is_some() && self.completion_tokens.is_some()
    }

    /// Tokens of prompt and completion: as they are told, as a sum tells them, or as they are
    /// estimated.
    #[must_use]
    pub fn or_estimates(&self, prompt: u64, completion: u64) -> (u64, u64) {
        match self.total_tokens {
            Some(total) => {
                let prompt = prompt.min(total);
                (prompt, total - prompt)
            }
            None => (
                self.prompt_tokens.unwrap_or(prompt),
                self.completion_tokens.unwrap_or(completion),
            ),
        }
    }
}

/// A count of tokens, however it is written. What no server has counted (less than nothing, more than
/// four billion) is not told.
fn n_tokens(value: &Value) -> Option<u64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        other => other.as_f64()?,
    };
    (0.0..=f64::from(u32::MAX))
        .contains(&number)
        .then_some(number as u64)
}

impl Reply {
    /// The failure that the body of an answer to `request` tells of although its status claims success.
    /// Nobody pays for it.
    #[must_use]
    pub fn embedded_failure(body: &[u8], request: &CompletionRequest) -> Option<ReplyError> {
        // Most replies are large and have none.
        let text = std::str::from_utf8(body).ok()?;
        if !text.contains("\"error\"") {
            return None;
        }
        let value: Value = serde_json::from_str(text.trim()).ok()?;
        let problem = problem_of(&value)?;
        let said = Said::of(body, Some(request));
        let class = failure::of_status(embedded_status(problem), &said);
        Some(error(class, failure::words(body)))
    }

    /// Reads the body of a successful answer.
    ///
    /// # Errors
    ///
    /// If there is no text in it that could be used. A text that was cut off is no error: see
    /// [`FinishReason::Length`].
    pub fn decode(body: &[u8]) -> Result<Self, ReplyError> {
        let text = String::from_utf8_lossy(body);
        let is_lossy = matches!(text, std::borrow::Cow::Owned(_));
        let value: Value = serde_json::from_str(text.trim()).map_err(|cause| {
            let beginning = failure::bounded(&text);
            error(
                FailureClass::NotJson,
                format!("the answer is not JSON ({cause}): {beginning}"),
            )
        })?;
        if let Some(problem) = problem_of(&value) {
            let class = failure::of_status(embedded_status(problem), &Said::of(body, None));
            return Err(error(class, failure::words(body)));
        }
        let choice = value
            .get("choices")
            .and_then(Value::as_array)
            .and_then(|choices| choices.first())
            .ok_or_else(|| error(FailureClass::Empty, "the answer has no choice"))?;
        let finish_reason = match choice.get("finish_reason").and_then(Value::as_str) {
            Some("stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence") => FinishReason::Stop,
            Some("length" | "max_tokens") => FinishReason::Length,
            Some("content_filter") => FinishReason::ContentFilter,
            Some(other) => FinishReason::Other(other.to_owned()),
            None => FinishReason::Missing,
        };
        let message = choice.get("message");
        let refusal = message.and_then(|message| message.get("refusal")?.as_str());
        let content = message
            .and_then(|message| message.get("content"))
            .or_else(|| choice.get("text"))
            .map(content)
            .unwrap_or_default();
        if content.trim().is_empty() {
            return Err(match (refusal, &finish_reason) {
                (Some(refusal), _) => error(FailureClass::Refusal, failure::bounded(refusal)),
                (None, FinishReason::ContentFilter) => error(
                    FailureClass::ContentFilter,
                    "the server's filter held the text back",
                ),
                (None, FinishReason::Length) => error(
                    FailureClass::Truncated,
                    "the answer was cut off before its first word",
                ),
                _ => error(FailureClass::Empty, "the answer has no text"),
            });
        }
        if finish_reason == FinishReason::ContentFilter {
            let message = "the server's filter held a part of the text back";
            return Err(error(FailureClass::ContentFilter, message));
        }
        Ok(Self {
            choice: Choice {
                text: content,
                finish_reason,
            },
            usage: value.get("usage").map(Usage::of).unwrap_or_default(),
            is_lossy,
        }
        .counted())
    }
}

/// What a body tells of a failure, if it has nothing else: some servers add an error that says nothing,
/// and a choice is paid for whatever stands beside it.
fn problem_of(value: &Value) -> Option<&Value> {
    let has_choice = match value.get("choices") {
        Some(Value::Array(choices)) => !choices.is_empty(),
        _ => false,
    };
    let says_something = |problem: &&Value| match problem {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        Value::Object(parts) => !parts.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Bool(true) => true,
    };
    value
        .get("error")
        .filter(|_| !has_choice)
        .filter(says_something)
}

/// Some servers put the status into the error of an answer that claims success.
fn embedded_status(problem: &Value) -> u16 {
    let code = problem.get("code").or_else(|| problem.get("status"));
    code.and_then(Value::as_u64)
        .and_then(|code| u16::try_from(code).ok())
        .filter(|code| (400..600).contains(code))
        .unwrap_or(400)
}

/// A text, or a list of parts with texts.
fn content(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.as_str().or_else(|| part.get("text")?.as_str()))
            .collect(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::losses::LossDialect;

    fn text_of(body: &str) -> String {
        match Reply::decode(body.as_bytes()) {
            Ok(reply) => format!("{} {:?}", reply.choice.text, reply.choice.finish_reason),
            Err(error) => error.class.to_string(),
        }
    }

    #[test]
    fn replies_of_many_servers() {
        let check = |body: &str, expected: &str| assert_eq!(text_of(body), expected, "{body}");
        check(
            r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}"#,
            "a Stop",
        );
        // No id, no usage, no reason, unknown fields.
        check(
            r#"{"x":1,"choices":[{"message":{"content":"a","y":[]}}]}"#,
            "a Missing",
        );
        check(
            r#"{"choices":[{"text":"a","finish_reason":"length"}]}"#,
            "a Length",
        );
        check(
            r#"{"choices":[{"message":{"content":"a"},"finish_reason":"abort"}]}"#,
            "a Other(\"abort\")",
        );
        check(
            r#"{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}"#,
            "ab Missing",
        );
        check(r#"{"choices":[]}"#, "empty");
        check(r#"{}"#, "empty");
        check(r#"{"choices":[{"message":{"content":null}}]}"#, "empty");
        check(
            r#"{"choices":[{"message":{"content":"  "},"finish_reason":"stop"}]}"#,
            "empty",
        );
        check(
            r#"{"choices":[{"message":{"content":""},"finish_reason":"length"}]}"#,
            "truncated",
        );
        check(
            r#"{"choices":[{"message":{"content":null,"refusal":"I cannot"}}]}"#,
            "refusal",
        );
        check(
            r#"{"choices":[{"message":{"content":"half"},"finish_reason":"content_filter"}]}"#,
            "content_filter",
        );
        check(
            r#"{"error":{"message":"overloaded","code":503}}"#,
            "overloaded",
        );
        check(
            r#"{"error":{"message":"insufficient_quota","code":429}}"#,
            "quota_exhausted",
        );
        check(
            r#"{"error":{"message":"overloaded","code":503},"choices":[]}"#,
            "overloaded",
        );
        check(r#"{"error":null,"choices":[{"text":"a"}]}"#, "a Missing");
        for error in [r#""""#, "false", "{}", "[]", "0", r#"{"message":"late"}"#] {
            let body = format!(r#"{{"error":{error},"choices":[{{"text":"a"}}]}}"#);
            check(&body, "a Missing");
            let request = LossDialect::Echo.request("p".to_owned(), None);
            let embedded = Reply::embedded_failure(body.as_bytes(), &request);
            assert_eq!(embedded, None, "{body}");
        }
        check(r#"{"error":{},"choices":[]}"#, "empty");
        check("<html>", "not_json");
        check("", "not_json");
    }

    #[test]
    fn bytes_that_are_no_text() {
        let body = b"{\"choices\":[{\"text\":\"a\xff\"}]}";
        let reply = Reply::decode(body).expect("a reply");
        assert!(reply.is_lossy);
        assert_eq!(reply.choice.text, "a\u{fffd}");
    }

    #[test]
    fn tokens() {
        let check = |body: &str, prompt, completion| {
            let expected = Usage {
                prompt_tokens: prompt,
                completion_tokens: completion,
                total_tokens: None,
            };
            assert_eq!(Usage::of_body(body.as_bytes()), expected, "{body}");
            // The same beside a completion.
            let usage = body.strip_prefix('{').unwrap_or("}");
            let reply = format!(r#"{{"choices":[{{"text":"a"}}],{usage}"#);
            let found = Reply::decode(reply.as_bytes()).map(|reply| reply.usage);
            // A text has a token: zero is a count that is not told.
            let beside = Usage {
                completion_tokens: completion.filter(|&n: &u64| n > 0),
                ..expected
            };
            if body.starts_with('{') {
                assert_eq!(found, Ok(beside), "{reply}");
            }
        };
        check(
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
            Some(3),
            Some(4),
        );
        check(
            r#"{"usage":{"input_tokens":3,"output_tokens":4.0}}"#,
            Some(3),
            Some(4),
        );
        check(r#"{"usage":{"prompt_tokens":3}}"#, Some(3), None);
        check(r#"{"usage":{"completion_tokens":4}}"#, None, Some(4));
        check(r#"{"usage":null}"#, None, None);
        check(r#"{"usage":7}"#, None, None);
        check(r#"{"usage":{}}"#, None, None);
        check("no", None, None);
        // A sum tells what is missing.
        check(
            r#"{"usage":{"prompt_tokens":3,"total_tokens":7}}"#,
            Some(3),
            Some(4),
        );
        check(
            r#"{"usage":{"completion_tokens":4,"total_tokens":7}}"#,
            Some(3),
            Some(4),
        );
        check(
            r#"{"usage":{"prompt_tokens":9,"total_tokens":7}}"#,
            Some(9),
            None,
        );
        // Texts are numbers to some; less than nothing is none, and neither is what nobody counts.
        check(
            r#"{"usage":{"prompt_tokens":"3","completion_tokens":" 4 "}}"#,
            Some(3),
            Some(4),
        );
        check(
            r#"{"usage":{"prompt_tokens":-3,"completion_tokens":-1}}"#,
            None,
            None,
        );
        check(
            r#"{"usage":{"prompt_tokens":"many","completion_tokens":[4]}}"#,
            None,
            None,
        );
        check(
            r#"{"usage":{"prompt_tokens":1e300,"completion_tokens":true}}"#,
            None,
            None,
        );
        check(
            r#"{"usage":{"prompt_tokens":-1,"input_tokens":3,"completion_tokens":0}}"#,
            Some(3),
            Some(0),
        );
        check(
            r#"{"usage":{"prompt_tokens":0,"completion_tokens":4}}"#,
            None,
            Some(4),
        );
    }

    #[test]
    fn tokens_that_are_not_told() {
        let usage = |text: &str| Usage::of_body(format!("{{\"usage\":{text}}}").as_bytes());
        let check = |text: &str, is_whole, expected| {
            let usage = usage(text);
            assert_eq!(usage.is_whole(), is_whole, "{text}");
            assert_eq!(usage.or_estimates(100, 50), expected, "{text}");
        };
        check(r#"{"prompt_tokens":3,"completion_tokens":4}"#, true, (3, 4));
        check(r#"{"prompt_tokens":3}"#, false, (3, 50));
        check(r#"{"completion_tokens":4}"#, false, (100, 4));
        check(r#"{"total_tokens":120}"#, false, (100, 20));
        check(r#"{"total_tokens":20}"#, false, (20, 0));
        check("{}", false, (100, 50));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::decode(&body);
            let _ = Usage::of_body(&body);
        }
    }
}
