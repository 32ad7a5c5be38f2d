//! Whole runs of `gleaner` on one core, beside decoding the same column with the parquet crate.
//!
//! ```text
//! cargo bench --bench end_to_end
//! BENCH_MB=1000 cargo bench --bench end_to_end
//! ```
//!
//! 1. Write corpora: the example texts over and over, some words replaced in each copy, so that
//!    n-grams keep coming that were never seen; and many short rows.
//! 2. In turns, since machines are noisy: decode the column `text`; run `importance_weights` with
//!    each hash; run `select` with each method. Each phase is timed by the run's own events.
//! 3. Print the median speed of each, and its ratio to the decoding.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic, and prints"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray as _, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::Value;

const ROUNDS: usize = 3;
const N_FILES: usize = 4;
const N_SHORT_ROWS: usize = 2_000_000;
const ROWS_PER_GROUP: usize = 16 * 1024;

fn main() {
    // Test runners ask every bench for its list.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let megabytes = std::env::var("BENCH_MB").map_or(256, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let examples = repository().join("examples/data");
    let texts = example_texts(&examples.join("corpus"));
    let text_bytes = write_long(&folder.path().join("long"), &texts, megabytes);
    write_short(&folder.path().join("short"), &texts);
    println!(
        "{} MB of text in {N_FILES} zstd Parquet files; 1 worker, median of {ROUNDS} rounds\n",
        text_bytes / 1_000_000
    );
    let mut speeds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |name: &str, speed: f64| speeds.entry(name.to_owned()).or_default().push(speed);
    for round in 0..ROUNDS {
        let started = Instant::now();
        let decoded = decode(&folder.path().join("long"));
        assert_eq!(decoded, text_bytes);
        add(
            "decode",
            decoded as f64 / 1e6 / started.elapsed().as_secs_f64(),
        );
        for hash in ["xxh3", "sha256"] {
            let job = job(
                &examples,
                "long",
                &format!("hash: {hash}, fit_sample: all"),
                "",
            );
            let seconds = run(folder.path(), &job, &format!("long-{hash}-{round}"));
            for phase in ["count-raw", "score"] {
                let speed = text_bytes as f64 / 1e6 / seconds[&format!("weights/{phase}")];
                add(&format!("{phase} {hash}"), speed);
            }
        }
        let mut selects = String::new();
        for method in ["resample", "top_k"] {
            selects += &format!(
                "  {method}: {{kind: select, by: weights.log_weight, method: {method}, fraction: \
                 1/10, measure: false}}\n"
            );
        }
        let job = job(&examples, "short", "min_tokens: 1", &selects);
        let seconds = run(folder.path(), &job, &format!("short-{round}"));
        for method in ["resample", "top_k"] {
            let phases = seconds.iter();
            let of_stage = phases.filter(|(name, _)| name.starts_with(&format!("{method}/")));
            let sum: f64 = of_stage.map(|(_, seconds)| seconds).sum();
            add(&format!("select {method}"), N_SHORT_ROWS as f64 / 1e6 / sum);
        }
    }
    let median = |name: &str| {
        let mut all = speeds[name].clone();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let decode = median("decode");
    println!("{:<24} {decode:8.0} MB/s", "decode the column text");
    for phase in ["count-raw", "score"] {
        for hash in ["xxh3", "sha256"] {
            let speed = median(&format!("{phase} {hash}"));
            let ratio = speed / decode;
            println!("{phase:<10} {hash:<13} {speed:8.0} MB/s {ratio:8.2} of decoding");
        }
    }
    for method in ["resample", "top_k"] {
        let speed = median(&format!("select {method}"));
        println!("select {method:<17} {speed:8.1} million rows/s, a tenth of {N_SHORT_ROWS}");
    }
}

fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_owned()
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn for_each_text(path: &Path, mut each: impl FnMut(&str)) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["text"]);
    for batch in builder.with_projection(columns).build().unwrap() {
        let texts = cast(batch.unwrap().column(0), &DataType::Utf8).unwrap();
        texts
            .as_string::<i32>()
            .iter()
            .flatten()
            .for_each(&mut each);
    }
}

fn example_texts(folder: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for path in parquet_files(folder) {
        for_each_text(&path, |text| texts.push(text.to_owned()));
    }
    texts
}

/// Bytes of text, decoded on this thread.
fn decode(folder: &Path) -> u64 {
    let mut n_bytes = 0;
    for path in parquet_files(folder) {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["text"]);
        for batch in builder.with_projection(columns).build().unwrap() {
            let batch = batch.unwrap();
            let texts = batch.column(0).as_string::<i32>();
            n_bytes += texts.value_data().len() as u64;
        }
    }
    n_bytes
}

/// Copies of the texts; every 16th word of each gets a suffix. Returns bytes of text.
fn write_long(folder: &Path, texts: &[String], megabytes: u64) -> u64 {
    let (mut n_bytes, mut copy, mut state) = (0, 0_u64, 1_u64);
    let mut rows: Vec<Vec<String>> = vec![Vec::new(); N_FILES];
    let mut n_rows = 0;
    while n_bytes < megabytes * 1_000_000 {
        for text in texts {
            let mut varied = String::with_capacity(text.len() + text.len() / 16);
            for word in text.split_inclusive(' ') {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                varied.push_str(word.trim_end_matches(' '));
                if state >> 60 == 0 {
                    varied.push_str(&format!("{:x}", state >> 40 & 0xfff));
                }
                varied.push(' ');
            }
            n_bytes += varied.len() as u64;
            rows[n_rows % N_FILES].push(varied);
            n_rows += 1;
        }
        copy += 1;
    }
    for (idx, rows) in rows.iter().enumerate() {
        write(&folder.join(format!("{idx}.parquet")), rows, copy);
    }
    n_bytes
}

/// Many rows of a few words.
fn write_short(folder: &Path, texts: &[String]) {
    let words: Vec<&str> = texts.iter().flat_map(|text| text.split(' ')).collect();
    let rows: Vec<String> = (0..N_SHORT_ROWS)
        .map(|row| {
            let start = row.wrapping_mul(7919) % (words.len() - 8);
            words[start..start + 8].join(" ")
        })
        .collect();
    for (idx, rows) in rows.chunks(N_SHORT_ROWS.div_ceil(N_FILES)).enumerate() {
        write(&folder.join(format!("{idx}.parquet")), rows, 0);
    }
}

fn write(path: &Path, rows: &[String], copy: u64) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let name = path.file_stem().unwrap().to_string_lossy();
    let ids = (0..rows.len()).map(|row| format!("{copy}-{name}-{row}"));
    let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows));
    let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn job(examples: &Path, corpus: &str, params: &str, stages: &str) -> String {
    format!(
        "name: bench\noutput: out\ncorpus: {{paths: ['{corpus}/*.parquet'], columns: {{id: id, text: \
         text}}}}\ndatasets: {{target: {{paths: ['{}/biomedical/train.jsonl.zst']}}}}\ntask_bytes: \
         64MiB\nstages:\n  weights: {{kind: importance_weights, target: target, {params}}}\n{stages}",
        examples.display()
    )
}

/// Seconds of each phase, `<stage>/<phase>`.
fn run(folder: &Path, job: &str, output: &str) -> BTreeMap<String, f64> {
    std::fs::write(folder.join("job.yaml"), job).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_gleaner"))
        .args([
            "run",
            "job.yaml",
            "--workers",
            "1",
            "--json",
            "--output",
            output,
        ])
        .current_dir(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut seconds = BTreeMap::new();
    let mut started = Instant::now();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match text("event").as_str() {
            "phase_started" => started = Instant::now(),
            "phase_finished" => {
                let name = format!("{}/{}", text("stage"), text("phase"));
                seconds.insert(name, started.elapsed().as_secs_f64());
            }
            _ => {}
        }
    }
    assert!(child.wait().unwrap().success());
    std::fs::remove_dir_all(folder.join(output)).unwrap();
    seconds
}
