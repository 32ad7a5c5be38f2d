//! What a job may spend: it ends before it spends more, and goes on when it may.

use std::collections::BTreeMap;

use gleaner_scripted_endpoint::{Play, ServerOptions, always};
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::job::LONG;
use gleaner_tests::program::{Workspace, number};
use gleaner_tests::servers::rabbitmq::RabbitMq;

use super::{BOTH, FOR_BOTH, QUERIES, Server, count, job, workspace};

const DOCUMENTS: usize = 24;
/// Money per million tokens.
const INPUT: f64 = 0.1;
const OUTPUT: f64 = 0.4;
const NANOS: f64 = 1e9;

fn priced(server: &Server, more: &str, stages: &str) -> String {
    let endpoint = format!("price: {{input: {INPUT}, output: {OUTPUT}}}, {more}");
    format!("task_bytes: 4KiB{}", job(&server.url(), &endpoint, stages))
}

fn price(server: &Server) -> f64 {
    server.log().price_nanos(INPUT, OUTPUT) as f64 / NANOS
}

/// The budget that a run ends on leaves what is done to be gone on with: nothing is asked again.
fn goes_on(workspace: &Workspace, server: &Server, more: &str) {
    let _ = workspace.run(&["--workers", "4", "--set", more]).expect(0);
    assert_eq!(server.log().answered_twice(), BTreeMap::new());
    let n_ok = count(workspace, "queries WHERE status = 'ok'");
    assert_eq!(count(workspace, "queries"), DOCUMENTS as u64 * 4);
    let n_graded = workspace.sql("SELECT count(*) AS n FROM gleaner.tasks WHERE stage = 'graded'");
    let n_expected = DOCUMENTS as u64
        + if number(&n_graded[0], "n") > 0 {
            n_ok
        } else {
            0
        };
    assert_eq!(server.n_requests(), n_expected);
    let _ = workspace.gleaner(&["verify", "out"]).expect(0);
}

#[test]
fn money_is_never_exceeded_and_more_of_it_goes_on() {
    const CAP: f64 = 0.01;
    let server = Server::answering();
    let text = priced(&server, &format!("budget: {CAP}, concurrency: 8"), BOTH);
    let workspace = workspace(DOCUMENTS, &text);
    let ended = workspace.run(&["--workers", "4"]).expect(6);
    let ended = ended
        .says("the budget of endpoint llm is used up")
        .says("0.01 money");
    assert!(ended.stderr.contains("raise `budget`"), "{}", ended.stderr);
    let spent = price(&server);
    println!("{spent} of {CAP} were spent");
    assert!(spent <= CAP, "{spent}");
    // Requests that are under way cost less than they may: what they leave over is spent too.
    assert!(spent > CAP / 2.0, "{spent}");
    let status = workspace.gleaner(&["status", "out"]).expect(0);
    assert!(status.stdout.contains("exit code 6"), "{}", status.stdout);
    // The same again spends nothing more than the cap.
    let _ = workspace.run(&["--workers", "4"]).expect(6);
    assert!(price(&server) <= CAP, "{}", price(&server));
    goes_on(&workspace, &server, "endpoints.llm.budget=1");
}

#[test]
fn requests_tokens_and_time() {
    let check = |budget: &str, latency_ms: u64, is_kept: &dyn Fn(&Server) -> bool| {
        let options = ServerOptions {
            latency: std::time::Duration::from_millis(latency_ms),
            ..ServerOptions::default()
        };
        let server = Server::start(always(Play::Answer), options);
        let text = priced(
            &server,
            &format!("budget: {budget}, concurrency: 2"),
            QUERIES,
        );
        let workspace = workspace(DOCUMENTS, &text);
        let _ = workspace
            .run(&["--workers", "2"])
            .expect(6)
            .says("endpoint llm");
        assert!(is_kept(&server), "{budget}: {:?}", server.log().all());
        assert!(server.n_requests() > 0, "{budget}");
        let more = "endpoints.llm.budget={requests: 1000, tokens: 10000000, time: 1h}";
        goes_on(&workspace, &server, more);
    };
    check("{requests: 7}", 0, &|server| server.n_requests() == 7);
    check("{tokens: 12000}", 0, &|server| server.n_tokens() <= 12_000);
    check("{time: 2s}", 500, &|server| {
        server.n_requests() < DOCUMENTS as u64
    });
}

/// Each worker process reserves what it may spend, so that all together keep to the cap, by the
/// server's own count.
#[test]
fn processes_share_a_budget() {
    const CAP: f64 = 1.0;
    /// About two hundredths for each request.
    const PRICES: (f64, f64) = (10.0, 40.0);
    let n_workers = if std::env::var_os("GLEANER_LONG_TESTS").is_some() {
        8
    } else {
        3
    };
    let Some(broker) = RabbitMq::shared() else {
        return;
    };
    let server = Server::answering();
    let (input, output) = PRICES;
    let endpoint =
        format!("price: {{input: {input}, output: {output}}}, budget: {CAP}, concurrency: 4");
    let text = format!("task_bytes: 4KiB{}", job(&server.url(), &endpoint, BOTH));
    let workspace = workspace(DOCUMENTS, &text);
    let surroundings = Surroundings {
        queue: broker.new_vhost_url(),
        variables: Vec::new(),
    };
    let mut cluster = Cluster::new(&workspace, surroundings);
    for number in 0..n_workers {
        cluster.start_worker(number, &FOR_BOTH);
    }
    cluster.start_coordinator(&[]);
    let code = cluster.coordinator_end(LONG);
    let log = cluster.log("coordinator.log");
    assert_eq!(code, Some(6), "{log}");
    assert!(
        log.contains("the budget of endpoint llm is used up"),
        "{log}"
    );
    let price = || server.log().price_nanos(input, output) as f64 / NANOS;
    let spent = price();
    println!("{n_workers} workers spent {spent} of {CAP}");
    assert!(spent <= CAP, "{spent}");
    // What one holds and does not need, another spends.
    assert!(spent > CAP / 2.0, "{spent}");
    drop(cluster);
    assert!(price() <= CAP, "{}", price());
    goes_on(&workspace, &server, "endpoints.llm.budget=100");
}
