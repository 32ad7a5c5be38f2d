//! Sends requests: with deadlines, again where that can help, with the caller's consent each time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::canonical::CanonicalRequest;
use crate::config::{Dialect, EndpointConfig};
use crate::failure::{Action, CallError, FailureClass};
use crate::limiter::{Limiter, Pace};
use crate::pause;
use crate::request::{CompletionRequest, RequestKey};
use crate::said::Said;
use crate::sending::{connection_failure, idempotency_key, timeout};
use crate::stop::Stop;
use crate::verdict::Verdicts;

/// A list of models is no work for a server.
const MODELS_MAX: Duration = Duration::from_secs(10);
/// Sendings of one request, whatever the server says.
const SENDINGS_MAX: u32 = 1_000;
/// Idle connections are closed before servers and balancers close them.
const IDLE_MAX: Duration = Duration::from_secs(20);

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
    pub(crate) http: reqwest::Client,
    pub(crate) config: Arc<EndpointConfig>,
    pub(crate) headers: HeaderMap,
    limiter: Arc<Limiter>,
    verdicts: Arc<Verdicts>,
    stop: Arc<Stop>,
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
            verdicts: Arc::default(),
            stop: Arc::default(),
            config: Arc::new(config),
            headers,
            dialect: Arc::new(AtomicU8::new(0)),
            jitter,
        })
    }

    /// The key of a request at this endpoint.
    #[must_use]
    pub fn key(&self, request: &CompletionRequest) -> RequestKey {
        self.key_of(&request.canonical())
    }

    /// The same, of its canonical form.
    #[must_use]
    pub fn key_of(&self, canonical: &CanonicalRequest) -> RequestKey {
        canonical.key(&self.config.url, &self.config.model)
    }

    /// How JSON is asked for now.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self.config.dialect {
            Dialect::Auto => DIALECTS[self.dialect_idx()],
            known => known,
        }
    }

    /// Ends all sending, for a reason that concerns every request. What was sent is waited for.
    pub fn stop(&self, class: FailureClass, message: String) {
        self.stop.close(CallError {
            class,
            message,
            status: None,
            n_sendings: 0,
            is_endpoint_down: false,
            may_be_paid: false,
        });
    }

    /// Why nothing more is sent, if that is so.
    #[must_use]
    pub fn stopped(&self) -> Option<&CallError> {
        self.stop.reason()
    }

    /// Cancelled when nothing more is sent.
    #[must_use]
    pub fn stop_token(&self) -> &CancellationToken {
        self.stop.token()
    }

    /// Sends a request until it is answered. The answer is not looked into. `key` is that of
    /// [`Client::key`], which takes as long as to write the request.
    ///
    /// The caller consents before a place among those in flight is taken, so that what it does
    /// takes no time from the server. After `cancel`, and once anybody was told what concerns every
    /// request, nothing more is sent; what was sent is waited for.
    ///
    /// # Errors
    ///
    /// If there is no answer, and sending again now would not help.
    pub async fn complete(
        &self,
        request: &CompletionRequest,
        key: RequestKey,
        pace: &dyn Pace,
        cancel: &CancellationToken,
    ) -> Result<RawReply, CallError> {
        let key = key.to_string();
        let started = Instant::now();
        let mut previous = None;
        // Of this request alone, until the server has answered it: that a weaker dialect was refused
        // as well shows that it is the request that the server does not take.
        let mut weaker = None;
        let mut series = pace.series();
        let open = self.verdicts.begin();
        let (mut n_sendings, mut n_failures, mut n_counted) = (0, 0, 0);
        loop {
            let ended = |previous| self.not_sent(n_sendings, previous);
            let mut turn = tokio::select! {
                biased;
                () = self.ended(cancel) => return Err(ended(previous)),
                turn = self.limiter.line_up(pace.rank()) => turn,
            };
            if !pace.before(previous, series).await {
                return Err(ended(previous));
            }
            let has_place = tokio::select! {
                biased;
                () = self.ended(cancel) => false,
                () = turn.place() => true,
            };
            if !has_place {
                pace.withdraw().await;
                return Err(ended(None));
            }
            if !pace.is_current().await {
                pace.withdraw().await;
                previous = None;
                continue;
            }
            if self.stop.reason().is_some() {
                pace.withdraw().await;
                return Err(ended(None));
            }
            n_sendings += 1;
            let dialect = weaker.unwrap_or_else(|| self.dialect());
            series = series.at(pace.number().await.unwrap_or(n_sendings));
            let sending_key = idempotency_key(&key, request, dialect, series.number);
            let sent = self.send(request, &sending_key, dialect).await;
            drop(turn);
            let failed = match sent {
                Ok(mut reply) => {
                    self.answered();
                    if weaker.is_some() {
                        self.fall_back(dialect);
                    }
                    reply.n_sendings = n_sendings;
                    return Ok(reply);
                }
                Err(failed) => failed,
            };
            let next = match failed.is_about_schema && request.schema.is_some() {
                true => self.weaker(dialect),
                false => None,
            };
            series = series.after(failed.class, failed.is_answer(), next.is_some());
            if let Some(next) = next {
                weaker = Some(next);
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
                    self.answered();
                }
                // Others that are waited for may need it.
                pace.failed(failed.class).await;
                let is_down = is_down
                    || failed.class.action() == Action::Retry
                        && tokio::select! {
                            biased;
                            () = self.ended(cancel) => self.stop.reason().is_some(),
                            is_fault = self.verdicts.is_servers_fault(open) => is_fault,
                        };
                let error = CallError {
                    class: failed.class,
                    message: failed.message,
                    status: failed.status,
                    n_sendings,
                    is_endpoint_down: is_down,
                    may_be_paid: failed.class.may_be_paid(),
                };
                if failed.class.action() == Action::StopJob {
                    self.stop.close(error.clone());
                }
                return Err(error);
            }
            let own = pause::back_off(n_failures, (self.jitter)());
            let pause = failed.pause.map_or(own, |asked| asked + own / 4);
            tracing::debug!(
                endpoint = self.config.name, class = %failed.class, ?pause, n_sendings,
                "a request failed, sending again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.ended(cancel) => return Err(self.not_sent(n_sendings, previous)),
            }
        }
    }

    /// The server works.
    fn answered(&self) {
        self.limiter.answered();
        self.verdicts.answered();
    }

    /// Waits until nothing more is to be sent.
    async fn ended(&self, cancel: &CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.stop.token().cancelled() => {}
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
                Err(self.refused(status.as_u16(), &headers, &body, &Said::of(&body, None)))
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
            may_be_paid: false,
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
        let may_be_paid = previous.is_some_and(FailureClass::may_be_paid);
        match self.stop.reason() {
            Some(reason) => CallError {
                may_be_paid,
                ..reason.clone()
            },
            None => CallError {
                class: previous.unwrap_or(FailureClass::Overloaded),
                message: "nothing more is sent".to_owned(),
                status: None,
                n_sendings,
                is_endpoint_down: false,
                may_be_paid,
            },
        }
    }

    /// The dialect to try after one that the server does not seem to understand.
    fn weaker(&self, refused: Dialect) -> Option<Dialect> {
        if self.config.dialect != Dialect::Auto {
            return None;
        }
        let idx = DIALECTS.iter().position(|it| *it == refused)?;
        // Others may have found out meanwhile.
        DIALECTS.get((idx + 1).max(self.dialect_idx())).copied()
    }

    /// All requests are sent in this dialect from now on, or in a weaker one.
    fn fall_back(&self, understood: Dialect) {
        let Some(idx) = DIALECTS.iter().position(|it| *it == understood) else {
            return;
        };
        // Many requests may find out at once; none goes back.
        if usize::from(self.dialect.fetch_max(idx as u8, Ordering::Relaxed)) < idx {
            tracing::info!(
                endpoint = self.config.name, dialect = ?understood,
                "the server does not take schemas that way"
            );
        }
    }

    fn dialect_idx(&self) -> usize {
        usize::from(self.dialect.load(Ordering::Relaxed)).min(DIALECTS.len() - 1)
    }
}
