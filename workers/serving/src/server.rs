//! The server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::protocol::{Request, answer, error};
use crate::{ServedModel, ServingError};

/// Largest request, in bytes.
const REQUEST_BYTES_MAX: usize = 32 << 20;

/// A server on the loopback interface, until it is dropped.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    _running: DropGuard,
}

struct Served {
    model: ServedModel,
    name: String,
    /// Completions at a time: each keeps a core busy.
    places: Semaphore,
    n_answered: AtomicU64,
}

impl ModelServer {
    /// Serves a model by a name on a free port, as a task of the current runtime. `n_at_once`
    /// completions are written at a time; others wait.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start(
        model: ServedModel,
        name: String,
        n_at_once: usize,
    ) -> Result<Self, ServingError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(ServingError::Listen)?;
        let address = listener.local_addr().map_err(ServingError::Listen)?;
        let served = Arc::new(Served {
            model,
            name,
            places: Semaphore::new(n_at_once.max(1)),
            n_answered: AtomicU64::new(0),
        });
        let router = Router::new()
            .route("/v1/models", get(models))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
            .with_state(served);
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            // It retries what can be retried by itself, and ends when it is told to.
            let serving = axum::serve(listener, router).with_graceful_shutdown(stopped);
            let _ = serving.await;
        });
        Ok(Self {
            address,
            _running: stop.drop_guard(),
        })
    }

    /// The base URL, such as `http://127.0.0.1:40123/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

type Body = Result<Json<Request>, JsonRejection>;

async fn models(State(served): State<Arc<Served>>) -> Response {
    let model = json!({ "id": served.name, "object": "model", "owned_by": "gleaner" });
    Json(json!({ "object": "list", "data": [model] })).into_response()
}

async fn chat(State(served): State<Arc<Served>>, body: Body) -> Response {
    respond(served, body, true).await
}

async fn complete(State(served): State<Arc<Served>>, body: Body) -> Response {
    respond(served, body, false).await
}

async fn respond(served: Arc<Served>, body: Body, is_chat: bool) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(rejection) => return refuse(&rejection.body_text(), None),
    };
    if request.model != served.name {
        let message = format!(
            "The model `{}` does not exist: this is {}",
            request.model, served.name
        );
        let body = error(&message, "invalid_request_error", Some("model_not_found"));
        return (StatusCode::NOT_FOUND, Json(body)).into_response();
    }
    if let Some(parameter) = request.unsupported() {
        return refuse(&format!("`{parameter}` is not supported"), None);
    }
    // Whoever has asked may go away: then the answer is written for nobody.
    let cancelled = Arc::new(AtomicBool::new(false));
    let _guard = CancelOnDrop(Arc::clone(&cancelled));
    let Ok(_place) = served.places.acquire().await else {
        return internal("the server is closing");
    };
    let served = Arc::clone(&served);
    let writing = {
        let served = Arc::clone(&served);
        tokio::task::spawn_blocking(move || {
            let form = request.form()?;
            let prompt = match (&request.prompt, is_chat) {
                (Some(text), false) => served.model.encode_text(text)?,
                _ => served.model.encode_chat(&request.messages)?,
            };
            let id = served.n_answered.fetch_add(1, Ordering::Relaxed);
            let sampling = request.sampling(id);
            let written = served
                .model
                .complete(&prompt, &sampling, form.as_ref(), &cancelled)?;
            Ok::<_, ServingError>(answer(&served.name, &written, is_chat, id))
        })
    };
    match writing.await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(problem)) => match &problem {
            ServingError::ContextLength { .. } => {
                refuse(&problem.to_string(), Some("context_length_exceeded"))
            }
            ServingError::Schema(_) | ServingError::Template(_) | ServingError::Model(_) => {
                refuse(&problem.to_string(), None)
            }
            _ => internal(&problem.to_string()),
        },
        Err(_) => internal("the answer was not written to its end"),
    }
}

fn refuse(message: &str, code: Option<&str>) -> Response {
    let body = error(message, "invalid_request_error", code);
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

fn internal(message: &str) -> Response {
    let body = error(message, "server_error", None);
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
