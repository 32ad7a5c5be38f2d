//! Kills, freezes and cuts at random moments of a job over a real broker and a real S3 server.
//!
//! `GLEANER_CHAOS_RUNS` sets how many runs there are, `GLEANER_CHAOS_SEED` where their seeds start:
//! a run that fails is replayed by `GLEANER_CHAOS_SEED=<seed> GLEANER_CHAOS_RUNS=1`.
#![cfg(unix)]

use gleaner_tests::chaos::{self, Arena};
use gleaner_tests::cluster::{example_workspace, published};
use gleaner_tests::servers::ceph::Ceph;
use gleaner_tests::servers::proxy::Proxy;
use gleaner_tests::servers::rabbitmq::RabbitMq;

const RUNS: u64 = 5;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
fn whatever_is_killed_the_tables_are_those_of_an_undisturbed_run() {
    let (Some(mut broker), Some(ceph)) = (RabbitMq::start(), Ceph::shared()) else {
        return;
    };
    let workspace = example_workspace();
    let _ = workspace.run(&["--output", "undisturbed"]).expect(0);
    let expected = published(|arguments| workspace.gleaner(arguments), "undisturbed");
    assert!(!expected.is_empty());

    let proxy = Proxy::start(ceph.address());
    let bucket = ceph.new_bucket();
    let mut arena = Arena {
        broker: &mut broker,
        store: &proxy,
        variables: ceph.variables_by(proxy.address()),
    };
    let first = from_env("GLEANER_CHAOS_SEED", u64::from(std::process::id()));
    for seed in first..first + from_env("GLEANER_CHAOS_RUNS", RUNS) {
        let output = format!("s3://{bucket}/seed-{seed}");
        chaos::run(seed, &workspace, &mut arena, &output, &expected);
    }
}
