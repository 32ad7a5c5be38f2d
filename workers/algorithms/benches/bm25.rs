//! Ranks of 100,000 queries in 100,000 short documents, in documents per second on one core.
//!
//! ```text
//! cargo bench -p gleaner-algorithms --bench bm25
//! ```
//!
//! Words are drawn from a distribution like that of a language (the n-th word is the more frequent
//! the smaller n is), a query takes words of its source. `unrelated` queries have little of their
//! source: their thresholds are low and bounds leave out little.

#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use gleaner_algorithms::bm25::{
    Bm25, CorpusStatistics, Query, Ranker, RankerLimits, StatisticsCounter, TermCounter,
    Vocabulary, query_terms,
};

fn main() {
    divan::main();
}

const N_QUERIES: usize = 100_000;
const N_DOCUMENTS: usize = 100_000;
const N_WORDS: u64 = 200_000;
const DOCUMENT_WORDS: u64 = 60;
const QUERY_WORDS: u64 = 7;

struct Data {
    corpus: Vec<(String, String)>,
    vocabulary: Arc<Vocabulary>,
    statistics: CorpusStatistics,
    queries: Vec<Query>,
}

fn data(n_queries: usize, is_related: bool) -> Data {
    let mut random = Random(7);
    let mut words = |n: u64| -> Vec<String> { (0..n).map(|_| random.word()).collect() };
    let corpus: Vec<(String, String)> = (0..N_DOCUMENTS)
        .map(|idx| {
            let text = words(DOCUMENT_WORDS / 2 + idx as u64 % DOCUMENT_WORDS).join(" ");
            (format!("d{idx:06}"), text)
        })
        .collect();
    let texts: Vec<(usize, String)> = (0..n_queries)
        .map(|idx| {
            let source = idx * (N_DOCUMENTS / n_queries);
            let own: Vec<&str> = corpus[source].1.split(' ').collect();
            let query: Vec<String> = words(QUERY_WORDS)
                .into_iter()
                .enumerate()
                // The last word is of the query's own, as in questions.
                .map(|(place, word)| match is_related && place + 1 < QUERY_WORDS as usize {
                    true => own[(place * 11 + idx) % own.len()].to_owned(),
                    false => word,
                })
                .collect();
            (source, query.join(" "))
        })
        .collect();
    let terms = texts.iter().flat_map(|(_, text)| query_terms(text));
    let vocabulary = Arc::new(Vocabulary::new(terms).unwrap());
    let mut statistics = StatisticsCounter::new(Arc::clone(&vocabulary));
    corpus.iter().for_each(|(_, text)| statistics.add(text));
    let mut counter = TermCounter::new(Arc::clone(&vocabulary));
    let query = |(source, text): &(usize, String)| {
        let (id, source_text) = &corpus[*source];
        Query::new(&mut counter, text, text, id, source_text)
    };
    Data {
        queries: texts.iter().map(query).collect(),
        statistics: statistics.finish(),
        vocabulary,
        corpus,
    }
}

fn rank(data: &Data, limits: RankerLimits) -> u64 {
    let mut ranker = Ranker::new(
        Arc::clone(&data.vocabulary),
        Bm25::default(),
        &data.statistics,
        &data.queries,
        limits,
    )
    .unwrap();
    for (id, text) in &data.corpus {
        ranker.add(id, text);
    }
    ranker.finish().iter().sum()
}

#[divan::bench(sample_count = 1, sample_size = 1)]
fn statistics(bencher: Bencher) {
    let data = data(N_QUERIES, true);
    bencher
        .counter(ItemsCount::new(N_DOCUMENTS))
        .bench_local(|| {
            let mut counter = StatisticsCounter::new(Arc::clone(&data.vocabulary));
            data.corpus.iter().for_each(|(_, text)| counter.add(text));
            counter.finish()
        });
}

#[divan::bench(sample_count = 1, sample_size = 1, args = [1 << 12, 1 << 14, 1 << 16, 1 << 18])]
fn related(bencher: Bencher, block_documents_max: usize) {
    let data = data(N_QUERIES, true);
    let limits = RankerLimits {
        block_documents_max,
        block_bytes_max: 1 << 30,
        count_max: 1000,
    };
    bencher
        .counter(ItemsCount::new(N_DOCUMENTS))
        .bench_local(|| rank(&data, limits));
}

#[divan::bench(sample_count = 1, sample_size = 1, args = [100, 1000, u64::MAX])]
fn unrelated(bencher: Bencher, count_max: u64) {
    let data = data(N_QUERIES / 100, false);
    let limits = RankerLimits {
        count_max,
        ..RankerLimits::default()
    };
    bencher
        .counter(ItemsCount::new(N_DOCUMENTS))
        .bench_local(|| rank(&data, limits));
}

/// The generator SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A word whose number is spread evenly in its logarithm.
    fn word(&mut self) -> String {
        let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let number = (N_WORDS as f64).powf(uniform) as u64;
        format!("w{number:x}")
    }
}
