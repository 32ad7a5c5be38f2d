//! Exchanges with a scripted server over a store in memory.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use gleaner_endpoint::{ChatMessage, CompletionRequest, Parameters, Prompt};
use gleaner_schemas::job::Endpoint;
use gleaner_schemas::{EndpointSettings, FailureKind, RunId};
use gleaner_scripted_endpoint::{Play, Request, Script, ScriptedServer, ServerOptions, always};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, Stores, layout};
use object_store::ObjectStore;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

mod clocks;
mod held_store;
mod lost_leases;
mod once;
mod renewing;

use super::access::Exchanges;
use super::clock::{Clock, SystemClock};
use super::exchange::{Answer, Exchange, NoAnswer};
use super::lost_requests::without_reply;
use super::stored;
use crate::entropy::SeededEntropy;
use crate::generation::EndpointIdentity;

struct Scene {
    server: ScriptedServer,
    output: Output,
}

impl Scene {
    async fn new(script: Script, latency: Duration) -> Self {
        let store = Arc::new(object_store::memory::InMemory::new());
        Self::over(store, script, latency).await
    }

    async fn over(store: Arc<dyn ObjectStore>, script: Script, latency: Duration) -> Self {
        let options = ServerOptions {
            latency,
            ..ServerOptions::default()
        };
        let server = ScriptedServer::start(script, options).await.unwrap();
        let stores = Stores::from_env().with("memory://exchange", store);
        let output = Output::open(&stores, "memory://exchange/out").unwrap();
        Self { server, output }
    }

    /// What a run says of the endpoint.
    async fn announce(&self, more: Value) {
        let mut endpoint = json!({ "url": self.server.url(), "model": "tiny", "attempts": 2 });
        for (key, value) in more.as_object().unwrap() {
            endpoint[key] = value.clone();
        }
        let endpoint: Endpoint = serde_json::from_value(endpoint).unwrap();
        let settings = EndpointSettings {
            format: EndpointSettings::FORMAT,
            run: RunId::new(1),
            started_ms: 0,
            endpoints: [("llm".to_owned(), endpoint)].into(),
        };
        let list = Numbered::new(self.output.clone(), layout::ENDPOINTS.to_owned());
        let last = list.newest().await.unwrap().map(|(number, _)| number);
        let bytes = serde_json::to_vec(&settings).unwrap();
        assert!(list.append(last, bytes.into()).await.unwrap());
    }

    /// A process that knows nothing of others.
    fn process(&self, seed: u64) -> Exchanges {
        self.process_at(seed, Arc::new(SystemClock))
    }

    /// The same of a machine with another clock.
    fn process_at(&self, seed: u64, clock: Arc<dyn Clock>) -> Exchanges {
        let entropy = Arc::new(SeededEntropy::new(seed));
        Exchanges::new(format!("worker {seed}"), entropy, clock)
    }

    async fn exchange(&self, exchanges: &Exchanges) -> Arc<Exchange> {
        let identity = EndpointIdentity {
            name: "llm".to_owned(),
            url: self.server.url(),
            model: "tiny".to_owned(),
        };
        exchanges.with(&self.output, &identity).await.unwrap()
    }

    /// Waits until the server has got so many requests.
    async fn requested(&self, n: usize) {
        while self.server.log().n_requests() < n {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn n_objects(&self, folder: &str) -> usize {
        self.output.list(folder).await.unwrap().len()
    }

    async fn n_possibly_paid(&self) -> usize {
        without_reply(&self.output).await.unwrap().len()
    }
}

fn request(content: String) -> CompletionRequest {
    CompletionRequest {
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user".to_owned(),
            content,
        }]),
        parameters: Parameters {
            max_tokens: 100,
            ..Parameters::default()
        },
        schema: None,
        stage: "test".to_owned(),
        sample: 0,
        model: None,
    }
}

async fn ask(exchange: &Arc<Exchange>, about: usize) -> Result<Answer, NoAnswer> {
    let cancel = CancellationToken::new();
    exchange
        .ask(request(format!("about {about}")), 0, &cancel)
        .await
}

fn failure_of(asked: &Result<Answer, NoAnswer>) -> (FailureKind, String) {
    match asked {
        Err(NoAnswer::Task(failure)) => (failure.kind, failure.message.clone()),
        other => panic!("{other:?}"),
    }
}

/// The first request is refused in the middle of a crowd: those in flight are answered, and nobody
/// else sends, whatever task it is of.
#[tokio::test]
async fn what_concerns_every_request_ends_all_sending() {
    let script: Script = Arc::new(|request: &Request| {
        let (latency, play) = match request.number {
            0 => (100, Play::Status(401, Vec::new(), "wrong key".to_owned())),
            _ => (400, Play::Answer),
        };
        Play::After(Duration::from_millis(latency), Box::new(play))
    });
    let scene = Scene::new(script, Duration::ZERO).await;
    scene.announce(json!({ "concurrency": 3 })).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let asked = join_all((0..40).map(|about| ask(&exchange, about))).await;
    let n_answered = asked.iter().filter(|it| it.is_ok()).count();
    assert_eq!((scene.server.log().n_requests(), n_answered), (3, 2));
    for refused in asked.iter().filter(|it| it.is_err()) {
        let (kind, message) = failure_of(refused);
        assert_eq!(kind, FailureKind::Endpoint, "{message}");
        assert!(message.contains("authentication"), "{message}");
        assert!(message.contains("wrong key"), "{message}");
    }
    // Another slot gets the same words; nothing that was not sent counts as paid.
    let again = ask(&scene.exchange(&exchanges).await, 100).await;
    assert!(failure_of(&again).1.contains("wrong key"));
    assert_eq!(scene.server.log().n_requests(), 3);
    assert_eq!(scene.n_possibly_paid().await, 0);
    // A reply that is there needs no server.
    let known = asked.iter().position(Result::is_ok).unwrap();
    assert!(ask(&exchange, known).await.unwrap().is_old);
}

/// A request that the budget has no room for ends all sending, of smaller ones too; a run with more
/// money goes on at once, and in another process.
#[tokio::test]
async fn a_budget_that_is_used_up_ends_all_sending_until_there_is_more() {
    let scene = Scene::new(always(Play::Answer), Duration::ZERO).await;
    scene
        .announce(json!({ "concurrency": 4, "budget": { "tokens": 2000 } }))
        .await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let cancel = CancellationToken::new();
    let large = exchange
        .ask(request("large ".repeat(1000)), 0, &cancel)
        .await;
    let small = ask(&exchange, 1).await;
    for asked in [&large, &small] {
        let (kind, message) = failure_of(asked);
        assert_eq!(kind, FailureKind::Budget, "{message}");
        assert!(
            message.contains("the budget of endpoint llm is used up"),
            "{message}"
        );
    }
    assert_eq!(scene.server.log().n_requests(), 0);
    assert_eq!(
        failure_of(&ask(&scene.exchange(&exchanges).await, 2).await).0,
        FailureKind::Budget
    );
    scene
        .announce(json!({ "concurrency": 4, "budget": { "tokens": 100_000 } }))
        .await;
    let exchange = scene.exchange(&exchanges).await;
    assert!(ask(&exchange, 1).await.is_ok());
    let other = scene.process(2);
    assert!(ask(&scene.exchange(&other).await, 2).await.is_ok());
}

/// Notes and reservations are made while all places are taken: the store's time is not the server's.
/// What was noted and not sent is taken back, and another process sends it at once.
#[tokio::test]
async fn notes_are_made_before_places_are_taken() {
    let script: Script = Arc::new(|request: &Request| match request.number {
        0 => Play::Silence,
        _ => Play::Answer,
    });
    let scene = Scene::new(script, Duration::ZERO).await;
    scene.announce(json!({ "concurrency": 1 })).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let cancel = CancellationToken::new();
    let asked = |about: usize| {
        let (exchange, cancel) = (Arc::clone(&exchange), cancel.clone());
        tokio::spawn(async move {
            exchange
                .ask(request(format!("about {about}")), 0, &cancel)
                .await
        })
    };
    let first = asked(0);
    scene.requested(1).await;
    let second = asked(1);
    while scene.n_objects(layout::REQUESTS).await < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(scene.server.log().n_requests(), 1);
    assert_eq!(scene.n_possibly_paid().await, 2);
    cancel.cancel();
    assert!(second.await.unwrap().is_err());
    assert_eq!(scene.n_possibly_paid().await, 1);
    assert_eq!(scene.n_objects(layout::WITHDRAWN).await, 1);
    // The first is under way still; what was taken back is nobody's.
    let other = scene.process(2);
    let asked = scene.exchange(&other).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), ask(&asked, 1)).await;
    assert_eq!(answer.expect("nobody waits").unwrap().stored.number, 1);
    first.abort();
}

/// Sendings that the server did nothing for block nobody, and count as paid for nobody.
#[tokio::test]
async fn what_was_refused_is_not_waited_for() {
    let script: Script = Arc::new(|request: &Request| match request.number {
        0 => Play::Status(429, Vec::new(), String::new()),
        1 => Play::Status(400, Vec::new(), "no".to_owned()),
        2 => Play::Status(500, Vec::new(), "oops".to_owned()),
        _ => Play::Answer,
    });
    let scene = Scene::new(script, Duration::ZERO).await;
    scene
        .announce(json!({ "concurrency": 1, "attempts": 1 }))
        .await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    assert!(matches!(
        ask(&exchange, 0).await,
        Err(NoAnswer::Item { .. })
    ));
    assert_eq!(scene.server.log().n_requests(), 2);
    assert_eq!(scene.n_possibly_paid().await, 0);
    // A server that failed may have done the work.
    assert!(matches!(
        ask(&exchange, 1).await,
        Err(NoAnswer::Item { .. })
    ));
    assert_eq!(scene.n_possibly_paid().await, 1);
    let other = scene.process(2);
    let asked = scene.exchange(&other).await;
    let answer = tokio::time::timeout(Duration::from_secs(20), ask(&asked, 0)).await;
    assert_eq!(answer.expect("nobody waits").unwrap().stored.number, 2);
    let key = answered_key(&scene).await;
    assert!(stored::is_withdrawn(&scene.output, &key, 0).await.unwrap());
    assert!(!stored::is_withdrawn(&scene.output, &key, 2).await.unwrap());
}

async fn answered_key(scene: &Scene) -> String {
    let replies = scene.output.list(layout::REPLIES).await.unwrap();
    layout::parse_request(&replies[0].path).unwrap().to_owned()
}
