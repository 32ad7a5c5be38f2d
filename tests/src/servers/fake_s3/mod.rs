//! A small S3 server in memory that misbehaves on demand. It checks no signature. Clients of Google's
//! store can use it too, whose XML interface has the same requests with headers of its own.
//!
//! Objects: PUT (with `If-None-Match: *`), GET (with `Range` and `If-Match`), HEAD, DELETE, list
//! (version 2, in short pages) and the deletion of many, all in path style.

mod objects;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use objects::{delete_many, get, list, put};
use wire::{Answer, Request, read_request, write_answer};

/// How the server misbehaves. `every` counts the requests of the kind: 0 is never, 1 always.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Each so-manyth request is answered with 503 SlowDown.
    pub throttle_every: u64,
    /// Each so-manyth put is stored, and answered with 500 InternalError.
    pub fail_after_put_every: u64,
    /// Each so-manyth put is stored, and the connection closed without an answer.
    pub silent_after_put_every: u64,
    /// The body of each so-manyth answer with one is cut in the middle.
    pub cut_every: u64,
    /// Each request waits so long for its answer.
    pub delay: Duration,
    /// `If-None-Match` is accepted and ignored.
    pub ignores_conditions: bool,
    /// Puts that are signed with this key are refused.
    pub deny_puts_of: Option<&'static str>,
    /// Of these, puts of objects below this prefix.
    pub deny_puts_below: &'static str,
    /// Reads that are signed with this key of objects below this prefix are refused; an empty key
    /// is every key.
    pub deny_gets_of: Option<(&'static str, &'static str)>,
    /// Every request is answered so: status, code, further elements.
    pub refuse: Option<(u16, &'static str, &'static str)>,
}

/// What the server has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests.
    pub requests: u64,
    /// Puts that were stored.
    pub puts: u64,
    /// Answers with a body that may be cut.
    pub bodies: u64,
    /// Requests that were throttled.
    pub throttled: u64,
    /// Puts that were stored and answered with an error or not at all.
    pub failed_puts: u64,
    /// Bodies that were cut.
    pub cut: u64,
    /// Requests that were denied to their signer.
    pub denied: u64,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Bytes,
    etag: String,
    modified: DateTime<Utc>,
}

#[derive(Debug, Default)]
struct State {
    buckets: BTreeSet<String>,
    objects: BTreeMap<(String, String), Object>,
    faults: Faults,
    counts: Counts,
}

/// The server, on a port and a thread of its own. Ends when dropped.
#[derive(Debug)]
pub struct FakeS3 {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeS3 {
    /// A server with these buckets that behaves.
    ///
    /// # Panics
    ///
    /// If there is no port to be had.
    #[must_use]
    pub fn start(buckets: &[&str]) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            buckets: buckets.iter().map(|&bucket| bucket.to_owned()).collect(),
            ..State::default()
        }));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let serve = async {
                    loop {
                        if let Ok((stream, _)) = listener.accept().await {
                            tokio::spawn(serve(stream, Arc::clone(&shared)));
                        }
                    }
                };
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self {
            address,
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Misbehaves like this from now on, and counts anew.
    pub fn set(&self, faults: Faults) {
        let mut state = lock(&self.state);
        state.faults = faults;
        state.counts = Counts::default();
    }

    /// What it has done since it was told how to behave.
    #[must_use]
    pub fn counts(&self) -> Counts {
        lock(&self.state).counts
    }

    /// Stores an object.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        lock(&self.state).put(bucket, key, bytes.into());
    }

    /// The objects of a bucket whose keys begin with `prefix`.
    #[must_use]
    pub fn objects(&self, bucket: &str, prefix: &str) -> BTreeMap<String, Bytes> {
        let state = lock(&self.state);
        let objects = state.objects.iter();
        objects
            .filter(|((in_bucket, key), _)| in_bucket == bucket && key.starts_with(prefix))
            .map(|((_, key), object)| (key.clone(), object.bytes.clone()))
            .collect()
    }

    /// The environment of a program that uses this server.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        self.variables_of("key")
    }

    /// The environment of a program that uses this server as Google's store (`gs://`).
    #[must_use]
    pub fn google_variables(&self) -> Vec<(String, String)> {
        let key = r#"{"private_key": "key", "private_key_id": "id", "client_email": "a@b", "disable_oauth": true}"#;
        let url = format!("http://{}", self.address);
        let variables = [
            ("GOOGLE_SERVICE_ACCOUNT_KEY", key),
            ("GOOGLE_BASE_URL", &url),
        ];
        variables
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// The environment of a program that uses this server with another access key.
    #[must_use]
    pub fn variables_of(&self, key: &str) -> Vec<(String, String)> {
        variables(&format!("http://{}", self.address), key, "secret")
    }
}

/// The environment of a program that uses an S3 server.
#[must_use]
pub fn variables(endpoint: &str, key: &str, secret: &str) -> Vec<(String, String)> {
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", key),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ];
    variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// Variables of a store, so that one that is gone is given up soon.
#[must_use]
pub fn hasty(mut variables: Vec<(String, String)>) -> Vec<(String, String)> {
    variables.push(("GLEANER_STORE_RETRY_SECONDS".to_owned(), "1".to_owned()));
    variables
}

/// Variables of a store, so that an answer is not waited for long. Not where another failure than
/// silence is to be told after many tries: a machine that stands still for that time makes the last
/// one look like silence.
#[must_use]
pub fn impatient(mut variables: Vec<(String, String)>) -> Vec<(String, String)> {
    variables.push(("GLEANER_STORE_TIMEOUT_SECONDS".to_owned(), "2".to_owned()));
    hasty(variables)
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_due(every: u64, count: u64) -> bool {
    every != 0 && count.is_multiple_of(every)
}

impl State {
    fn put(&mut self, bucket: &str, key: &str, bytes: Bytes) {
        let object = Object {
            etag: format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]),
            bytes,
            modified: Utc::now(),
        };
        self.objects
            .insert((bucket.to_owned(), key.to_owned()), object);
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Ok(Some(request)) = read_request(&mut stream).await {
        let delay = lock(&state).faults.delay;
        tokio::time::sleep(delay).await;
        let answer = answer(&mut lock(&state), &request);
        if write_answer(&mut stream, answer).await.is_err() {
            return;
        }
    }
}

fn answer(state: &mut State, request: &Request) -> Answer {
    state.counts.requests += 1;
    if let Some((status, code, more)) = state.faults.refuse {
        return Answer::error(status, code, more);
    }
    if is_due(state.faults.throttle_every, state.counts.requests) {
        state.counts.throttled += 1;
        return Answer::error(503, "SlowDown", "");
    }
    if !state.buckets.contains(&request.bucket) {
        return Answer::error(404, "NoSuchBucket", "");
    }
    if request.method == "PUT"
        && state.faults.deny_puts_of == Some(request.signer())
        && request.key.starts_with(state.faults.deny_puts_below)
    {
        state.counts.denied += 1;
        return Answer::error(403, "AccessDenied", "");
    }
    if let Some((key, prefix)) = state.faults.deny_gets_of
        && request.method == "GET"
        && !request.key.is_empty()
        && request.key.starts_with(prefix)
        && (key.is_empty() || key == request.signer())
    {
        state.counts.denied += 1;
        return Answer::error(403, "AccessDenied", "");
    }
    let mut answer = match request.method.as_str() {
        "PUT" => return put(state, request),
        "POST" if request.query.contains_key("delete") => delete_many(state, request),
        "DELETE" => {
            let key = (request.bucket.clone(), request.key.clone());
            state.objects.remove(&key);
            Answer::new(204, "")
        }
        "GET" if request.key.is_empty() => list(state, request),
        "GET" | "HEAD" => get(state, request),
        _ => Answer::error(501, "NotImplemented", ""),
    };
    if answer.status < 300 && answer.body.len() > 1 {
        state.counts.bodies += 1;
        if is_due(state.faults.cut_every, state.counts.bodies) {
            state.counts.cut += 1;
            answer.length = Some(answer.body.len());
            answer.body.truncate(answer.body.len() / 2);
            answer.is_closing = true;
        }
    }
    answer
}
