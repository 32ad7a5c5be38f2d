use super::*;
use gleaner_schemas::Fingerprint;

const OPTIONS: LedgerOptions = LedgerOptions {
    overdue_after: Duration::from_secs(100),
    offers_max: 2,
    retry_pause: Duration::from_secs(1),
};
const WINDOW: usize = 2;
const PATIENCE: Duration = Duration::from_secs(10);

/// Ids in ascending order, so that tasks are offered in the order of their numbers.
fn ids(n: usize) -> Vec<TaskId> {
    let mut ids: Vec<TaskId> = (0..n).map(|i| Fingerprint::of("t", &i).into()).collect();
    ids.sort();
    ids
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, format!("{kind} failure"))
}

const NONE: [usize; 0] = [];

#[test]
fn offers_fill_the_window_and_no_more() {
    let ids = ids(5);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0, 1]);
    assert_eq!(ledger.offers(at(1), WINDOW, true), NONE);
    assert_eq!(ledger.attempt_seen(&ids[1], at(1)), Some(1));
    assert_eq!(ledger.attempt_seen(&ids[1], at(1)), None);
    assert_eq!(ledger.offers(at(2), WINDOW, true), [2]);
    assert_eq!(ledger.offers(at(2), 3, true), [3]);
    let counts = TaskCounts {
        waiting: 1,
        offered: 3,
        done: 1,
        quarantined: 0,
    };
    assert_eq!(ledger.counts(), counts);
}

#[test]
fn offers_follow_the_ids() {
    let mut ids = ids(9);
    ids.reverse();
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), 3, true), [8, 7, 6]);
}

#[test]
fn an_overdue_task_is_offered_again_then_quarantined() {
    let ids = ids(1);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0]);
    assert_eq!(ledger.offers(at(99), WINDOW, true), NONE);
    assert_eq!(ledger.offers(at(100), WINDOW, true), NONE);
    assert_eq!(ledger.offers(at(101), WINDOW, true), [0]);
    assert_eq!(ledger.offers(at(201), WINDOW, true), NONE);
    assert!(ledger.is_complete());
    // Nothing is known of a store that could not be reached: the task may be at fault.
    let kinds: Vec<_> = ledger.quarantined().map(|(_, it, _)| it.kind).collect();
    assert_eq!(kinds, [FailureKind::Timeout]);
    // A zombie that finishes after all is believed.
    assert_eq!(ledger.attempt_seen(&ids[0], at(202)), Some(0));
    assert_eq!(ledger.quarantined().count(), 0);
    assert!(ledger.is_complete());
}

#[test]
fn a_failure_that_may_pass_is_tried_again_after_a_pause_and_a_bounded_number_of_times() {
    for kind in [FailureKind::Transient, FailureKind::Timeout] {
        is_tried_again(&failure(kind));
    }
}

fn is_tried_again(transient: &Failure) {
    let ids = ids(1);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0]);
    ledger.failures_seen(&ids[0], 1, transient, at(1));
    assert_eq!(ledger.offers(at(1), WINDOW, true), NONE);
    assert_eq!(ledger.offers(at(2), WINDOW, true), [0]);
    // The same record seen again is no news.
    ledger.failures_seen(&ids[0], 1, transient, at(2));
    assert_eq!(ledger.n_open(), 1);
    ledger.failures_seen(&ids[0], 2, transient, at(3));
    assert!(ledger.is_complete());
    let given_up: Vec<_> = ledger.quarantined().map(|(idx, _, n)| (idx, n)).collect();
    assert_eq!(given_up, [(0, 2)]);
}

#[test]
fn a_permanent_failure_is_split_or_quarantined_at_once() {
    let ids = ids(2);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0, 1]);
    ledger.failures_seen(&ids[0], 1, &failure(FailureKind::Permanent), at(1));
    let unsplit: Vec<_> = ledger.unsplit().map(|(idx, _)| idx).collect();
    assert_eq!(unsplit, [0]);
    assert!(!ledger.is_complete());
    ledger.cannot_split(0, at(1));
    assert_eq!(ledger.unsplit().count(), 0);
    assert_eq!(ledger.n_open(), 1);
    assert_eq!(ledger.quarantined().count(), 1);
}

#[test]
fn too_little_memory_is_believed_the_second_time() {
    let ids = ids(1);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    let memory = failure(FailureKind::Memory);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0]);
    ledger.failures_seen(&ids[0], 1, &memory, at(1));
    ledger.cannot_split(0, at(1));
    assert_eq!(ledger.offers(at(2), WINDOW, true), [0]);
    ledger.failures_seen(&ids[0], 2, &memory, at(3));
    ledger.cannot_split(0, at(3));
    assert!(ledger.is_complete());
    assert_eq!(ledger.quarantined().count(), 1);
}

#[test]
fn an_attempt_ends_a_task_that_was_to_be_split() {
    let ids = ids(1);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), WINDOW, true), [0]);
    ledger.failures_seen(&ids[0], 1, &failure(FailureKind::Memory), at(1));
    assert_eq!(ledger.attempt_seen(&ids[0], at(2)), Some(0));
    assert_eq!(ledger.unsplit().count(), 0);
    assert!(ledger.is_complete());
}

#[test]
fn a_new_plan_keeps_what_is_known_of_its_tasks() {
    let all = ids(6);
    // The task 2 is replaced by 4 and 5.
    let mut earlier = Ledger::new(&all[..4], OPTIONS);
    assert_eq!(earlier.offers(at(0), 3, true), [0, 1, 2]);
    assert_eq!(earlier.attempt_seen(&all[0], at(4)), Some(0));
    earlier.failures_seen(&all[2], 1, &failure(FailureKind::Memory), at(5));
    let tasks: Vec<TaskId> = [0, 1, 3, 4, 5].map(|idx: usize| all[idx].clone()).to_vec();
    let mut ledger = Ledger::new(&tasks, OPTIONS).inherit(&earlier);
    assert_eq!(ledger.n_open(), 4);
    assert_eq!(ledger.n_offered(), 1);
    assert_eq!(ledger.unsplit().count(), 0);
    assert_eq!(ledger.offers(at(6), 9, true), [2, 3, 4]);
    for task in &tasks[1..] {
        assert!(ledger.attempt_seen(task, at(7)).is_some());
    }
    assert!(ledger.is_complete());
}

#[test]
fn offers_that_did_not_reach_the_queue_do_not_count() {
    let ids = ids(1);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    for second in 0..10 {
        let offers = ledger.offers(at(second), WINDOW, true);
        assert_eq!(offers, [0]);
        ledger.not_published(&offers);
    }
    assert!(!ledger.is_complete());
}

#[test]
fn more_offers_than_slots_and_an_empty_queue_are_lost_messages() {
    let ids = ids(6);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), 2, true), [0, 1]);
    assert_eq!(ledger.offers(at(1), 4, true), [2, 3]);
    assert_eq!(ledger.copies(at(10), 2, PATIENCE), NONE);
    // The newest two; the first two are with the two slots.
    assert_eq!(ledger.copies(at(11), 2, PATIENCE), [3, 2]);
    assert_eq!(ledger.copies(at(30), 2, PATIENCE), NONE);
    // Twice as long as before.
    assert_eq!(ledger.copies(at(31), 2, PATIENCE), [3, 2]);
    // A copy is no offer: the bound on offers is for tasks that something is wrong with.
    // All four are overdue now, after one offer each; two others are offered meanwhile.
    assert_eq!(ledger.offers(at(102), 2, true), [4, 5]);
    assert_eq!(ledger.offers(at(103), 6, true), [0, 1, 2, 3]);
    assert_eq!(ledger.quarantined().count(), 0);
}

#[test]
fn the_slow_ones_of_the_tail_go_to_idle_slots() {
    let ids = ids(3);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), 3, true), [0, 1, 2]);
    assert_eq!(ledger.attempt_seen(&ids[1], at(5)), Some(1));
    // Three times five seconds.
    assert_eq!(ledger.copies(at(14), 3, PATIENCE), NONE);
    assert_eq!(ledger.copies(at(15), 3, PATIENCE), [0]);
    assert_eq!(ledger.copies(at(16), 4, PATIENCE), [2]);
    assert_eq!(ledger.copies(at(17), 4, PATIENCE), NONE);
}

#[test]
fn a_single_task_is_copied_before_it_is_overdue() {
    let ids = ids(1);
    let options = LedgerOptions {
        overdue_after: at(1800),
        ..OPTIONS
    };
    let mut ledger = Ledger::new(&ids, options);
    assert_eq!(ledger.offers(at(0), 2, true), [0]);
    let copied: Vec<u64> = (1..1800)
        .filter(|&second| !ledger.copies(at(second), 4, PATIENCE).is_empty())
        .collect();
    assert_eq!(copied, [60, 180, 420, 900]);
}

#[test]
fn nothing_is_copied_while_there_is_more_to_offer() {
    let ids = ids(3);
    let mut ledger = Ledger::new(&ids, OPTIONS);
    assert_eq!(ledger.offers(at(0), 2, true), [0, 1]);
    assert_eq!(ledger.copies(at(50), 5, PATIENCE), NONE);
}
