//! What metrics and logs of a coordinator and a worker say of a known job: the numbers are those of
//! what was written, and every line within a task names its job, stage, task and attempt.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use gleaner_schemas::Task;
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::corpus::jsonl;
use gleaner_tests::job::{LONG, SOON};
use gleaner_tests::plain_job;
use gleaner_tests::program::{Workspace, files, number, text};
use gleaner_tests::servers::rabbitmq::RabbitMq;
use serde_json::Value;

/// What a server of metrics says, by name and labels as they are written.
type Metrics = BTreeMap<String, f64>;

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The metrics, if somebody serves them.
fn scrape(port: u16) -> Option<Metrics> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let values = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    Some(values.collect())
}

/// Sum of a metric over the series whose labels contain all of `labels`.
fn sum(metrics: &Metrics, name: &str, labels: &[(&str, &str)]) -> f64 {
    metrics
        .iter()
        .filter(|(series, _)| series.split('{').next() == Some(name))
        .filter(|(series, _)| {
            let has =
                |(name, value): &(&str, &str)| series.contains(&format!("{name}=\"{value}\""));
            labels.iter().all(has)
        })
        .map(|(_, value)| value)
        .sum()
}

/// What is written of the phases of a kind of stage.
#[derive(Debug, Default, Clone, Copy)]
struct Written {
    n_tasks: usize,
    rows_in: u64,
    rows_out: u64,
    bytes_in: u64,
    bytes_out: u64,
}

fn below(out: &Path, folder: &str) -> Vec<Value> {
    let json = files(&out.join(folder)).into_iter();
    json.map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
        .collect()
}

/// The kinds of stages, with what their phases wrote.
fn written(out: &Path) -> BTreeMap<&'static str, Written> {
    let mut all: BTreeMap<&'static str, Written> = BTreeMap::new();
    let kind_of = |stage: &str| match stage {
        "weights" => "importance_weights",
        "chosen" => "select",
        other => panic!("{other}"),
    };
    for manifest in below(out, "_gleaner/manifests") {
        let kind = all.entry(kind_of(&text(&manifest, "stage"))).or_default();
        kind.rows_in += number(&manifest["lanes"], "rows_in");
        for attempt in manifest["attempts"].as_array().unwrap() {
            kind.n_tasks += 1;
            kind.rows_out += number(attempt, "rows");
            kind.bytes_out += number(attempt, "bytes");
        }
    }
    for stage in ["weights", "chosen"] {
        for plan in below(out, &format!("_gleaner/plans/{stage}")) {
            // Chunks of plans are lists of tasks.
            let tasks: Vec<Task> = serde_json::from_value(plan).unwrap_or_default();
            let bytes: u64 = tasks.iter().map(|task| task.shard.bytes()).sum();
            all.entry(kind_of(stage)).or_default().bytes_in += bytes;
        }
    }
    all
}

/// The first phase of the job.
const FIRST: &str = "count-target-target";

const STATES: [&str; 4] = ["waiting", "offered", "done", "quarantined"];

/// Tasks of a phase by state.
fn tasks(metrics: &Metrics, phase: &str) -> [f64; 4] {
    STATES.map(|state| {
        let labels = [("stage", "weights"), ("phase", phase), ("state", state)];
        sum(metrics, "gleaner_tasks", &labels)
    })
}

fn cluster<'a>(workspace: &'a Workspace, broker: &RabbitMq) -> Cluster<'a> {
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: vec![(
            "RUST_LOG".to_owned(),
            "info,gleaner_workers=debug".to_owned(),
        )],
    };
    Cluster::new(workspace, surroundings)
}

#[test]
fn metrics_are_the_numbers_of_what_is_written() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let workspace = plain_job::workspace(3);
    for idx in 0..3 {
        let documents = plain_job::documents(4 + idx);
        workspace.write(&format!("target-{idx}.jsonl"), jsonl(&documents));
    }
    let job = plain_job::JOB.replace("[target.jsonl]", "[target-*.jsonl]");
    workspace.write("job.yaml", job);
    let mut cluster = cluster(&workspace, broker);
    let (coordinator, worker) = (free_port(), free_port());
    let set = [
        "--set",
        "task_bytes=1B",
        "--health",
        &coordinator.to_string(),
    ];
    cluster.start_coordinator(&set);
    // No worker is there: two tasks are offered, as for one slot, and wait on the broker.
    let mut before = Metrics::new();
    cluster.await_that("nothing is offered", SOON, || {
        before = scrape(coordinator).unwrap_or_default();
        sum(&before, "gleaner_queue_waiting", &[("priority", "normal")]) == 2.0
    });
    assert_eq!(tasks(&before, FIRST), [1.0, 2.0, 0.0, 0.0]);

    cluster.start_worker(0, &["--health", &worker.to_string()]);
    let mut scrapes = vec![before];
    while cluster.is_coordinated() {
        scrapes.extend(scrape(coordinator));
    }
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let n_tasks = (3 * plain_job::PER_FILE / 4) as f64;
    for (phase, n_tasks) in [(FIRST, 3.0), ("count-raw", n_tasks), ("score", n_tasks)] {
        let mut n_done = 0.0;
        for metrics in &scrapes {
            // A task that moves while somebody looks may be seen in both states or in none.
            let [waiting, offered, done, quarantined] = tasks(metrics, phase);
            assert!(waiting.max(offered) <= n_tasks, "{phase}: {metrics:?}");
            assert!(done >= n_done && quarantined == 0.0, "{phase}: {metrics:?}");
            n_done = done;
        }
        // The coordinator may end before it is looked at for a last time.
        match phase {
            "score" => assert!(n_done <= n_tasks, "{phase}: {n_done}"),
            _ => {
                let last = scrapes.last().expect("there was one before");
                assert_eq!(tasks(last, phase), [0.0, 0.0, n_tasks, 0.0], "{phase}");
            }
        }
    }

    let metrics = scrape(worker).unwrap();
    let written = written(&workspace.path().join("out"));
    assert_eq!(written.len(), 2);
    for (kind, written) in written {
        let of_kind = |name: &str| sum(&metrics, name, &[("stage_kind", kind)]) as u64;
        let attempts = |outcome: &str| {
            let labels = [("stage_kind", kind), ("outcome", outcome)];
            sum(&metrics, "gleaner_attempts_total", &labels) as usize
        };
        assert_eq!(attempts("committed"), written.n_tasks, "{kind}");
        assert_eq!(attempts("failed") + attempts("cancelled"), 0, "{kind}");
        let seconds = of_kind("gleaner_attempt_seconds_count") as usize;
        assert_eq!(seconds, written.n_tasks, "{kind}");
        assert!(written.rows_in > 0 && written.bytes_in > 0, "{written:?}");
        assert_eq!(
            of_kind("gleaner_task_rows_in_total"),
            written.rows_in,
            "{kind}"
        );
        assert_eq!(
            of_kind("gleaner_task_rows_out_total"),
            written.rows_out,
            "{kind}"
        );
        assert_eq!(
            of_kind("gleaner_task_bytes_in_total"),
            written.bytes_in,
            "{kind}"
        );
        assert_eq!(
            of_kind("gleaner_task_bytes_out_total"),
            written.bytes_out,
            "{kind}"
        );
    }
    assert_eq!(sum(&metrics, "gleaner_slots", &[]), 1.0);
    assert_eq!(sum(&metrics, "gleaner_slots_busy", &[]), 0.0);
}

/// The spans of a line of the log, by name.
fn spans(line: &str) -> BTreeMap<String, Value> {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return BTreeMap::new();
    };
    let spans = line["spans"].as_array().cloned().unwrap_or_default();
    let named = spans.into_iter().map(|span| {
        let name = span["name"].as_str().unwrap_or_default().to_owned();
        (name, span)
    });
    named.collect()
}

#[test]
fn lines_of_the_log_name_job_stage_task_and_attempt() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let workspace = plain_job::workspace(1);
    let mut cluster = cluster(&workspace, broker);
    cluster.start_worker(0, &["--log-format", "json"]);
    cluster.start_coordinator(&[]);
    assert_eq!(cluster.coordinator_end(LONG), Some(0));
    let out = workspace.path().join("out");
    let [run] = &fs::read_dir(out.join("_gleaner/runs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>()[..]
    else {
        panic!("one run");
    };
    // Each task of each phase, by the line that says that its object is stored.
    let log = fs::read_to_string(workspace.path().join("worker-0.log")).unwrap();
    let mut logged: Vec<[String; 4]> = Vec::new();
    for line in log
        .lines()
        .filter(|line| line.contains("the object is stored"))
    {
        let spans = spans(line);
        let field = |span: &str, field: &str| {
            let value = spans.get(span).and_then(|span| span[field].as_str());
            value
                .unwrap_or_else(|| panic!("{span}.{field}: {line}"))
                .to_owned()
        };
        assert_eq!(field("job", "run"), *run);
        assert_eq!(spans["attempt"]["number"], 1, "{line}");
        logged.push([
            field("stage", "stage"),
            field("stage", "phase"),
            field("task", "id"),
            field("attempt", "id"),
        ]);
    }
    let mut stored: Vec<[String; 4]> = Vec::new();
    for manifest in below(&out, "_gleaner/manifests") {
        let attempts = manifest["attempts"].as_array().unwrap().iter();
        stored.extend(attempts.map(|attempt| {
            let of_attempt = ["task", "attempt"].map(|key| text(attempt, key));
            let [task, attempt] = of_attempt;
            [
                text(&manifest, "stage"),
                text(&manifest, "phase"),
                task,
                attempt,
            ]
        }));
    }
    logged.sort();
    stored.sort();
    assert!(!stored.is_empty());
    assert_eq!(logged, stored);
}
