//! The state of a map phase's tasks, and what to do next. Pure: time and observations come in,
//! actions go out.
//!
//! A task waits, is offered, and ends: done, quarantined, or split into smaller ones. Offers that
//! count (the first, and those after a failure or after nothing came of one) are bounded; copies
//! of an offer, made because a message seems lost or a worker slow, are not counted, since nothing
//! is wrong with the task.

mod effort;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use gleaner_schemas::{Failure, FailureKind, TaskId};

pub use effort::Effort;

/// Bounds of a phase.
#[derive(Debug, Clone, Copy)]
pub struct LedgerOptions {
    /// After this time without an outcome a task is offered again: the message or the worker is
    /// lost.
    pub overdue_after: Duration,
    /// A task is offered this many times, then quarantined.
    pub offers_max: u32,
    /// Pause before a task that failed is offered again; doubles with each failure.
    pub retry_pause: Duration,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nobody was asked to do it; not to be offered before that time.
    Waiting(Duration),
    /// The last offer that counts, and the last of its copies; no outcome yet.
    Offered {
        at: Duration,
        copied_at: Duration,
        n_copies: u32,
    },
    /// Smaller tasks are to take its place, for this failure.
    Unsplit(Box<Failure>),
    /// The store holds an attempt.
    Done,
    /// Given up.
    Quarantined(Box<Failure>),
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    n_offers: u32,
    n_failures_seen: u32,
    n_memory_failures: u32,
    last_failure: Option<Box<Failure>>,
}

impl Entry {
    fn new() -> Self {
        Self {
            state: State::Waiting(Duration::ZERO),
            n_offers: 0,
            n_failures_seen: 0,
            n_memory_failures: 0,
            last_failure: None,
        }
    }
}

/// The tasks of one phase.
#[derive(Debug)]
pub struct Ledger {
    options: LedgerOptions,
    entries: Vec<Entry>,
    /// Numbers of the tasks, sorted by id.
    by_task: Vec<(TaskId, u32)>,
    n_open: usize,
    n_quarantined: usize,
    /// Tasks that were never offered, or whose pause is over, in the order of offering.
    ready: VecDeque<u32>,
    /// Tasks that wait for their pause to end.
    pausing: BTreeSet<(Duration, usize)>,
    /// Offered tasks by the time of the offer that counts.
    offered: BTreeSet<(Duration, usize)>,
    unsplit: BTreeSet<usize>,
    seconds_of_done: f64,
    n_done_here: u32,
    effort: Effort,
    /// Numbers of the tasks that were given up, in that order.
    given_up: Vec<u32>,
}

/// Tasks by state, for progress and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TaskCounts {
    /// Not offered.
    pub waiting: usize,
    /// Offered, without an outcome.
    pub offered: usize,
    /// The store holds an attempt.
    pub done: usize,
    /// Given up.
    pub quarantined: usize,
}

impl Ledger {
    /// All tasks wait, to be offered in the order of their ids: attempts are stored by id, so
    /// those that are open at a time lie in few folders. Ids are unique (equal shards cannot be in
    /// one plan).
    #[must_use]
    pub fn new<'a>(tasks: impl IntoIterator<Item = &'a TaskId>, options: LedgerOptions) -> Self {
        let mut by_task: Vec<(TaskId, u32)> = tasks.into_iter().cloned().zip(0..).collect();
        by_task.sort_unstable();
        Self {
            options,
            entries: by_task.iter().map(|_| Entry::new()).collect(),
            n_open: by_task.len(),
            n_quarantined: 0,
            ready: by_task.iter().map(|(_, idx)| *idx).collect(),
            by_task,
            pausing: BTreeSet::new(),
            offered: BTreeSet::new(),
            unsplit: BTreeSet::new(),
            seconds_of_done: 0.0,
            n_done_here: 0,
            effort: Effort::default(),
            given_up: Vec::new(),
        }
    }

    /// Takes over what an earlier ledger knows of tasks that both have: the plan was changed while
    /// they were with workers.
    #[must_use]
    pub fn inherit(mut self, earlier: &Self) -> Self {
        for (task, idx) in &self.by_task {
            let idx = *idx as usize;
            let Some(earlier_idx) = earlier.number_of(task) else {
                continue;
            };
            let entry = earlier.entries[earlier_idx].clone();
            match entry.state {
                State::Waiting(not_before) if not_before > Duration::ZERO => {
                    self.pausing.insert((not_before, idx));
                }
                State::Waiting(_) => {}
                State::Offered { at, .. } => {
                    self.offered.insert((at, idx));
                }
                State::Unsplit(_) => {
                    self.unsplit.insert(idx);
                }
                State::Done => self.n_open -= 1,
                State::Quarantined(_) => {
                    self.n_open -= 1;
                    self.n_quarantined += 1;
                    self.given_up.push(idx as u32);
                }
            }
            self.entries[idx] = entry;
        }
        let entries = &self.entries;
        self.ready
            .retain(|&idx| entries[idx as usize].state == State::Waiting(Duration::ZERO));
        self.seconds_of_done = earlier.seconds_of_done;
        self.n_done_here = earlier.n_done_here;
        self.effort = earlier.effort;
        self
    }

    fn number_of(&self, task: &TaskId) -> Option<usize> {
        let found = self.by_task.binary_search_by(|(id, _)| id.cmp(task));
        Some(self.by_task[found.ok()?].1 as usize)
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

    /// Tasks that are offered and have no outcome.
    #[must_use]
    pub fn n_offered(&self) -> usize {
        self.offered.len()
    }

    /// Numbers of the tasks that are offered and have no outcome.
    pub fn offered(&self) -> impl Iterator<Item = usize> {
        self.offered.iter().map(|(_, idx)| *idx)
    }

    /// Numbers of the tasks of which the store holds an attempt.
    pub fn done(&self) -> impl Iterator<Item = usize> {
        (0..self.entries.len()).filter(|&idx| self.entries[idx].state == State::Done)
    }

    /// Tasks by state.
    #[must_use]
    pub fn counts(&self) -> TaskCounts {
        TaskCounts {
            waiting: self.n_open - self.offered.len(),
            offered: self.offered.len(),
            done: self.entries.len() - self.n_open - self.n_quarantined,
            quarantined: self.n_quarantined,
        }
    }

    /// Whether the task belongs to the phase and has no outcome.
    #[must_use]
    pub fn is_open(&self, task: &TaskId) -> bool {
        self.number_of(task).is_some_and(|idx| {
            !matches!(self.entries[idx].state, State::Done | State::Quarantined(_))
        })
    }

    /// The store holds an attempt of the task. Returns the task's number if that is news. An
    /// attempt outweighs every failure.
    pub fn attempt_seen(&mut self, task: &TaskId, now: Duration) -> Option<usize> {
        let idx = self.number_of(task)?;
        match self.entries[idx].state {
            State::Done => return None,
            State::Quarantined(_) => {
                self.n_quarantined -= 1;
                self.n_open += 1;
            }
            State::Offered { at, .. } => {
                self.seconds_of_done += now.saturating_sub(at).as_secs_f64();
                self.n_done_here += 1;
            }
            State::Waiting(_) | State::Unsplit(_) => {}
        }
        self.end(idx, State::Done);
        Some(idx)
    }

    /// The store holds `n_failures` failure records of the task, `failure` among them. A transient
    /// failure makes the task wait again; one of memory asks for smaller tasks, and so does a
    /// permanent one, which may concern one of several files. Whether there are more than before.
    pub fn failures_seen(
        &mut self,
        task: &TaskId,
        n_failures: u32,
        failure: &Failure,
        now: Duration,
    ) -> bool {
        let Some(idx) = self.number_of(task) else {
            return false;
        };
        let entry = &mut self.entries[idx];
        if n_failures <= entry.n_failures_seen {
            return false;
        }
        self.effort.n_failures += u64::from(n_failures - entry.n_failures_seen);
        entry.n_failures_seen = n_failures;
        entry.last_failure = Some(Box::new(failure.clone()));
        if !matches!(entry.state, State::Waiting(_) | State::Offered { .. }) {
            return true;
        }
        match failure.kind {
            FailureKind::Transient | FailureKind::Timeout
                if entry.n_offers < self.options.offers_max =>
            {
                self.wait_again(idx, now);
            }
            FailureKind::Transient | FailureKind::Timeout => {
                self.end(idx, State::Quarantined(Box::new(failure.clone())));
            }
            // The run ends for these; the task is as it was.
            FailureKind::Endpoint | FailureKind::Budget => {}
            FailureKind::Memory | FailureKind::Permanent | FailureKind::Access => {
                entry.n_memory_failures += u32::from(failure.kind == FailureKind::Memory);
                self.leave(idx);
                self.entries[idx].state = State::Unsplit(Box::new(failure.clone()));
                self.unsplit.insert(idx);
            }
        }
        true
    }

    /// Tasks that smaller ones are to replace, with the failures. Each must be answered: by a new
    /// ledger over the smaller tasks, or by [`Ledger::cannot_split`].
    pub fn unsplit(&self) -> impl Iterator<Item = (usize, &Failure)> {
        self.unsplit
            .iter()
            .filter_map(|&idx| match &self.entries[idx].state {
                State::Unsplit(failure) => Some((idx, failure.as_ref())),
                _ => None,
            })
    }

    /// The task is as small as it gets: it is given up. What looks like too little memory may have
    /// been machines that went away, so that is believed the second time only.
    pub fn cannot_split(&mut self, idx: usize, now: Duration) {
        let State::Unsplit(failure) = self.entries[idx].state.clone() else {
            return;
        };
        let entry = &self.entries[idx];
        let is_first = failure.kind == FailureKind::Memory && entry.n_memory_failures < 2;
        if is_first && entry.n_offers < self.options.offers_max {
            self.wait_again(idx, now);
        } else {
            self.end(idx, State::Quarantined(failure));
        }
    }

    /// Takes a task out of the set of its state.
    fn leave(&mut self, idx: usize) {
        match self.entries[idx].state {
            State::Waiting(not_before) => {
                // What is in `ready` all the same is passed over when its turn comes.
                self.pausing.remove(&(not_before, idx));
            }
            State::Offered { at, .. } => {
                self.offered.remove(&(at, idx));
            }
            State::Unsplit(_) => {
                self.unsplit.remove(&idx);
            }
            State::Done | State::Quarantined(_) => {}
        }
    }

    fn end(&mut self, idx: usize, state: State) {
        self.leave(idx);
        self.n_open -= 1;
        if matches!(state, State::Quarantined(_)) {
            self.n_quarantined += 1;
            self.given_up.push(idx as u32);
        }
        self.entries[idx].state = state;
    }

    fn wait_again(&mut self, idx: usize, now: Duration) {
        self.leave(idx);
        let entry = &mut self.entries[idx];
        let doublings = entry.n_failures_seen.saturating_sub(1).min(8);
        let pause = self.options.retry_pause * 2_u32.pow(doublings);
        let not_before = now + pause;
        entry.state = State::Waiting(not_before);
        self.pausing.insert((not_before, idx));
    }

    /// Numbers of the tasks to publish now, so that no more than `window` are offered at a time.
    /// They count as offered at `now`; call [`Ledger::not_published`] if that fails. Offers from
    /// long ago count as lost only `if_overdue`: where they cannot be waiting to be taken.
    pub fn offers(&mut self, now: Duration, window: usize, if_overdue: bool) -> Vec<usize> {
        if if_overdue {
            self.check_overdue(now);
        }
        let mut offers = Vec::new();
        while self.offered.len() < window {
            let Some(idx) = self.next_ready(now) else {
                break;
            };
            self.leave(idx);
            let entry = &mut self.entries[idx];
            entry.state = State::Offered {
                at: now,
                copied_at: now,
                n_copies: 0,
            };
            self.effort.n_offered_again += u64::from(entry.n_offers > 0);
            entry.n_offers += 1;
            self.offered.insert((now, idx));
            offers.push(idx);
        }
        offers
    }

    /// Those that failed before come first: what is wrong with a phase is known early.
    fn next_ready(&mut self, now: Duration) -> Option<usize> {
        if let Some(&(not_before, idx)) = self.pausing.first()
            && not_before <= now
        {
            return Some(idx);
        }
        while let Some(idx) = self.ready.pop_front() {
            let idx = idx as usize;
            if self.entries[idx].state == State::Waiting(Duration::ZERO) {
                return Some(idx);
            }
        }
        None
    }

    /// The offers did not reach the queue for sure: make them again later.
    pub fn not_published(&mut self, offers: &[usize]) {
        for &idx in offers {
            if matches!(self.entries[idx].state, State::Offered { .. }) {
                self.leave(idx);
                let entry = &mut self.entries[idx];
                entry.n_offers -= 1;
                self.effort.n_offered_again -= u64::from(entry.n_offers > 0);
                entry.state = State::Waiting(Duration::ZERO);
                self.ready.push_front(idx as u32);
            }
        }
    }

    fn check_overdue(&mut self, now: Duration) {
        while let Some(&(at, idx)) = self.offered.first()
            && now.saturating_sub(at) >= self.options.overdue_after
        {
            let entry = &self.entries[idx];
            if entry.n_offers < self.options.offers_max {
                self.wait_again(idx, now);
                continue;
            }
            let failure = entry.last_failure.clone().unwrap_or_else(|| {
                Box::new(Failure::new(
                    FailureKind::Timeout,
                    format!(
                        "no worker finished the task, which was offered {} times; see the \
                         workers' logs (out of memory? lost machines? of another version?)",
                        entry.n_offers
                    ),
                ))
            });
            self.end(idx, State::Quarantined(failure));
        }
    }

    /// Numbers of the tasks to publish once more although they are offered, while no message waits
    /// in the queue and workers have `n_slots` slots. They count as copied at `now`.
    ///
    /// - More tasks are offered than slots can hold: messages are lost. The newest are, since the
    ///   oldest were taken first.
    /// - Nothing is left to offer and slots are idle: the oldest tasks, if they take much longer
    ///   than others did, are given to a second worker.
    ///
    /// No task is copied within `patience` of its last offer or copy; each copy doubles the time to
    /// the next.
    pub fn copies(&mut self, now: Duration, n_slots: usize, patience: Duration) -> Vec<usize> {
        let n_lost = self.offered.len().saturating_sub(n_slots);
        let n_idle = n_slots.saturating_sub(self.offered.len());
        let has_more = !self.ready.is_empty() || !self.pausing.is_empty();
        let slow = self.slow_after().max(patience);
        let entries = &self.entries;
        let rested = |idx: usize, rest: Duration| match entries[idx].state {
            State::Offered {
                copied_at,
                n_copies,
                ..
            } => now.saturating_sub(copied_at) >= rest * 2_u32.pow(n_copies.min(8)),
            _ => false,
        };
        let numbers = self.offered.iter().map(|(_, idx)| *idx);
        let copies: Vec<usize> = if n_lost > 0 {
            let newest = numbers.rev().take(n_lost);
            newest.filter(|&idx| rested(idx, patience)).collect()
        } else if has_more {
            Vec::new()
        } else {
            numbers
                .filter(|&idx| rested(idx, slow))
                .take(n_idle)
                .collect()
        };
        for &idx in &copies {
            if let State::Offered {
                copied_at,
                n_copies,
                ..
            } = &mut self.entries[idx].state
            {
                self.effort.n_copies += 1;
                *copied_at = now;
                *n_copies += 1;
            }
        }
        copies
    }

    /// A task that takes longer than this is slow: several times the mean of those that ended; of
    /// the first one nothing is known but how long it may take.
    fn slow_after(&self) -> Duration {
        const MEANS: f64 = 3.0;
        const PART_OF_OVERDUE: u32 = 30;
        if self.n_done_here == 0 {
            return self.options.overdue_after / PART_OF_OVERDUE;
        }
        let mean = self.seconds_of_done / f64::from(self.n_done_here);
        Duration::try_from_secs_f64(MEANS * mean)
            .unwrap_or(Duration::MAX)
            .min(self.options.overdue_after)
    }
}

#[cfg(test)]
mod tests;
