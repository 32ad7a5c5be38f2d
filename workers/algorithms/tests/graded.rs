//! Measures on real judgments: sixteen questions of TREC 2017 LiveQA (medical) with judged answers,
//! see `tests/data/README.md`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_algorithms::bm25::{
    Bm25, Scorer, StatisticsCounter, TermCounter, Vocabulary, query_terms,
};
use gleaner_algorithms::grading::{Monotonicity, monotonicity};

struct Judged {
    query: String,
    grade: i8,
    text: String,
}

fn judged() -> Vec<Judged> {
    let parse = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let string = |name: &str| row[name].as_str().unwrap().to_owned();
        Judged {
            query: string("query"),
            grade: row["grade"].as_i64().unwrap().try_into().unwrap(),
            text: format!("{} {}", string("title"), string("text")),
        }
    };
    include_str!("data/graded.jsonl")
        .lines()
        .map(parse)
        .collect()
}

/// Monotonicity of the BM25 score, with weights of the documents themselves.
fn measure(judged: &[Judged]) -> Monotonicity {
    let terms = judged.iter().flat_map(|row| query_terms(&row.query));
    let vocabulary = Arc::new(Vocabulary::new(terms).unwrap());
    let mut statistics = StatisticsCounter::new(Arc::clone(&vocabulary));
    judged.iter().for_each(|row| statistics.add(&row.text));
    let scorer = Scorer::new(Bm25::default(), &statistics.finish()).unwrap();
    let mut counter = TermCounter::new(vocabulary);
    let mut queries: BTreeMap<&str, Vec<(i8, f64)>> = BTreeMap::new();
    for row in judged {
        let query = counter.count(&row.query).frequencies;
        let score = scorer.score(&query, &counter.count(&row.text));
        queries
            .entry(&row.query)
            .or_default()
            .push((row.grade, score));
    }
    monotonicity(&queries.into_values().collect::<Vec<_>>(), 7)
}

#[test]
fn scores_rise_with_the_grades_that_people_gave() {
    let measured = measure(&judged());
    let share = measured.ordered_share.unwrap();
    assert_eq!(share.n, 16);
    // By a program of its own in another language.
    assert!(
        (share.mean - 0.910_511_363_636_363_6).abs() < 1e-9,
        "{share:?}"
    );
    let tau_b = measured.kendall_tau_b.unwrap();
    assert!(
        (tau_b.mean - 0.678_454_619_576_994_9).abs() < 1e-9,
        "{tau_b:?}"
    );
    assert!(share.low > 0.75 && tau_b.low > 0.4, "{measured:?}");
}

#[test]
fn scores_do_not_rise_with_grades_that_were_dealt_out() {
    let mut judged = judged();
    let grades: Vec<i8> = judged.iter().map(|row| row.grade).collect();
    // 25 and 66 have no common divisor: every grade goes to another answer.
    for (idx, row) in judged.iter_mut().enumerate() {
        row.grade = grades[(idx * 25 + 7) % grades.len()];
    }
    let share = measure(&judged).ordered_share.unwrap();
    assert!(share.low < 0.5 && share.high > 0.5, "{share:?}");
}
