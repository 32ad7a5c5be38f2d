//! Jobs that share workers.

use std::collections::BTreeMap;
use std::fs;

use chrono::{DateTime, FixedOffset, TimeDelta};
use gleaner_schemas::AttemptRecord;
use gleaner_tests::cluster::Cluster;
use gleaner_tests::job::{Job, LONG, SOON};
use gleaner_tests::program::files;

use super::shared;

type Time = DateTime<FixedOffset>;

/// Workers write down what they have attempted from time to time, and when they end.
fn write_records(cluster: &mut Cluster<'_>) {
    cluster.signal_worker(0, "TERM");
    let _ = cluster.worker_end(0, SOON);
}

/// When the attempts of an output began, by phase.
fn begins(job: &Job, output: &str) -> BTreeMap<(String, String), Vec<Time>> {
    let mut begins: BTreeMap<(String, String), Vec<Time>> = BTreeMap::new();
    for path in files(&job.workspace.path().join(output).join("_gleaner/runs")) {
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let record: AttemptRecord = serde_json::from_str(line).unwrap();
            let at = DateTime::parse_from_rfc3339(&record.started_at).unwrap();
            begins
                .entry((record.stage, record.phase))
                .or_default()
                .push(at);
        }
    }
    begins
}

#[test]
fn a_job_of_high_priority_goes_before_one_that_has_begun() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_worker(0, &[]);
    cluster.start_coordinator(&["--set", "priority=low"]);
    job.await_attempts(&cluster, 3);
    cluster.start_coordinator(&["--set", "priority=high", "--output", "urgent"]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    assert!(cluster.is_coordinated(), "the other job was not held up");
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
    job.check(&cluster, "urgent");
    write_records(&mut cluster);
    // While tasks of a phase of the urgent job are left, the worker takes no other. What it has in
    // hand it finishes, and it may begin one more before the coordinator has seen its last outcome
    // and offered the next.
    let low: Vec<Time> = begins(&job, "out").into_values().flatten().collect();
    let urgent = begins(&job, "urgent");
    let n_urgent: usize = urgent.values().map(Vec::len).sum();
    let n_between: usize = urgent
        .values()
        .map(|begins| {
            let (first, last) = (begins.iter().min().unwrap(), begins.iter().max().unwrap());
            low.iter().filter(|at| (first..last).contains(at)).count()
        })
        .sum();
    println!("{n_between} of {n_urgent} turns were those of the other job");
    assert!(n_urgent > 50, "{n_urgent}");
    assert!(n_between * 10 < n_urgent, "{n_between} of {n_urgent}");
}

/// Without priorities neither job waits for the other to end.
#[test]
fn two_jobs_of_equal_priority_take_turns() {
    let Some(broker) = shared() else { return };
    let job = Job::new();
    let mut cluster = job.cluster(broker.new_vhost_url());
    cluster.start_coordinator(&[]);
    cluster.start_coordinator(&["--output", "other"]);
    // Both have offered tasks before there is anyone to take them.
    for output in ["out", "other"] {
        let runs = job.workspace.path().join(output).join("_gleaner/plans");
        cluster.await_that("a job is not planned", SOON, || runs.is_dir());
    }
    cluster.start_worker(0, &[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    job.check(&cluster, "out");
    job.check(&cluster, "other");
    write_records(&mut cluster);
    let span = |output: &str| -> (Time, Time) {
        let all: Vec<Time> = begins(&job, output).into_values().flatten().collect();
        (*all.iter().min().unwrap(), *all.iter().max().unwrap())
    };
    let (first, second) = (span("out"), span("other"));
    let together = first.1.min(second.1) - first.0.max(second.0);
    let longest = (first.1 - first.0).max(second.1 - second.0);
    assert!(together * 2 > longest, "{together} of {longest}");
    assert!(longest > TimeDelta::zero());
}
