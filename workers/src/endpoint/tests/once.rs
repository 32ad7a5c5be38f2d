//! Nothing is paid for twice, whatever comes in between.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gleaner_schemas::FailureKind;
use gleaner_scripted_endpoint::{Play, Request, Script, always, in_turn};
use gleaner_storage::layout;
use object_store::ObjectStoreExt as _;
use tokio_util::sync::CancellationToken;

use super::super::lost_requests::{self, LostRequests};
use super::super::spending::Amounts;
use super::super::stored;
use super::held_store::{HeldStore, Operation};
use super::{Scene, ask, failure_of, request};

/// Another slot looks for the reply before it is stored, and at its note when its sender is done.
#[tokio::test]
async fn a_reply_that_comes_between_two_looks_is_found() {
    let store = Arc::new(HeldStore::default());
    let scene = Scene::over(store.clone(), always(Play::Answer), Duration::ZERO).await;
    scene.announce(serde_json::json!({})).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let asked = || {
        let exchange = Arc::clone(&exchange);
        tokio::spawn(async move { ask(&exchange, 0).await })
    };
    let replies = store.hold(Operation::Put, layout::REPLIES);
    let first = asked();
    replies.reached(1).await;
    let notes = store.hold(Operation::Get, layout::REQUESTS);
    let second = asked();
    notes.reached(1).await;
    drop(replies);
    let first = first.await.unwrap().unwrap();
    drop(notes);
    let second = second.await.unwrap().unwrap();
    assert_eq!(scene.server.log().n_requests(), 1);
    assert_eq!((first.is_old, second.is_old), (false, true));
    assert_eq!(first.stored, second.stored);
}

/// A provider that heeds the key charges for one sending of it. Who comes after a process that was
/// killed sends under the key of what may be paid for.
#[tokio::test]
async fn a_killed_process_is_followed_under_its_key() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&keys);
    let script: Script = Arc::new(move |request: &Request| {
        seen.lock().unwrap().extend(request.key.clone());
        match request.number {
            0 => Play::Status(500, Vec::new(), "oops".to_owned()),
            _ => Play::Answer,
        }
    });
    let store = Arc::new(object_store::memory::InMemory::new());
    let scene = Scene::over(store.clone(), script, Duration::ZERO).await;
    scene.announce(serde_json::json!({})).await;
    let exchanges = scene.process(1);
    let first = ask(&scene.exchange(&exchanges).await, 0).await.unwrap();
    let request = &first.stored.request;
    // As if it had been killed before the reply to the second sending was kept.
    let at = |key: String| object_store::path::Path::from(format!("out/{key}"));
    store.delete(&at(layout::reply(request))).await.unwrap();
    for number in 0..2 {
        let (mut note, _) = stored::sent(&scene.output, request, number)
            .await
            .unwrap()
            .unwrap();
        note.process.pid = u32::MAX;
        let note = serde_json::to_vec(&note).unwrap();
        let at = at(layout::request(request, number));
        store.put(&at, note.into()).await.unwrap();
    }
    let exchange = scene.exchange(&scene.process(2)).await;
    let second = ask(&exchange, 0).await.unwrap();
    assert_eq!(second.stored.number, 2);
    let keys = keys.lock().unwrap().clone();
    assert_eq!((keys.len(), &keys[2]), (3, &keys[1]));
    assert_ne!(keys[0], keys[1]);
}

/// Where a system tells nothing of processes, those of two machines look alike.
#[tokio::test]
async fn another_process_that_looks_alike_is_waited_for() {
    let store = Arc::new(HeldStore::default());
    let scene = Scene::over(store.clone(), always(Play::Answer), Duration::ZERO).await;
    scene.announce(serde_json::json!({})).await;
    #[expect(clippy::async_yields_async, reason = "both are to be under way")]
    let asked = async |seed| {
        let exchange = scene.exchange(&scene.process(seed)).await;
        tokio::spawn(async move { ask(&exchange, 0).await })
    };
    let replies = store.hold(Operation::Put, layout::REPLIES);
    let first = asked(1).await;
    replies.reached(1).await;
    let notes = store.watch(Operation::Get, layout::REQUESTS);
    let second = asked(2).await;
    tokio::select! {
        () = notes.reached(4) => {}
        () = scene.requested(2) => panic!("it is sent again"),
    }
    drop(replies);
    assert!(!first.await.unwrap().unwrap().is_old);
    assert!(second.await.unwrap().unwrap().is_old);
    assert_eq!(scene.server.log().n_requests(), 1);
}

/// A store that takes no reply for longer than its client tries.
#[tokio::test]
async fn a_reply_is_held_until_the_store_takes_it() {
    let store = Arc::new(HeldStore::default());
    let scene = Scene::over(store.clone(), always(Play::Answer), Duration::ZERO).await;
    scene.announce(serde_json::json!({})).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let failing = store.fail(Operation::Put, layout::REPLIES);
    let first = {
        let exchange = Arc::clone(&exchange);
        tokio::spawn(async move { ask(&exchange, 0).await })
    };
    failing.reached(3).await;
    // A task that is cancelled meanwhile needs no answer; the reply is held all the same.
    let cancel = CancellationToken::new();
    let second = {
        let (exchange, cancel) = (Arc::clone(&exchange), cancel.clone());
        tokio::spawn(async move {
            exchange
                .ask(request("about 1".to_owned()), 0, &cancel)
                .await
        })
    };
    scene.requested(2).await;
    failing.reached(2).await;
    cancel.cancel();
    assert_eq!(failure_of(&second.await.unwrap()).0, FailureKind::Transient);
    drop(failing);
    assert!(first.await.unwrap().is_ok());
    assert!(exchange.finish(Duration::from_secs(20)).await);
    assert_eq!(scene.n_objects(layout::REPLIES).await, 2);
    assert!(ask(&exchange, 1).await.unwrap().is_old);
    assert_eq!(scene.server.log().n_requests(), 2);
}

/// Should the worker be lost later, only what may be paid counts.
#[tokio::test]
async fn what_was_refused_before_a_reply_is_taken_back() {
    let wait = || vec![("retry-after-ms", "1".to_owned())];
    let script = in_turn(vec![
        Play::Status(429, wait(), String::new()),
        Play::Status(503, wait(), String::new()),
        Play::Answer,
    ]);
    let scene = Scene::new(script, Duration::ZERO).await;
    scene.announce(serde_json::json!({})).await;
    let exchanges = scene.process(1);
    let answer = ask(&scene.exchange(&exchanges).await, 0).await.unwrap();
    assert_eq!(answer.stored.number, 2);
    assert_eq!(scene.n_objects(layout::WITHDRAWN).await, 2);
    let lost = lost_requests::of_lease(&scene.output, &answer.stored.lease, 0).await;
    let expected = LostRequests {
        known: answer.stored.cost,
        possibly: Amounts::default(),
    };
    assert_eq!(lost.unwrap(), expected);
}

/// One that was given up waits to know whether the server works for one that waits for its budget.
#[tokio::test]
async fn what_is_given_up_keeps_no_budget() {
    let script: Script = Arc::new(|_: &Request| {
        let failed = Play::Status(500, Vec::new(), "oops".to_owned());
        Play::After(Duration::from_millis(300), Box::new(failed))
    });
    let scene = Scene::new(script, Duration::ZERO).await;
    let settings = serde_json::json!({
        "concurrency": 2, "attempts": 1, "budget": { "tokens": 1500 },
    });
    scene.announce(settings).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let cancel = CancellationToken::new();
    let asked = |about: &str| exchange.ask(request(about.repeat(800)), 0, &cancel);
    let both = async { tokio::join!(asked("a"), asked("b")) };
    let (one, other) = tokio::time::timeout(Duration::from_secs(8), both)
        .await
        .expect("they wait for each other");
    assert!(one.is_err() && other.is_err());
    assert_eq!(scene.server.log().n_requests(), 1);
}
