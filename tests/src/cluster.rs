//! A job over a real broker and a real store, with coordinator and workers as processes that can
//! be killed, frozen and started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gleaner_storage::layout;

use crate::corpus::{example_documents, health_documents, jsonl, write_parquet};
use crate::program::{Ended, Workspace, command_in, ended, program, text, worker_program};

/// Pause between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// Where coordinator and workers find what they need.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// URL of the broker.
    pub queue: String,
    /// Environment variables, such as those of the store.
    pub variables: Vec<(String, String)>,
}

/// The processes of one job, which runs in a workspace with `job.yaml`.
#[derive(Debug)]
pub struct Cluster<'a> {
    workspace: &'a Workspace,
    surroundings: Surroundings,
    workers: BTreeMap<usize, Child>,
    coordinators: Vec<Child>,
}

impl<'a> Cluster<'a> {
    /// No process runs yet.
    #[must_use]
    pub fn new(workspace: &'a Workspace, surroundings: Surroundings) -> Self {
        Self {
            workspace,
            surroundings,
            workers: BTreeMap::new(),
            coordinators: Vec::new(),
        }
    }

    fn command(&self, name: &Path, log: &str) -> Command {
        let mut command = command_in(self.workspace.path(), name);
        command
            .env("GLEANER_QUEUE", &self.surroundings.queue)
            .envs(self.surroundings.variables.iter().cloned());
        let path = self.workspace.path().join(log);
        let file = File::options().create(true).append(true).open(path);
        command.stderr(file.unwrap()).stdout(Stdio::null());
        command
    }

    /// Starts a worker with further arguments; its log is `worker-<number>.log`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_worker(&mut self, number: usize, arguments: &[&str]) {
        let mut command = self.command(worker_program(), &format!("worker-{number}.log"));
        command.args(["--slots", "1"]).args(arguments);
        let earlier = self.workers.insert(number, command.spawn().unwrap());
        assert!(earlier.is_none(), "worker {number} runs already");
    }

    /// Starts a worker that may have no more data than so many bytes: the system refuses it more,
    /// which ends it.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_worker_within(&mut self, number: usize, data_bytes: u64) {
        let mut command = self.command(Path::new("prlimit"), &format!("worker-{number}.log"));
        command.arg(format!("--data={data_bytes}"));
        command.arg(worker_program()).args(["--slots", "1"]);
        let earlier = self.workers.insert(number, command.spawn().unwrap());
        assert!(earlier.is_none(), "worker {number} runs already");
    }

    /// How a worker ended, if it has.
    pub fn ended_worker(&mut self, number: usize) -> Option<ExitStatus> {
        let status = self.workers.get_mut(&number)?.try_wait().unwrap()?;
        self.workers.remove(&number);
        Some(status)
    }

    /// The process id of a worker that runs.
    #[must_use]
    pub fn worker_id(&self, number: usize) -> Option<u32> {
        self.workers.get(&number).map(Child::id)
    }

    /// Starts a coordinator; its log is `coordinator.log`.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start_coordinator(&mut self, arguments: &[&str]) {
        let mut command = self.command(program(), "coordinator.log");
        command.args(["run", "job.yaml"]).args(arguments);
        self.coordinators.push(command.spawn().unwrap());
    }

    /// Runs `gleaner` with the surroundings of the job to its end.
    #[must_use]
    pub fn gleaner(&self, arguments: &[&str]) -> Ended {
        let mut command = command_in(self.workspace.path(), program());
        command
            .env("GLEANER_QUEUE", &self.surroundings.queue)
            .envs(self.surroundings.variables.iter().cloned())
            .args(arguments);
        ended(&mut command)
    }

    /// Kills a worker as a lost machine would be.
    pub fn kill_worker(&mut self, number: usize) {
        if let Some(mut child) = self.workers.remove(&number) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal, by its name, to a worker.
    pub fn signal_worker(&self, number: usize, signal: &str) {
        if let Some(child) = self.workers.get(&number) {
            send(child, signal);
        }
    }

    /// Waits until a worker has ended.
    ///
    /// # Panics
    ///
    /// If it does not end within `longest`.
    pub fn worker_end(&mut self, number: usize, longest: Duration) -> ExitStatus {
        let mut child = self.workers.remove(&number).unwrap();
        wait(&mut child, longest).unwrap_or_else(|| self.fail("a worker does not end"))
    }

    /// Kills the coordinator that was started last.
    pub fn kill_coordinator(&mut self) {
        if let Some(mut child) = self.coordinators.pop() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal to the coordinator that was started last.
    pub fn signal_coordinator(&self, signal: &str) {
        if let Some(child) = self.coordinators.last() {
            send(child, signal);
        }
    }

    /// Whether the coordinator that was started last still runs.
    pub fn is_coordinated(&mut self) -> bool {
        let last = self.coordinators.last_mut();
        last.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Waits until the coordinator that was started last has ended; its exit code, if it has one.
    ///
    /// # Panics
    ///
    /// If it does not end within `longest`, with everybody's logs.
    pub fn coordinator_end(&mut self, longest: Duration) -> Option<i32> {
        let mut child = self.coordinators.pop().unwrap();
        let status = wait(&mut child, longest);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let status = status.unwrap_or_else(|| self.fail("the coordinator does not end"));
        status.code()
    }

    /// Waits until `is_so`.
    ///
    /// # Panics
    ///
    /// If it is not within `longest`, with everybody's logs.
    pub fn await_that(&self, what: &str, longest: Duration, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + longest;
        while !is_so() {
            if Instant::now() > deadline {
                self.fail::<()>(what);
            }
            std::thread::sleep(POLL);
        }
    }

    /// The end of a log.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        const BYTES: usize = 6000;
        let text = std::fs::read(self.workspace.path().join(name)).unwrap_or_default();
        let start = text.len().saturating_sub(BYTES);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }

    /// Panics with everybody's logs.
    #[track_caller]
    pub fn fail<T>(&self, what: &str) -> T {
        let mut logs = format!("coordinator:\n{}", self.log("coordinator.log"));
        for number in 0..8 {
            let log = self.log(&format!("worker-{number}.log"));
            if !log.is_empty() {
                logs.push_str(&format!("\nworker {number}:\n{log}"));
            }
        }
        panic!("{what}\n{logs}");
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for child in self.workers.values_mut().chain(&mut self.coordinators) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn send(child: &Child, signal: &str) {
    let id = child.id().to_string();
    let _ = Command::new("kill")
        .args([&format!("-{signal}"), &id])
        .status();
}

fn wait(child: &mut Child, longest: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + longest;
    loop {
        match child.try_wait().unwrap() {
            Some(status) => return Some(status),
            None if Instant::now() > deadline => return None,
            None => std::thread::sleep(POLL),
        }
    }
}

/// Hashes of the objects of tables by table and task: what the newest version of an output names,
/// without what is random in the names.
///
/// # Panics
///
/// If `gleaner sql` fails.
#[must_use]
pub fn published(
    gleaner: impl Fn(&[&str]) -> Ended,
    output: &str,
) -> BTreeMap<(String, String), String> {
    let query = "SELECT table_name, path FROM gleaner.files";
    let rows = gleaner(&["sql", output, query, "--format", "json"]).expect(0);
    rows.events()
        .iter()
        .map(|row| {
            let (table, path) = (text(row, "table_name"), text(row, "path"));
            let (task, attempt) = layout::parse_attempt(&path).unwrap();
            ((table, task.to_string()), attempt.content().to_string())
        })
        .collect()
}

/// A workspace with `job.yaml` over the corpus of the examples in eight files, cut into some
/// dozens of tasks; its output is in `out` unless told otherwise.
#[must_use]
pub fn example_workspace() -> Workspace {
    const JOB: &str = "
name: many
output: out
corpus: {paths: [corpus/*.parquet]}
datasets: {target: {paths: [target.jsonl]}}
task_bytes: 1500KiB
task_timeout: 60s
stages:
  weights: {kind: importance_weights, target: target, quality: true}
  chosen: {kind: select, by: weights.log_weight, method: resample, documents: 700, seed: 3,
           materialize: true, group_by: source}
  counts: {kind: query, sql: 'SELECT source, count(*) AS n FROM chosen GROUP BY source ORDER BY source'}
";
    let workspace = Workspace::new();
    for (idx, documents) in example_documents().chunks(700).enumerate() {
        let path = workspace.path().join(format!("corpus/part-{idx}.parquet"));
        write_parquet(&path, documents, 40);
    }
    workspace.write("target.jsonl", jsonl(&health_documents(150)));
    workspace.write("job.yaml", JOB);
    workspace
}
