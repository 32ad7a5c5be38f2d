//! Where the time of a task of `importance_weights` goes, on one core, without a coordinator.
//!
//! ```text
//! cargo bench -p gleaner-workers --bench score_phase
//! BENCH_MB=500 BENCH_ROUNDS=9 cargo bench -p gleaner-workers --bench score_phase
//! BENCH_ONLY='score xxh3' cargo bench -p gleaner-workers --bench score_phase    # for a profiler
//! ```
//!
//! 1. Write a corpus as one zstd Parquet file: the example texts over and over, some words
//!    replaced in each copy, so that n-grams keep coming that were never seen.
//! 2. In turns, since machines are noisy, each over the same file:
//!    - `decode`: the parquet crate's reader gives the column `text` as strings, nothing else;
//!    - `read`: the batches that a stage would be given;
//!    - `features`: texts that are in memory already become buckets and weights;
//!    - `score`, `count`: the task of that phase, from the file to the bytes of its object.
//! 3. Print the median speed of each, and the median of its ratio to the decoding of its round.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic, and prints"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use gleaner_algorithms::FeatureExtractor;
use gleaner_algorithms::importance::log_weight;
use gleaner_schemas::columns::TEXT;
use gleaner_schemas::{
    ContentHash, DocumentColumns, FileFormat, Fingerprint, Lanes, PhasePlan, Reader, Shard,
    SideInput, Slice, SourceFile, Task,
};
use gleaner_storage::documents::{BatchLimits, DocumentReader, PredicateCompiler, RowPredicate};
use gleaner_storage::stores::Stores;
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, TableEncoder};
use gleaner_workers::attempt::TaskExecutor as _;
use gleaner_workers::endpoint::access::Exchanges;
use gleaner_workers::execute::StageExecutor;
use gleaner_workers::importance_weights::{Features, HashName};
use gleaner_workers::plan_cache::PlannedTask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const ROWS_PER_GROUP: usize = 4 * 1024;
const MEMORY_BYTES: u64 = 2 << 30;
const MIB: f64 = 1e6;
/// Longer than any run.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);

fn main() {
    // Test runners ask every bench for its list.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let only = std::env::var("BENCH_ONLY").ok();
    let n_rounds = number("BENCH_ROUNDS", 5);
    let folder = tempfile::tempdir().unwrap();
    let corpus = Corpus::write(folder.path(), number("BENCH_MB", 200));
    let bench = Bench::new(folder.path(), corpus);
    println!(
        "{:.0} MB of text, median of {n_rounds} rounds",
        bench.corpus.text_bytes as f64 / MIB
    );
    let steps: Vec<Step> = Step::ALL
        .into_iter()
        .filter(|step| only.as_ref().is_none_or(|only| *only == step.name()))
        .collect();
    let mut rounds: BTreeMap<Step, Vec<f64>> = BTreeMap::new();
    for round in 0..=n_rounds {
        for &step in &steps {
            let started = Clock::now();
            bench.run(step);
            // The first round fills caches.
            if round > 0 {
                rounds.entry(step).or_default().push(started.seconds());
            }
        }
    }
    for (step, seconds) in &rounds {
        let text_bytes = match step {
            Step::Features(_) => bench.corpus.texts_bytes(),
            _ => bench.corpus.text_bytes,
        };
        let speed = |seconds: &f64| text_bytes as f64 / MIB / seconds;
        let speeds: Vec<f64> = seconds.iter().map(speed).collect();
        print!("{:<18} {:8.0} MB/s", step.name(), median(&speeds));
        if let Some(decode) = rounds.get(&Step::Decode) {
            let decode = decode
                .iter()
                .map(|seconds| bench.corpus.text_bytes as f64 / MIB / seconds);
            let ratios: Vec<f64> = speeds.iter().zip(decode).map(|(a, b)| a / b).collect();
            print!(" {:8.2} of decoding", median(&ratios));
        }
        println!();
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Time of the processor where the system tells it (Linux), so that whoever else uses the machine
/// counts less; else time on the wall. One thread works at a time.
struct Clock {
    wall: Instant,
    processor: Option<Duration>,
}

impl Clock {
    fn now() -> Self {
        Self {
            wall: Instant::now(),
            processor: Self::processor(),
        }
    }

    fn seconds(&self) -> f64 {
        let processor = Self::processor().zip(self.processor);
        processor
            .map_or(self.wall.elapsed(), |(now, then)| now - then)
            .as_secs_f64()
    }

    /// Of all threads together.
    fn processor() -> Option<Duration> {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir("/proc/self/task").ok()? {
            let facts = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            let on_processor: u64 = facts.split(' ').next()?.parse().ok()?;
            nanoseconds += on_processor;
        }
        Some(Duration::from_nanos(nanoseconds))
    }
}

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Decode,
    Read,
    Features(Hash),
    Score(Hash),
    Count(Hash),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Xxh3,
    Sha256,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::Decode,
        Self::Read,
        Self::Features(Hash::Xxh3),
        Self::Score(Hash::Xxh3),
        Self::Count(Hash::Xxh3),
        Self::Features(Hash::Sha256),
        Self::Score(Hash::Sha256),
        Self::Count(Hash::Sha256),
    ];

    fn name(self) -> String {
        match self {
            Self::Decode => "decode".to_owned(),
            Self::Read => "read".to_owned(),
            Self::Features(hash) => format!("features {}", hash.name()),
            Self::Score(hash) => format!("score {}", hash.name()),
            Self::Count(hash) => format!("count {}", hash.name()),
        }
    }
}

impl Hash {
    fn name(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Sha256 => "sha256",
        }
    }

    fn features(self) -> Features {
        let hash = match self {
            Self::Xxh3 => HashName::Xxh3,
            Self::Sha256 => HashName::Sha256,
        };
        Features {
            hash,
            hash_version: hash.version(),
            ..Features::default()
        }
    }
}

struct Bench {
    runtime: Runtime,
    io: BlockingIo,
    executor: StageExecutor,
    corpus: Corpus,
    model: SideInput,
}

impl Bench {
    fn new(folder: &Path, corpus: Corpus) -> Self {
        // The clock adds up threads that live: one that ended would take its time out of the sum.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_keep_alive(THREAD_KEEP_ALIVE)
            .build()
            .unwrap();
        let io = BlockingIo::new(Stores::from_env(), runtime.handle().clone());
        let entropy = Arc::new(gleaner_workers::entropy::SystemEntropy);
        let clock = Arc::new(gleaner_workers::endpoint::clock::SystemClock);
        let exchanges = Exchanges::new("bench".to_owned(), entropy, clock);
        Self {
            executor: StageExecutor::new(io.clone(), Arc::new(NoPredicates), exchanges),
            model: write_model(&folder.join("model.parquet")),
            runtime,
            io,
            corpus,
        }
    }

    fn run(&self, step: Step) {
        match step {
            Step::Decode => assert_eq!(decode(&self.corpus.path), self.corpus.text_bytes),
            Step::Read => self.read(),
            Step::Features(hash) => self.features(hash),
            Step::Score(hash) => self.task(
                "score",
                json!({
                    "features": hash.features(),
                    "suffixes": [""],
                    "min_tokens": 100,
                    "chunk_words": null,
                    "quality": false,
                }),
            ),
            Step::Count(hash) => self.task("count-raw", json!(hash.features())),
        }
    }

    fn read(&self) {
        let (io, shard) = (self.io.clone(), self.corpus.shard());
        let read = self.runtime.spawn_blocking(move || {
            let limits = BatchLimits::for_memory(MEMORY_BYTES);
            let slice = &shard.slices[0];
            let mut reader = DocumentReader::open(&io, slice, &columns(), None, limits).unwrap();
            let mut n_bytes = 0;
            while let Some(batch) = reader.next_batch().unwrap() {
                let texts = batch.column_by_name(TEXT).unwrap().as_string_view();
                n_bytes += texts.total_bytes_len() as u64;
            }
            n_bytes
        });
        let n_bytes = self.runtime.block_on(read).unwrap();
        // Texts of up to 12 bytes are not in the buffers that were counted.
        assert!(n_bytes <= self.corpus.text_bytes);
    }

    fn features(&self, hash: Hash) {
        let mut extractor: FeatureExtractor = hash.features().extractor().unwrap();
        let log_ratios = log_ratios(extractor.spec().buckets);
        let mut sum = 0.0;
        for text in &self.corpus.texts {
            sum += log_weight(&log_ratios, extractor.extract(text).buckets);
        }
        assert!(sum.is_finite());
    }

    /// The task of a phase, as a worker computes it.
    fn task(&self, phase: &str, params: serde_json::Value) {
        let shard = self.corpus.shard();
        let plan = PhasePlan {
            format: PhasePlan::FORMAT,
            stage: "weights".to_owned(),
            kind: "importance_weights".to_owned(),
            code_version: 2,
            phase: phase.to_owned(),
            params,
            decision: serde_json::Value::Null,
            side_inputs: vec![self.model.clone()],
            reader: Reader::Documents {
                columns: columns(),
                predicate: None,
            },
            folder: "weights".to_owned(),
            n_tasks: 1,
            n_rows: None,
            bytes: self.corpus.text_bytes,
            memory_bytes: MEMORY_BYTES,
            task_timeout_ms: 600_000,
            is_whole: false,
        };
        let task = Task {
            id: plan.task_id(&shard),
            shard,
        };
        // Nothing is written: the output is only where a state would be kept.
        let planned = PlannedTask {
            output: Output::open(&Stores::from_env(), "file:///nowhere").unwrap(),
            plan: Arc::new(plan),
            task: Arc::new(task),
        };
        let executed = self.executor.execute(&planned, CancellationToken::new());
        let object = self.runtime.block_on(executed).unwrap();
        // A worker names the object by its hash.
        assert!(!ContentHash::of(&object).to_string().is_empty());
    }
}

fn columns() -> DocumentColumns {
    DocumentColumns {
        id: Some("id".to_owned()),
        text: "text".to_owned(),
        source: None,
    }
}

/// Bytes of text, decoded on this thread.
fn decode(path: &Path) -> u64 {
    let mut n_bytes = 0;
    for_each_batch(path, |texts| {
        n_bytes += texts.as_string::<i32>().value_data().len() as u64;
    });
    n_bytes
}

fn for_each_batch(path: &Path, mut each: impl FnMut(&ArrayRef)) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["text"]);
    for batch in builder.with_projection(columns).build().unwrap() {
        each(batch.unwrap().column(0));
    }
}

/// A file of documents, and some of them in memory.
struct Corpus {
    path: PathBuf,
    text_bytes: u64,
    texts: Vec<String>,
}

impl Corpus {
    /// Copies of the example texts; every 16th word of each gets a suffix.
    fn write(folder: &Path, megabytes: u64) -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/corpus");
        let mut files: Vec<PathBuf> = std::fs::read_dir(examples)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let mut examples = Vec::new();
        for file in files {
            for_each_batch(&file, |texts| {
                let texts = cast(texts, &DataType::Utf8).unwrap();
                let texts = texts.as_string::<i32>().iter().flatten();
                examples.extend(texts.map(str::to_owned));
            });
        }
        let path = folder.join("corpus.parquet");
        let (mut text_bytes, mut texts, mut state) = (0, Vec::new(), 1_u64);
        let mut writer = None;
        while text_bytes < megabytes * 1_000_000 {
            let copies = examples.iter().map(|text| varied(text, &mut state));
            let copies: Vec<String> = copies.collect();
            text_bytes += copies.iter().map(String::len).sum::<usize>() as u64;
            let ids = (0..copies.len()).map(|row| format!("{text_bytes}-{row}"));
            let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids));
            let column: ArrayRef = Arc::new(StringArray::from_iter_values(&copies));
            let batch = RecordBatch::try_from_iter([("id", ids), ("text", column)]).unwrap();
            writer
                .get_or_insert_with(|| writer_of(&path, batch.schema()))
                .write(&batch)
                .unwrap();
            if texts.len() < 3 * examples.len() {
                texts.extend(copies);
            }
        }
        writer.unwrap().close().unwrap();
        Self {
            path,
            text_bytes,
            texts,
        }
    }

    fn texts_bytes(&self) -> u64 {
        self.texts.iter().map(String::len).sum::<usize>() as u64
    }

    fn shard(&self) -> Shard {
        let bytes = std::fs::metadata(&self.path).unwrap().len();
        let uri = format!("file://{}", self.path.display());
        let file = SourceFile {
            name: "corpus/corpus.parquet".to_owned(),
            identity: Fingerprint::of("bench", &bytes).to_string(),
            uri,
            format: FileFormat::Parquet,
            bytes,
            etag: None,
        };
        Shard {
            slices: vec![Slice {
                file: Arc::new(file),
                row_groups: None,
                first_row: 0,
                n_rows: None,
                bytes,
                row_group_facts: Vec::new(),
            }],
            companions: Vec::new(),
            effect: None,
        }
    }
}

fn varied(text: &str, state: &mut u64) -> String {
    let mut varied = String::with_capacity(text.len() + text.len() / 16);
    for word in text.split_inclusive(' ') {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        varied.push_str(word.trim_end_matches(' '));
        if *state >> 60 == 0 {
            varied.push_str(&format!("{:x}", *state >> 40 & 0xfff));
        }
        varied.push(' ');
    }
    varied
}

fn writer_of(path: &Path, schema: SchemaRef) -> ArrowWriter<File> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROWS_PER_GROUP))
        .build();
    ArrowWriter::try_new(File::create(path).unwrap(), schema, Some(properties)).unwrap()
}

fn log_ratios(n_buckets: u32) -> Vec<f64> {
    (0..n_buckets)
        .map(|bucket| f64::from(bucket).sin())
        .collect()
}

/// Any model with the default number of buckets: what it says does not matter to the speed.
fn write_model(path: &Path) -> SideInput {
    let n_buckets = Features::default().buckets;
    let buckets: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..n_buckets));
    let counts: ArrayRef = Arc::new(UInt64Array::from(vec![1; buckets.len()]));
    let ratios: ArrayRef = Arc::new(Float64Array::from(log_ratios(n_buckets)));
    let batch = RecordBatch::try_from_iter([
        ("bucket", buckets),
        ("raw_count", Arc::clone(&counts)),
        ("target_count", counts),
        ("log_ratio", ratios),
    ])
    .unwrap();
    let mut encoder = TableEncoder::new(batch.schema(), MEMORY_BYTES).unwrap();
    encoder.write(&batch).unwrap();
    let object = encoder.finish(&Lanes::default(), &json!({})).unwrap();
    std::fs::write(path, &object).unwrap();
    SideInput {
        name: "model".to_owned(),
        uri: format!("file://{}", path.display()),
        content: ContentHash::of(&object),
    }
}

#[derive(Debug)]
struct NoPredicates;

impl PredicateCompiler for NoPredicates {
    fn compile(&self, sql: &str, _: &SchemaRef) -> Result<Arc<dyn RowPredicate>, String> {
        Err(format!("no predicates here: {sql}"))
    }
}
