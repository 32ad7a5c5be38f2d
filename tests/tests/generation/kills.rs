//! SIGKILL at random moments while requests are under way: the tables become those of a run that
//! nobody disturbed, and nothing is paid for twice but what was on its way when its sender died.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use gleaner_scripted_endpoint::{Play, ServerOptions, always};
use gleaner_storage::layout;
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::job::LONG;
use gleaner_tests::program::{Workspace, files, start};
use gleaner_tests::servers::rabbitmq::RabbitMq;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::{BOTH, FOR_BOTH, Server, job, rows, workspace};

const DOCUMENTS: usize = 24;
/// About as many requests as the job takes: documents and their queries.
const REQUESTS: u64 = 100;
/// Kills of one test, and of a long one.
const KILLS: usize = 6;
const KILLS_LONG: usize = 20;
/// Longest time that a kill waits for the requests before it.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn n_kills() -> usize {
    if std::env::var_os("GLEANER_LONG_TESTS").is_some() {
        KILLS_LONG
    } else {
        KILLS
    }
}

fn server(heeds_idempotency: bool) -> Server {
    let options = ServerOptions {
        latency: Duration::from_millis(60),
        heeds_idempotency,
        ..ServerOptions::default()
    };
    Server::start(always(Play::Answer), options)
}

/// Small tasks, so that some are done between two kills.
fn text_of_job(server: &Server) -> String {
    let endpoint = "concurrency: 4, price: {input: 0.1, output: 0.4}, budget: 100";
    format!("task_bytes: 4KiB{}", job(&server.url(), endpoint, BOTH))
}

/// A workspace with the job, and the rows of a run that asked a server of its own.
fn undisturbed(server: &Server) -> (Workspace, [Vec<Value>; 2]) {
    let own = Server::answering();
    let workspace = workspace(DOCUMENTS, &text_of_job(server));
    let url = format!("endpoints.llm.url={}", own.url());
    let _ = workspace
        .run(&["--workers", "2", "--output", "undisturbed", "--set", &url])
        .expect(0);
    assert!(own.n_requests() > REQUESTS / 2, "{}", own.n_requests());
    let rows = rows(&workspace, "undisturbed");
    (workspace, rows)
}

fn dice() -> StdRng {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

/// Waits until the server has got so many more requests, or `is_over`.
fn await_requests(server: &Server, n_more: u64, mut is_over: impl FnMut() -> bool) {
    let n_before = server.n_requests();
    let deadline = Instant::now() + WAIT_MAX;
    while server.n_requests() < n_before + n_more && !is_over() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Requests that were sent more than once, by the notes.
fn sent_again(output: &Path) -> BTreeSet<String> {
    let notes = files(&output.join(layout::REQUESTS));
    let notes = notes.iter().filter_map(|path| {
        let name = path.file_stem()?.to_str()?;
        let (request, number) = name.rsplit_once('-')?;
        (number != "0").then(|| request.to_owned())
    });
    notes.collect()
}

/// The output is as if nothing had happened, and the server charged twice only for what was noted
/// to be sent again.
fn check(workspace: &Workspace, server: &Server, expected: &[Vec<Value>; 2], heeds: bool) {
    assert_eq!(&rows(workspace, "out"), expected);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
    let again = sent_again(&workspace.path().join("out"));
    let twice = server.log().answered_twice();
    println!(
        "{} requests, {} sent again, {} charged twice",
        server.n_requests(),
        again.len(),
        twice.len()
    );
    let unnoted: Vec<_> = twice.keys().filter(|key| !again.contains(*key)).collect();
    assert!(unnoted.is_empty(), "{unnoted:?}");
    if heeds {
        assert_eq!(twice, BTreeMap::new());
    }
    // Each sending that the server got has its note, and each note is one sending.
    let n_notes = files(&workspace.path().join("out").join(layout::REQUESTS)).len() as u64;
    assert!(
        server.n_requests() <= n_notes,
        "{} {n_notes}",
        server.n_requests()
    );
    // Nothing is left to do.
    let n_requests = server.n_requests();
    let _ = workspace.run(&[]).expect(0);
    assert_eq!(server.n_requests(), n_requests);
}

fn kill_runs(heeds_idempotency: bool) {
    let server = server(heeds_idempotency);
    let (workspace, expected) = undisturbed(&server);
    let mut dice = dice();
    let n_kills = n_kills();
    let mut n_ended = 0;
    for _ in 0..n_kills {
        let mut child = start(workspace.path(), &["run", "job.yaml", "--workers", "2"]);
        let n_more = dice.random_range(1..=2 * REQUESTS / (n_kills as u64 + 2));
        let mut has_ended = false;
        await_requests(&server, n_more, || {
            has_ended = child.try_wait().unwrap().is_some();
            has_ended
        });
        n_ended += usize::from(has_ended);
        // Between two requests, before replies are stored, while tables are written.
        std::thread::sleep(Duration::from_millis(dice.random_range(0..120)));
        let _ = child.kill();
        let _ = child.wait().unwrap();
    }
    assert!(n_ended <= n_kills / 2, "{n_ended} runs ended on their own");
    let _ = workspace.run(&["--workers", "2"]).expect(0);
    check(&workspace, &server, &expected, heeds_idempotency);
}

#[test]
fn runs_that_are_killed() {
    kill_runs(false);
}

#[test]
fn runs_that_are_killed_while_the_server_knows_repeated_requests() {
    kill_runs(true);
}

#[test]
fn workers_that_are_killed_over_a_broker() {
    kill_workers(false);
}

/// Of a server that knows repeated requests, as several providers do, nothing is paid for twice.
#[test]
fn workers_that_are_killed_over_a_broker_while_the_server_knows_repeated_requests() {
    kill_workers(true);
}

fn kill_workers(heeds_idempotency: bool) {
    const WORKERS: usize = 3;
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let server = server(heeds_idempotency);
    let (workspace, expected) = undisturbed(&server);
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: Vec::new(),
    };
    let mut cluster = Cluster::new(&workspace, surroundings);
    for number in 0..WORKERS {
        cluster.start_worker(number, &FOR_BOTH);
    }
    cluster.start_coordinator(&[]);
    let mut dice = dice();
    let mut n_killed = 0;
    for _ in 0..n_kills() {
        let n_more = dice.random_range(1..=REQUESTS / (n_kills() as u64 + 1));
        await_requests(&server, n_more, || !cluster.is_coordinated());
        std::thread::sleep(Duration::from_millis(dice.random_range(0..80)));
        if !cluster.is_coordinated() {
            break;
        }
        let number = dice.random_range(0..WORKERS);
        cluster.kill_worker(number);
        cluster.start_worker(number, &FOR_BOTH);
        n_killed += 1;
    }
    let code = cluster.coordinator_end(LONG);
    assert_eq!(code, Some(0), "{}", cluster.log("coordinator.log"));
    assert!(n_killed >= KILLS / 2, "{n_killed}");
    println!("{n_killed} workers were killed");
    drop(cluster);
    check(&workspace, &server, &expected, heeds_idempotency);
}
