//! One sending of a request: what goes out, what comes back, within what time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::body;
use crate::client::{Client, RawReply};
use crate::config::Dialect;
use crate::failure::{self, FailureClass};
use crate::pause;
use crate::reply::Reply;
use crate::request::CompletionRequest;
use crate::said::Said;

/// Largest answer that is read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Providers that know it give the first answer again instead of charging twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What stands where a server repeats the key.
const KEY_SHOWN: &str = "...";
/// Bytes of a key that is looked for in replies.
const KEY_BYTES_MIN: usize = 8;

/// A sending that failed.
pub(crate) struct Failed {
    pub(crate) class: FailureClass,
    pub(crate) message: String,
    pub(crate) status: Option<u16>,
    /// How long the server asks to wait.
    pub(crate) pause: Option<Duration>,
    /// It does not understand how JSON was asked for.
    pub(crate) is_about_schema: bool,
}

impl Failed {
    /// Whether the server has answered: it would give the same answer again under the same key. After
    /// a timeout or a reset it may be at work, and must know that it is the same request.
    pub(crate) fn is_answer(&self) -> bool {
        let is_at_work = matches!(
            self.class,
            FailureClass::TimeoutFirstByte | FailureClass::TimeoutTotal
        );
        self.status.is_some() && !is_at_work
    }
}

/// What tells a provider that a request is the same as one before: everything that the answer depends
/// on, how JSON is asked for, and the number of its [series](crate::Series).
pub(crate) fn idempotency_key(
    key: &str,
    request: &CompletionRequest,
    dialect: Dialect,
    number: Option<u32>,
) -> String {
    let mut text = key.to_owned();
    if request.schema.is_some() {
        text.push_str(match dialect {
            Dialect::Auto | Dialect::JsonSchema => "",
            Dialect::JsonObject => "-json_object",
            Dialect::None => "-none",
        });
    }
    if let Some(number) = number {
        text.push('-');
        text.push_str(&number.to_string());
    }
    text
}

impl Client {
    pub(crate) async fn send(
        &self,
        request: &CompletionRequest,
        idempotency_key: &str,
        dialect: Dialect,
    ) -> Result<RawReply, Failed> {
        let base = self.config.url.trim_end_matches('/');
        let url = format!("{base}/{}", body::path(request));
        let body = body::body(request, &self.config.model, dialect);
        let mut headers = self.headers.clone();
        if let Ok(value) = HeaderValue::from_str(idempotency_key) {
            headers.insert(IDEMPOTENCY_KEY, value);
        }
        let timeouts = self.config.timeouts;
        let started = Instant::now();
        let deadline = started + timeouts.total;
        let sent = self.http.post(&url).headers(headers).body(body).send();
        let first_byte = timeouts.first_byte.min(timeouts.total);
        let mut response = match tokio::time::timeout(first_byte, sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(connection_failure(error)),
            Err(_) => {
                return Err(timeout(
                    FailureClass::TimeoutFirstByte,
                    "begin to answer",
                    first_byte,
                ));
            }
        };
        let head_at = started.elapsed();
        let status = response.status();
        let headers = response.headers().clone();
        let mut bytes = BytesMut::new();
        loop {
            match tokio::time::timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                        return Err(Failed {
                            class: FailureClass::TooLarge,
                            message: format!("the answer is larger than {BODY_BYTES_MAX} bytes"),
                            status: Some(status.as_u16()),
                            pause: None,
                            is_about_schema: false,
                        });
                    }
                    bytes.extend_from_slice(&chunk);
                }
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(connection_failure(error)),
                Err(_) => {
                    let class = FailureClass::TimeoutTotal;
                    return Err(timeout(class, "end its answer", timeouts.total));
                }
            }
        }
        if status.is_success() {
            if let Some(error) = Reply::embedded_failure(&bytes, request) {
                let said = Said::of(&bytes, Some(request));
                return Err(Failed {
                    class: error.class,
                    message: self.words(&bytes),
                    status: Some(status.as_u16()),
                    pause: None,
                    is_about_schema: failure::is_about_schema(400, &said),
                });
            }
            return Ok(RawReply {
                status: status.as_u16(),
                body: self.body_without_key(bytes.freeze()),
                n_sendings: 0,
                first_byte: head_at,
                total: started.elapsed(),
                dialect,
            });
        }
        let said = Said::of(&bytes, Some(request));
        Err(self.refused(status.as_u16(), &headers, &bytes, &said))
    }

    fn key_text(&self) -> Option<&str> {
        let key = self.config.api_key.as_ref()?.expose().trim();
        (!key.is_empty()).then_some(key)
    }

    /// The server's words, in a line. Some servers repeat the key that they refuse: it goes first, as
    /// what is cut off would hide the rest of it.
    fn words(&self, body: &[u8]) -> String {
        let words = failure::all_words(body);
        failure::bounded(&match self.key_text() {
            Some(key) => words.replace(key, KEY_SHOWN),
            None => words,
        })
    }

    /// A body is stored as it came, but for the key. One that is shorter is no secret, and may be a
    /// word of a text.
    fn body_without_key(&self, body: Bytes) -> Bytes {
        let key = self.key_text().filter(|key| key.len() >= KEY_BYTES_MIN);
        let Some(key) = key.map(str::as_bytes) else {
            return body;
        };
        let find = |rest: &[u8]| rest.windows(key.len()).position(|it| it == key);
        let mut rest = body.as_ref();
        let mut cleaned = Vec::new();
        while let Some(place) = find(rest) {
            cleaned.extend_from_slice(&rest[..place]);
            cleaned.extend_from_slice(KEY_SHOWN.as_bytes());
            rest = &rest[place + key.len()..];
        }
        if rest.len() == body.len() {
            return body;
        }
        cleaned.extend_from_slice(rest);
        cleaned.into()
    }

    pub(crate) fn refused(
        &self,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        said: &Said,
    ) -> Failed {
        let words = self.words(body);
        let message = if words.is_empty() {
            format!("the server answers with status {status} and no word")
        } else {
            format!("the server answers with status {status}: {words}")
        };
        Failed {
            class: failure::of_status(status, said),
            message,
            status: Some(status),
            pause: pause::asked(headers, chrono::Utc::now()),
            is_about_schema: failure::is_about_schema(status, said),
        }
    }
}

pub(crate) fn timeout(class: FailureClass, what: &str, limit: Duration) -> Failed {
    Failed {
        class,
        message: format!("the server did not {what} within {} s", limit.as_secs_f64()),
        status: None,
        pause: None,
        is_about_schema: false,
    }
}

pub(crate) fn connection_failure(error: reqwest::Error) -> Failed {
    let is_connect = error.is_connect();
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    Failed {
        class: if is_connect {
            FailureClass::TimeoutConnect
        } else {
            FailureClass::ConnectionReset
        },
        message: failure::bounded(&message),
        status: None,
        pause: None,
        is_about_schema: false,
    }
}
