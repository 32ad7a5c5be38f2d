//! Reads a reply, leniently: what a server leaves out or invents never costs what was paid for.

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
        let text = String::from_utf8_lossy(body);
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        Self::of(&value)
    }

    fn of(value: &Value) -> Self {
        let number = |names: [&str; 2]| {
            let usage = value.get("usage")?;
            names.iter().find_map(|name| {
                let number = usage.get(name)?;
                number
                    .as_u64()
                    .or_else(|| number.as_f64().map(|it| it.max(0.0) as u64))
            })
        };
        Self {
            prompt_tokens: number(["prompt_tokens", "input_tokens"]),
            completion_tokens: number(["completion_tokens", "output_tokens"]),
        }
    }
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
            usage: Usage::of(&value),
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
            };
            assert_eq!(Usage::of_body(body.as_bytes()), expected, "{body}");
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
        check(r#"{"usage":null}"#, None, None);
        check("no", None, None);
    }

    proptest! {
        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::decode(&body);
            let _ = Usage::of_body(&body);
        }
    }
}
