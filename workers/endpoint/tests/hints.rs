//! Servers that say how long to wait.
#![expect(
    clippy::expect_used,
    reason = "helpers of tests may fail as tests do; clippy allows it in `#[test]` functions alone"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gleaner_endpoint::{
    Client, CompletionRequest, Dialect, EndpointConfig, FailureClass, Pace, Parameters, Prompt,
    Series, Timeouts,
};
use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, in_turn};
use tokio_util::sync::CancellationToken;

struct Consent;

#[async_trait]
impl Pace for Consent {
    async fn before(&self, _previous: Option<FailureClass>, _series: Series) -> bool {
        true
    }
}

/// A client whose own pauses are of a millisecond.
fn client(url: String) -> Client {
    let config = EndpointConfig {
        name: "llm".to_owned(),
        url,
        model: "tiny".to_owned(),
        api_key: None,
        dialect: Dialect::None,
        concurrency: 2,
        timeouts: Timeouts {
            connect: Duration::from_secs(20),
            first_byte: Duration::from_secs(20),
            total: Duration::from_secs(20),
        },
        attempts_max: 3,
        patience: Duration::from_secs(20),
    };
    Client::new(config, Arc::new(|| 1)).expect("a client")
}

fn request() -> CompletionRequest {
    CompletionRequest {
        prompt: Prompt::Text("rivers".to_owned()),
        parameters: Parameters::default(),
        schema: None,
        stage: "test".to_owned(),
        sample: 0,
        model: None,
    }
}

/// Whoever does not heed the server is too early, however slow the machine is.
#[tokio::test]
async fn whoever_is_told_how_long_to_wait_waits_as_long() {
    let in_three_seconds = || {
        let date = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
        date.to_rfc2822().replace("+0000", "GMT")
    };
    let hints: [(u16, &'static str, String); 5] = [
        (429, "retry-after-ms", "600".to_owned()),
        (429, "retry-after", "1".to_owned()),
        (503, "retry-after", String::new()),
        (429, "x-ratelimit-reset-requests", "600ms".to_owned()),
        (529, "x-ratelimit-reset-tokens", "0.6s".to_owned()),
    ];
    for (code, name, value) in hints {
        // A date counts from when it is sent.
        let value = if value.is_empty() {
            in_three_seconds()
        } else {
            value
        };
        let shown = format!("{code} {name}: {value}");
        let waits = Play::Status(code, vec![(name, value)], String::new());
        let script = in_turn(vec![waits, Play::Answer]);
        let server = ScriptedServer::start(script, ServerOptions::default());
        let server = server.await.expect("a server");
        let client = client(server.url());
        let (request, cancel) = (request(), CancellationToken::new());
        let started = Instant::now();
        let reply = client.complete(&request, client.key(&request), &Consent, &cancel);
        reply.await.expect(&shown);
        assert!(started.elapsed() >= Duration::from_millis(600), "{shown}");
        assert_eq!(server.log().n_requests(), 2, "{shown}");
    }
}
