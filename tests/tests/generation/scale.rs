//! Many documents: what the client makes of a server's throughput, and memory that does not grow
//! with them.

use std::fmt::Write as _;
use std::time::Duration;

use gleaner_scripted_endpoint::answer::Style;
use gleaner_scripted_endpoint::{Play, ServerOptions, always};
use gleaner_tests::memory::usage;
use gleaner_tests::program::{Workspace, number};
use serde_json::json;

use super::{Server, count};

const DOCUMENTS: usize = 1000;
const LATENCY: Duration = Duration::from_millis(50);
const CONCURRENCY: usize = 32;
/// What a run over all documents may take: the program and its libraries, and the items that are
/// under way.
const MEMORY_MAX: u64 = 400 << 20;
/// What four times as many documents may take more than a quarter of them.
const GROWTH_MAX: u64 = 80 << 20;

/// Queries of the user, for each of which documents of four grades are asked for in one request.
fn workspace(n: usize, server: &Server) -> Workspace {
    let workspace = Workspace::new();
    let mut lines = String::new();
    for i in 0..n {
        let line = json!({
            "id": format!("q{i}"),
            "text": format!("how is bridge number {i} of river {} kept", i * 7919),
            "source": "mine",
        });
        let _ = writeln!(lines, "{line}");
    }
    workspace.write("queries.jsonl", &lines);
    workspace.write("corpus/part-0.jsonl", &lines);
    let job = format!(
        "
name: many
output: out
corpus: {{paths: [corpus/*.jsonl]}}
datasets: {{mine: {{paths: [queries.jsonl]}}}}
endpoints:
  llm: {{url: \"{}\", model: any, concurrency: {CONCURRENCY}}}
stages:
  graded: {{kind: graded_documents, queries: mine, endpoint: llm, filter: {{reject: []}}}}
",
        server.url()
    );
    workspace.write("job.yaml", job);
    workspace
}

fn server() -> Server {
    let options = ServerOptions {
        latency: LATENCY,
        style: Style::Random,
        ..ServerOptions::default()
    };
    Server::start(always(Play::Answer), options)
}

/// Texts that have nothing to do with anything: every reply parses all the same.
#[test]
fn a_thousand_replies_of_random_words() {
    let arguments = ["run", "job.yaml", "--workers", "2"];
    let few = server();
    let at_first = usage(workspace(DOCUMENTS / 4, &few).path(), &arguments);
    let server = server();
    let workspace = workspace(DOCUMENTS, &server);
    let used = usage(workspace.path(), &arguments);
    let (memory, at_first_memory) = (used.memory, at_first.memory);
    // From the first request to the last answer, by the server's clock: the rest of a run (its start,
    // its plan, its other phases) does not keep the server waiting.
    let ideal = LATENCY.mul_f64(DOCUMENTS as f64 / CONCURRENCY as f64);
    let span = server.log().span();
    let more = used.cpu.saturating_sub(at_first.cpu);
    let cpu_per_request = more.as_secs_f64() / (DOCUMENTS - DOCUMENTS / 4) as f64;
    println!(
        "{DOCUMENTS} requests at {LATENCY:?} and {CONCURRENCY} in flight: {span:?}, ideally {ideal:?} \
         ({:.0} %); in flight at most {}, on average {:.1}; {:.2} ms of a processor for each request more; memory {} MiB, \
         {} MiB for a quarter",
        100.0 * ideal.as_secs_f64() / span.as_secs_f64(),
        server.log().n_in_flight_max(),
        server.log().n_in_flight_mean(),
        1000.0 * cpu_per_request,
        memory >> 20,
        at_first_memory >> 20
    );
    assert_eq!(server.n_requests(), DOCUMENTS as u64);
    assert!(server.log().n_in_flight_max() <= CONCURRENCY);
    let rows = workspace.sql(
        "SELECT count(*) AS n, count(*) FILTER (WHERE status = 'ok' AND attempts = 1) AS ok, \
         count(*) FILTER (WHERE array_has(flags, 'json_repaired') OR array_has(flags, \
         'schema_ignored_by_server')) AS mended FROM graded",
    );
    assert_eq!(number(&rows[0], "n"), DOCUMENTS as u64 * 4);
    assert_eq!(number(&rows[0], "ok"), DOCUMENTS as u64 * 4);
    assert_eq!(number(&rows[0], "mended"), 0);
    assert_eq!(
        count(&workspace, "(SELECT DISTINCT text FROM graded)"),
        DOCUMENTS as u64 * 4
    );
    assert!(memory < MEMORY_MAX, "{memory}");
    assert!(
        memory < at_first_memory + GROWTH_MAX,
        "{at_first_memory} and then {memory}"
    );
}
