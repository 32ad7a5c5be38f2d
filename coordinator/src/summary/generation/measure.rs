//! Measures of texts that need no language model.

use std::collections::BTreeMap;
use std::sync::Arc;

use gleaner_algorithms::bm25::{
    Bm25, Scorer, StatisticsCounter, TermCounter, Vocabulary, query_terms,
};
use gleaner_algorithms::generated::{
    CopyIndex, Words, commonest_starts, distinct_n, mean_pairwise_overlap, self_bleu,
};
use gleaner_algorithms::grading::{monotonicity, ordered_share, quantiles};

use super::sample::Sampled;
use super::{Followed, GenerationSummary, Interval};

/// Texts of a grade that self-BLEU compares with each other.
const BLEU_TEXTS: usize = 200;
/// Seed of bootstraps and samples.
const SEED: u64 = 0;

pub(super) fn measure(
    summary: &mut GenerationSummary,
    sampled: &[Sampled],
    background: &[String],
    is_queries: bool,
) {
    let mut groups: BTreeMap<&str, Vec<&Sampled>> = BTreeMap::new();
    for text in sampled {
        groups.entry(&text.group).or_default().push(text);
    }
    summary.n_sampled = groups.len() as u64;
    if let Some(scores) = scores(&groups, background, is_queries) {
        let found = followed(&scores);
        summary.monotonicity = found.monotonicity;
        summary.kendall_tau_b = found.kendall_tau_b;
        summary.steps = found.steps;
    }
    let cosines: Vec<Vec<(i8, f64)>> = groups
        .values()
        .map(|texts| {
            texts
                .iter()
                .filter_map(|it| Some((it.grade, it.similarity?)))
                .collect()
        })
        .collect();
    if cosines.iter().any(|texts| !texts.is_empty()) {
        summary.embeddings = Some(followed(&cosines));
    }
    let mut words = Words::default();
    let tokens: Vec<Vec<u32>> = sampled.iter().map(|it| words.of(&it.text)).collect();
    let contexts: BTreeMap<&str, CopyIndex> = groups
        .iter()
        .filter_map(|(group, texts)| {
            Some((*group, CopyIndex::new(&words.of(&texts.first()?.context))))
        })
        .collect();
    let lengths: Vec<(i8, f64)> = sampled
        .iter()
        .zip(&tokens)
        .map(|(it, tokens)| (it.grade, tokens.len() as f64))
        .collect();
    summary.length_tells_grade = ordered_share(&lengths);
    let mut overlaps = Vec::new();
    let mut start = 0;
    for texts in groups.values() {
        // The sample is sorted by group, as the map is.
        let end = start + texts.len();
        overlaps.extend(tokens.get(start..end).and_then(mean_pairwise_overlap));
        start = end;
    }
    summary.overlap = mean(&overlaps);
    for of_grade in &mut summary.grades {
        let mine: Vec<usize> = (0..sampled.len())
            .filter(|&idx| sampled[idx].grade == of_grade.grade)
            .collect();
        let texts: Vec<&[u32]> = mine.iter().map(|&idx| tokens[idx].as_slice()).collect();
        let lengths: Vec<f64> = texts.iter().map(|text| text.len() as f64).collect();
        of_grade.words = quantiles(&lengths, &[0.5]).first().copied();
        of_grade.distinct_2 = distinct_n(&texts, 2);
        let named: Vec<(&str, &[u32])> = mine
            .iter()
            .map(|&idx| (sampled[idx].group.as_str(), tokens[idx].as_slice()))
            .collect();
        of_grade.self_bleu = self_bleu(&named, BLEU_TEXTS, SEED);
        let copied: Vec<f64> = mine
            .iter()
            .filter_map(|&idx| {
                let index = contexts.get(sampled[idx].group.as_str())?;
                Some(index.copying(&tokens[idx]).coverage())
            })
            .collect();
        of_grade.copied = mean(&copied);
        of_grade.commonest_start = commonest_starts(&words, &texts, 3, 1)
            .first()
            .map(|start| (start.words.clone(), start.share()));
    }
}

fn followed(scores: &[Vec<(i8, f64)>]) -> Followed {
    let found = monotonicity(scores, SEED);
    let steps = found.steps.iter();
    Followed {
        monotonicity: found.ordered_share.map(Interval::from),
        steps: steps
            .filter_map(|step| Some((step.lower, step.upper, step.ordered_share?.into())))
            .collect(),
        kendall_tau_b: found.kendall_tau_b.map(Interval::from),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Grade and BM25 score of each text, by group. Of queries, the score of their document.
fn scores(
    groups: &BTreeMap<&str, Vec<&Sampled>>,
    background: &[String],
    is_queries: bool,
) -> Option<Vec<Vec<(i8, f64)>>> {
    let queries = groups
        .values()
        .flatten()
        .map(|it| if is_queries { &it.text } else { &it.context });
    let vocabulary = Vocabulary::new(queries.flat_map(|query| query_terms(query))).ok()?;
    let vocabulary = Arc::new(vocabulary);
    let mut statistics = StatisticsCounter::new(Arc::clone(&vocabulary));
    for texts in groups.values() {
        if is_queries {
            texts
                .iter()
                .take(1)
                .for_each(|it| statistics.add(&it.context));
        } else {
            texts.iter().for_each(|it| statistics.add(&it.text));
        }
    }
    background.iter().for_each(|text| statistics.add(text));
    let scorer = Scorer::new(Bm25::default(), &statistics.finish()).ok()?;
    let mut counter = TermCounter::new(vocabulary);
    let scores = groups.values().map(|texts| {
        texts
            .iter()
            .map(|it| {
                let (query, document) = if is_queries {
                    (&it.text, &it.context)
                } else {
                    (&it.context, &it.text)
                };
                let terms = counter.count(query).frequencies;
                let document = counter.count(document);
                (it.grade, scorer.score(&terms, &document))
            })
            .collect()
    });
    Some(scores.collect())
}
