//! The store that tasks read from stays away, while the output's store and the broker are there.

use std::collections::BTreeMap;

use gleaner_tests::cluster::{Cluster, Surroundings, published};
use gleaner_tests::job::{LONG, SOON};
use gleaner_tests::plain_job;
use gleaner_tests::program::{Workspace, command_in, ended, program};
use gleaner_tests::servers::fake_s3::{FakeS3, hasty, impatient, variables};
use gleaner_tests::servers::proxy::{Mode, Proxy};

use super::shared;

type Variables = Vec<(String, String)>;
type VariablesBy = fn(&Proxy) -> Variables;

/// The store is asked again for minutes.
fn patiently(proxy: &Proxy) -> Variables {
    let endpoint = format!("http://{}", proxy.address());
    variables(&endpoint, "key", "hunter2")
}

fn hastily(proxy: &Proxy) -> Variables {
    hasty(patiently(proxy))
}

fn impatiently(proxy: &Proxy) -> Variables {
    impatient(patiently(proxy))
}

type Published = BTreeMap<(String, String), String>;

/// The plain job with a corpus behind a proxy, and what an undisturbed run of it publishes.
struct Behind {
    workspace: Workspace,
    proxy: Proxy,
    surroundings: Surroundings,
    expected: Published,
    _store: FakeS3,
}

impl Behind {
    fn new(queue: String, task_bytes: &str, variables_by: VariablesBy) -> Self {
        let store = FakeS3::start(&["bucket"]);
        let proxy = Proxy::start(store.address());
        let workspace = plain_job::workspace_with_corpus_in(&store, "bucket");
        let job = std::fs::read_to_string(workspace.path().join("job.yaml")).unwrap();
        workspace.write("job.yaml", format!("{job}task_bytes: {task_bytes}\n"));
        let surroundings = Surroundings {
            queue,
            variables: variables_by(&proxy),
        };
        let cluster = Cluster::new(&workspace, surroundings.clone());
        let run = [
            "run",
            "job.yaml",
            "--workers",
            "1",
            "--output",
            "undisturbed",
        ];
        let _ = cluster.gleaner(&run).expect(0);
        let expected = published(|arguments| cluster.gleaner(arguments), "undisturbed");
        drop(cluster);
        Self {
            workspace,
            proxy,
            surroundings,
            expected,
            _store: store,
        }
    }

    /// Once the run is planned, the store is in this mode. The run ends to be resumed and says why,
    /// then is resumed.
    fn stays_away(&self, output: &str, mode: Mode, further: &[&str], expected: &[&str]) {
        let mut cluster = Cluster::new(&self.workspace, self.surroundings.clone());
        let arguments = [&["--output", output][..], further].concat();
        cluster.start_coordinator(&arguments);
        let plans = self.workspace.path().join(output).join("_gleaner/plans");
        cluster.await_that("nothing is planned", SOON, || plans.exists());
        self.proxy.set(mode);
        cluster.start_worker(0, &[]);
        let code = cluster.coordinator_end(LONG);
        let log = cluster.log("coordinator.log");
        assert_eq!(code, Some(4), "{mode:?}: {log}");
        let (_, error) = log.rsplit_once("error: ").unwrap();
        let always = ["s3://bucket", "run the job again to go on"];
        for part in always.iter().chain(expected) {
            assert!(error.contains(part), "{mode:?}: {part:?} is not in {error}");
        }
        assert!(!log.contains("hunter2"), "{log}");
        let versions = self.workspace.path().join(output).join("_gleaner/versions");
        assert!(!versions.exists(), "published without what it reads");
        self.proxy.set(Mode::Pass);
        cluster.start_coordinator(&["--output", output]);
        assert_eq!(cluster.coordinator_end(LONG), Some(0));
        let found = published(|arguments| cluster.gleaner(arguments), output);
        assert_eq!(found, self.expected);
    }
}

#[test]
fn a_run_ends_when_tasks_have_tried_often_enough() {
    let Some(broker) = shared() else { return };
    let behind = Behind::new(broker.new_vhost_url(), "1MiB", hastily);
    // The job would do without some tasks, but not without what is there again tomorrow.
    let allowed = ["--set", "allow.quarantined_tasks=100%"];
    let expected = [
        "could not be reached",
        "nothing listens at the store's address",
    ];
    behind.stays_away("refused", Mode::Refuse, &allowed, &expected);
}

#[test]
fn a_run_ends_when_no_task_has_been_done_for_long() {
    let Some(broker) = shared() else { return };
    // So many tasks that it would take long for each to be tried often enough.
    let soon = ["--patience", "3s", "--set", "task_timeout=10s"];
    let cases: [(_, VariablesBy, _); 2] = [
        (
            Mode::CutAfter(100),
            hastily,
            "the connection to the store broke",
        ),
        (Mode::BlackHole, impatiently, "did not answer in time"),
    ];
    for (mode, variables_by, sentence) in cases {
        let behind = Behind::new(broker.new_vhost_url(), "1KiB", variables_by);
        let expected = ["no task has been done for", sentence];
        behind.stays_away("output", mode, &soon, &expected);
    }
}

/// Nor is a task given up that may not take as long as the store is waited for.
#[test]
fn a_task_that_waits_for_the_store_has_not_taken_too_long() {
    let Some(broker) = shared() else { return };
    let behind = Behind::new(broker.new_vhost_url(), "1KiB", patiently);
    let soon = ["--patience", "3s", "--set", "task_timeout=4s"];
    let expected = ["no task has been done for", "s3://bucket has not answered"];
    behind.stays_away("silent", Mode::BlackHole, &soon, &expected);
}

#[test]
fn a_run_that_cannot_look_at_its_corpus_says_where_that_is() {
    let store = FakeS3::start(&["bucket"]);
    let proxy = Proxy::start(store.address());
    let workspace = plain_job::workspace_with_corpus_in(&store, "bucket");
    let mut command = command_in(workspace.path(), program());
    command.args(["run", "job.yaml"]).envs(hastily(&proxy));
    proxy.set(Mode::Refuse);
    let _ = ended(&mut command)
        .expect(4)
        .says("s3://bucket/corpus")
        .says("nothing listens at the store's address");
}
