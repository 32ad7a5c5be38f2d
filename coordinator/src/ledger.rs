//! The state of a map phase's tasks, and what to do next. Pure: time and observations come in,
//! actions go out.

use std::collections::HashMap;
use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind, TaskId};

/// Bounds of a phase.
#[derive(Debug, Clone, Copy)]
pub struct LedgerOptions {
    /// Tasks that may be on the queue or with workers at a time.
    pub window: usize,
    /// After this time without an outcome a task is offered again: the message or the worker is
    /// lost.
    pub overdue_after: Duration,
    /// A task is offered this many times, then quarantined.
    pub offers_max: u32,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody was asked to do it.
    Waiting,
    /// Published at that time; no outcome yet.
    Offered(Duration),
    /// The store holds an attempt.
    Done,
    /// Given up.
    Quarantined(Failure),
}

#[derive(Debug)]
struct Entry {
    state: State,
    n_offers: u32,
    n_failures_seen: u32,
    last_failure: Option<Failure>,
}

/// The tasks of one phase.
#[derive(Debug)]
pub struct Ledger {
    options: LedgerOptions,
    entries: Vec<Entry>,
    by_task: HashMap<TaskId, usize>,
    n_open: usize,
    n_offered: usize,
    next_waiting: usize,
}

impl Ledger {
    /// All tasks wait. Tasks with equal ids (equal shards cannot be in one plan) share an entry.
    #[must_use]
    pub fn new(tasks: &[TaskId], options: LedgerOptions) -> Self {
        Self {
            options,
            entries: tasks
                .iter()
                .map(|_| Entry {
                    state: State::Waiting,
                    n_offers: 0,
                    n_failures_seen: 0,
                    last_failure: None,
                })
                .collect(),
            by_task: tasks.iter().cloned().zip(0..).collect(),
            n_open: tasks.len(),
            n_offered: 0,
            next_waiting: 0,
        }
    }

    /// Whether every task is done or quarantined.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.n_open == 0
    }

    /// Tasks without an outcome.
    #[must_use]
    pub fn n_open(&self) -> usize {
        self.n_open
    }

    /// Whether the task belongs to the phase and has no outcome.
    #[must_use]
    pub fn is_open(&self, task: &TaskId) -> bool {
        self.by_task.get(task).is_some_and(|&idx| {
            matches!(self.entries[idx].state, State::Waiting | State::Offered(_))
        })
    }

    /// The store holds an attempt of the task. Returns the task's number if that is news. An
    /// attempt outweighs every failure.
    pub fn attempt_seen(&mut self, task: &TaskId) -> Option<usize> {
        let idx = *self.by_task.get(task)?;
        match self.entries[idx].state {
            State::Done => return None,
            State::Quarantined(_) => {}
            State::Waiting => self.n_open -= 1,
            State::Offered(_) => {
                self.n_open -= 1;
                self.n_offered -= 1;
            }
        }
        self.entries[idx].state = State::Done;
        Some(idx)
    }

    /// The store holds `n_failures` failure records of the task, `failure` among them. A failure
    /// that trying again cannot help quarantines; a transient one makes the task wait again.
    pub fn failures_seen(&mut self, task: &TaskId, n_failures: u32, failure: &Failure) {
        let Some(&idx) = self.by_task.get(task) else {
            return;
        };
        let offers_max = self.options.offers_max;
        let entry = &mut self.entries[idx];
        if n_failures <= entry.n_failures_seen {
            return;
        }
        entry.n_failures_seen = n_failures;
        entry.last_failure = Some(failure.clone());
        if !matches!(entry.state, State::Waiting | State::Offered(_)) {
            return;
        }
        if failure.kind != FailureKind::Transient || entry.n_offers >= offers_max {
            self.quarantine(idx, failure.clone());
        } else {
            self.wait_again(idx);
        }
    }

    fn wait_again(&mut self, idx: usize) {
        if matches!(self.entries[idx].state, State::Offered(_)) {
            self.n_offered -= 1;
        }
        self.entries[idx].state = State::Waiting;
        self.next_waiting = self.next_waiting.min(idx);
    }

    fn quarantine(&mut self, idx: usize, failure: Failure) {
        if matches!(self.entries[idx].state, State::Offered(_)) {
            self.n_offered -= 1;
        }
        self.n_open -= 1;
        self.entries[idx].state = State::Quarantined(failure);
    }

    /// Numbers of the tasks to publish now. They count as offered at `now`; call
    /// [`Ledger::not_published`] if that fails.
    pub fn offers(&mut self, now: Duration) -> Vec<usize> {
        self.check_overdue(now);
        let mut offers = Vec::new();
        while self.n_offered < self.options.window && self.next_waiting < self.entries.len() {
            let idx = self.next_waiting;
            self.next_waiting += 1;
            let entry = &mut self.entries[idx];
            if entry.state == State::Waiting {
                entry.state = State::Offered(now);
                entry.n_offers += 1;
                self.n_offered += 1;
                offers.push(idx);
            }
        }
        offers
    }

    /// The offers did not reach the queue for sure: make them again later.
    pub fn not_published(&mut self, offers: &[usize]) {
        for &idx in offers {
            let entry = &mut self.entries[idx];
            if matches!(entry.state, State::Offered(_)) {
                entry.n_offers -= 1;
                self.wait_again(idx);
            }
        }
    }

    fn check_overdue(&mut self, now: Duration) {
        if self.n_offered == 0 {
            return;
        }
        let overdue: Vec<usize> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| match entry.state {
                State::Offered(at) => now.saturating_sub(at) >= self.options.overdue_after,
                _ => false,
            })
            .map(|(idx, _)| idx)
            .collect();
        for idx in overdue {
            if self.entries[idx].n_offers >= self.options.offers_max {
                let entry = &self.entries[idx];
                let failure = entry.last_failure.clone().unwrap_or_else(|| {
                    Failure::new(
                        FailureKind::Transient,
                        format!(
                            "no worker finished the task, which was offered {} times; see the \
                             workers' logs (out of memory? lost machines?)",
                            entry.n_offers
                        ),
                    )
                });
                self.quarantine(idx, failure);
            } else {
                self.wait_again(idx);
            }
        }
    }

    /// Tasks that were given up: number, failure, offers made.
    pub fn quarantined(&self) -> impl Iterator<Item = (usize, &Failure, u32)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(idx, entry)| match &entry.state {
                State::Quarantined(failure) => Some((idx, failure, entry.n_offers)),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gleaner_schemas::Fingerprint;

    const OPTIONS: LedgerOptions = LedgerOptions {
        window: 2,
        overdue_after: Duration::from_secs(10),
        offers_max: 2,
    };

    fn ids(n: usize) -> Vec<TaskId> {
        (0..n).map(|i| Fingerprint::of("t", &i).into()).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn offers_fill_the_window_and_no_more() {
        let ids = ids(5);
        let mut ledger = Ledger::new(&ids, OPTIONS);
        assert_eq!(ledger.offers(at(0)), [0, 1]);
        assert_eq!(ledger.offers(at(1)), [0; 0]);
        assert_eq!(ledger.attempt_seen(&ids[1]), Some(1));
        assert_eq!(ledger.attempt_seen(&ids[1]), None);
        assert_eq!(ledger.offers(at(2)), [2]);
    }

    #[test]
    fn an_overdue_task_is_offered_again_then_quarantined() {
        let ids = ids(1);
        let mut ledger = Ledger::new(&ids, OPTIONS);
        assert_eq!(ledger.offers(at(0)), [0]);
        assert_eq!(ledger.offers(at(9)), [0; 0]);
        assert_eq!(ledger.offers(at(10)), [0]);
        assert_eq!(ledger.offers(at(20)), [0; 0]);
        assert!(ledger.is_complete());
        assert_eq!(ledger.quarantined().count(), 1);
        // A zombie that finishes after all is believed.
        assert_eq!(ledger.attempt_seen(&ids[0]), Some(0));
        assert_eq!(ledger.quarantined().count(), 0);
        assert!(ledger.is_complete());
    }

    #[test]
    fn a_permanent_failure_quarantines_at_once_a_transient_one_is_tried_again() {
        let ids = ids(2);
        let mut ledger = Ledger::new(&ids, OPTIONS);
        assert_eq!(ledger.offers(at(0)), [0, 1]);
        let permanent = Failure::new(FailureKind::Permanent, "no column");
        let transient = Failure::new(FailureKind::Transient, "reset");
        ledger.failures_seen(&ids[0], 1, &permanent);
        ledger.failures_seen(&ids[1], 1, &transient);
        assert_eq!(ledger.offers(at(1)), [1]);
        // The same record seen again is no news.
        ledger.failures_seen(&ids[1], 1, &transient);
        assert_eq!(ledger.n_open(), 1);
        ledger.failures_seen(&ids[1], 2, &transient);
        assert!(ledger.is_complete());
        let given_up: Vec<_> = ledger.quarantined().map(|(idx, _, n)| (idx, n)).collect();
        assert_eq!(given_up, [(0, 1), (1, 2)]);
    }

    #[test]
    fn offers_that_did_not_reach_the_queue_do_not_count() {
        let ids = ids(1);
        let mut ledger = Ledger::new(&ids, OPTIONS);
        for second in 0..10 {
            let offers = ledger.offers(at(second));
            assert_eq!(offers, [0]);
            ledger.not_published(&offers);
        }
        assert!(!ledger.is_complete());
    }
}
