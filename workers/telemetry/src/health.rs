//! A server that says whether the program lives, whether it is ready, and what it has done.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;

use crate::TelemetryError;
use crate::metrics::{Metrics, UPKEEP_EVERY};
use crate::serving::Listening;

/// The media type of metrics.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the program can take work, and if not, why. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Option<String>>>);

impl Readiness {
    /// Not ready, for a reason such as `not connected to the broker`.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Arc::new(watch::Sender::new(Some(reason.into()))))
    }

    /// The program can take work.
    pub fn ready(&self) {
        self.0.send_replace(None);
    }

    /// The program cannot take work. The reason is shown to whoever asks: no secrets.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.0.send_replace(Some(reason.into()));
    }

    /// Why the program cannot take work; `None` if it can.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

/// A server that listens, and answers once it is served.
///
/// `/live` answers 200 while the process runs, whatever it can reach: restarting it would not
/// help. `/ready` answers 200 or 503 with the reason. `/metrics` answers for Prometheus.
#[derive(Debug)]
pub struct HealthServer(Listening);

impl HealthServer {
    /// Listens on an address; port 0 takes any.
    ///
    /// # Errors
    ///
    /// If the address is taken, or not of this machine.
    pub async fn bind(address: SocketAddr) -> Result<Self, TelemetryError> {
        Ok(Self(Listening::bind(address).await?))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Answers until `shutdown` ends.
    pub async fn serve(
        self,
        readiness: Readiness,
        metrics: Metrics,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) {
        let router = router(readiness, metrics.clone());
        let upkeep = async {
            loop {
                tokio::time::sleep(UPKEEP_EVERY).await;
                metrics.run_upkeep();
            }
        };
        tokio::select! {
            () = self.0.serve(router, shutdown) => {}
            () = upkeep => {}
        }
    }
}

/// Listens on `address` and answers until `shutdown` ends. See [`HealthServer`].
///
/// # Errors
///
/// If the address cannot be listened on, or metrics are collected already.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), TelemetryError> {
    let server = HealthServer::bind(address).await?;
    let metrics = Metrics::install()?;
    server.serve(readiness, metrics, shutdown).await;
    Ok(())
}

#[derive(Debug, Clone)]
struct Shown {
    readiness: Readiness,
    metrics: Metrics,
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(Shown { readiness, metrics })
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    match shown.readiness.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, PROMETHEUS_TEXT)],
        shown.metrics.render(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    /// The status line and the body of an answer.
    async fn ask(address: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.lines().next().unwrap_or_default();
        (status.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn it_tells_life_readiness_and_metrics_until_it_is_stopped() {
        let server = HealthServer::bind("127.0.0.1:0".parse().unwrap()).await;
        let server = server.unwrap();
        let address = server.address();
        let readiness = Readiness::new("not connected to the broker");
        let metrics = Metrics::install().unwrap();
        assert!(matches!(Metrics::install(), Err(TelemetryError::Metrics)));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve(readiness.clone(), metrics, async {
            let _ = stopped.await;
        }));

        let ok = "HTTP/1.1 200 OK".to_owned();
        let unavailable = "HTTP/1.1 503 Service Unavailable".to_owned();
        assert_eq!(
            ask(address, "/live").await,
            (ok.clone(), "live\n".to_owned())
        );
        let why = "not connected to the broker\n".to_owned();
        assert_eq!(ask(address, "/ready").await, (unavailable.clone(), why));
        readiness.ready();
        assert_eq!(
            ask(address, "/ready").await,
            (ok.clone(), "ready\n".to_owned())
        );
        readiness.not_ready("stopping");
        let why = "stopping\n".to_owned();
        assert_eq!(ask(address, "/ready").await, (unavailable, why));
        metrics::counter!(gleaner_schemas::metric::ATTEMPTS).increment(1);
        let (status, body) = ask(address, "/metrics").await;
        assert_eq!(status, ok);
        assert!(body.contains("gleaner_attempts_total 1"), "{body}");
        assert!(ask(address, "/").await.0.contains("404"));

        // A connection that stays open does not keep the server alive.
        let idle = TcpStream::connect(address).await.unwrap();
        stop.send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
        ended.unwrap().unwrap();
        drop(idle);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let first = HealthServer::bind("127.0.0.1:0".parse().unwrap())
            .await
            .unwrap();
        let error = HealthServer::bind(first.address()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot listen on {}", first.address())
        );
    }
}
