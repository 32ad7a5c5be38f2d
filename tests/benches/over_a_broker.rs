//! What it costs to have many machines: the job of importance weights and a selection in one
//! process, and over a real broker and a real S3 server with two workers.
//!
//! ```text
//! cargo bench --bench over_a_broker
//! BENCH_MB=1000 cargo bench --bench over_a_broker
//! ```
//!
//! In turns, since machines are noisy: embedded with two workers and everything on the local disk;
//! the same with corpus and output in the store; and over the broker with two workers of one slot
//! and everything in the store. It needs what the tests over real servers need.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic, and prints"
)]

use std::time::{Duration, Instant};

use gleaner_storage::{Output, Stores};
use gleaner_tests::cluster::{Cluster, Surroundings};
use gleaner_tests::corpus::{Document, example_documents, health_documents, jsonl, write_parquet};
use gleaner_tests::program::{Workspace, files};
use gleaner_tests::servers::ceph::Ceph;
use gleaner_tests::servers::rabbitmq::RabbitMq;

const ROUNDS: usize = 5;
const N_FILES: usize = 8;
const ROWS_PER_GROUP: usize = 16 * 1024;
const LONGEST: Duration = Duration::from_secs(3600);

fn main() {
    // Test runners ask every bench for its list.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let (Some(broker), Some(ceph)) = (RabbitMq::shared(), Ceph::shared()) else {
        return;
    };
    let megabytes = std::env::var("BENCH_MB").map_or(256, |text| text.parse().unwrap());
    let workspace = Workspace::new();
    let text_bytes = write_corpus(&workspace, megabytes);
    workspace.write("target.jsonl", jsonl(&health_documents(500)));
    workspace.write("local.yaml", job("corpus"));
    let bucket = ceph.new_bucket();
    upload(&workspace, ceph, &bucket);
    workspace.write("job.yaml", job(&format!("s3://{bucket}/corpus")));
    println!(
        "{} MB of text in {N_FILES} zstd Parquet files; 2 workers, median of {ROUNDS} rounds\n",
        text_bytes / 1_000_000
    );
    let mut cluster = Cluster::new(
        &workspace,
        Surroundings {
            queue: broker.new_vhost_url(),
            variables: ceph.variables(),
        },
    );
    cluster.start_worker(0, &[]);
    cluster.start_worker(1, &[]);
    let mut seconds = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let local = format!("out-{round}");
        let [stored, remote] =
            ["embedded", "broker"].map(|kind| format!("s3://{bucket}/{kind}-{round}"));
        let started = Instant::now();
        run_embedded(&workspace, ceph, &["local.yaml", "--output", &local]);
        let on_disk = started.elapsed();
        let started = Instant::now();
        run_embedded(&workspace, ceph, &["job.yaml", "--output", &stored]);
        let in_store = started.elapsed();
        let started = Instant::now();
        cluster.start_coordinator(&["--output", &remote]);
        assert_eq!(cluster.coordinator_end(LONGEST), Some(0));
        let over_broker = started.elapsed();
        // The first round fills caches.
        if round > 0 {
            for (seconds, took) in seconds.iter_mut().zip([on_disk, in_store, over_broker]) {
                seconds.push(took.as_secs_f64());
            }
        }
    }
    let [on_disk, in_store, over_broker] = seconds.map(median);
    println!("embedded, local disk                {on_disk:8.2} s");
    println!("embedded, S3                        {in_store:8.2} s");
    println!("RabbitMQ and S3, two workers        {over_broker:8.2} s");
    println!(
        "over the broker: {:.2} of embedded over the same store, {:.2} of embedded on the local disk",
        over_broker / in_store,
        over_broker / on_disk
    );
}

fn job(corpus: &str) -> String {
    format!(
        "name: bench\noutput: out\ncorpus: {{paths: ['{corpus}/*.parquet'], columns: {{id: id, \
         text: text}}}}\ndatasets: {{health: {{paths: [target.jsonl], columns: {{text: text}}}}}}\n\
         task_bytes: 16MiB\nstages:\n  weights: {{kind: importance_weights, target: health, \
         fit_sample: all}}\n  chosen: {{kind: select, by: weights.log_weight, method: resample, \
         fraction: 1/10}}\n"
    )
}

fn run_embedded(workspace: &Workspace, ceph: &Ceph, arguments: &[&str]) {
    let surroundings = Surroundings {
        queue: String::new(),
        variables: ceph.variables(),
    };
    let arguments: Vec<&str> = ["run", "--workers", "2"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    let _ = Cluster::new(workspace, surroundings)
        .gleaner(&arguments)
        .expect(0);
}

/// The example texts over and over, with a word of its own in each copy.
fn write_corpus(workspace: &Workspace, megabytes: usize) -> usize {
    let examples = example_documents();
    let mut text_bytes = 0;
    for file in 0..N_FILES {
        let mut documents = Vec::new();
        let mut n_bytes = 0;
        for copy in 0.. {
            if n_bytes >= megabytes * 1_000_000 / N_FILES {
                break;
            }
            documents.extend(examples.iter().map(|document| Document {
                id: format!("{file}-{copy}-{}", document.id),
                text: format!("{} copy{file}x{copy}", document.text),
                source: document.source.clone(),
            }));
            n_bytes += examples.iter().map(|it| it.text.len()).sum::<usize>();
        }
        text_bytes += n_bytes;
        let path = workspace.path().join(format!("corpus/part-{file}.parquet"));
        write_parquet(&path, &documents, ROWS_PER_GROUP);
    }
    text_bytes
}

fn upload(workspace: &Workspace, ceph: &Ceph, bucket: &str) {
    let stores = Stores::from_variables(ceph.variables());
    let output = Output::open(&stores, &format!("s3://{bucket}")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for path in files(&workspace.path().join("corpus")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        runtime
            .block_on(output.put(&format!("corpus/{name}"), bytes.into()))
            .unwrap();
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
