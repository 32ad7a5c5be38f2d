//! What went wrong with a request, told from status, head and body, and what to do about it.

use std::fmt;

use serde_json::Value;

use crate::said::Said;

/// Longest part of a server's words that a message repeats.
const WORDS_MAX: usize = 400;

/// A class of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureClass {
    /// Too many requests or tokens for now.
    RateLimited,
    /// The server has too much to do.
    Overloaded,
    /// No connection within its time, or it was refused.
    TimeoutConnect,
    /// The server did not begin to answer in time.
    TimeoutFirstByte,
    /// The answer did not end in time.
    TimeoutTotal,
    /// The connection broke.
    ConnectionReset,
    /// The server failed.
    ServerError,
    /// The key is missing, wrong, or not allowed to do this.
    Authentication,
    /// What the account may spend is spent.
    QuotaExhausted,
    /// There is no such model, or no such path.
    ModelNotFound,
    /// What the caller may spend is spent; the server was not asked.
    BudgetSpent,
    /// The server does not take this request.
    BadRequest,
    /// Prompt and completion do not fit into the model's context.
    ContextOverflow,
    /// The server's filter held the answer back.
    ContentFilter,
    /// The model refused.
    Refusal,
    /// The answer was cut off at its longest length.
    Truncated,
    /// There is no text in the answer.
    Empty,
    /// The answer of the server is not JSON.
    NotJson,
    /// The answer is larger than any could be.
    TooLarge,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send again, after a pause.
    Retry,
    /// Nobody will get an answer until somebody mends it.
    StopJob,
    /// This request has no answer; others may.
    Item,
    /// Ask once more, in other words or with more room.
    AskAgain,
}

impl FailureClass {
    /// Its name in tables and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::TimeoutConnect => "timeout_connect",
            Self::TimeoutFirstByte => "timeout_first_byte",
            Self::TimeoutTotal => "timeout_total",
            Self::ConnectionReset => "connection_reset",
            Self::ServerError => "server_error",
            Self::Authentication => "authentication",
            Self::QuotaExhausted => "quota_exhausted",
            Self::ModelNotFound => "model_not_found",
            Self::BudgetSpent => "budget_spent",
            Self::BadRequest => "bad_request",
            Self::ContextOverflow => "context_overflow",
            Self::ContentFilter => "content_filter",
            Self::Refusal => "refusal",
            Self::Truncated => "truncated",
            Self::Empty => "empty",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn action(self) -> Action {
        match self {
            Self::RateLimited
            | Self::Overloaded
            | Self::TimeoutConnect
            | Self::TimeoutFirstByte
            | Self::TimeoutTotal
            | Self::ConnectionReset
            | Self::ServerError => Action::Retry,
            Self::Authentication
            | Self::QuotaExhausted
            | Self::ModelNotFound
            | Self::BudgetSpent => Action::StopJob,
            Self::BadRequest
            | Self::ContextOverflow
            | Self::ContentFilter
            | Self::Refusal
            | Self::TooLarge => Action::Item,
            Self::Truncated | Self::Empty | Self::NotJson => Action::AskAgain,
        }
    }

    /// Whether the server may have done the work, and may charge for it.
    #[must_use]
    pub fn may_be_paid(self) -> bool {
        matches!(
            self,
            Self::TimeoutFirstByte
                | Self::TimeoutTotal
                | Self::ConnectionReset
                | Self::ServerError
                | Self::TooLarge
        )
    }

    /// Whether the server says that it has too much to do: fewer requests help, and waiting does.
    #[must_use]
    pub(crate) fn is_throttling(self) -> bool {
        matches!(self, Self::RateLimited | Self::Overloaded)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class} after {n_sendings} sending(s): {message}")]
pub struct CallError {
    /// The class of the last failure.
    pub class: FailureClass,
    /// The provider's own words where there are any.
    pub message: String,
    /// Status of the last answer.
    pub status: Option<u16>,
    /// How often it was sent.
    pub n_sendings: u32,
    /// Whether no request at all has been answered for some time: it is not this one's fault.
    pub is_endpoint_down: bool,
    /// Whether the last sending may be charged for, if there was one.
    pub may_be_paid: bool,
}

/// The server's own words about a failure, as far as it has any, in one line that is not too long.
pub(crate) fn words(body: &[u8]) -> String {
    bounded(&all_words(body))
}

/// The same as they are.
pub(crate) fn all_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value
        .as_ref()
        .map(|value| value.get("error").unwrap_or(value));
    let message = error.and_then(|error| {
        [
            error.get("message"),
            error.get("detail"),
            error.get("error"),
            Some(error),
        ]
        .into_iter()
        .flatten()
        .find_map(|it| it.as_str().map(str::to_owned))
    });
    message.unwrap_or_else(|| text.trim().to_owned())
}

/// At most [`WORDS_MAX`] bytes, in one line.
pub(crate) fn bounded(text: &str) -> String {
    let mut line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > WORDS_MAX {
        let end = (0..=WORDS_MAX)
            .rev()
            .find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line.push_str("...");
    }
    line
}

/// The class of an answer with a status that is no success. Providers use the same few statuses
/// for different things, so their words and codes count too.
pub(crate) fn of_status(status: u16, said: &Said) -> FailureClass {
    let says = |needles: &[&str]| said.says(needles);
    const QUOTA: &[&str] = &[
        "insufficient_quota",
        "quota_exceeded",
        "exceeded your current quota",
        "billing_hard_limit",
        "insufficient balance",
        "insufficient_balance",
        "credit balance",
        "out of credits",
        "payment required",
    ];
    const CONTEXT: &[&str] = &[
        "context_length_exceeded",
        "context length",
        "context window",
        "context size",
        "maximum context",
        "exceed_context",
        "exceeds the available context",
        "too many tokens",
        "prompt is too long",
        "inputs tokens + max_new_tokens",
        "input is too long",
    ];
    const FILTER: &[&str] = &[
        "content_filter",
        "content_policy",
        "responsibleai",
        "content management policy",
    ];
    const MODEL_CODES: &[&str] = &[
        "model_not_found",
        "invalid_model",
        "unknown_model",
        "model_not_available",
    ];
    const MODEL: &[&str] = &[
        "does not exist",
        "model not found",
        "unknown model",
        "no such model",
        "try pulling it first",
        "invalid model",
    ];
    match status {
        401 | 403 if says(QUOTA) => FailureClass::QuotaExhausted,
        401 | 403 => FailureClass::Authentication,
        402 => FailureClass::QuotaExhausted,
        // Another path, or a method that it does not have there: the base URL is wrong.
        300..400 | 404 | 405 | 410 | 426 => FailureClass::ModelNotFound,
        // 409: the same request, by its idempotency key, is under way.
        408 | 409 | 504 | 524 => FailureClass::TimeoutFirstByte,
        413 => FailureClass::ContextOverflow,
        429 if says(QUOTA) => FailureClass::QuotaExhausted,
        429 => FailureClass::RateLimited,
        503 | 529 => FailureClass::Overloaded,
        400 | 422 if says(CONTEXT) => FailureClass::ContextOverflow,
        400 | 422 if says(FILTER) => FailureClass::ContentFilter,
        // It ends the job, so words count only where they speak of a model.
        400 | 422
            if said.has_code(MODEL_CODES)
                || said.blames("model")
                || said.tells_of("model", MODEL) =>
        {
            FailureClass::ModelNotFound
        }
        400..500 => FailureClass::BadRequest,
        // A validation error that the server did not expect is permanent all the same.
        500 if says(CONTEXT) => FailureClass::ContextOverflow,
        500 if says(&[
            "validation error",
            "validationerror",
            "field required",
            "value error",
        ]) =>
        {
            FailureClass::BadRequest
        }
        500.. => FailureClass::ServerError,
        _ => FailureClass::BadRequest,
    }
}

/// Whether an answer says that the server does not understand how JSON was asked for.
pub(crate) fn is_about_schema(status: u16, said: &Said) -> bool {
    const SCHEMA: &[&str] = &[
        "response_format",
        "json_schema",
        "json_object",
        "guided_json",
        "structured output",
        "grammar",
    ];
    matches!(status, 400 | 422 | 500 | 501) && said.says(SCHEMA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_providers_mean() {
        use FailureClass as C;
        let check = |status, body: &str, expected| {
            assert_eq!(
                of_status(status, &Said::of(body.as_bytes(), None)),
                expected,
                "{status} {body}"
            );
        };
        check(
            401,
            r#"{"error": {"message": "Incorrect API key provided"}}"#,
            C::Authentication,
        );
        check(403, "forbidden", C::Authentication);
        check(
            404,
            r#"{"error": {"code": "model_not_found"}}"#,
            C::ModelNotFound,
        );
        check(
            404,
            r#"{"error": "model 'x' not found, try pulling it first"}"#,
            C::ModelNotFound,
        );
        check(
            429,
            r#"{"error": {"code": "rate_limit_exceeded"}}"#,
            C::RateLimited,
        );
        check(
            429,
            r#"{"error": {"code": "insufficient_quota"}}"#,
            C::QuotaExhausted,
        );
        check(402, "", C::QuotaExhausted);
        check(
            400,
            r#"{"error": {"code": "context_length_exceeded"}}"#,
            C::ContextOverflow,
        );
        check(
            400,
            r#"{"error": {"type": "exceed_context_size_error"}}"#,
            C::ContextOverflow,
        );
        check(
            422,
            r#"{"error": "`inputs tokens + max_new_tokens` must be <= 2048"}"#,
            C::ContextOverflow,
        );
        check(
            400,
            r#"{"error": {"code": "content_filter"}}"#,
            C::ContentFilter,
        );
        check(
            400,
            r#"{"error": {"message": "The model `x` does not exist"}}"#,
            C::ModelNotFound,
        );
        check(
            400,
            r#"{"message": "Invalid model: x", "type": "invalid_model", "code": "1500"}"#,
            C::ModelNotFound,
        );
        check(
            400,
            r#"{"error": {"message": "invalid ID", "param": "model"}}"#,
            C::ModelNotFound,
        );
        check(
            400,
            r#"{"error": {"message": "the tool `x` does not exist"}}"#,
            C::BadRequest,
        );
        check(
            422,
            r#"{"detail": [{"msg": "Field required", "input": "an unknown model"}]}"#,
            C::BadRequest,
        );
        check(
            400,
            r#"{"error": {"message": "max_tokens is too small"}}"#,
            C::BadRequest,
        );
        check(
            500,
            r#"{"error": {"message": "1 validation error for Request"}}"#,
            C::BadRequest,
        );
        check(500, "oops", C::ServerError);
        check(502, "<html>bad gateway</html>", C::ServerError);
        check(503, "", C::Overloaded);
        check(529, "", C::Overloaded);
        check(504, "", C::TimeoutFirstByte);
        check(301, "", C::ModelNotFound);
        check(405, "", C::ModelNotFound);
    }

    #[test]
    fn their_own_words() {
        let check = |body: &str, expected: &str| assert_eq!(words(body.as_bytes()), expected);
        check(
            r#"{"error": {"message": "no\n such  model"}}"#,
            "no such model",
        );
        check(r#"{"error": "plain"}"#, "plain");
        check(r#"{"detail": "not here"}"#, "not here");
        check(r#""text""#, "text");
        check("<html>", "<html>");
        check("", "");
        assert!(words("x".repeat(5000).as_bytes()).len() < 500);
        assert!(words("\u{e9}".repeat(5000).as_bytes()).len() < 500);
    }

    #[test]
    fn dialects() {
        let body = br#"{"error": {"message": "unsupported response_format type 'json_schema'"}}"#;
        let is_about = |status, body: &[u8]| is_about_schema(status, &Said::of(body, None));
        assert!(is_about(400, body));
        assert!(is_about(500, body));
        assert!(!is_about(429, body));
        assert!(!is_about(400, b"max_tokens"));
    }
}
