//! Every request to a store passes here: as many at a time as the store likes, with a bound on
//! each, counted, and with refusals cut down to what may be shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};
use tokio::time::Instant;

use super::answer::{REFUSAL_BYTES_MAX, Refusal};
use super::body::WatchedBody;
use super::limit::{Gate, Outcome};
use super::settings::Timeouts;
use super::silence::Silence;
use crate::store_error::{METADATA_ABSENT, StoreError, is_untrusted};

/// Bytes of a listing or of the outcome of deletions: a thousand keys of a kilobyte, and more.
const LISTING_BYTES_MAX: usize = 64 << 20;
/// Where machines of a cloud ask for their credentials.
const METADATA_HOSTS: [&str; 4] = [
    "169.254.169.254",
    "169.254.170.2",
    "metadata.google.internal",
    "metadata",
];
/// Statuses of `object_store` that it retries or maps; a redirect it cannot follow becomes this.
const BAD_REQUEST: u16 = 400;

/// Connects the clients of one store.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    gate: Arc<Gate>,
    timeouts: Timeouts,
    silence: Arc<Silence>,
}

impl Connector {
    /// The connector of the store that metrics show as `store`.
    pub(super) fn new(store: String, timeouts: Timeouts, silence: Arc<Silence>) -> Self {
        Self {
            gate: Gate::new(store),
            timeouts,
            silence,
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service {
            client,
            gate: Arc::clone(&self.gate),
            timeouts: self.timeouts,
            silence: Arc::clone(&self.silence),
            has_metadata: AtomicBool::new(false),
        }))
    }
}

/// No answer came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer for {0:?}")]
struct NoAnswer(std::time::Duration);

/// An error with our words before those of its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Explained {
    message: &'static str,
    source: HttpError,
}

/// An answer that is larger than anything that a store says.
#[derive(Debug, thiserror::Error)]
#[error("the answer has more than {0} bytes")]
struct TooLarge(usize);

#[derive(Debug)]
struct Service {
    client: HttpClient,
    gate: Arc<Gate>,
    timeouts: Timeouts,
    silence: Arc<Silence>,
    /// Whether a server of metadata has answered: there is one, and its silence will pass.
    has_metadata: AtomicBool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let facts = RequestFacts::of(&request);
        let permit = self.gate.enter().await;
        let started = Instant::now();
        let asked = self.silence.ask();
        let timeout = self.timeouts.answer(facts.bytes);
        let answered = match tokio::time::timeout(timeout, self.client.execute(request)).await {
            Ok(answered) => answered,
            Err(_) => Err(HttpError::new(HttpErrorKind::Timeout, NoAnswer(timeout))),
        };
        let operation = facts.operation;
        metrics::histogram!("gleaner_store_request_seconds", "operation" => operation)
            .record(started.elapsed().as_secs_f64());
        let count = |status: String| {
            metrics::counter!("gleaner_store_requests_total", "operation" => operation, "status" => status)
                .increment(1);
        };
        match answered {
            Ok(response) => {
                let status = response.status().as_u16();
                count(status.to_string());
                metrics::counter!("gleaner_store_bytes_written_total").increment(facts.bytes);
                if is_throttling(status) {
                    metrics::counter!("gleaner_store_throttled_total").increment(1);
                    N_THROTTLED.fetch_add(1, Ordering::Relaxed);
                    permit.end(Outcome::Throttled);
                } else {
                    // Bodies are not waited for: one that nobody reads must not keep others out.
                    permit.end(Outcome::Served);
                }
                if is_throttling(status) || status >= 500 {
                    asked.failed(format!("it answered {status}"));
                } else {
                    asked.answered();
                }
                if facts.is_metadata {
                    self.has_metadata.store(true, Ordering::Relaxed);
                }
                self.receive(&facts, response).await
            }
            Err(error) => {
                count(format!("{:?}", error.kind()).to_lowercase());
                asked.failed(StoreError::of_transport(&error).to_string());
                Err(facts.explained(error, self.has_metadata.load(Ordering::Relaxed)))
            }
        }
    }
}

impl Service {
    async fn receive(
        &self,
        facts: &RequestFacts,
        response: HttpResponse,
    ) -> Result<HttpResponse, HttpError> {
        let status = response.status().as_u16();
        let (mut parts, body) = response.into_parts();
        let body = HttpResponseBody::new(WatchedBody::new(body, self.timeouts.stall()));
        if status >= 400 || (300..=399).contains(&status) && status != 304 {
            let header = |name: &str| {
                let value = parts.headers.get(name)?.to_str().ok()?;
                Some(value.to_owned())
            };
            // What cannot be read of a refusal takes nothing from its status.
            let text = read(body, REFUSAL_BYTES_MAX).await.unwrap_or_default();
            let mut refusal = Refusal::parse(&String::from_utf8_lossy(&text));
            if refusal.code.is_empty() {
                refusal.code = header("x-ms-error-code").unwrap_or_default();
            }
            refusal.region = refusal.region.or_else(|| header("x-amz-bucket-region"));
            if status < 400 {
                // `object_store` drops what a redirect says.
                if refusal.code.is_empty() {
                    refusal.code = "PermanentRedirect".to_owned();
                }
                if let Ok(status) = BAD_REQUEST.try_into() {
                    parts.status = status;
                }
            }
            return Ok(HttpResponse::from_parts(parts, refusal.to_xml().into()));
        }
        if facts.is_listing {
            // Nobody else asks again for a listing that was cut; as an error of the request it is
            // sent again. Deletions may be, they name what shall be gone.
            let bytes = read(body, LISTING_BYTES_MAX).await?;
            return Ok(HttpResponse::from_parts(parts, bytes.into()));
        }
        Ok(HttpResponse::from_parts(parts, body))
    }
}

async fn read(body: HttpResponseBody, bytes_max: usize) -> Result<Vec<u8>, HttpError> {
    let mut stream = body.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| {
            let message = "the answer was cut";
            let source = error;
            HttpError::new(HttpErrorKind::Request, Explained { message, source })
        })?;
        if bytes.len() + piece.len() > bytes_max {
            return Err(HttpError::new(HttpErrorKind::Decode, TooLarge(bytes_max)));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Whether a store asks for fewer requests.
/// Answers that asked for fewer requests, since the process started.
static N_THROTTLED: AtomicU64 = AtomicU64::new(0);

/// How often stores asked this process for fewer requests since it started.
#[must_use]
pub fn n_throttled() -> u64 {
    N_THROTTLED.load(Ordering::Relaxed)
}

fn is_throttling(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// What is to be known of a request after it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RequestFacts {
    operation: &'static str,
    bytes: u64,
    is_listing: bool,
    /// Creates an object unless there is one.
    is_create: bool,
    is_metadata: bool,
}

impl RequestFacts {
    fn of(request: &HttpRequest) -> Self {
        let operation = operation(request.method().as_str(), request.uri().query());
        let host = request.uri().host().unwrap_or_default();
        Self {
            operation,
            bytes: request.body().content_length() as u64,
            is_listing: matches!(operation, "list" | "delete_many"),
            is_create: operation == "put" && request.headers().contains_key("if-none-match"),
            is_metadata: METADATA_HOSTS.contains(&host),
        }
    }

    /// The error with the kind that lets `object_store` do the right thing: ask again or not.
    fn explained(&self, error: HttpError, has_metadata: bool) -> HttpError {
        if self.is_metadata && !has_metadata {
            let message = METADATA_ABSENT;
            let source = error;
            return HttpError::new(HttpErrorKind::Unknown, Explained { message, source });
        }
        if is_untrusted(&error) {
            let message = "the certificate is not trusted";
            let source = error;
            return HttpError::new(HttpErrorKind::Unknown, Explained { message, source });
        }
        // Whether the object was created is not known. To ask again does no harm: whoever creates
        // reads what is there.
        let is_unknown = matches!(
            error.kind(),
            HttpErrorKind::Timeout | HttpErrorKind::Interrupted
        );
        if self.is_create && is_unknown {
            let message = "it is not known whether the object was created";
            let source = error;
            return HttpError::new(HttpErrorKind::Request, Explained { message, source });
        }
        error
    }
}

/// The name of a request in metrics, by its method and its parameters.
fn operation(method: &str, query: Option<&str>) -> &'static str {
    let has = |name: &str| {
        let mut parameters = query.unwrap_or_default().split('&');
        parameters.any(|parameter| {
            let is_longer = |rest: &str| rest.is_empty() || rest.starts_with('=');
            match name.contains('=') {
                true => parameter == name,
                false => parameter.strip_prefix(name).is_some_and(is_longer),
            }
        })
    };
    match method {
        "GET" if has("list-type") || has("comp=list") => "list",
        "PROPFIND" => "list",
        "GET" => "get",
        "HEAD" => "head",
        "PUT" if has("partNumber") || has("comp=block") => "put_part",
        "PUT" => "put",
        "POST" if has("delete") || has("comp=batch") => "delete_many",
        "POST" if has("uploads") || has("uploadId") => "multipart",
        "DELETE" => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_names() {
        let cases = [
            ("GET", None, "get"),
            ("GET", Some("versionId=1"), "get"),
            ("GET", Some("list-type=2&prefix=a"), "list"),
            ("GET", Some("restype=container&comp=list"), "list"),
            ("GET", Some("comp=listen"), "get"),
            ("PUT", None, "put"),
            ("PUT", Some("partNumber=1&uploadId=x"), "put_part"),
            ("POST", Some("delete"), "delete_many"),
            ("POST", Some("deleted"), "other"),
            ("POST", Some("uploads="), "multipart"),
            ("HEAD", None, "head"),
            ("DELETE", None, "delete"),
            ("PATCH", None, "other"),
        ];
        for (method, query, expected) in cases {
            assert_eq!(operation(method, query), expected, "{method} {query:?}");
        }
    }

    #[test]
    fn kinds_of_errors_decide_what_is_sent_again() {
        let facts = |is_create, is_metadata| RequestFacts {
            operation: "put",
            bytes: 0,
            is_listing: false,
            is_create,
            is_metadata,
        };
        let kind = |facts: RequestFacts, kind, message: &str| {
            let cause = std::io::Error::other(message.to_owned());
            facts.explained(HttpError::new(kind, cause), false).kind()
        };
        use HttpErrorKind::{Connect, Interrupted, Request, Timeout, Unknown};
        assert_eq!(kind(facts(false, false), Timeout, ""), Timeout);
        assert_eq!(kind(facts(true, false), Timeout, ""), Request);
        assert_eq!(kind(facts(true, false), Interrupted, ""), Request);
        assert_eq!(kind(facts(false, true), Connect, ""), Unknown);
        let silent = HttpError::new(Connect, std::io::Error::other(""));
        let known = facts(false, true).explained(silent, true);
        assert_eq!(
            known.kind(),
            Connect,
            "one that has answered is asked again"
        );
        let untrusted = "invalid peer certificate: UnknownIssuer";
        assert_eq!(kind(facts(false, false), Connect, untrusted), Unknown);
    }
}
