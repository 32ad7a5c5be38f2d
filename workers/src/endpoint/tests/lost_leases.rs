//! What a lost worker has reserved comes back, and is waited for.

use std::sync::Arc;
use std::time::Duration;

use gleaner_storage::{Output, Stores};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::clock::Clock;
use super::super::ending::Ending;
use super::super::purse::{Purse, PurseError, PurseSettings, Reservation};
use super::super::spending::{Amounts, limits};
use super::super::store_time::StoreTime;
use crate::entropy::{Entropy, SeededEntropy};

/// Goes with the time of the test.
#[derive(Debug)]
struct TestClock(Instant);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.elapsed().as_millis() as i64
    }
}

fn purses(request_timeout: Duration) -> [Purse; 2] {
    let store = Arc::new(object_store::memory::InMemory::new());
    let stores = Stores::from_env().with("memory://purse", store);
    let output = Output::open(&stores, "memory://purse/out").unwrap();
    let clock: Arc<dyn Clock> = Arc::new(TestClock(Instant::now()));
    [1, 2].map(|worker| {
        let settings = PurseSettings {
            endpoint: "e".to_owned(),
            name: "llm".to_owned(),
            worker: format!("worker {worker}"),
            limits: tokens(1000, limits(None)),
            concurrency: 1,
            request_timeout,
            until_ms: None,
        };
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(worker));
        let time = StoreTime::new(output.clone(), clock.clone(), entropy.clone());
        let (output, clock) = (output.clone(), clock.clone());
        Purse::new(settings, output, entropy, clock, Arc::new(time))
    })
}

fn tokens(tokens: u64, others: Amounts) -> Amounts {
    Amounts { tokens, ..others }
}

async fn reserve(purse: &Purse, n_tokens: u64) -> Result<Reservation, PurseError> {
    let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
    let ending = Ending {
        cancel: &cancel,
        stop: &stop,
    };
    let need = tokens(n_tokens, Amounts::default());
    purse.reserve(need, &ending).await
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_lost_lease_is_waited_for() {
    let [lost, purse] = purses(Duration::from_secs(100));
    let _lost = reserve(&lost, 800).await.unwrap();
    let began = Instant::now();
    // Nothing was sent on it, so all of it comes back.
    let reserved = reserve(&purse, 900).await.unwrap();
    assert_eq!(reserved.amounts.tokens, 900);
    assert!(
        began.elapsed() > Duration::from_secs(300),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_reserved_for_long_is_not_told_to_be_used_up() {
    let [lost, purse] = purses(Duration::from_secs(7200));
    let _lost = reserve(&lost, 800).await.unwrap();
    let refused = reserve(&purse, 900).await.unwrap_err().to_string();
    assert!(
        refused.contains("may be lost: of 1000 tokens 0 are spent and 800 reserved"),
        "{refused}"
    );
    assert!(refused.contains("run the job again in "), "{refused}");
    // What will never fit is another thing.
    let refused = reserve(&purse, 1001).await.unwrap_err().to_string();
    assert!(refused.contains("is used up"), "{refused}");
}
