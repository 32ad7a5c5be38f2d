//! Notes that are renewed because their place did not come in time.

use std::time::Duration;

use gleaner_endpoint::{FailureClass, Pace as _, Series};
use gleaner_scripted_endpoint::{Play, always};
use gleaner_storage::layout;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::super::ending::Ending;
use super::super::noting::{Noting, NotingState};
use super::super::spending::Amounts;
use super::Scene;

/// Requests that were taken of the rates, whatever the window.
async fn n_taken(scene: &Scene) -> u64 {
    let mut n_taken = 0;
    for object in scene.output.list(layout::PACE).await.unwrap() {
        let bytes = scene.output.get(&object.path).await.unwrap().unwrap();
        let taken: Value = serde_json::from_slice(&bytes).unwrap();
        // The entries of a window tell its sum; here each takes one more.
        n_taken += u64::from(taken["requests"].as_u64() > Some(0));
    }
    n_taken
}

#[tokio::test]
async fn a_note_that_is_renewed_takes_no_more_of_the_rates() {
    let scene = Scene::new(always(Play::Answer), Duration::ZERO).await;
    scene.announce(json!({ "requests_per_minute": 5 })).await;
    let exchanges = scene.process(1);
    let exchange = scene.exchange(&exchanges).await;
    let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
    let noting = Noting {
        parts: &exchange.parts,
        key: "00",
        stage: "test",
        estimate: Amounts::default(),
        series: Series::default(),
        rank: 0,
        pace_tokens: 10,
        ending: Ending {
            cancel: &cancel,
            stop: &stop,
        },
        state: Mutex::new(NotingState {
            number: 0,
            open: None,
            is_paced: false,
            refused: Vec::new(),
            ended: None,
        }),
    };
    assert!(noting.before(None, Series::default()).await && noting.is_current().await);
    for number in 1..4 {
        noting.withdraw().await;
        assert!(!noting.is_current().await);
        assert!(noting.before(None, Series::default()).await);
        assert_eq!(noting.number().await, Some(number));
    }
    assert_eq!(n_taken(&scene).await, 1);
    assert_eq!(scene.n_objects(layout::WITHDRAWN).await, 3);
    // What was sent counts.
    assert!(
        noting
            .before(Some(FailureClass::RateLimited), Series::default())
            .await
    );
    assert_eq!(n_taken(&scene).await, 2);
}
