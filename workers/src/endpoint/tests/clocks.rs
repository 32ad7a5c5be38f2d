//! Machines whose clocks differ.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use gleaner_scripted_endpoint::{Play, Request, Script, always};
use gleaner_storage::layout;
use gleaner_storage::numbered::Numbered;
use serde_json::json;

use super::super::access::endpoint_hash;
use super::super::clock::{Clock, SystemClock};
use super::super::spending::{Amounts, Spending};
use super::held_store::{HeldStore, Operation};
use super::{Scene, ask};

/// The clock of a machine that is ahead by so many hours.
#[derive(Debug)]
struct Ahead(i64);

impl Clock for Ahead {
    fn now_ms(&self) -> i64 {
        SystemClock.now_ms() + self.0 * 3_600_000
    }
}

/// Both are in flight, whichever clock is right.
#[tokio::test]
async fn a_sender_is_waited_for_whatever_the_clocks_say() {
    for (sender, reader) in [(-5, 0), (0, 5)] {
        let store = Arc::new(HeldStore::default());
        let scene = Scene::over(store.clone(), always(Play::Answer), Duration::ZERO).await;
        scene.announce(json!({})).await;
        #[expect(clippy::async_yields_async, reason = "both are to be under way")]
        let asked = async |seed, hours| {
            let exchanges = scene.process_at(seed, Arc::new(Ahead(hours)));
            let exchange = scene.exchange(&exchanges).await;
            tokio::spawn(async move { ask(&exchange, 0).await })
        };
        let replies = store.hold(Operation::Put, layout::REPLIES);
        let first = asked(1, sender).await;
        replies.reached(1).await;
        let notes = store.watch(Operation::Get, layout::REQUESTS);
        let second = asked(2, reader).await;
        tokio::select! {
            () = notes.reached(4) => {}
            () = scene.requested(2) => panic!("it is sent again"),
        }
        drop(replies);
        assert!(first.await.unwrap().is_ok());
        assert!(second.await.unwrap().unwrap().is_old);
        assert_eq!(scene.server.log().n_requests(), 1);
    }
}

/// It was killed; its note is as old as the store says, not as it said itself.
#[tokio::test]
async fn a_lost_sender_whose_clock_was_ahead_blocks_nobody() {
    let script: Script = Arc::new(|request: &Request| match request.number {
        0 => Play::Silence,
        _ => Play::Answer,
    });
    let store = Arc::new(HeldStore::default());
    let scene = Scene::over(store.clone(), script, Duration::ZERO).await;
    scene.announce(json!({})).await;
    let lost = scene.process_at(1, Arc::new(Ahead(5)));
    let exchange = scene.exchange(&lost).await;
    let first = tokio::spawn(async move { ask(&exchange, 0).await });
    scene.requested(1).await;
    store.age(layout::REQUESTS, TimeDelta::hours(1));
    let other = scene.process(2);
    let answer = ask(&scene.exchange(&other).await, 0).await.unwrap();
    assert_eq!((answer.stored.number, answer.is_old), (1, false));
    first.abort();
}

#[tokio::test]
async fn a_lease_is_not_written_off_while_its_worker_lives() {
    let store = Arc::new(HeldStore::default());
    let scene = Scene::over(store.clone(), always(Play::Answer), Duration::ZERO).await;
    scene
        .announce(json!({ "budget": { "tokens": 100_000 } }))
        .await;
    let replies = store.hold(Operation::Put, layout::REPLIES);
    let exchanges = scene.process_at(1, Arc::new(Ahead(-5)));
    let first = scene.exchange(&exchanges).await;
    let asked = Arc::clone(&first);
    let asked = tokio::spawn(async move { ask(&asked, 0).await });
    replies.reached(1).await;
    let exchanges = scene.process_at(2, Arc::new(Ahead(5)));
    let second = scene.exchange(&exchanges).await;
    let other = Arc::clone(&second);
    let other = tokio::spawn(async move { ask(&other, 1).await });
    replies.reached(1).await;
    let folder = layout::spending(&endpoint_hash(&scene.server.url(), "tiny"));
    let list = Numbered::new(scene.output.clone(), folder);
    let spending = async || -> Spending {
        let (_, bytes) = list.newest().await.unwrap().unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    assert_eq!(spending().await.leases.len(), 2);
    drop(replies);
    let mut spent = Amounts::default();
    for asked in [asked, other] {
        spent += asked.await.unwrap().unwrap().stored.cost;
    }
    first.settle().await.unwrap();
    second.settle().await.unwrap();
    let spending = spending().await;
    assert_eq!(
        (spending.spent, spending.possibly),
        (spent, Amounts::default())
    );
    assert!(spending.leases.is_empty());
}
