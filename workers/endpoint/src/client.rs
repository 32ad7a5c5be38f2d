//! Sends requests: with deadlines, again where that can help, with the caller's consent each time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::body;
use crate::config::{Dialect, EndpointConfig};
use crate::failure::{self, Action, CallError, FailureClass};
use crate::limiter::{Limiter, Pace};
use crate::pause;
use crate::reply::Reply;
use crate::request::{CompletionRequest, RequestKey};

/// Largest answer that is read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// A list of models is no work for a server.
const MODELS_MAX: Duration = Duration::from_secs(10);
/// Sendings of one request, whatever the server says.
const SENDINGS_MAX: u32 = 1_000;
/// So many requests in a row that are given up are not at fault each: it is the server. Fewer may
/// be requests that it cannot bear, and a job would end at them again and again.
const GIVEN_UP_MAX: u32 = 5;
/// Idle connections are closed before servers and balancers close them.
const IDLE_MAX: Duration = Duration::from_secs(20);
/// Providers that know it give the first answer again instead of charging twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// An answer, as it came.
#[derive(Debug, Clone)]
pub struct RawReply {
    /// Its status, a success.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
    /// How often the request was sent.
    pub n_sendings: u32,
    /// Time from the last sending to the head of the answer.
    pub first_byte: Duration,
    /// Time from the last sending to the last byte.
    pub total: Duration,
    /// How JSON was asked for.
    pub dialect: Dialect,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is none.
    #[error("the URL of endpoint {0} cannot be used: write one like http://127.0.0.1:8000/v1")]
    Url(String),
    /// The key cannot be sent.
    #[error("the key of endpoint {0} has characters that cannot be sent; is it cut or quoted?")]
    Key(String),
    /// TLS or the like.
    #[error("cannot make a client for endpoint {name}: {reason}")]
    Client {
        /// Name of the endpoint.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// Random bits for jitter.
pub type Jitter = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The client of one endpoint, shared by all who ask it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    config: Arc<EndpointConfig>,
    headers: HeaderMap,
    limiter: Arc<Limiter>,
    dialect: Arc<AtomicU8>,
    jitter: Jitter,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.config.name)
            .finish_non_exhaustive()
    }
}

/// The dialects that `auto` tries, in this order.
const DIALECTS: [Dialect; 3] = [Dialect::JsonSchema, Dialect::JsonObject, Dialect::None];

/// A sending that failed.
struct Failed {
    class: FailureClass,
    message: String,
    status: Option<u16>,
    /// How long the server asks to wait.
    pause: Option<Duration>,
    /// It does not understand how JSON was asked for.
    is_about_schema: bool,
}

impl Client {
    /// A client of `config`.
    ///
    /// # Errors
    ///
    /// If URL or key cannot be used.
    pub fn new(config: EndpointConfig, jitter: Jitter) -> Result<Self, ClientError> {
        let name = || config.name.clone();
        let url = url::Url::parse(&config.url).map_err(|_| ClientError::Url(name()))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(ClientError::Url(name()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &config.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose().trim()));
            let mut value = value.map_err(|_| ClientError::Key(name()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // Nothing is sent behind our back: each sending is consented to and may be paid for.
        let http = reqwest::Client::builder()
            .connect_timeout(config.timeouts.connect)
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(config.concurrency)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("gleaner/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ClientError::Client {
                name: name(),
                reason: error.without_url().to_string(),
            })?;
        Ok(Self {
            http,
            limiter: Arc::new(Limiter::new(config.concurrency)),
            config: Arc::new(config),
            headers,
            dialect: Arc::new(AtomicU8::new(0)),
            jitter,
        })
    }

    /// The key of a request at this endpoint.
    #[must_use]
    pub fn key(&self, request: &CompletionRequest) -> RequestKey {
        request.key(&self.config.url, &self.config.model)
    }

    /// How JSON is asked for now.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.config.dialect {
            Dialect::Auto => {
                let idx = usize::from(self.dialect.load(Ordering::Relaxed));
                DIALECTS[idx.min(DIALECTS.len() - 1)]
            }
            known => known,
        }
    }

    /// Sends a request until it is answered. The answer is not looked into.
    ///
    /// After `cancel` nothing more is sent; what was sent is waited for.
    ///
    /// # Errors
    ///
    /// If there is no answer, and sending again now would not help.
    pub async fn complete(
        &self,
        request: &CompletionRequest,
        pace: &dyn Pace,
        cancel: &CancellationToken,
    ) -> Result<RawReply, CallError> {
        let key = self.key(request).to_string();
        let started = Instant::now();
        let mut previous = None;
        let (mut n_sendings, mut n_failures, mut n_counted) = (0, 0, 0);
        loop {
            let permit = tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(self.not_sent(n_sendings, previous)),
                permit = self.limiter.acquire() => permit,
            };
            if !pace.before(previous).await {
                return Err(self.not_sent(n_sendings, previous));
            }
            n_sendings += 1;
            let dialect = self.dialect();
            let sent = self.send(request, &key, dialect).await;
            drop(permit);
            let failed = match sent {
                Ok(mut reply) => {
                    self.limiter.answered();
                    reply.n_sendings = n_sendings;
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            if failed.is_about_schema && request.schema.is_some() && self.fall_back(dialect) {
                previous = Some(failed.class);
                continue;
            }
            previous = Some(failed.class);
            n_failures += 1;
            let is_throttling = failed.class.is_throttling();
            if is_throttling {
                self.limiter.throttled(failed.pause);
            } else {
                n_counted += 1;
            }
            let last_answer = self.limiter.answered_or(started);
            let is_down = if is_throttling {
                last_answer.elapsed() >= self.config.patience
            } else {
                // Nothing about a request keeps a server from being connected to.
                last_answer == started && failed.class == FailureClass::TimeoutConnect
            };
            let is_over = match failed.class.action() {
                Action::Retry if is_throttling => is_down || n_sendings >= SENDINGS_MAX,
                Action::Retry => n_counted >= self.config.attempts_max,
                _ => true,
            };
            if is_over {
                // An answer about this request is an answer.
                if failed.class.action() == Action::Item {
                    self.limiter.answered();
                }
                let is_down = is_down
                    || failed.class.action() == Action::Retry
                        && self.limiter.given_up() >= GIVEN_UP_MAX;
                return Err(CallError {
                    class: failed.class,
                    message: failed.message,
                    status: failed.status,
                    n_sendings,
                    is_endpoint_down: is_down,
                });
            }
            let own = pause::back_off(n_failures, (self.jitter)());
            let pause = failed.pause.map_or(own, |asked| asked + own / 4);
            tracing::debug!(
                endpoint = self.config.name, class = %failed.class, ?pause, n_sendings,
                "a request failed, sending again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Err(self.not_sent(n_sendings, previous)),
            }
        }
    }

    /// Names of the models that the server tells of. Asks once, and asks for nothing that is paid.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, or does not let this key in.
    pub async fn models(&self) -> Result<Vec<String>, CallError> {
        let base = self.config.url.trim_end_matches('/');
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_TYPE);
        let asked = async {
            let sent = self
                .http
                .get(format!("{base}/models"))
                .headers(headers)
                .send();
            let response = sent.await.map_err(connection_failure)?;
            let status = response.status();
            let headers = response.headers().clone();
            let body = response.bytes().await.map_err(connection_failure)?;
            if status.is_success() {
                Ok(body)
            } else {
                Err(self.refused(status.as_u16(), &headers, &body))
            }
        };
        let limit = self.config.timeouts.first_byte.min(MODELS_MAX);
        let asked = tokio::time::timeout(limit, asked)
            .await
            .unwrap_or_else(|_| {
                Err(timeout(
                    FailureClass::TimeoutFirstByte,
                    "tell its models",
                    limit,
                ))
            });
        let body = asked.map_err(|failed| CallError {
            class: failed.class,
            message: failed.message,
            status: failed.status,
            n_sendings: 1,
            is_endpoint_down: true,
        })?;
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let models = value.get("data").and_then(|data| data.as_array());
        let names = models
            .into_iter()
            .flatten()
            .filter_map(|it| it.get("id")?.as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// `previous` is why it would have been sent again: what it may have cost is still owed.
    fn not_sent(&self, n_sendings: u32, previous: Option<FailureClass>) -> CallError {
        CallError {
            class: previous.unwrap_or(FailureClass::Overloaded),
            message: "nothing more is sent".to_owned(),
            status: None,
            n_sendings,
            is_endpoint_down: false,
        }
    }

    /// Whether there is another dialect to try.
    fn fall_back(&self, failed: Dialect) -> bool {
        if self.config.dialect != Dialect::Auto {
            return false;
        }
        let Some(idx) = DIALECTS.iter().position(|it| *it == failed) else {
            return false;
        };
        let next = idx + 1;
        if next >= DIALECTS.len() {
            return false;
        }
        // Many requests may find out at once; none goes back.
        self.dialect.fetch_max(next as u8, Ordering::Relaxed);
        tracing::info!(
            endpoint = self.config.name, dialect = ?self.dialect(),
            "the server does not take schemas that way"
        );
        true
    }

    async fn send(
        &self,
        request: &CompletionRequest,
        key: &str,
        dialect: Dialect,
    ) -> Result<RawReply, Failed> {
        let base = self.config.url.trim_end_matches('/');
        let url = format!("{base}/{}", body::path(request));
        let body = body::body(request, &self.config.model, dialect).to_string();
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

    fn refused(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Failed {
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

fn timeout(class: FailureClass, what: &str, limit: Duration) -> Failed {
    Failed {
        class,
        message: format!("the server did not {what} within {} s", limit.as_secs_f64()),
        status: None,
        pause: None,
        is_about_schema: false,
    }
}

fn connection_failure(error: reqwest::Error) -> Failed {
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
