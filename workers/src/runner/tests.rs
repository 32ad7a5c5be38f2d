//! The worker's loop over a queue and a store in memory, in paused time.

mod scene;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gleaner_queue::{QueueError, TaskQueue as _};
use gleaner_schemas::{AttemptOutcome, AttemptRecord, Failure, FailureKind, RunId, TaskMessage};
use gleaner_storage::layout;
use tokio::time::Instant;

use super::Worker;
use crate::attempt_log::AttemptLog;
use crate::options::WorkerOptions;
use scene::{CountingQueue, LONG, Scene, TASK_TIMEOUT};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn tasks_of_other_kinds_are_passed_on_with_growing_pauses_and_their_run_is_told() {
    let options = WorkerOptions {
        kinds: Some(BTreeSet::from(["another".to_owned()])),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let end = scene
        .run(async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            scene.shutdown.drain();
        })
        .await;
    let [acknowledged, passed_on, dropped] = scene.ends.counts();
    assert_eq!((acknowledged, dropped, scene.n_started()), (0, 0, 0));
    // Two slots, each with a pause of up to 10 s: neither given up nor spinning.
    assert!((60..=260).contains(&passed_on), "{passed_on}");
    assert_eq!(scene.queue.depth(), (1, 0));
    // It was never this worker's.
    assert_eq!(end.n_given_back, 0);
    // At once, and after 30 s, a minute, two minutes: there may be nobody else.
    let reports = scene.queue.given_up(&RunId::new(1)).await.unwrap();
    assert_eq!(reports.len(), 4);
    for report in reports {
        let refusal = report.task.refusal.clone().unwrap();
        assert_eq!(
            refusal.message,
            "a worker: it takes only another (`--stages`), and the tasks are of the kind simulated; \
             start workers that take that kind too"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_of_another_version_are_passed_on_and_their_run_is_told() {
    let scene = Scene::new(2, SECOND, WorkerOptions::default()).await;
    scene.executor.refuses.store(true, Ordering::Relaxed);
    let messages: Vec<_> = (0..8).map(|number| scene.message(number)).collect();
    scene.publish(&messages).await;
    let end = scene
        .run(async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            scene.shutdown.drain();
        })
        .await;
    let [acknowledged, passed_on, dropped] = scene.ends.counts();
    assert_eq!((acknowledged, dropped, scene.n_started()), (0, 0, 0));
    assert!((60..=260).contains(&passed_on), "{passed_on}");
    assert_eq!((scene.queue.depth(), end.n_given_back), ((8, 0), 0));
    // Nothing is recorded against the tasks, and other jobs are not troubled.
    let run = RunId::new(1);
    let failures = scene.output.list(&layout::failures(&run)).await.unwrap();
    assert_eq!(failures, []);
    assert_eq!(scene.worker.trouble.get(scene.output.uri()), None);
    // At once, and after 30 s, a minute, two minutes.
    let reports = scene.queue.given_up(&run).await.unwrap();
    assert_eq!(reports.len(), 4);
    for report in reports {
        let refusal = report.task.refusal.clone().unwrap();
        assert_eq!(refusal.message, "a worker: of another version");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_taken_kind_is_worked_on_between_others() {
    let options = WorkerOptions {
        kinds: Some(BTreeSet::from(["simulated".to_owned()])),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, SECOND, options).await;
    let mut foreign = scene.message(0);
    foreign.kind = "another".to_owned();
    scene.publish(&[foreign, scene.message(1)]).await;
    let started = Instant::now();
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 1).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.attempts().await[..2], [0, 1]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_task_in_hand_is_worked_on_once_and_both_deliveries_are_acknowledged() {
    let scene = Scene::new(3, 10 * SECOND, WorkerOptions::default()).await;
    scene.publish(&[scene.message(0), scene.message(0)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 2).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.n_started(), 1);
    assert_eq!(scene.ends.counts(), [2, 0, 0]);
    assert_eq!(scene.attempts().await[0], 1);
    assert_eq!(scene.queue.depth(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn another_run_of_a_task_that_failed_gets_a_record_of_its_own() {
    let options = WorkerOptions::default();
    // All three are in hand at a time: one is worked on, and two wait for its end.
    let scene = Scene::failing(3, SECOND, options, Some(FailureKind::Permanent)).await;
    let mut other = scene.message(0);
    other.run = RunId::new(2);
    let messages = [scene.message(0), scene.message(0), other.clone()];
    scene.publish(&messages).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 3).await;
            scene.shutdown.drain();
        })
        .await;
    for run in [&messages[0].run, &other.run] {
        let failures = scene.output.list(&layout::failures(run)).await.unwrap();
        assert!(!failures.is_empty(), "{run}");
    }
    assert_eq!(scene.queue.depth(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_hand_twice_is_given_back_twice() {
    let options = WorkerOptions {
        grace: Some(5 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(0)]).await;
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(end.n_given_back, 2);
    assert_eq!(scene.n_started(), 1);
    assert_eq!(scene.queue.depth(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_nothing_more_and_finishes_within_the_grace() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 10 * SECOND, options).await;
    let messages: Vec<_> = (0..8).map(|number| scene.message(number)).collect();
    scene.publish(&messages).await;
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(end.n_given_back, 0);
    assert_eq!(scene.attempts().await, [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(scene.queue.depth(), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_within_the_grace_is_passed_on() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(2, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(1)]).await;
    let started = Instant::now();
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    let elapsed = started.elapsed();
    assert!((31 * SECOND..33 * SECOND).contains(&elapsed), "{elapsed:?}");
    assert_eq!(end.n_given_back, 2);
    // A preemption is not held against the tasks.
    assert_eq!(scene.ends.counts(), [0, 2, 0]);
    assert_eq!(scene.queue.depth(), (2, 0));
    assert_eq!(scene.attempts().await[..2], [0, 0]);
}

/// The queue may be what is gone, and the worker is asked to end.
#[tokio::test(start_paused = true)]
async fn a_queue_that_does_not_answer_holds_no_worker_that_is_told_to_stop() {
    let options = WorkerOptions {
        grace: Some(SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    scene.ends.hangs.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
        })
        .await;
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
    assert_eq!(end.n_given_back, 1);
}

#[tokio::test(start_paused = true)]
async fn the_second_signal_ends_the_grace() {
    let options = WorkerOptions {
        grace: Some(30 * SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, 100 * SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let started = Instant::now();
    let end = scene
        .run(async {
            tokio::time::sleep(SECOND).await;
            scene.shutdown.drain();
            tokio::time::sleep(SECOND).await;
            scene.shutdown.cancel();
        })
        .await;
    assert!(started.elapsed() < 3 * SECOND);
    assert_eq!(end.n_given_back, 1);
    assert_eq!(scene.queue.depth(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_ends_the_worker() {
    let scene = Scene::new(2, SECOND, WorkerOptions::default()).await;
    let queue = CountingQueue {
        queue: scene.queue.clone(),
        ends: Arc::clone(&scene.ends),
        refuses: AtomicBool::new(true),
    };
    let worker = Worker {
        queue: Arc::new(queue),
        ..scene.worker
    };
    let end = tokio::time::timeout(LONG, worker.run(&scene.shutdown)).await;
    let refused = end.unwrap().refused;
    assert!(
        matches!(refused, Some(QueueError::Refused { .. })),
        "{refused:?}"
    );
    // Whoever asked for the worker is not asked to stop.
    assert!(!scene.shutdown.is_draining());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_the_broker_would_take_away_is_refused_with_that_sentence() {
    let options = WorkerOptions {
        consumer_timeout: Some(2 * TASK_TIMEOUT - SECOND),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, SECOND, options).await;
    scene.publish(&[scene.message(0)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_acknowledged() == 1).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.n_started(), 0);
    let listed = scene.output.list(&layout::failures(&RunId::new(1))).await;
    let recorded = &listed.unwrap()[0].path;
    let failure: Failure = scene
        .output
        .get_json(recorded, "failure")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(failure.kind, FailureKind::Permanent);
    assert!(
        failure.message.starts_with(
            "task_timeout (10min) is longer than half of the time after which the broker takes a \
             task away from its worker (1199s)"
        ),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_not_repeated_beyond_the_time_that_the_broker_gives() {
    // Another attempt may take its whole time, and something is left for what follows it.
    for (takes, n_attempts) in [(TASK_TIMEOUT - SECOND, 1), (TASK_TIMEOUT / 4, 2)] {
        let options = WorkerOptions {
            consumer_timeout: Some(2 * TASK_TIMEOUT),
            ..WorkerOptions::default()
        };
        let scene = Scene::failing(1, takes, options, Some(FailureKind::Transient)).await;
        scene.publish(&[scene.message(0)]).await;
        let started = Instant::now();
        let _ = scene
            .run(async {
                scene.until(|| scene.n_acknowledged() == 1).await;
                scene.shutdown.drain();
            })
            .await;
        assert!(started.elapsed() < 2 * TASK_TIMEOUT);
        assert_eq!(scene.n_started(), n_attempts, "{takes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_workers_leave_to_each_other_for_ever_is_dropped() {
    let scene = Scene::new(1, SECOND, WorkerOptions::default()).await;
    scene.executor.refuses.store(true, Ordering::Relaxed);
    let mut old = scene.message(0);
    old.n_passed_on = TaskMessage::PASSED_ON_MAX - 3;
    scene.publish(&[old, scene.message(1)]).await;
    let _ = scene
        .run(async {
            tokio::time::sleep(Duration::from_secs(300)).await;
            scene.shutdown.drain();
        })
        .await;
    // The other one has much time left.
    assert_eq!(scene.queue.depth(), (1, 0));
    let [acknowledged, passed_on, dropped] = scene.ends.counts();
    assert_eq!((acknowledged, dropped), (1, 0));
    assert!(passed_on > 10, "{passed_on}");
    let left = scene.queue.receive().await.unwrap();
    assert_eq!(left.task.task, scene.message(1).task);
    assert_eq!(u64::from(left.task.n_passed_on), passed_on - 3);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_input_is_denied_is_left_to_others_and_told_of() {
    let options = WorkerOptions::default();
    let scene = Scene::failing(1, SECOND, options, Some(FailureKind::Access)).await;
    scene.publish(&[scene.message(0), scene.message(1)]).await;
    let _ = scene
        .run(async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            scene.shutdown.drain();
        })
        .await;
    let run = RunId::new(1);
    let failures = scene.output.list(&layout::failures(&run)).await.unwrap();
    assert_eq!(failures, []);
    let [acknowledged, passed_on, dropped] = scene.ends.counts();
    assert_eq!((acknowledged, dropped), (0, 0));
    assert!(passed_on > 2, "{passed_on}");
    // Each task is told of: it may be that nobody may read what it reads.
    let mut told = BTreeSet::new();
    for report in scene.queue.given_up(&run).await.unwrap() {
        let refusal = report.task.refusal.clone().unwrap();
        assert_eq!(refusal.kind, FailureKind::Access);
        assert!(told.insert(report.task.task.clone()), "told twice");
        report.ack().await.unwrap();
    }
    assert_eq!(told.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_plan_is_dropped_and_troubles_nobody_else() {
    let scene = Scene::new(1, SECOND, WorkerOptions::default()).await;
    let mut lost = scene.message(0);
    lost.stage = "removed".to_owned();
    scene.publish(&[lost]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.ends.counts()[2] == 8).await;
            scene.shutdown.drain();
        })
        .await;
    assert_eq!(scene.ends.counts()[..2], [0, 0]);
    let persisting = tokio::time::timeout(SECOND, scene.worker.trouble.persisting()).await;
    assert!(persisting.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_outcomes_is_trouble_that_persists() {
    let scene = Scene::new(1, SECOND, WorkerOptions::default()).await;
    let mut message = scene.message(0);
    // Nothing can be read or made below a file.
    message.output = "file:///dev/null/out".to_owned();
    scene.publish(&[message]).await;
    let _ = scene
        .run(async {
            let failure = scene.worker.trouble.persisting().await;
            assert!(failure.message.contains("/dev/null/out"), "{failure}");
            scene.shutdown.drain();
        })
        .await;
    let [acknowledged, passed_on, _] = scene.ends.counts();
    assert_eq!((acknowledged, passed_on), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_recorded_with_their_ends() {
    let log = AttemptLog::new("host-1-0".to_owned(), chrono::DateTime::UNIX_EPOCH);
    let options = WorkerOptions {
        grace: Some(SECOND),
        attempts: Some(Arc::new(log)),
        ..WorkerOptions::default()
    };
    let scene = Scene::new(1, 10 * SECOND, options).await;
    scene.publish(&[scene.message(0), scene.message(1)]).await;
    let _ = scene
        .run(async {
            scene.until(|| scene.n_started() == 2).await;
            scene.shutdown.drain();
        })
        .await;
    let mut records = Vec::new();
    for object in scene.output.list(layout::RUNS).await.unwrap() {
        assert_eq!(
            layout::parse_attempt_records(&object.path),
            Some(RunId::new(1))
        );
        let text = scene.output.get(&object.path).await.unwrap().unwrap();
        for line in std::str::from_utf8(&text).unwrap().lines() {
            records.push(serde_json::from_str::<AttemptRecord>(line).unwrap());
        }
    }
    let [first, second] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(first.outcome, AttemptOutcome::Committed);
    assert!((10.0..10.1).contains(&first.seconds), "{first:?}");
    let attempts = scene.output.attempts("stage").await.unwrap();
    assert_eq!(
        Some(&attempts[&first.task][0].attempt),
        first.attempt.as_ref()
    );
    assert_eq!(first.bytes_out, Some(6));
    assert_eq!(second.outcome, AttemptOutcome::Cancelled);
    assert_eq!(
        (second.worker.as_str(), &second.attempt),
        ("host-1-0", &None)
    );
}
