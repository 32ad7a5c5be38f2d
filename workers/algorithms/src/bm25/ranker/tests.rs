//! Counts by blocks and bounds against a loop over all documents.

use proptest::prelude::*;

use super::*;
use crate::bm25::{StatisticsCounter, query_terms};

type Document = (String, String);

/// What is ranked, with the sources' texts as they are in the corpus unless told otherwise.
#[derive(Debug)]
struct Case {
    corpus: Vec<Document>,
    /// Text, source id, source text.
    queries: Vec<(String, String, String)>,
}

impl Case {
    fn vocabulary(&self) -> Arc<Vocabulary> {
        let terms = self.queries.iter().flat_map(|query| query_terms(&query.0));
        Arc::new(Vocabulary::new(terms).unwrap())
    }

    fn statistics(&self) -> CorpusStatistics {
        let mut counter = StatisticsCounter::new(self.vocabulary());
        self.corpus.iter().for_each(|(_, text)| counter.add(text));
        counter.finish()
    }

    fn queries(&self) -> Vec<Query> {
        let mut counter = TermCounter::new(self.vocabulary());
        let query = |(text, id, source): &(String, String, String)| {
            Query::new(&mut counter, text, text, id, source)
        };
        self.queries.iter().map(query).collect()
    }

    fn count(&self, shard: &[Document], limits: RankerLimits) -> Vec<u64> {
        let mut ranker = Ranker::new(
            self.vocabulary(),
            Bm25::default(),
            &self.statistics(),
            &self.queries(),
            limits,
        )
        .unwrap();
        for (id, text) in shard {
            ranker.add(id, text);
        }
        ranker.finish()
    }

    /// A loop over all documents.
    fn naive(&self) -> Vec<u64> {
        let scorer = Scorer::new(Bm25::default(), &self.statistics()).unwrap();
        let mut counter = TermCounter::new(self.vocabulary());
        let mut count = |query: Query| {
            let threshold = scorer.threshold(&query);
            let is_above = |(id, text): &&Document| {
                let score = scorer.score(&query.terms, &counter.count(text));
                let source_id = &query.source.document_id;
                id != source_id && (score > threshold || (score == threshold && id < source_id))
            };
            self.corpus.iter().filter(is_above).count() as u64
        };
        self.queries().into_iter().map(&mut count).collect()
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<Document> {
    let owned = |&(id, text): &(&str, &str)| (id.to_owned(), text.to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn copies_tie_and_go_by_their_ids() {
    let fox = "the quick brown fox";
    let corpus = [
        ("a", fox),
        ("b", fox),
        ("b2", fox),
        ("c", "a brown dog and another brown dog"),
        ("d", "the fox, the fox"),
        ("e", "nothing of it"),
    ];
    let query =
        |text: &str, id: &str, source: &str| (text.to_owned(), id.to_owned(), source.to_owned());
    let case = Case {
        corpus: owned(&corpus),
        queries: vec![
            query("brown fox", "a", fox),
            query("brown fox", "b", fox),
            query("brown fox", "b2", fox),
            query("fox", "b", fox),
            query("brown fox", "c", corpus[3].1),
            // Nothing of the query is in the source: three documents have a term, and of the
            // rest one has a smaller id.
            query("quick", "e", corpus[5].1),
            // Nothing of it is anywhere.
            query("zebra", "d", corpus[4].1),
            query("", "d", corpus[4].1),
            query("?", "a", fox),
        ],
    };
    let counts = case.count(&case.corpus, RankerLimits::default());
    assert_eq!(counts, [0, 1, 2, 2, 4, 5, 4, 4, 0]);
    assert_eq!(case.naive(), counts);
}

#[test]
fn ranks_are_exact_below_the_end_of_counting() {
    assert_eq!(Rank::from_count(0, 10), Rank::Exact(1));
    assert_eq!(Rank::from_count(9, 10), Rank::Exact(10));
    assert_eq!(Rank::from_count(10, 10), Rank::After(10));
    assert_eq!(Rank::Exact(10).is_within(10), Some(true));
    assert_eq!(Rank::Exact(11).is_within(10), Some(false));
    assert_eq!(Rank::After(10).is_within(10), Some(false));
    assert_eq!(Rank::After(10).is_within(11), None);
}

#[test]
fn blocks_end_at_either_bound() {
    let corpus = owned(&[("a", "x y"), ("b", "x y"), ("c", "x y"), ("d", "x y")]);
    let query = ("x y".to_owned(), "d".to_owned(), "x y".to_owned());
    let case = Case {
        corpus,
        queries: vec![query],
    };
    let limits = |block_documents_max, block_bytes_max| RankerLimits {
        block_documents_max,
        block_bytes_max,
        ..RankerLimits::default()
    };
    let filled = |limits, n_added: usize| {
        let mut ranker = Ranker::new(
            case.vocabulary(),
            Bm25::default(),
            &case.statistics(),
            &case.queries(),
            limits,
        )
        .unwrap();
        for (id, text) in &case.corpus[..n_added] {
            ranker.add(id, text);
        }
        ranker.block.len()
    };
    assert_eq!(filled(limits(3, usize::MAX), 2), 2);
    assert_eq!(filled(limits(3, usize::MAX), 3), 0);
    // A document takes 1 + 44 + 2 * 16 bytes.
    assert_eq!(filled(limits(9, 2 * 77 + 1), 2), 2);
    assert_eq!(filled(limits(9, 2 * 77), 2), 0);
    assert_eq!(filled(limits(0, 0), 1), 0);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let case = Case {
        corpus: owned(&[("a", "x")]),
        queries: vec![("x y".to_owned(), "a".to_owned(), "x".to_owned())],
    };
    let error = |parameters, statistics: &CorpusStatistics, queries: &[Query]| {
        let limits = RankerLimits::default();
        Ranker::new(case.vocabulary(), parameters, statistics, queries, limits)
            .unwrap_err()
            .to_string()
    };
    let (statistics, queries) = (case.statistics(), case.queries());
    let parameters = |k1, b| Bm25 { k1, b };
    for (parameters, expected) in [
        (parameters(-1.0, 0.4), "k1 is -1"),
        (parameters(f64::NAN, 0.4), "k1 is NaN"),
        (parameters(0.9, 1.5), "b is 1.5"),
    ] {
        let error = error(parameters, &statistics, &queries);
        assert!(error.contains(expected), "{error}");
    }
    let parameters = Bm25::default();
    let mut other = statistics.clone();
    other.document_frequency.push(0);
    assert!(error(parameters, &other, &queries).contains("3 terms, the vocabulary has 2"));
    let mut impossible = statistics.clone();
    impossible.document_frequency[0] = 2;
    assert!(error(parameters, &impossible, &queries).contains("2 documents of 1"));
    let mut foreign = queries.clone();
    foreign[0].terms[1].0 = 2;
    assert!(error(parameters, &statistics, &foreign).contains("vocabulary lacks"));
}

/// Texts of few words, some frequent and some rare, so that scores tie and lists differ.
fn text(n_words_max: usize) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c"]),
        2 => prop::sample::select(vec!["d", "e", "f", "g"]),
        1 => prop::sample::select(vec!["h", "i", "j", "k", "l"]),
    ];
    proptest::collection::vec(word, 0..=n_words_max).prop_map(|words| words.join(" "))
}

fn case() -> impl Strategy<Value = Case> {
    let corpus = proptest::collection::vec(text(12), 1..40);
    let queries = proptest::collection::vec((text(7), any::<prop::sample::Index>()), 1..8);
    (corpus, queries).prop_map(|(texts, queries)| {
        let n_documents = texts.len();
        let id = |idx: usize| format!("d{}", (idx * 7) % n_documents.next_power_of_two());
        let corpus: Vec<Document> = (0..).map(id).zip(texts).collect();
        let source = |(text, idx): (String, prop::sample::Index)| {
            let (id, source) = corpus[idx.index(n_documents)].clone();
            (text, id, source)
        };
        Case {
            queries: queries.into_iter().map(source).collect(),
            corpus: corpus.clone(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn counts_are_those_of_a_loop_over_all_documents_whatever_the_shards(
        case in case(),
        n_shards in 1_usize..5,
        block_documents_max in 1_usize..9,
        count_max in 1_u64..12,
    ) {
        let expected = case.naive();
        let limits = RankerLimits { block_documents_max, ..RankerLimits::default() };
        let capped = RankerLimits { count_max, ..limits };
        let mut sums = vec![0; expected.len()];
        let mut capped_sums = sums.clone();
        for shard in case.corpus.chunks(case.corpus.len().div_ceil(n_shards)) {
            // Nor does the order within a shard matter.
            let backward: Vec<Document> = shard.iter().rev().cloned().collect();
            for (sum, count) in sums.iter_mut().zip(case.count(shard, limits)) {
                *sum += count;
            }
            for (sum, count) in capped_sums.iter_mut().zip(case.count(&backward, capped)) {
                prop_assert!(count <= count_max);
                *sum += count;
            }
        }
        prop_assert_eq!(&sums, &expected);
        for (capped, exact) in capped_sums.iter().zip(expected) {
            prop_assert_eq!(
                Rank::from_count(*capped, count_max),
                Rank::from_count(exact, count_max)
            );
        }
    }
}
