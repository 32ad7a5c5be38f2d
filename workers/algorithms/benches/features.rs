//! Text to buckets, to counts and to weights, in bytes of text per second on one core.
//!
//! ```text
//! cargo bench -p gleaner-algorithms
//! BENCH_DOCUMENTS=corpus.jsonl cargo bench -p gleaner-algorithms
//! ```
//!
//! The samples in `benches/data` are small, so the memory of `sha256` knows all of their n-grams
//! after the first pass. A file of documents (JSON Lines, member `text`) that is larger than that
//! memory shows what a corpus costs.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use divan::Bencher;
use divan::counter::BytesCount;
use gleaner_algorithms::importance::log_weight;
use gleaner_algorithms::{
    BucketCounts, FeatureExtractor, FeatureSpec, NgramHash, Tokenizer, Tokens,
};

fn main() {
    divan::main();
}

const CORPORA: [&str; 4] = ["ascii", "mixed", "cyrillic", "given"];
const HASHES: [NgramHash; 2] = [NgramHash::Xxh3, NgramHash::Sha256];

/// The documents of a named corpus; none for `given` if no file is given.
fn documents(corpus: &str) -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/data");
    match corpus {
        "given" => std::env::var("BENCH_DOCUMENTS").map_or(Vec::new(), |path| read(&path)),
        // Text in which no letter is ASCII, as that of half of the world's languages.
        "cyrillic" => documents("ascii")
            .iter()
            .map(|text| text.chars().map(transliterate).collect())
            .collect(),
        _ => read(&format!("{folder}/{corpus}.jsonl")),
    }
}

fn read(path: &str) -> Vec<String> {
    let lines = std::fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| {
            let document: serde_json::Value = serde_json::from_str(line).unwrap();
            document["text"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn transliterate(c: char) -> char {
    match c {
        'a'..='z' => char::from_u32(u32::from('а') + u32::from(c) - u32::from('a')).unwrap(),
        'A'..='Z' => char::from_u32(u32::from('А') + u32::from(c) - u32::from('A')).unwrap(),
        other => other,
    }
}

fn bytes(documents: &[String]) -> BytesCount {
    BytesCount::new(documents.iter().map(String::len).sum::<usize>())
}

fn extractor(hash: NgramHash, buckets: u32) -> FeatureExtractor {
    let spec = FeatureSpec {
        hash,
        buckets,
        ..FeatureSpec::default()
    };
    FeatureExtractor::new(spec).unwrap()
}

#[divan::bench(args = CORPORA)]
fn tokenize(bencher: Bencher<'_, '_>, corpus: &str) {
    let documents = documents(corpus);
    let mut tokens = Tokens::new(Tokenizer::default());
    bencher.counter(bytes(&documents)).bench_local(|| {
        let mut n = 0;
        for text in &documents {
            tokens.set(text);
            n += tokens.len();
        }
        n
    });
}

#[divan::bench(args = CORPORA, consts = [0, 1])]
fn extract<const HASH: usize>(bencher: Bencher<'_, '_>, corpus: &str) {
    let documents = documents(corpus);
    let mut extractor = extractor(HASHES[HASH], 10_000);
    bencher.counter(bytes(&documents)).bench_local(|| {
        let mut n = 0;
        for text in &documents {
            n += extractor.extract(text).buckets.len();
        }
        n
    });
}

#[divan::bench(args = CORPORA, consts = [0, 1])]
fn count<const HASH: usize>(bencher: Bencher<'_, '_>, corpus: &str) {
    let documents = documents(corpus);
    let mut extractor = extractor(HASHES[HASH], 10_000);
    let mut counts = BucketCounts::new(10_000);
    bencher.counter(bytes(&documents)).bench_local(|| {
        for text in &documents {
            counts.add(extractor.extract(text).buckets);
        }
    });
}

#[divan::bench(args = CORPORA, consts = [0, 1])]
fn weigh<const HASH: usize>(bencher: Bencher<'_, '_>, corpus: &str) {
    weigh_with(bencher, corpus, HASHES[HASH], 10_000);
}

/// Every look-up of a bucket misses the caches.
#[divan::bench(args = CORPORA)]
fn weigh_most_buckets(bencher: Bencher<'_, '_>, corpus: &str) {
    weigh_with(bencher, corpus, NgramHash::Xxh3, 1 << 24);
}

fn weigh_with(bencher: Bencher<'_, '_>, corpus: &str, hash: NgramHash, n_buckets: u32) {
    let documents = documents(corpus);
    let mut extractor = extractor(hash, n_buckets);
    let log_ratios: Vec<f64> = (0..n_buckets)
        .map(|bucket| f64::from(bucket).sin())
        .collect();
    bencher.counter(bytes(&documents)).bench_local(|| {
        let mut sum = 0.0;
        for text in &documents {
            sum += log_weight(&log_ratios, extractor.extract(text).buckets);
        }
        sum
    });
}
