//! The page's server: the page itself, a stream of snapshots, and nothing that changes anything.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use gleaner_telemetry::{Listening, TelemetryError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::board::Board;
use super::follow::{self, Follower, LOOK_EVERY};
use super::host::Hosts;

/// The port of the page, unless another is asked for.
pub const DEFAULT_PORT: u16 = 7373;
/// Pause between two snapshots.
const TICK: Duration = Duration::from_millis(500);
/// Readers that come at once get one snapshot.
const TICK_MIN: Duration = Duration::from_millis(100);
/// A snapshot comes at least this often, also when nothing has changed.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The browser asks again this long after it has lost the connection.
const RECONNECT_AFTER: Duration = Duration::from_secs(2);
/// A comment is sent after this long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// People that watch at a time.
const READERS_MAX: usize = 64;
/// The last figures are read from the store within this time.
const LAST_LOOK_MAX: Duration = Duration::from_secs(2);

/// Nothing is loaded from elsewhere, nothing runs that is not the page's own script, nobody frames
/// the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of every answer.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

/// A page to watch a run, at an address that is listened on.
#[derive(Debug)]
pub struct Dashboard {
    listening: Listening,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    board: Board,
    hosts: Hosts,
    latest: watch::Sender<Latest>,
    /// Somebody begins to watch.
    came: Notify,
    readers: Arc<Semaphore>,
}

/// What was sent last.
#[derive(Debug, Clone, Default)]
struct Latest {
    snapshot: Arc<str>,
    /// The process is about to end.
    is_last: bool,
}

impl Dashboard {
    /// Listens on an address; without one on [`DEFAULT_PORT`] of this machine, or another port of
    /// it where that is taken.
    ///
    /// # Errors
    ///
    /// If the address is taken, or not of this machine.
    pub async fn bind(
        address: Option<SocketAddr>,
        hosts: Hosts,
        board: Board,
    ) -> Result<Self, TelemetryError> {
        let listening = match address {
            Some(address) => Listening::bind(address).await?,
            None => {
                let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                match Listening::bind(local(DEFAULT_PORT)).await {
                    Ok(listening) => listening,
                    Err(_) => Listening::bind(local(0)).await?,
                }
            }
        };
        Ok(Self {
            listening,
            shared: Arc::new(Shared {
                board,
                hosts,
                latest: watch::Sender::default(),
                came: Notify::new(),
                readers: Arc::new(Semaphore::new(READERS_MAX)),
            }),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Answers until `shutdown` ends; then readers get the last figures.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Self { listening, shared } = self;
        let router = router(Arc::clone(&shared));
        let ending = Arc::clone(&shared);
        let shutdown = async move {
            shutdown.await;
            ending.end().await;
        };
        tokio::select! {
            () = listening.serve(router, shutdown) => {}
            () = shared.publish() => {}
            () = shared.follow() => {}
        }
    }
}

impl Shared {
    /// Makes snapshots while somebody watches. Never returns.
    async fn publish(&self) {
        let mut told: Option<(u64, Instant)> = None;
        loop {
            if self.latest.receiver_count() == 0 {
                self.came.notified().await;
                told = None;
                continue;
            }
            let revision = self.board.lock().revision;
            let is_told = told.is_some_and(|(of, at)| of == revision && at.elapsed() < HEARTBEAT);
            if !is_told {
                self.tell(false);
                told = Some((revision, Instant::now()));
            }
            tokio::time::sleep(TICK_MIN).await;
            tokio::select! {
                () = tokio::time::sleep(TICK - TICK_MIN) => {}
                () = self.came.notified() => told = None,
            }
        }
    }

    fn tell(&self, is_last: bool) {
        let snapshot = self.board.snapshot_json().into();
        self.latest.send_if_modified(|latest| {
            // Nothing follows what was last.
            let is_news = !latest.is_last;
            if is_news {
                *latest = Latest { snapshot, is_last };
            }
            is_news
        });
    }

    /// Reads what only the store knows while somebody watches. Never returns.
    async fn follow(&self) {
        let mut follower = Follower::default();
        loop {
            if self.latest.receiver_count() > 0 {
                follower.look(&self.board).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends the last figures.
    async fn end(&self) {
        if self.latest.receiver_count() > 0 {
            // What cannot be read in time is as it was.
            let _ = tokio::time::timeout(LAST_LOOK_MAX, follow::spent(&self.board)).await;
        }
        self.tell(true);
    }
}

fn router(shared: Arc<Shared>) -> Router {
    const HTML: &str = "text/html; charset=utf-8";
    const CSS: &str = "text/css; charset=utf-8";
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    Router::new()
        .route(
            "/",
            get(async || file(HTML, include_str!("page/index.html"))),
        )
        .route(
            "/page.css",
            get(async || file(CSS, include_str!("page/page.css"))),
        )
        .route(
            "/text.js",
            get(async || file(SCRIPT, include_str!("page/text.js"))),
        )
        .route(
            "/parts.js",
            get(async || file(SCRIPT, include_str!("page/parts.js"))),
        )
        .route(
            "/page.js",
            get(async || file(SCRIPT, include_str!("page/page.js"))),
        )
        .route("/snapshot.json", get(snapshot))
        .route("/events", get(events))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared)
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media_type)], text).into_response()
}

async fn snapshot(State(shared): State<Arc<Shared>>) -> Response {
    let json = shared.board.snapshot_json();
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}

/// Snapshots as they are made, until the process ends.
async fn events(State(shared): State<Arc<Shared>>) -> Response {
    let Ok(seat) = Arc::clone(&shared.readers).try_acquire_owned() else {
        let why = "too many people watch already\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let mut latest = shared.latest.subscribe();
    if latest.borrow().is_last {
        latest.mark_changed();
    }
    shared.came.notify_one();
    let stream = futures::stream::unfold(Some((latest, seat)), async |reader| {
        let (mut latest, seat) = reader?;
        latest.changed().await.ok()?;
        let Latest { snapshot, is_last } = latest.borrow_and_update().clone();
        let event = Event::default()
            .event("snapshot")
            .retry(RECONNECT_AFTER)
            .data(snapshot);
        let next = (!is_last).then_some((latest, seat));
        Some((Ok::<_, Infallible>(event), next))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(stream).keep_alive(keep_alive).into_response()
}

/// Answers only what is asked for by a name of ours, and only to be looked at.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&shared.hosts, &request) {
        Some((status, why)) => (status, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<(StatusCode, &'static str)> {
    let headers = request.headers();
    let is_ours = |host: &str| hosts.answers(host);
    let authority = request.uri().authority();
    let by_header = one(headers, &header::HOST).is_some_and(is_ours);
    if !by_header || authority.is_some_and(|it| !is_ours(it.as_str())) {
        return Some((
            StatusCode::MISDIRECTED_REQUEST,
            "ask by an address, by localhost, or by a name given as --dashboard-host\n",
        ));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some((
            StatusCode::METHOD_NOT_ALLOWED,
            "this can only be looked at\n",
        ));
    }
    // Pages of other sites may link here, and nothing else.
    let from = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    let is_foreign = matches!(from, Some(b"cross-site" | b"same-site"));
    (is_foreign && request.uri().path() != "/").then_some((
        StatusCode::FORBIDDEN,
        "this is not for pages of other sites\n",
    ))
}

/// The value of a header that stands there once.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

#[cfg(test)]
mod tests;
