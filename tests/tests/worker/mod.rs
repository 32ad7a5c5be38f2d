//! The program `gleaner-worker`, as a process, with a real broker.
//!
//! The tasks are those of a run that has ended: their attempts are removed, and they are offered
//! once more.
#![cfg(unix)]

mod broker;
mod version;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gleaner_queue::{AmqpOptions, AmqpQueue, TaskQueue as _};
use gleaner_schemas::{PlanId, Resource, Route, RunId, Task, TaskMessage};
use gleaner_tests::plain_job;
use gleaner_tests::program::{Ended, Workspace, command_in, files, worker_program};
use gleaner_tests::servers::rabbitmq::RabbitMq;

/// Bound of everything that must happen soon, on a machine that does much else.
const SOON: Duration = Duration::from_secs(90);
const STAGE: &str = "weights";
const PHASE: &str = "score";
const N_FILES: usize = 3;
/// One for each group of four rows.
const N_TASKS: usize = N_FILES * plain_job::PER_FILE / 4;

/// A worker that runs.
struct Worker {
    child: Child,
    stderr: PathBuf,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Worker {
    fn start(workspace: &Workspace, arguments: &[&str]) -> Self {
        let stderr = workspace.path().join("worker.log");
        let mut command = command_in(workspace.path(), worker_program());
        command.args(arguments);
        command.stdout(Stdio::null());
        command.stderr(File::create(&stderr).unwrap());
        let child = command.spawn().unwrap();
        Self { child, stderr }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits for an answer of the health server.
    #[track_caller]
    fn until_answers(&mut self, port: u16, path: &str, says: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = ask(port, path);
            if answer.as_ref().is_some_and(|answer| answer.contains(says)) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            let log = self.log();
            assert!(Instant::now() < deadline, "{path} is {answer:?}; {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(status.unwrap().success());
    }

    fn ended(mut self) -> Ended {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended {
                    code: status.code(),
                    stdout: String::new(),
                    stderr: self.log(),
                };
            }
            assert!(Instant::now() < deadline, "it goes on: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The whole answer, if there is one.
fn ask(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// An output whose scored tasks have lost their attempts, and the messages that offer them.
struct Undone {
    workspace: Workspace,
    /// What the attempts were.
    before: Vec<String>,
    messages: Vec<TaskMessage>,
    chunk: PathBuf,
}

fn undone() -> Undone {
    let workspace = plain_job::workspace(N_FILES);
    let set = ["--set", "task_bytes=1B"];
    let _ = workspace.run(&set).expect(0);
    let out = workspace.path().canonicalize().unwrap().join("out");
    let before: Vec<String> = workspace.contents("out/weights").into_values().collect();
    assert_eq!(before.len(), N_TASKS);
    for path in files(&out.join(STAGE)) {
        fs::remove_file(path).unwrap();
    }
    let plans = files(&out.join(format!("_gleaner/plans/{STAGE}/{PHASE}")));
    let [chunk, _plan] =
        <[PathBuf; 2]>::try_from(plans.into_iter().rev().collect::<Vec<_>>()).unwrap();
    let folder = chunk.parent().unwrap().file_name().unwrap();
    let plan: PlanId = folder.to_string_lossy().parse().unwrap();
    let tasks: Vec<Task> = serde_json::from_slice(&fs::read(&chunk).unwrap()).unwrap();
    let messages = (0..).zip(tasks).map(|(task_idx, task)| TaskMessage {
        format: TaskMessage::FORMAT,
        run: RunId::new(7),
        output: format!("file://{}", out.display()),
        stage: STAGE.to_owned(),
        kind: "importance_weights".to_owned(),
        phase: PHASE.to_owned(),
        plan: plan.clone(),
        task_idx,
        task: task.id,
        route: Route::default(),
        n_passed_on: 0,
        refusal: None,
    });
    Undone {
        before: sorted(before),
        messages: messages.collect(),
        workspace,
        chunk,
    }
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort_unstable();
    texts
}

/// The broker as a coordinator uses it.
struct Offers {
    queue: AmqpQueue,
    runtime: tokio::runtime::Runtime,
}

impl Offers {
    fn new(url: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let queue = runtime.block_on(AmqpQueue::connect(AmqpOptions::new(url)));
        Self {
            queue: queue.unwrap(),
            runtime,
        }
    }

    fn publish(&self, messages: &[TaskMessage]) {
        self.runtime.block_on(self.queue.publish(messages)).unwrap();
    }

    #[track_caller]
    fn until_waiting(&self, n_waiting: u64) {
        let deadline = Instant::now() + SOON;
        loop {
            let state = self.runtime.block_on(self.queue.state(Route::default()));
            let state = state.unwrap();
            if state.n_waiting == n_waiting && state.n_slots == Some(0) {
                return;
            }
            assert!(Instant::now() < deadline, "{state:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn tasks_are_done_and_a_worker_that_is_told_to_stop_ends_with_0() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    let offers = Offers::new(&url);
    // One comes twice, as after a re-offer.
    let twice = undone.messages.iter().chain(&undone.messages[..1]);
    offers.publish(&twice.cloned().collect::<Vec<_>>());
    let port = free_port().to_string();
    let arguments = ["--queue", &url, "--slots", "2", "--health", &port];
    let mut worker = Worker::start(&undone.workspace, &arguments);
    let port = port.parse().unwrap();
    worker.until_answers(port, "/ready", "200 OK");
    worker.until_answers(port, "/live", "200 OK");
    let done = "gleaner_attempts_total{stage_kind=\"importance_weights\",\
                outcome=\"committed\",failure_kind=\"\"} 9";
    worker.until_answers(port, "/metrics", done);
    worker.until_answers(port, "/metrics", "gleaner_slots 2");
    worker.until_answers(port, "/metrics", "gleaner_attempt_seconds_bucket{");
    let rows = N_FILES * plain_job::PER_FILE;
    let rows = format!("gleaner_task_rows_in_total{{stage_kind=\"importance_weights\"}} {rows}");
    worker.until_answers(port, "/metrics", &rows);
    worker.until_answers(port, "/metrics", "gleaner_slots_busy 0");
    worker.terminate();
    let ended = worker.ended().expect(0);
    assert!(!ended.stderr.contains("guest:guest"), "{}", ended.stderr);
    offers.until_waiting(0);
    // The bytes of an object are a function of its task, whoever computes it.
    let after = undone.workspace.contents("out/weights").into_values();
    assert_eq!(sorted(after.collect()), undone.before);
    let records = files(
        &undone
            .workspace
            .path()
            .join("out/_gleaner/runs/0000000000000007"),
    );
    let lines: String = records
        .iter()
        .map(|it| fs::read_to_string(it).unwrap())
        .collect();
    assert_eq!(lines.lines().count(), N_TASKS, "{lines}");
}

/// As a Job of a cluster, which is started when there is work and is done when it ends with 0.
#[test]
fn a_worker_that_is_to_end_when_idle_does_the_work_and_ends_with_0() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    let offers = Offers::new(&url);
    offers.publish(&undone.messages);
    let arguments = ["--queue", &url, "--slots", "2", "--until-idle", "2s"];
    let ended = Worker::start(&undone.workspace, &arguments)
        .ended()
        .expect(0);
    assert!(ended.stderr.contains("nothing to do for 2s"), "{ended:?}");
    offers.until_waiting(0);
    let after = undone.workspace.contents("out/weights").into_values();
    assert_eq!(sorted(after.collect()), undone.before);
}

/// 0 would tell a cluster that no other worker is needed.
#[test]
fn a_worker_that_is_to_end_when_idle_ends_with_75_while_others_have_work() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    let offers = Offers::new(&url);
    offers.publish(&undone.messages[..1]);
    let idle = [
        "--queue",
        &url,
        "--slots",
        "1",
        "--until-idle",
        "1s",
        "--stages",
        "select",
    ];
    let _ = Worker::start(&undone.workspace, &idle).ended().expect(75);
    offers.until_waiting(1);
    // Nor has one come to the end that was told to stop before.
    let port = free_port().to_string();
    let told = [
        "--queue",
        &url,
        "--stages",
        "select",
        "--until-idle",
        "1h",
        "--health",
        &port,
    ];
    let mut worker = Worker::start(&undone.workspace, &told);
    worker.until_answers(port.parse().unwrap(), "/ready", "200 OK");
    worker.terminate();
    let _ = worker.ended().expect(75);
}

/// A task hangs while its plan does; only the end of the process ends that.
#[test]
fn what_does_not_finish_within_the_grace_goes_back_with_75() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    fs::remove_file(&undone.chunk).unwrap();
    let made = Command::new("mkfifo").arg(&undone.chunk).status();
    assert!(made.unwrap().success());
    let offers = Offers::new(&url);
    offers.publish(&undone.messages[..1]);
    let port = free_port().to_string();
    let arguments = [
        "--queue", &url, "--slots", "1", "--health", &port, "--grace", "5",
    ];
    let mut worker = Worker::start(&undone.workspace, &arguments);
    worker.until_answers(port.parse().unwrap(), "/metrics", "gleaner_slots_busy 1");
    worker.terminate();
    worker.until_answers(port.parse().unwrap(), "/ready", "stopping");
    let _ = worker.ended().expect(75);
    offers.until_waiting(1);
}

#[test]
fn tasks_of_kinds_that_are_not_taken_stay_for_others() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let undone = undone();
    let offers = Offers::new(&url);
    offers.publish(&undone.messages[..1]);
    let port = free_port().to_string();
    let arguments = [
        "--queue",
        &url,
        "--stages",
        "select,query",
        "--health",
        &port,
    ];
    let mut worker = Worker::start(&undone.workspace, &arguments);
    let passed_on = "gleaner_deliveries_passed_on_total{reason=\"kind\"} 2";
    worker.until_answers(port.parse().unwrap(), "/metrics", passed_on);
    worker.terminate();
    let _ = worker.ended().expect(0);
    offers.until_waiting(1);
    assert!(undone.workspace.contents("out/weights").is_empty());
}

#[test]
fn a_store_that_takes_no_outcomes_ends_the_worker_with_2() {
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let url = broker.new_vhost_url();
    let mut undone = undone();
    // Nothing can be below a file.
    for message in &mut undone.messages {
        message.output = message.output.replace("/out", "/job.yaml/out");
    }
    let offers = Offers::new(&url);
    offers.publish(&undone.messages);
    let arguments = ["--queue", &url, "--slots", "5"];
    let ended = Worker::start(&undone.workspace, &arguments)
        .ended()
        .expect(2);
    let ended = ended.says("cannot record what tasks come to");
    assert!(ended.stderr.contains("job.yaml/out"), "{}", ended.stderr);
    // Nothing is wrong with the tasks.
    offers.until_waiting(N_TASKS as u64);
}

#[test]
fn bad_usage_ends_with_2_and_says_what_is_meant() {
    let workspace = Workspace::new();
    let check = |arguments: &[&str], says: &str| {
        let _ = Worker::start(&workspace, arguments)
            .ended()
            .expect(2)
            .says(says);
    };
    check(&[], "--queue");
    check(
        &["--queue", "amqp://x", "--stages", "selct"],
        "did you mean `select`?",
    );
    check(&["--queue", "http://x"], "amqp://user:password@host:port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check(
        &["--queue", "amqp://x", "--health", &port],
        "cannot listen on 127.0.0.1",
    );
    let network = Resource::Network.as_str();
    check(
        &[
            "--queue",
            "amqp://x",
            "--resources",
            network,
            "--grace",
            "soon",
        ],
        "is not a duration",
    );
}
