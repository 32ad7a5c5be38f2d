//! Posts events, one after the other, from a queue that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gleaner_workers::shutdown::Shutdown;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::settings::Settings;

/// Events that may wait; more are dropped.
const WAITING_MAX: usize = 256;
/// Sendings of one event.
const SENDINGS_MAX: u32 = 2;

/// Sends events in the background.
#[derive(Debug)]
pub(super) struct Sender {
    waiting: mpsc::Sender<Value>,
    posting: JoinHandle<()>,
    warned: Arc<Warned>,
    timeout: Duration,
}

/// Whether somebody was told that events are lost: once is enough.
#[derive(Debug, Default)]
struct Warned(AtomicBool);

impl Warned {
    fn warn(&self, reason: &str) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason, "lineage events are lost; the run goes on");
        }
    }
}

impl Sender {
    /// A sender to a receiver.
    ///
    /// # Errors
    ///
    /// A sentence, if there cannot be one.
    pub(super) fn start(settings: Settings) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &settings.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.trim()));
            let mut value = value.map_err(|_| "the key has characters that cannot be sent")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(headers)
            .user_agent(concat!("gleaner/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| error.without_url().to_string())?;
        let (waiting, events) = mpsc::channel(WAITING_MAX);
        let warned = Arc::new(Warned::default());
        let timeout = settings.timeout;
        let posting = tokio::spawn(post_all(http, settings, events, Arc::clone(&warned)));
        Ok(Self {
            waiting,
            posting,
            warned,
            timeout,
        })
    }

    /// Sends an event soon, if others do not wait already.
    pub(super) fn send(&self, event: Value) {
        if self.waiting.try_send(event).is_err() {
            self.warned.warn("the receiver is too slow");
        }
    }

    /// Waits until everything is sent, for as long as one event may take.
    pub(super) async fn finish(self, shutdown: &Shutdown) {
        let Self {
            waiting,
            mut posting,
            warned,
            timeout,
        } = self;
        drop(waiting);
        tokio::select! {
            _ = &mut posting => return,
            () = tokio::time::sleep(timeout) => {}
            () = shutdown.cancelled() => {}
        }
        posting.abort();
        warned.warn("the receiver is too slow");
    }
}

async fn post_all(
    http: reqwest::Client,
    settings: Settings,
    mut events: mpsc::Receiver<Value>,
    warned: Arc<Warned>,
) {
    while let Some(event) = events.recv().await {
        let mut lost = None;
        for _ in 0..SENDINGS_MAX {
            lost = post(&http, &settings, &event).await.err();
            if lost.is_none() {
                break;
            }
        }
        if let Some(reason) = lost {
            warned.warn(&reason);
        }
    }
}

async fn post(http: &reqwest::Client, settings: &Settings, event: &Value) -> Result<(), String> {
    let request = http.post(settings.url.clone()).body(event.to_string());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("the receiver answers {}", answer.status())),
        Err(error) => Err(gleaner_schemas::failure::error_chain(&error.without_url())),
    }
}
