//! The client against a server that does what it should not.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests may fail as tests do; clippy allows it in `#[test]` functions alone"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gleaner_endpoint::{
    CallError, ChatMessage, Client, CompletionRequest, Dialect, EndpointConfig, FailureClass, Pace,
    Parameters, Prompt, RawReply, Reply, ResponseSchema, Secret, Series, Timeouts,
};
use gleaner_scripted_endpoint::{Play, Script, ScriptedServer, ServerOptions, always, in_turn};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Consents to everything, and counts.
#[derive(Default)]
struct Consent(AtomicU32);

#[async_trait]
impl Pace for Consent {
    async fn before(&self, _previous: Option<FailureClass>, _series: Series) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        true
    }
}

fn config(url: String) -> EndpointConfig {
    EndpointConfig {
        name: "llm".to_owned(),
        url,
        model: "tiny".to_owned(),
        api_key: Some(Secret::new("sk-secret".to_owned())),
        dialect: Dialect::Auto,
        concurrency: 8,
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_millis(400),
            total: Duration::from_millis(800),
        },
        attempts_max: 3,
        patience: Duration::from_secs(1),
    }
}

fn client(config: EndpointConfig) -> Client {
    Client::new(config, Arc::new(|| 1)).expect("a client")
}

fn request() -> CompletionRequest {
    CompletionRequest {
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user".to_owned(),
            content: "Write about rivers and bridges.".to_owned(),
        }]),
        parameters: Parameters::default(),
        schema: Some(ResponseSchema {
            name: "answer".to_owned(),
            schema: json!({
                "type": "object",
                "properties": { "text": { "type": "string", "maxLength": 40 } },
            }),
        }),
        stage: "test".to_owned(),
        sample: 0,
        model: None,
    }
}

async fn server(script: Script) -> ScriptedServer {
    ScriptedServer::start(script, ServerOptions::default())
        .await
        .expect("a server")
}

async fn complete(client: &Client) -> Result<RawReply, CallError> {
    let cancel = CancellationToken::new();
    client
        .complete(
            &request(),
            client.key(&request()),
            &Consent::default(),
            &cancel,
        )
        .await
}

fn status(status: u16, body: &str) -> Play {
    Play::Status(status, Vec::new(), body.to_owned())
}

/// The class that a server ends in, and how many requests it got.
async fn check(play: Play, class: FailureClass, n_requests: usize, words: &str) {
    let shown = format!("{play:?}").chars().take(80).collect::<String>();
    let server = server(always(play)).await;
    let error = complete(&client(config(server.url())))
        .await
        .expect_err(&shown);
    assert_eq!(error.class, class, "{shown}: {error}");
    if class == FailureClass::Overloaded {
        // Waited for until patience ends.
        assert!(server.log().n_requests() > 1, "{shown}: {error}");
    } else {
        assert_eq!(server.log().n_requests(), n_requests, "{shown}: {error}");
    }
    let text = format!("{error} {error:?}");
    assert!(text.contains(words), "{shown}: {text}");
    assert!(!text.contains("sk-secret"), "{text}");
}

#[tokio::test]
async fn what_stops_the_job_is_sent_once() {
    use FailureClass as C;
    let key = r#"{"error": {"message": "Incorrect API key provided: sk-secret"}}"#;
    check(status(401, key), C::Authentication, 1, "Incorrect API key").await;
    check(status(403, "forbidden"), C::Authentication, 1, "forbidden").await;
    let model = r#"{"error": {"message": "The model `tiny` does not exist"}}"#;
    check(status(404, model), C::ModelNotFound, 1, "does not exist").await;
    let quota = r#"{"error": {"code": "insufficient_quota", "message": "pay more"}}"#;
    check(status(429, quota), C::QuotaExhausted, 1, "pay more").await;
}

#[tokio::test]
async fn what_concerns_the_request_is_sent_once() {
    use FailureClass as C;
    check(
        status(400, r#"{"error": "no such parameter"}"#),
        C::BadRequest,
        1,
        "no such",
    )
    .await;
    let context = r#"{"error": {"message": "the request exceeds the available context size"}}"#;
    check(status(400, context), C::ContextOverflow, 1, "context size").await;
    let filter = r#"{"error": {"code": "content_filter"}}"#;
    check(status(400, filter), C::ContentFilter, 1, "content_filter").await;
    // llama-cpp-python says 500 where it means 400.
    let validation = r#"{"error": {"message": "1 validation error for Body"}}"#;
    check(
        status(500, validation),
        C::BadRequest,
        1,
        "validation error",
    )
    .await;
}

#[tokio::test]
async fn success_that_is_none() {
    use FailureClass as C;
    let body = |text: &str| Play::Body(text.as_bytes().to_vec());
    let full = body(r#"{"error": {"message": "busy", "code": 503}}"#);
    check(full, C::Overloaded, 5, "busy").await;
    let quota = body(r#"{"error": {"message": "insufficient_quota", "code": 429}}"#);
    check(quota, C::QuotaExhausted, 1, "insufficient_quota").await;
}

#[tokio::test]
async fn what_may_pass_is_sent_again_and_not_for_ever() {
    use FailureClass as C;
    check(status(500, "oops"), C::ServerError, 3, "oops").await;
    check(Play::Reset, C::ConnectionReset, 3, "").await;
    check(Play::Silence, C::TimeoutFirstByte, 3, "begin to answer").await;
    check(Play::Endless, C::TimeoutTotal, 3, "end its answer").await;
    check(Play::Close, C::ConnectionReset, 3, "").await;
}

#[tokio::test]
async fn nobody_listens() {
    let url = server(always(Play::Answer)).await.url();
    let error = complete(&client(config(url)))
        .await
        .expect_err("nobody listens");
    assert_eq!(error.class, FailureClass::TimeoutConnect, "{error}");
    assert!(error.is_endpoint_down);
    assert_eq!(error.n_sendings, 3);
}

#[tokio::test]
async fn failures_that_pass() {
    let hints = |name, value: &str| vec![(name, value.to_owned())];
    let plays = vec![
        Play::Status(429, hints("retry-after-ms", "5"), String::new()),
        Play::Status(429, hints("retry-after", "0"), String::new()),
        Play::Status(429, hints("x-ratelimit-reset-tokens", "3ms"), String::new()),
        status(429, "slow down"),
        status(503, ""),
        status(529, ""),
        status(500, "oops"),
        Play::Reset,
        Play::Answer,
    ];
    let n_plays = plays.len();
    let server = server(in_turn(plays)).await;
    let client = client(config(server.url()));
    let consent = Consent::default();
    let cancel = CancellationToken::new();
    let reply = client
        .complete(&request(), client.key(&request()), &consent, &cancel)
        .await
        .expect("a reply");
    assert_eq!(reply.n_sendings as usize, n_plays);
    // Each sending was asked for.
    assert_eq!(consent.0.load(Ordering::Relaxed) as usize, n_plays);
    assert_eq!(server.log().n_requests(), n_plays);
    let text = Reply::decode(&reply.body).expect("a text").choice.text;
    assert!(text.starts_with("{\"text\":"), "{text}");
}

#[tokio::test]
async fn a_server_that_always_says_wait_is_given_up_with_its_words() {
    let server = server(always(status(
        429,
        r#"{"error": {"message": "tier 1 is full"}}"#,
    )))
    .await;
    let error = complete(&client(config(server.url())))
        .await
        .expect_err("it never answers");
    assert_eq!(error.class, FailureClass::RateLimited);
    assert!(error.is_endpoint_down);
    assert!(error.message.contains("tier 1 is full"), "{error}");
    assert!(server.log().n_requests() > 2);
}

#[tokio::test]
async fn a_request_that_fails_where_others_do_not_is_its_own_fault() {
    let script: Script = Arc::new(|request| {
        let text = request.body.to_string();
        if text.contains("poison") {
            status(500, "oops")
        } else {
            Play::Answer
        }
    });
    let server = server(script).await;
    let client = client(config(server.url()));
    let cancel = CancellationToken::new();
    let mut poison = request();
    poison.prompt = Prompt::Text("poison".to_owned());
    // Alone or not, as the only request of a job or as its last.
    let ask = async || {
        let error = client
            .complete(&poison, client.key(&poison), &Consent::default(), &cancel)
            .await
            .expect_err("it is poison");
        assert_eq!(error.class, FailureClass::ServerError);
        error.is_endpoint_down
    };
    for _ in 0..3 {
        assert!(!ask().await);
    }
    complete(&client).await.expect("a reply");
    // Many that fail without an answer to anybody are not all at fault.
    let mut downs = Vec::new();
    for _ in 0..5 {
        downs.push(ask().await);
    }
    assert_eq!(downs, [false, false, false, false, true]);
}

#[tokio::test]
async fn schemas_are_asked_for_as_the_server_understands_it() {
    let check = async |refused: &'static [&'static str], dialect: Dialect, expected, n_requests| {
        let script: Script = Arc::new(move |request| {
            let format = request.body.pointer("/response_format/type");
            let format = format.and_then(|it| it.as_str()).unwrap_or("none");
            if refused.contains(&format) {
                let body = format!("unsupported response_format {format}");
                status(if format == "json_schema" { 500 } else { 400 }, &body)
            } else {
                Play::Answer
            }
        });
        let server = server(script).await;
        let client = client(EndpointConfig {
            dialect,
            ..config(server.url())
        });
        let reply = complete(&client).await;
        assert_eq!(
            reply.is_ok(),
            expected != Dialect::Auto,
            "{refused:?} {reply:?}"
        );
        if let Ok(reply) = reply {
            assert_eq!(reply.dialect, expected, "{refused:?}");
            complete(&client).await.expect("it is known by now");
        }
        assert_eq!(server.log().n_requests(), n_requests, "{refused:?}");
    };
    check(&[], Dialect::Auto, Dialect::JsonSchema, 2).await;
    check(&["json_schema"], Dialect::Auto, Dialect::JsonObject, 3).await;
    check(
        &["json_schema", "json_object"],
        Dialect::Auto,
        Dialect::None,
        4,
    )
    .await;
    // What the job file names is used.
    check(&["json_object"], Dialect::JsonObject, Dialect::Auto, 1).await;
    check(&["json_schema"], Dialect::None, Dialect::None, 2).await;
}

#[tokio::test]
async fn large_and_broken_bodies_come_as_they_are() {
    let large = format!(
        "{{\"choices\": [{{\"text\": \"{}\"}}]}}",
        "x".repeat(5 << 20)
    );
    for body in [
        large.into_bytes(),
        b"\xff\xfe".to_vec(),
        b"not json".to_vec(),
        Vec::new(),
    ] {
        let server = server(always(Play::Body(body.clone()))).await;
        let mut config = config(server.url());
        config.timeouts.total = Duration::from_secs(20);
        let reply = complete(&client(config)).await.expect("a reply");
        assert!(reply.body == body);
    }
    let server = server(always(Play::Body(vec![b' '; 17 << 20]))).await;
    let mut config = config(server.url());
    config.timeouts.total = Duration::from_secs(20);
    let error = complete(&client(config))
        .await
        .expect_err("it is too large");
    assert_eq!(error.class, FailureClass::TooLarge);
}

#[tokio::test]
async fn key_and_idempotency_are_sent() {
    let script: Script = Arc::new(|request| {
        let body = format!("{:?} {:?}", request.authorization, request.key);
        Play::Text(body, "stop")
    });
    let server = server(script).await;
    let client = client(config(server.url()));
    let reply = complete(&client).await.expect("a reply");
    let text = Reply::decode(&reply.body).expect("a text").choice.text;
    let key = client.key(&request());
    // What a server repeats of the key is not kept.
    assert_eq!(text, format!("Some(\"Bearer ...\") Some(\"{key}\")"));
    assert!(!format!("{client:?} {:?}", config(server.url())).contains("sk-secret"));
}

#[tokio::test]
async fn many_at_a_time_and_no_more() {
    let options = ServerOptions {
        latency: Duration::from_millis(20),
        ..ServerOptions::default()
    };
    let server = ScriptedServer::start(always(Play::Answer), options)
        .await
        .expect("a server");
    let client = client(config(server.url()));
    let calls = (0..64).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { complete(&client).await.map(|_| ()) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.expect("no panic").expect("a reply");
    }
    assert_eq!(server.log().n_requests(), 64);
    assert_eq!(server.log().n_in_flight_max(), 8);
}

#[tokio::test]
async fn nothing_is_sent_after_cancelling() {
    let server = server(always(status(503, ""))).await;
    let client = client(config(server.url()));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let consent = Consent::default();
    let ended = client
        .complete(&request(), client.key(&request()), &consent, &cancel)
        .await;
    assert!(ended.is_err());
    assert_eq!(server.log().n_requests(), 0);
}

#[tokio::test]
async fn after_a_refused_key_nobody_sends() {
    let script: Script = Arc::new(|request| {
        let (latency, play) = match request.number {
            0 => (100, status(401, "wrong key")),
            _ => (300, Play::Answer),
        };
        Play::After(Duration::from_millis(latency), Box::new(play))
    });
    let server = server(script).await;
    let client = client(EndpointConfig {
        concurrency: 2,
        ..config(server.url())
    });
    let calls = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { complete(&client).await })
    });
    let mut n_answered = 0;
    for call in calls.collect::<Vec<_>>() {
        match call.await.expect("no panic") {
            Ok(_) => n_answered += 1,
            Err(error) => assert_eq!(error.class, FailureClass::Authentication, "{error}"),
        }
    }
    // What was in flight beside it is waited for.
    assert_eq!((server.log().n_requests(), n_answered), (2, 1));
    let error = complete(&client).await.expect_err("it is stopped");
    assert!(error.message.contains("wrong key"), "{error}");
    assert_eq!(server.log().n_requests(), 2);
}

/// Counts what it is asked; says once that its consent is too old.
#[derive(Default)]
struct Fickle {
    n_asked: AtomicU32,
    n_withdrawn: AtomicU32,
}

#[async_trait]
impl Pace for Fickle {
    async fn before(&self, _previous: Option<FailureClass>, _series: Series) -> bool {
        self.n_asked.fetch_add(1, Ordering::Relaxed);
        true
    }

    async fn is_current(&self) -> bool {
        self.n_asked.load(Ordering::Relaxed) > 1
    }

    async fn withdraw(&self) {
        self.n_withdrawn.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn consent_comes_before_a_place_and_is_renewed_when_it_is_old() {
    let script: Script = Arc::new(|request| match request.number {
        0 => Play::After(Duration::from_millis(300), Box::new(Play::Answer)),
        _ => Play::Answer,
    });
    let server = server(script).await;
    let client = client(EndpointConfig {
        concurrency: 1,
        ..config(server.url())
    });
    let first = {
        let client = client.clone();
        tokio::spawn(async move { complete(&client).await })
    };
    while server.log().n_requests() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (consent, cancel) = (Fickle::default(), CancellationToken::new());
    let request = request();
    let mut second =
        std::pin::pin!(client.complete(&request, client.key(&request), &consent, &cancel));
    // All places are taken, and it has consent.
    assert!(futures_poll(second.as_mut()).is_none());
    assert_eq!(consent.n_asked.load(Ordering::Relaxed), 1);
    assert_eq!(server.log().n_requests(), 1);
    second.await.expect("a reply");
    assert_eq!(consent.n_asked.load(Ordering::Relaxed), 2);
    assert_eq!(consent.n_withdrawn.load(Ordering::Relaxed), 1);
    assert_eq!(server.log().n_requests(), 2);
    first.await.expect("no panic").expect("a reply");
}

fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn models_are_told() {
    let server = server(always(Play::Answer)).await;
    let models = client(config(server.url())).models().await.expect("a list");
    assert_eq!(models, ["scripted"]);
    let url = server.url();
    drop(server);
    let error = client(config(url))
        .models()
        .await
        .expect_err("nobody listens");
    assert_eq!(error.class, FailureClass::TimeoutConnect);
}
