//! Connections, and what is played on them.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::answer::{self, Style};
use crate::http::{self, RawRequest};
use crate::log::{Answered, Log};
use crate::losses::{self, PromptLosses};
use crate::script::{Play, Request, Script};

/// Bytes of an answer that never ends, at a time.
const ENDLESS_CHUNK: usize = 1024;

/// How a server answers.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerOptions {
    /// Time until an answer begins.
    pub latency: Duration,
    /// How texts are made.
    pub style: Style,
    /// Whether a request with a key that was answered before gets the same answer for nothing.
    pub heeds_idempotency: bool,
    /// How the losses of prompts can be asked for.
    pub prompt_losses: PromptLosses,
    /// Tokens of a prompt for whose losses is asked, at most; absent: any number.
    pub context: Option<usize>,
    /// Port; 0 takes a free one.
    pub port: u16,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    log: Arc<Log>,
    _stop: DropGuard,
}

struct Shared {
    script: Script,
    options: ServerOptions,
    log: Arc<Log>,
    answers: Mutex<HashMap<String, Vec<u8>>>,
}

impl ScriptedServer {
    /// Starts a server on loopback.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub async fn start(script: Script, options: ServerOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let address = listener.local_addr()?;
        let log = Arc::new(Log::default());
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            script,
            options,
            log: Arc::clone(&log),
            answers: Mutex::default(),
        });
        let stopped = stop.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stopped.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        // Clients come and go as they like.
                        _ = shared.serve(stream) => {}
                    }
                });
            }
        });
        Ok(Self {
            address,
            log,
            _stop: stop.drop_guard(),
        })
    }

    /// The base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it answered.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// Counts a request as in flight.
struct InFlight<'a>(&'a Log, Instant);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.end(self.1.elapsed());
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = http::read(&mut reader).await? {
            let number = self.log.begin();
            let in_flight = InFlight(&self.log, Instant::now());
            let stream = reader.get_mut();
            if request.method == "GET" {
                let body =
                    json!({ "object": "list", "data": [{ "id": "scripted", "object": "model" }] });
                drop(in_flight);
                write(stream, 200, &[], body.to_string().as_bytes()).await?;
                continue;
            }
            let request = parsed(number, &request);
            let mut play = (self.script)(&request);
            let mut pause = self.options.latency;
            while let Play::After(longer, next) = play {
                pause += longer;
                play = *next;
            }
            // A client that goes away meanwhile gets no answer, and is not charged.
            if !sleep_while_connected(stream, pause).await? {
                return Ok(());
            }
            if !self.play(stream, &request, play).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Plays; whether the connection goes on.
    async fn play(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        play: Play,
    ) -> io::Result<bool> {
        match play {
            Play::Answer | Play::After(..) => self.answer(stream, request, None).await?,
            Play::IgnoreSchema => {
                let mut body = request.body.clone();
                body["response_format"] = Value::Null;
                let text = answer::completion(&body, self.options.style);
                self.answer(stream, request, Some((text, "stop"))).await?;
            }
            Play::Text(text, reason) => self.answer(stream, request, Some((text, reason))).await?,
            Play::Status(status, headers, body) => {
                write(stream, status, &headers, body.as_bytes()).await?;
                self.log.answered(Answered {
                    key: request.key.clone(),
                    status,
                    prompt_tokens: 0,
                    completion_tokens: 0,
                    is_replay: false,
                });
            }
            Play::Body(body) => {
                write(stream, 200, &[], &body).await?;
                self.charge(request, 0);
            }
            Play::Silence => {
                std::future::pending::<()>().await;
            }
            Play::Endless => {
                stream.write_all(&http::head(200, &[], 1 << 40)).await?;
                loop {
                    stream.write_all(&[b' '; ENDLESS_CHUNK]).await?;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Play::Reset => {
                stream.write_all(&http::head(200, &[], 1000)).await?;
                stream.write_all(b"{\"choices\": [").await?;
                stream.flush().await?;
                #[expect(deprecated, reason = "a reset is what this is for")]
                stream.set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
            Play::Close => return Ok(false),
        }
        Ok(true)
    }

    async fn answer(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        given: Option<(String, &str)>,
    ) -> io::Result<()> {
        if let Some(key) = request
            .key
            .as_ref()
            .filter(|_| self.options.heeds_idempotency)
        {
            let known = {
                let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
                answers.get(key).cloned()
            };
            if let Some(bytes) = known {
                write(stream, 200, &[], &bytes).await?;
                self.log.answered(Answered {
                    key: Some(key.clone()),
                    status: 200,
                    prompt_tokens: 0,
                    completion_tokens: 0,
                    is_replay: true,
                });
                return Ok(());
            }
        }
        let losses = losses::asked(&request.body, self.options.prompt_losses);
        if let (Some(losses), Some(context)) = (&losses, self.options.context)
            && losses.n_tokens() > context
        {
            let message = losses.too_long(context);
            let body = json!({ "error": { "message": message, "code": 400 } }).to_string();
            write(stream, 400, &[], body.as_bytes()).await?;
            self.log.answered(Answered {
                key: request.key.clone(),
                status: 400,
                prompt_tokens: 0,
                completion_tokens: 0,
                is_replay: false,
            });
            return Ok(());
        }
        let (text, reason) = match (&losses, given) {
            (_, Some(given)) => given,
            (Some(losses), None) => (losses.text(), "length"),
            (None, None) => (
                answer::completion(&request.body, self.options.style),
                "stop",
            ),
        };
        let prompt_tokens = prompt_tokens(&request.body, losses.as_ref());
        let completion_tokens = match &losses {
            Some(_) => 1,
            None => answer::n_tokens(&text),
        };
        let mut choice = if request.path.ends_with("/chat/completions") {
            json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": reason })
        } else {
            json!({ "index": 0, "text": text, "finish_reason": reason })
        };
        if let Some(losses) = &losses {
            losses.add_to(&mut choice);
        }
        let body = json!({
            "id": format!("scripted-{}", request.number),
            "object": "completion",
            "model": request.body.get("model"),
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        });
        let bytes = body.to_string().into_bytes();
        if let Some(key) = request
            .key
            .clone()
            .filter(|_| self.options.heeds_idempotency)
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.insert(key, bytes.clone());
        }
        write(stream, 200, &[], &bytes).await?;
        self.charge(request, completion_tokens);
        Ok(())
    }

    fn charge(&self, request: &Request, completion_tokens: u64) {
        let losses = losses::asked(&request.body, self.options.prompt_losses);
        self.log.answered(Answered {
            key: request.key.clone(),
            status: 200,
            prompt_tokens: prompt_tokens(&request.body, losses.as_ref()),
            completion_tokens,
            is_replay: false,
        });
    }
}

fn prompt_tokens(body: &Value, losses: Option<&losses::Losses>) -> u64 {
    losses.map_or_else(
        || answer::prompt_tokens(body),
        |losses| losses.n_tokens() as u64,
    )
}

/// Waits; false if the client closed the connection meanwhile.
async fn sleep_while_connected(stream: &TcpStream, pause: Duration) -> io::Result<bool> {
    let mut byte = [0];
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(true),
        peeked = stream.peek(&mut byte) => match peeked {
            // The next request may come before the answer to this one.
            Ok(n_bytes) if n_bytes > 0 => {
                tokio::time::sleep(pause).await;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        },
    }
}

fn parsed(number: usize, request: &RawRequest) -> Request {
    Request {
        number,
        path: request.path.clone(),
        key: request.header("idempotency-key").map(str::to_owned),
        authorization: request.header("authorization").map(str::to_owned),
        body: serde_json::from_slice(&request.body).unwrap_or_default(),
    }
}

async fn write(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    body: &[u8],
) -> io::Result<()> {
    let mut bytes = http::head(status, headers, body.len());
    bytes.extend_from_slice(body);
    stream.write_all(&bytes).await?;
    stream.flush().await
}
