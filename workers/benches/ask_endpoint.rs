//! What asking an endpoint makes of a server's throughput, and what it costs: from a request to its
//! stored reply, without a stage or a coordinator.
//!
//! ```text
//! cargo bench -p gleaner-workers --bench ask_endpoint
//! BENCH_REQUESTS=20000 BENCH_CONCURRENCY=64 cargo bench -p gleaner-workers --bench ask_endpoint
//! ```
//!
//! 1. A scripted server answers each request after [`LATENCY`], on threads of its own.
//! 2. Requests with a prompt of [`PROMPT_BYTES`] and a schema are asked, a few times as many at a time
//!    as may be in flight, as a task does. Notes and replies go to a store in memory, or to a
//!    directory.
//! 3. Printed are the share of the throughput that the server has at that concurrency, from the
//!    begin of the first request to the end of the last answer; the requests that were in flight on
//!    average, which is what the client makes of its concurrency on a machine where the server is
//!    late too; and the time of processors that was spent for each request by all threads but the
//!    server's.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic, and prints"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use gleaner_endpoint::{ChatMessage, CompletionRequest, Parameters, Prompt, ResponseSchema};
use gleaner_schemas::{EndpointSettings, RunId};
use gleaner_scripted_endpoint::answer::Style;
use gleaner_scripted_endpoint::{Play, ScriptedServer, ServerOptions, always};
use gleaner_storage::numbered::Numbered;
use gleaner_storage::{Output, Stores, layout};
use gleaner_workers::endpoint::access::Exchanges;
use gleaner_workers::endpoint::clock::SystemClock;
use gleaner_workers::entropy::SystemEntropy;
use gleaner_workers::generation::EndpointIdentity;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Until the server answers.
const LATENCY: Duration = Duration::from_millis(50);
/// Of a prompt.
const PROMPT_BYTES: usize = 4096;
/// Items under way for each request in flight.
const ITEMS_PER_REQUEST: usize = 8;
/// Ticks of a processor's time in a second: the same on all Linux machines.
const TICKS_PER_SECOND: f64 = 100.0;
/// Names of the server's threads.
const SERVER_THREADS: &str = "scripted";

fn setting(name: &str, default: usize) -> usize {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().unwrap())
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread()
        .thread_name(name)
        .enable_all()
        .build()
        .unwrap()
}

/// Time of processors of all threads of this process but the server's.
fn cpu() -> f64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (head, rest) = stat.rsplit_once(')').unwrap();
        if head.contains(SERVER_THREADS) {
            continue;
        }
        let times = rest.split_whitespace().skip(11).take(2);
        ticks += times.map(|it| it.parse::<u64>().unwrap()).sum::<u64>();
    }
    ticks as f64 / TICKS_PER_SECOND
}

fn request(idx: usize) -> CompletionRequest {
    let sentence = format!("Sentence of document {idx} about rivers, bridges and tides. ");
    let prompt = sentence.repeat(PROMPT_BYTES / sentence.len());
    CompletionRequest {
        prompt: Prompt::Chat(vec![ChatMessage {
            role: "user".to_owned(),
            content: prompt,
        }]),
        parameters: Parameters::default(),
        schema: Some(ResponseSchema {
            name: "queries".to_owned(),
            schema: json!({
                "type": "object",
                "properties": { "queries": { "type": "array", "items": {
                    "type": "object",
                    "properties": {
                        "label": { "enum": ["3", "2", "1", "0"] },
                        "text": { "type": "string", "maxLength": 400 },
                    },
                } } },
            }),
        }),
        stage: "bench".to_owned(),
        sample: 0,
        model: None,
    }
}

fn measure(name: &str, output: &Output, n_requests: usize, concurrency: usize) {
    let server_runtime = runtime(SERVER_THREADS);
    let options = ServerOptions {
        latency: LATENCY,
        style: Style::Random,
        ..ServerOptions::default()
    };
    let server = ScriptedServer::start(always(Play::Answer), options);
    let server = server_runtime.block_on(server).unwrap();
    let url = server.url();
    let endpoint = json!({
        "url": url, "model": "tiny", "concurrency": concurrency,
        "price": { "input": 1.0, "output": 1.0 }, "budget": 1000.0,
    });
    let settings = EndpointSettings {
        format: EndpointSettings::FORMAT,
        run: RunId::new(1),
        started_ms: 0,
        endpoints: [("llm".to_owned(), serde_json::from_value(endpoint).unwrap())].into(),
    };
    let client_runtime = runtime("client");
    let before = cpu();
    client_runtime.block_on(async {
        let list = Numbered::new(output.clone(), layout::ENDPOINTS.to_owned());
        let bytes = serde_json::to_vec(&settings).unwrap();
        assert!(list.append(None, bytes.into()).await.unwrap());
        let (entropy, clock) = (Arc::new(SystemEntropy), Arc::new(SystemClock));
        let exchanges = Exchanges::new("bench".to_owned(), entropy, clock);
        let identity = EndpointIdentity {
            name: "llm".to_owned(),
            url,
            model: "tiny".to_owned(),
        };
        let exchange = exchanges.with(output, &identity).await.unwrap();
        let cancel = CancellationToken::new();
        let asked = (0..n_requests).map(|idx| {
            let (exchange, cancel) = (Arc::clone(&exchange), cancel.clone());
            let asked = tokio::spawn(async move { exchange.ask(request(idx), 0, &cancel).await });
            async { asked.await.unwrap().map(|_| ()) }
        });
        let asked = futures::stream::iter(asked).buffered(ITEMS_PER_REQUEST * concurrency);
        asked.try_collect::<()>().await.unwrap();
        exchange.settle().await.unwrap();
    });
    let spent = cpu() - before;
    let span = server.log().span();
    let ideal = LATENCY.mul_f64(n_requests as f64 / concurrency as f64);
    println!(
        "{name}: {n_requests} requests at {LATENCY:?} and {concurrency} in flight took {span:.2?}, ideally \
         {ideal:.2?}: {:.1} %; {:.2} in flight on average; {:.3} ms of processors for each",
        100.0 * ideal.as_secs_f64() / span.as_secs_f64(),
        server.log().n_in_flight_mean(),
        1000.0 * spent / n_requests as f64
    );
}

fn local(directory: &Path) -> Output {
    Output::open(
        &Stores::from_env(),
        &format!("file://{}", directory.display()),
    )
    .unwrap()
}

fn main() {
    let n_requests = setting("BENCH_REQUESTS", 4000);
    let concurrency = setting("BENCH_CONCURRENCY", 32);
    let store = Arc::new(object_store::memory::InMemory::new());
    let stores = Stores::from_env().with("memory://bench", store);
    let memory = Output::open(&stores, "memory://bench/out").unwrap();
    measure("memory", &memory, n_requests, concurrency);
    let directory = tempfile::tempdir().unwrap();
    measure(
        "directory",
        &local(directory.path()),
        n_requests,
        concurrency,
    );
}
