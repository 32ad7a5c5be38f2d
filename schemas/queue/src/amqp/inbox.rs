//! Deliveries that this process has and nobody works on yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gleaner_schemas::job::Priority;
use gleaner_schemas::{Route, TaskMessage};
use lapin::Acker;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::QueueError;

/// How long less urgent deliveries stand back after a more urgent one was settled: until the broker
/// has sent the next of those, if there is one. A slot has one of each queue at a time.
const STAND_BACK: Duration = Duration::from_millis(200);

/// A delivery that waits in this process.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) task: TaskMessage,
    pub(super) acker: Acker,
    pub(super) since: Instant,
}

/// The deliveries that wait, by priority. The broker bounds them: it lets each consumer have one
/// delivery, and each slot has a consumer of each queue.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: [VecDeque<Arrived>; Priority::ALL.len()],
    /// Until when the next delivery of a priority may be on its way.
    expected_until: [Option<Instant>; Priority::ALL.len()],
    /// Why nothing can arrive at the moment.
    trouble: Option<QueueError>,
    /// Counts the troubles, so that each is told once to whoever waits.
    n_troubles: u64,
    is_closed: bool,
}

impl Inbox {
    pub(super) fn put(&self, arrived: Arrived) {
        let mut state = self.lock();
        state.waiting[position(arrived.task.route.priority)].push_back(arrived);
        drop(state);
        self.changed.notify_one();
    }

    /// The broker may send another delivery of this priority at any moment.
    pub(super) fn expect(&self, priority: Priority) {
        self.lock().expected_until[position(priority)] = Some(Instant::now() + STAND_BACK);
    }

    /// The most urgent delivery, once there is one. Cancel-safe.
    ///
    /// An error is told to whoever waited when it happened; one that will not go away by itself,
    /// to everybody.
    pub(super) async fn take(&self) -> Result<Arrived, QueueError> {
        let n_troubles = self.lock().n_troubles;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that what comes in between is not missed.
            changed.as_mut().enable();
            let stand_back;
            {
                let mut state = self.lock();
                if state.is_closed {
                    return Err(QueueError::Closed);
                }
                stand_back = state.stand_back(Instant::now());
                if stand_back.is_none()
                    && let Some(arrived) = state.pop()
                {
                    let is_more = state.waiting.iter().any(|waiting| !waiting.is_empty());
                    drop(state);
                    // A permit is kept once: whoever takes it passes the word on.
                    if is_more {
                        self.changed.notify_one();
                    }
                    return Ok(arrived);
                }
                match &state.trouble {
                    Some(error @ QueueError::Refused { .. }) => return Err(error.clone()),
                    Some(error) if state.n_troubles > n_troubles => return Err(error.clone()),
                    _ => {}
                }
            }
            match stand_back {
                Some(until) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Nothing can arrive at the moment.
    pub(super) fn trouble(&self, error: QueueError) {
        let mut state = self.lock();
        state.trouble = Some(error);
        state.n_troubles += 1;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Deliveries can arrive.
    pub(super) fn no_trouble(&self) {
        self.lock().trouble = None;
    }

    /// Whether deliveries can arrive, as far as known.
    pub(super) fn is_well(&self) -> bool {
        let state = self.lock();
        state.trouble.is_none() && !state.is_closed
    }

    /// Deliveries of a route that wait here.
    pub(super) fn n_waiting(&self, route: Route) -> u64 {
        let state = self.lock();
        let waiting = state.waiting[position(route.priority)].iter();
        waiting
            .filter(|arrived| arrived.task.route == route && arrived.acker.usable())
            .count() as u64
    }

    /// Takes what has waited for `age` or longer.
    pub(super) fn take_older_than(&self, age: Duration) -> Vec<Arrived> {
        let now = Instant::now();
        let mut old = Vec::new();
        for waiting in &mut self.lock().waiting {
            while let Some(arrived) = waiting.pop_front_if(|arrived| now - arrived.since >= age) {
                if arrived.acker.usable() {
                    old.push(arrived);
                }
            }
        }
        old
    }

    /// Lets nobody wait any more.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_waiters();
    }

    /// Whoever panicked while it held the lock left whole values behind.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Until when what waits stands back for something more urgent.
    fn stand_back(&self, now: Instant) -> Option<Instant> {
        let first = self
            .waiting
            .iter()
            .position(|waiting| !waiting.is_empty())?;
        let expected = self.expected_until[..first].iter().flatten();
        expected.copied().filter(|until| *until > now).max()
    }

    fn pop(&mut self) -> Option<Arrived> {
        for waiting in &mut self.waiting {
            while let Some(arrived) = waiting.pop_front() {
                // Those of a channel that is gone will come again.
                if arrived.acker.usable() {
                    return Some(arrived);
                }
            }
        }
        None
    }
}

/// [`Priority::ALL`] has the most urgent first.
fn position(priority: Priority) -> usize {
    match priority {
        Priority::High => 0,
        Priority::Normal => 1,
        Priority::Low => 2,
    }
}

#[cfg(test)]
mod tests {
    use gleaner_schemas::Resource;

    use super::*;
    use crate::conformance::message;

    fn arrived(task_idx: u64, priority: Priority) -> Arrived {
        let delivery = lapin::message::Delivery::mock(1, "".into(), "".into(), false, Vec::new());
        let route = Route {
            resource: Resource::Cpu,
            priority,
        };
        Arrived {
            task: TaskMessage {
                route,
                ..message(task_idx)
            },
            acker: delivery.acker.clone(),
            since: Instant::now(),
        }
    }

    async fn taken(inbox: &Inbox) -> u64 {
        inbox.take().await.expect("a delivery").task.task_idx
    }

    #[tokio::test]
    async fn the_urgent_come_first_and_else_in_order() {
        let inbox = Inbox::default();
        let arrivals = [
            Priority::Low,
            Priority::Normal,
            Priority::High,
            Priority::Normal,
        ];
        for (number, priority) in (0..).zip(arrivals) {
            inbox.put(arrived(number, priority));
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(taken(&inbox).await);
        }
        assert_eq!(order, [2, 1, 3, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_less_urgent_stand_back_for_a_moment() {
        let inbox = Inbox::default();
        inbox.expect(Priority::High);
        inbox.put(arrived(0, Priority::Normal));
        let (first, ()) = tokio::join!(taken(&inbox), async {
            tokio::time::sleep(STAND_BACK / 2).await;
            inbox.put(arrived(1, Priority::High));
        });
        assert_eq!(first, 1);
        let began = Instant::now();
        assert_eq!(taken(&inbox).await, 0);
        assert!(began.elapsed() <= STAND_BACK);
        // Nobody stands back for the less urgent.
        inbox.expect(Priority::Low);
        inbox.put(arrived(2, Priority::Normal));
        let began = Instant::now();
        assert_eq!(taken(&inbox).await, 2);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_delivery_that_was_settled_elsewhere_is_skipped() {
        let inbox = Inbox::default();
        let stale = arrived(0, Priority::High);
        stale.acker.ack(Default::default()).await.expect("a mock");
        inbox.put(stale);
        inbox.put(arrived(1, Priority::Low));
        assert_eq!(taken(&inbox).await, 1);
    }

    #[tokio::test]
    async fn every_waiter_is_woken() {
        let inbox = Inbox::default();
        let (first, second, ()) = tokio::join!(taken(&inbox), taken(&inbox), async {
            inbox.put(arrived(0, Priority::Normal));
            inbox.put(arrived(1, Priority::Normal));
        });
        assert_eq!(first + second, 1);
    }

    #[tokio::test]
    async fn a_passing_trouble_is_told_to_those_who_wait_and_a_lasting_one_to_all() {
        let inbox = Inbox::default();
        let (told, ()) = tokio::join!(inbox.take(), async {
            tokio::task::yield_now().await;
            inbox.trouble(QueueError::Unreachable("gone".to_owned()));
        });
        assert!(matches!(told, Err(QueueError::Unreachable(_))), "{told:?}");
        assert!(!inbox.is_well());
        let (taken, ()) = tokio::join!(taken(&inbox), async {
            tokio::task::yield_now().await;
            inbox.put(arrived(7, Priority::Normal));
        });
        assert_eq!(taken, 7);
        inbox.trouble(QueueError::Refused {
            message: "no".to_owned(),
            help: "none".to_owned(),
        });
        for _ in 0..2 {
            let told = inbox.take().await;
            assert!(matches!(told, Err(QueueError::Refused { .. })), "{told:?}");
        }
        inbox.no_trouble();
        assert!(inbox.is_well());
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_for_long_is_taken_out() {
        let inbox = Inbox::default();
        inbox.put(arrived(0, Priority::Low));
        tokio::time::advance(Duration::from_secs(20)).await;
        inbox.put(arrived(1, Priority::Low));
        tokio::time::advance(Duration::from_secs(10)).await;
        let old = inbox.take_older_than(Duration::from_secs(30));
        let old: Vec<_> = old.iter().map(|arrived| arrived.task.task_idx).collect();
        assert_eq!(old, [0]);
        assert_eq!(taken(&inbox).await, 1);
    }
}
