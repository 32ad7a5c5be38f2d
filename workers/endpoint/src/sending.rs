//! One sending of a request: what goes out, what comes back, within what time.

use std::time::Duration;

use bytes::BytesMut;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::body;
use crate::client::{Client, RawReply};
use crate::config::Dialect;
use crate::failure::{self, FailureClass};
use crate::pause;
use crate::reply::Reply;
use crate::request::CompletionRequest;

/// Largest answer that is read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// Providers that know it give the first answer again instead of charging twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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

impl Client {
    pub(crate) async fn send(
        &self,
        request: &CompletionRequest,
        key: &str,
        dialect: Dialect,
    ) -> Result<RawReply, Failed> {
        let base = self.config.url.trim_end_matches('/');
        let url = format!("{base}/{}", body::path(request));
        let body = body::body(request, &self.config.model, dialect);
        let mut headers = self.headers.clone();
        if let Ok(value) = HeaderValue::from_str(key) {
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
            if let Some(error) = Reply::embedded_failure(&bytes) {
                return Err(Failed {
                    class: error.class,
                    message: self.without_key(error.message),
                    status: Some(status.as_u16()),
                    pause: None,
                    is_about_schema: failure::is_about_schema(400, &bytes),
                });
            }
            return Ok(RawReply {
                status: status.as_u16(),
                body: bytes.freeze(),
                n_sendings: 0,
                first_byte: head_at,
                total: started.elapsed(),
                dialect,
            });
        }
        Err(self.refused(status.as_u16(), &headers, &bytes))
    }

    /// Some servers repeat the key that they refuse.
    fn without_key(&self, words: String) -> String {
        match &self.config.api_key {
            Some(key) if !key.expose().trim().is_empty() => {
                words.replace(key.expose().trim(), "...")
            }
            _ => words,
        }
    }

    pub(crate) fn refused(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failed {
        let words = self.without_key(failure::words(body));
        let message = if words.is_empty() {
            format!("the server answers with status {status} and no word")
        } else {
            format!("the server answers with status {status}: {words}")
        };
        Failed {
            class: failure::of_status(status, body),
            message,
            status: Some(status),
            pause: pause::asked(headers, chrono::Utc::now()),
            is_about_schema: failure::is_about_schema(status, body),
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
