//! Servers that repeat what they were sent: words of the request, the key, answers to the same key.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests may fail as tests do; clippy allows it in `#[test]` functions alone"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gleaner_endpoint::{
    CallError, ChatMessage, Client, CompletionRequest, Dialect, EndpointConfig, FailureClass,
    LossDialect, Pace, Parameters, Prompt, RawReply, Reply, ResponseSchema, Secret, Series,
    Timeouts,
};
use gleaner_scripted_endpoint::{Play, Request, Script, ScriptedServer, ServerOptions, always};
use serde_json::json;
use tokio_util::sync::CancellationToken;

struct Consent;

#[async_trait]
impl Pace for Consent {
    async fn before(&self, _previous: Option<FailureClass>, _series: Series) -> bool {
        true
    }
}

fn client(server: &ScriptedServer) -> Client {
    let config = EndpointConfig {
        name: "llm".to_owned(),
        url: server.url(),
        model: "tiny".to_owned(),
        api_key: Some(Secret::new("sk-secret".to_owned())),
        dialect: Dialect::Auto,
        concurrency: 8,
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(10),
            total: Duration::from_secs(10),
        },
        attempts_max: 3,
        patience: Duration::from_secs(1),
    };
    Client::new(config, Arc::new(|| 1)).expect("a client")
}

fn request(content: &str) -> CompletionRequest {
    CompletionRequest {
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user".to_owned(),
            content: content.to_owned(),
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

async fn ask(client: &Client, content: &str) -> Result<RawReply, CallError> {
    let (request, cancel) = (request(content), CancellationToken::new());
    client
        .complete(&request, client.key(&request), &Consent, &cancel)
        .await
}

fn status(status: u16, body: &str) -> Play {
    Play::Status(status, Vec::new(), body.to_owned())
}

/// Documents speak of anything.
#[tokio::test]
async fn what_a_server_repeats_of_a_request_decides_nothing() {
    let content = "poison: the unknown model has no grammar for a json_schema; it does not exist";
    let as_input = |request: &Request| {
        let detail = json!([{
            "type": "string_type", "loc": ["body", "messages", 0, "content"],
            "msg": "Input should be a valid string", "input": request.body,
        }]);
        status(422, &json!({ "detail": detail }).to_string())
    };
    let in_words = |request: &Request| {
        let content = &request.body["messages"][0]["content"];
        let message = format!("cannot read {content}");
        status(400, &json!({ "error": { "message": message } }).to_string())
    };
    let as_text = |request: &Request| {
        let content = &request.body["messages"][0]["content"];
        status(400, &format!("cannot read {content}"))
    };
    let refusals: [fn(&Request) -> Play; 3] = [as_input, in_words, as_text];
    for refuse in refusals {
        let script: Script = Arc::new(move |it| match it.body.to_string().contains("poison") {
            true => refuse(it),
            false => Play::Answer,
        });
        let server = server(script).await;
        let client = client(&server);
        let error = ask(&client, content).await.expect_err("it is refused");
        assert_eq!(error.class, FailureClass::BadRequest, "{error}");
        assert_eq!(server.log().n_requests(), 1);
        let reply = ask(&client, "rivers").await.expect("a reply");
        assert_eq!(reply.dialect, Dialect::JsonSchema);
    }
}

/// A server that blames the schema in any dialect does not take the request.
#[tokio::test]
async fn a_weaker_dialect_is_used_by_others_once_it_helped() {
    let script: Script = Arc::new(|it| match it.body.to_string().contains("poison") {
        true => status(400, "invalid response_format"),
        false => Play::Answer,
    });
    let server = server(script).await;
    let client = client(&server);
    let error = ask(&client, "poison").await.expect_err("it is refused");
    assert_eq!(error.n_sendings, 3);
    let reply = ask(&client, "rivers").await.expect("a reply");
    assert_eq!(reply.dialect, Dialect::JsonSchema);
}

#[tokio::test]
async fn the_key_stands_in_no_message_and_no_reply() {
    // A part of it would be cut off where messages end.
    let words = format!("{} Incorrect API key provided: sk-secret", "x".repeat(365));
    let refused = json!({ "error": { "message": words } }).to_string();
    for play in [
        status(401, &words),
        status(401, &refused),
        Play::Body(refused.clone().into_bytes()),
    ] {
        let server = server(always(play)).await;
        let error = ask(&client(&server), "rivers")
            .await
            .expect_err("it is refused");
        assert!(error.message.contains("provided: ..."), "{error}");
        assert!(!format!("{error:?}").contains("sk-"), "{error:?}");
    }
    for body in [
        "sk-secret is no JSON",
        "{\"choices\": sk-secret",
        "sk-secretsk-secret",
    ] {
        let server = server(always(Play::Body(body.as_bytes().to_vec()))).await;
        let reply = ask(&client(&server), "rivers").await.expect("a reply");
        assert_eq!(reply.body, body.replace("sk-secret", "..."));
        let error = Reply::decode(&reply.body).expect_err("it is no JSON");
        assert!(!error.message.contains("sk-"), "{error}");
        let error = LossDialect::Echo.decode(&reply.body, "rivers");
        let error = error.expect_err("it is no JSON").to_string();
        assert!(!error.contains("sk-"), "{error}");
    }
}

/// A provider that heeds the key gives the answer that it gave before, whatever it was.
#[tokio::test]
async fn answers_that_are_no_replies_are_not_asked_for_again() {
    let replaying = |play: fn(&Request) -> Play| -> Script {
        let known: Mutex<HashMap<String, Play>> = Mutex::default();
        Arc::new(move |request| {
            let key = request.key.clone().expect("a key");
            let mut known = known.lock().expect("no panic");
            known.entry(key).or_insert_with(|| play(request)).clone()
        })
    };
    let first_fails = replaying(|request| match request.number {
        0 => status(500, "oops"),
        _ => Play::Answer,
    });
    let knows_no_schema =
        replaying(
            |request| match request.body["response_format"]["type"].as_str() {
                Some("json_schema") => status(400, "unsupported response_format"),
                _ => Play::Answer,
            },
        );
    for (script, dialect) in [
        (first_fails, Dialect::JsonSchema),
        (knows_no_schema, Dialect::JsonObject),
    ] {
        let server = server(script).await;
        let reply = ask(&client(&server), "rivers").await.expect("a reply");
        assert_eq!((reply.n_sendings, reply.dialect), (2, dialect));
        // Another process begins anew, and comes to the same.
        let reply = ask(&client(&server), "rivers").await.expect("a reply");
        assert_eq!(reply.dialect, dialect);
    }
}

/// A server that may be at work must know that it is the same request.
#[tokio::test]
async fn what_was_not_answered_is_sent_under_the_same_key() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    let script: Script = Arc::new(move |request| {
        seen.lock().expect("no panic").extend(request.key.clone());
        match request.number {
            0 => Play::Reset,
            1 => status(500, ""),
            _ => Play::Answer,
        }
    });
    let server = server(script).await;
    ask(&client(&server), "rivers").await.expect("a reply");
    let keys = keys.lock().expect("no panic").clone();
    assert_eq!((keys.len(), &keys[0]), (3, &keys[1]));
    assert_ne!(keys[1], keys[2]);
}

/// What throttles does not look at keys: what was not answered before may be done all the same.
#[tokio::test]
async fn what_was_not_answered_keeps_its_key_while_the_server_throttles() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    let script: Script = Arc::new(move |request| {
        seen.lock().expect("no panic").extend(request.key.clone());
        match request.number {
            0 => status(429, ""),
            1 => Play::Reset,
            2 => status(503, ""),
            _ => Play::Answer,
        }
    });
    let server = server(script).await;
    ask(&client(&server), "rivers").await.expect("a reply");
    let keys = keys.lock().expect("no panic").clone();
    assert!(keys[1..].iter().all(|key| *key == keys[1]), "{keys:?}");
    assert_eq!(keys.len(), 4);
    assert_ne!(keys[0], keys[1]);
}
