//! Random disturbances of a job over a real broker and a real store, as a seed decides.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::cluster::{Cluster, Surroundings, published};
use crate::program::Workspace;
use crate::servers::proxy::{Mode, Proxy};
use crate::servers::rabbitmq::RabbitMq;

/// Worker processes.
const N_WORKERS: usize = 3;
/// Disturbances of one run.
const N_DISTURBANCES: usize = 6;
/// A run that takes longer hangs. It counts restarts of the broker and the pauses of clients.
const RUN_MAX: Duration = Duration::from_secs(300);

/// What is done to a running job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    KillWorker(usize),
    FreezeWorker(usize, Duration),
    KillCoordinator,
    FreezeCoordinator(Duration),
    SecondCoordinator,
    CutBrokerConnections,
    KillBroker,
    StoreSilent(Duration),
    StoreResets(Duration),
    StoreCutsBodies(Duration),
}

impl Disturbance {
    fn draw(dice: &mut StdRng) -> Self {
        let worker = dice.random_range(0..N_WORKERS);
        let span = Duration::from_millis(dice.random_range(200..3000));
        match dice.random_range(0..14) {
            0..=3 => Self::KillWorker(worker),
            4 | 5 => Self::FreezeWorker(worker, span),
            6 | 7 => Self::KillCoordinator,
            8 => Self::FreezeCoordinator(span),
            9 => Self::SecondCoordinator,
            10 => Self::CutBrokerConnections,
            11 => Self::KillBroker,
            12 => Self::StoreSilent(span),
            _ if dice.random_bool(0.5) => Self::StoreResets(span),
            _ => Self::StoreCutsBodies(span),
        }
    }
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Where a chaotic run takes place.
#[derive(Debug)]
pub struct Arena<'a> {
    /// A broker that nobody else uses.
    pub broker: &'a mut RabbitMq,
    /// Stands between all processes and the store.
    pub store: &'a Proxy,
    /// Environment variables that lead to the store by way of the proxy.
    pub variables: Vec<(String, String)>,
}

/// Runs `job.yaml` of a workspace, with `--output` as given, while it is disturbed; then compares
/// its tables with those of an undisturbed run.
///
/// # Panics
///
/// If anything is lost, doubled or changed, or the run does not end in time.
pub fn run(
    seed: u64,
    workspace: &Workspace,
    arena: &mut Arena<'_>,
    output: &str,
    expected: &BTreeMap<(String, String), String>,
) {
    println!("chaos: seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let surroundings = Surroundings {
        queue: arena.broker.new_vhost_url(),
        variables: arena.variables.clone(),
    };
    let started = Instant::now();
    let mut cluster = Cluster::new(workspace, surroundings);
    let arguments = ["--output", output, "--patience", "60s"];
    for number in 0..N_WORKERS {
        cluster.start_worker(number, &[]);
    }
    cluster.start_coordinator(&arguments);
    for _ in 0..N_DISTURBANCES {
        std::thread::sleep(Duration::from_millis(dice.random_range(50..1500)));
        if !cluster.is_coordinated() {
            break;
        }
        let disturbance = Disturbance::draw(&mut dice);
        println!("chaos: seed {seed}: {:?}: {disturbance}", started.elapsed());
        disturb(disturbance, &mut cluster, arena, &arguments);
    }
    // Calm; whoever ended on a fault is started again, as its supervisor would.
    loop {
        let left = RUN_MAX.saturating_sub(started.elapsed());
        match cluster.coordinator_end(left) {
            Some(0) => break,
            Some(4) => cluster.start_coordinator(&arguments),
            other => cluster.fail(&format!(
                "seed {seed}: the coordinator ended with {other:?}"
            )),
        }
    }
    println!("chaos: seed {seed}: done after {:?}", started.elapsed());
    let verified = cluster.gleaner(&["verify", output]);
    if verified.code != Some(0) {
        cluster.fail::<()>(&format!("seed {seed}: {verified:?}"));
    }
    let found = published(|arguments| cluster.gleaner(arguments), output);
    let different: Vec<_> = expected
        .iter()
        .filter(|(task, hash)| found.get(task) != Some(hash))
        .collect();
    if !different.is_empty() || found.len() != expected.len() {
        cluster.fail::<()>(&format!(
            "seed {seed}: {} objects, expected {}; different: {different:?}",
            found.len(),
            expected.len()
        ));
    }
}

fn disturb(
    disturbance: Disturbance,
    cluster: &mut Cluster<'_>,
    arena: &mut Arena<'_>,
    arguments: &[&str],
) {
    match disturbance {
        Disturbance::KillWorker(number) => {
            cluster.kill_worker(number);
            cluster.start_worker(number, &[]);
        }
        Disturbance::FreezeWorker(number, span) => {
            cluster.signal_worker(number, "STOP");
            std::thread::sleep(span);
            cluster.signal_worker(number, "CONT");
        }
        Disturbance::KillCoordinator => {
            cluster.kill_coordinator();
            cluster.start_coordinator(arguments);
        }
        Disturbance::FreezeCoordinator(span) => {
            cluster.signal_coordinator("STOP");
            std::thread::sleep(span);
            cluster.signal_coordinator("CONT");
        }
        // Both go on; the first is killed with the cluster, if it has not ended.
        Disturbance::SecondCoordinator => cluster.start_coordinator(arguments),
        Disturbance::CutBrokerConnections => arena.broker.close_all_connections(),
        Disturbance::KillBroker => {
            arena.broker.kill();
            arena.broker.start_again();
        }
        Disturbance::StoreSilent(span) => during(arena.store, Mode::BlackHole, span),
        Disturbance::StoreResets(span) => during(arena.store, Mode::Reset, span),
        Disturbance::StoreCutsBodies(span) => during(arena.store, Mode::CutAfter(3000), span),
    }
}

fn during(proxy: &Proxy, mode: Mode, span: Duration) {
    proxy.set(mode);
    std::thread::sleep(span);
    proxy.set(Mode::Pass);
}
