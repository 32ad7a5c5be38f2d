//! Tokens per second of a model directory, for `benches/compare_with_torch.py`.
//!
//! `losses DIRECTORY TOKENS TYPE THREADS SECONDS [SECOND]`: TOKENS are little-endian u32 of sequences of
//! 512. Prints, of the best of the rounds that fit into the time, tokens per second and tokens per
//! second of the processor's time, and the mean loss. With a SECOND directory its model scores the
//! same tokens too.
//!
//! `losses DIRECTORY TEXTS tokenize THREADS SECONDS`: TEXTS has a document in each line; prints
//! megabytes per second.

use std::num::NonZero;
use std::path::Path;
use std::time::{Duration, Instant};

use gleaner_models::{
    LanguageModel, LoadOptions, ModelDirectory, Tokenizer, WeightType, losses_together,
};

const LENGTH: usize = 512;

#[expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the console"
)]
fn main() {
    let arguments: Vec<String> = std::env::args().filter(|a| a != "--bench").collect();
    let [_, directory, tokens, weights, n_threads, seconds, rest @ ..] = &arguments[..] else {
        println!("run by compare_with_torch.py, see README.md beside it");
        return;
    };
    let limit = Duration::from_secs_f64(seconds.parse().unwrap());
    if weights == "tokenize" {
        tokenize(
            Path::new(directory),
            Path::new(tokens),
            n_threads.parse().unwrap(),
            limit,
        );
        return;
    }
    let options = LoadOptions {
        weights: match weights.as_str() {
            "bf16" => WeightType::Bf16,
            "f16" => WeightType::F16,
            _ => WeightType::F32,
        },
        n_threads: NonZero::new(n_threads.parse().unwrap()),
        context: Some(LENGTH),
        memory_bytes_max: None,
    };
    let directory = ModelDirectory::open(Path::new(directory)).unwrap();
    let model = directory.load(&options).unwrap();
    let second = rest.first().map(|second| {
        let second = ModelDirectory::open(Path::new(second)).unwrap();
        second.load(&options).unwrap()
    });
    let bytes = std::fs::read(tokens).unwrap();
    let ids: Vec<u32> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect();
    let sequences: Vec<&[u32]> = ids.chunks_exact(LENGTH).collect();
    let (begin, mut mean) = (Instant::now(), 0.0);
    let (mut best, mut best_busy) = (Duration::MAX, f64::INFINITY);
    while begin.elapsed() < limit {
        let (start, busy) = (Instant::now(), busy_seconds());
        let losses = match &second {
            Some(second) => losses_together(&[&model, second], &sequences)
                .unwrap()
                .remove(0),
            None => model.losses(&sequences).unwrap(),
        };
        best = best.min(start.elapsed());
        best_busy = best_busy.min(busy_seconds() - busy);
        let all = losses.iter().flatten();
        mean = all.map(|x| f64::from(*x)).sum::<f64>() / (losses.len() * (LENGTH - 1)) as f64;
    }
    let n = ids.len() as f64;
    println!(
        "{:.1} {:.1} {mean:.6}",
        n / best.as_secs_f64(),
        n / best_busy
    );
}

#[expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for the console"
)]
fn tokenize(directory: &Path, texts: &Path, n_threads: usize, limit: Duration) {
    let tokenizer = Tokenizer::open(&directory.join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(texts).unwrap();
    let documents: Vec<&str> = text.lines().collect();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(n_threads)
        .build()
        .unwrap();
    let (begin, mut best, mut n_tokens) = (Instant::now(), f64::INFINITY, 0);
    while begin.elapsed() < limit {
        let busy = busy_seconds();
        let ids = pool.install(|| tokenizer.encode_batch(&documents)).unwrap();
        best = best.min(busy_seconds() - busy);
        n_tokens = ids.iter().map(Vec::len).sum();
    }
    let megabytes = text.len() as f64 / 1e6;
    println!(
        "{:.2} MB and {:.0} tokens per second of the processor",
        megabytes / best,
        n_tokens as f64 / best
    );
}

/// Time of the processor that this process took, in steps of 10 ms; Linux only.
fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let ticks = |field: &str| field.parse::<f64>().unwrap_or(f64::NAN);
    fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(ticks)
        .sum::<f64>()
        / 100.0
}
