//! A small S3 server in memory that misbehaves on demand. It checks no signature.
//!
//! Objects: PUT (with `If-None-Match: *`), GET (with `Range` and `If-Match`), HEAD, DELETE, list
//! (version 2, in short pages) and the deletion of many, all in path style.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Keys of a page of a listing: few, so that listings have several pages.
const PAGE_KEYS: usize = 20;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;

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
        variables(&format!("http://{}", self.address), "key", "secret")
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

/// A request, whole.
#[derive(Debug)]
struct Request {
    method: String,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Bytes,
}

/// An answer; `is_closing` breaks the connection after it.
#[derive(Debug, Default)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// Of a HEAD request: the length without the body.
    length: Option<usize>,
    is_closing: bool,
    is_silent: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    fn error(status: u16, code: &str, more: &str) -> Self {
        let body = format!(
            "<Error><Code>{code}</Code><Message>as the test wants it</Message>{more}</Error>"
        );
        Self::new(status, body)
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

async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Ok(None);
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = BTreeMap::new();
    let mut n_bytes = 0;
    loop {
        line.clear();
        n_bytes += stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        if n_bytes > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let length = headers.get("content-length").map_or("0", String::as_str);
    let mut body = vec![0; length.parse().map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = decoded(path.trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let query = query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name.to_owned(), decoded(&value.replace('+', " ")))
    });
    Ok(Some(Request {
        method,
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        query: query.collect(),
        headers,
        body: body.into(),
    }))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
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

fn put(state: &mut State, request: &Request) -> Answer {
    let is_create = request.headers.contains_key("if-none-match");
    let key = (request.bucket.clone(), request.key.clone());
    let exists = state.objects.contains_key(&key);
    if is_create && exists && !state.faults.ignores_conditions {
        return Answer::error(412, "PreconditionFailed", "");
    }
    state.put(&request.bucket, &request.key, request.body.clone());
    state.counts.puts += 1;
    let count = state.counts.puts;
    if is_due(state.faults.fail_after_put_every, count) {
        state.counts.failed_puts += 1;
        return Answer::error(500, "InternalError", "");
    }
    if is_due(state.faults.silent_after_put_every, count) {
        state.counts.failed_puts += 1;
        return Answer {
            is_silent: true,
            ..Answer::default()
        };
    }
    let mut answer = Answer::new(200, "");
    let etag = state.objects[&key].etag.clone();
    answer.headers.push(("ETag", etag));
    answer
}

fn get(state: &State, request: &Request) -> Answer {
    let key = (request.bucket.clone(), request.key.clone());
    let is_head = request.method == "HEAD";
    let Some(object) = state.objects.get(&key) else {
        let mut answer = Answer::error(404, "NoSuchKey", "");
        if is_head {
            answer.body.clear();
        }
        return answer;
    };
    let expected = request.headers.get("if-match");
    if expected.is_some_and(|expected| *expected != object.etag) {
        return Answer::error(412, "PreconditionFailed", "");
    }
    let size = object.bytes.len();
    let mut answer = Answer::new(200, object.bytes.clone());
    let range = request.headers.get("range");
    if let Some((begin, end)) = range.and_then(|range| parsed_range(range, size)) {
        answer.status = 206;
        answer.body = object.bytes.slice(begin..end);
        let content_range = format!("bytes {begin}-{}/{size}", end - 1);
        answer.headers.push(("Content-Range", content_range));
    }
    answer.headers.push(("ETag", object.etag.clone()));
    let modified = object.modified.format("%a, %d %b %Y %H:%M:%S GMT");
    answer.headers.push(("Last-Modified", modified.to_string()));
    if is_head {
        answer.length = Some(answer.body.len());
        answer.body.clear();
    }
    answer
}

/// `bytes=1-2`, `bytes=1-` and `bytes=-2` as begin and end.
fn parsed_range(range: &str, size: usize) -> Option<(usize, usize)> {
    let (begin, end) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (begin, end) = match (begin, end) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (begin, "") => (begin.parse().ok()?, size),
        (begin, end) => (begin.parse().ok()?, end.parse::<usize>().ok()? + 1),
    };
    let end = end.min(size);
    (begin < end).then_some((begin, end))
}

fn list(state: &State, request: &Request) -> Answer {
    let parameter = |name: &str| request.query.get(name).map_or("", String::as_str);
    let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
    let after = parameter("continuation-token").max(parameter("start-after"));
    let mut folders = BTreeSet::new();
    let mut contents = String::new();
    let mut last = None;
    let mut n_keys = 0;
    for ((bucket, key), object) in &state.objects {
        let is_meant = *bucket == request.bucket && key.starts_with(prefix);
        if !is_meant || key.as_str() <= after {
            continue;
        }
        if n_keys == PAGE_KEYS {
            break;
        }
        n_keys += 1;
        last = Some(key);
        let rest = &key[prefix.len()..];
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(end) => {
                folders.insert(key[..=prefix.len() + end].to_owned());
            }
            None => contents.push_str(&format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
                escaped(key),
                object.modified.format("%Y-%m-%dT%H:%M:%S%.3fZ"),
                escaped(&object.etag),
                object.bytes.len()
            )),
        }
    }
    let token = match last {
        Some(last) if n_keys == PAGE_KEYS => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>",
            escaped(last)
        ),
        _ => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    let folders: String = folders
        .iter()
        .map(|folder| {
            format!(
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                escaped(folder)
            )
        })
        .collect();
    Answer::new(
        200,
        format!("<ListBucketResult>{token}{contents}{folders}</ListBucketResult>"),
    )
}

fn delete_many(state: &mut State, request: &Request) -> Answer {
    let body = String::from_utf8_lossy(&request.body).into_owned();
    let mut deleted = String::new();
    for part in body.split("<Key>").skip(1) {
        let key = part.split("</Key>").next().unwrap_or_default();
        let object = (request.bucket.clone(), unescaped(key));
        state.objects.remove(&object);
        deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
    }
    Answer::new(200, format!("<DeleteResult>{deleted}</DeleteResult>"))
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&quot;", "\"").replace("&gt;", ">");
    text.replace("&lt;", "<").replace("&amp;", "&")
}

async fn write_answer(stream: &mut BufReader<TcpStream>, answer: Answer) -> io::Result<()> {
    if answer.is_silent {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    let length = answer.length.unwrap_or(answer.body.len());
    let mut head = format!(
        "HTTP/1.1 {} As-The-Test-Wants\r\nContent-Length: {length}\r\nContent-Type: application/xml\r\n",
        answer.status
    );
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&answer.body).await?;
    stream.flush().await?;
    match answer.is_closing {
        true => Err(io::ErrorKind::ConnectionReset.into()),
        false => Ok(()),
    }
}
