//! What the server does with a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

/// A request as the server got it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The how many-th, from 0.
    pub number: usize,
    /// Path, such as `/v1/chat/completions`.
    pub path: String,
    /// Header `Idempotency-Key`, if there is one.
    pub key: Option<String>,
    /// Header `Authorization`, if there is one.
    pub authorization: Option<String>,
    /// Body; null if it is not JSON.
    pub body: Value,
}

/// What the server does.
#[derive(Debug, Clone)]
pub enum Play {
    /// Answers as well as it can.
    Answer,
    /// Answers, but not in the schema that it was asked for.
    IgnoreSchema,
    /// Answers with this text as the completion, and this reason for its end.
    Text(String, &'static str),
    /// A status with headers and a body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// A body that claims success.
    Body(Vec<u8>),
    /// The same after a pause.
    After(Duration, Box<Play>),
    /// Takes the request and never answers.
    Silence,
    /// Begins an answer that never ends.
    Endless,
    /// Breaks the connection in the middle of the answer's body.
    Reset,
    /// Closes the connection before an answer.
    Close,
}

/// Decides what to do with a request.
pub type Script = Arc<dyn Fn(&Request) -> Play + Send + Sync>;

/// The same for each request.
#[must_use]
pub fn always(play: Play) -> Script {
    Arc::new(move |_| play.clone())
}

/// One after the other; the last for ever.
#[must_use]
pub fn in_turn(plays: Vec<Play>) -> Script {
    let turn = AtomicUsize::new(0);
    Arc::new(move |_| {
        let idx = turn.fetch_add(1, Ordering::Relaxed);
        plays
            .get(idx.min(plays.len().saturating_sub(1)))
            .cloned()
            .unwrap_or(Play::Answer)
    })
}
