//! What is measured of texts that a language model wrote, as the page shows it: costs, grades, how
//! far words and vectors follow the grade, what a judge says. The measures are those of the summary of
//! a run.

use std::collections::BTreeSet;

use gleaner_schemas::VersionStage;
use serde::Serialize;

use crate::report::html::{Cell, Table, facts, number, optional, percent, whole};
use crate::report::input::Input;
use crate::report::svg::interval;
use crate::summary::generation::{GenerationStage, gather};
use crate::summary::{GenerationSummary, Interval, JudgeSummary};

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Measures(GenerationSummary);

impl Measures {
    /// Measures; `None` where the table, or the texts that it was made of, cannot be read.
    pub(super) async fn gather(input: &Input, name: &str, stage: &VersionStage) -> Option<Self> {
        let version = input.version();
        let of = GenerationStage {
            name,
            kind: &stage.kind,
            params: &stage.params,
            schema: &version.tables.get(name)?.schema,
        };
        // Reports outlive corpora: what can be told without them is told elsewhere on the page.
        let found = gather(version, input.session(), &of).await;
        let found = found.inspect_err(|error| {
            tracing::debug!(stage = name, %error, "texts cannot be measured");
        });
        found.ok().map(Self)
    }

    pub(super) fn render(&self) -> String {
        render(&self.0)
    }
}

fn render(measures: &GenerationSummary) -> String {
    let mut html = costs(measures);
    html.push_str(&grades(measures));
    html.push_str(&order(measures));
    if let Some(judge) = &measures.judge {
        html.push_str(&judged(judge));
    }
    html
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "\u{2013}".to_owned(), percent)
}

fn costs(measures: &GenerationSummary) -> String {
    let cost = &measures.cost;
    let mut shown = vec![
        ("replies", whole(cost.replies)),
        ("tokens of prompts", whole(cost.prompt_tokens)),
        ("tokens of completions", whole(cost.completion_tokens)),
    ];
    if cost.completions > 0 {
        let first = cost.at_first_try as f64 / cost.completions as f64;
        shown.push(("usable at the first try", percent(first)));
    }
    if let Some(money) = cost.money {
        shown.push(("money", number(money)));
    }
    if let Some(each) = cost.money_per_ok_row {
        shown.push(("money for 1000 sound rows", number(1000.0 * each)));
    }
    facts(&shown)
}

fn grades(measures: &GenerationSummary) -> String {
    let titles = [
        "grade",
        "#asked",
        "#ok",
        "#words",
        "#distinct-2",
        "#self-BLEU",
        "#copied",
        "#judge agrees",
        "#begin alike",
    ];
    let mut table = Table::new(
        "Texts by the grade that was asked for. Words (the median) and what stands right of them are of a sample",
        &titles,
    );
    for grade in &measures.grades {
        let alike = grade.commonest_start.as_ref().map(|(_, share)| *share);
        table.row([
            Cell::Text(format!("{} {}", grade.grade, grade.label)),
            Cell::Number(whole(grade.n)),
            Cell::Number(whole(grade.ok)),
            Cell::Number(optional(grade.words)),
            Cell::Number(optional(grade.distinct_2)),
            Cell::Number(optional(grade.self_bleu)),
            Cell::Number(share(grade.copied)),
            Cell::Number(share(grade.faithfulness)),
            Cell::Number(share(alike)),
        ]);
    }
    table.finish()
}

/// How far words follow the grade, and what else tells it.
fn order(measures: &GenerationSummary) -> String {
    let mut html = String::new();
    if let Some(all) = &measures.monotonicity {
        let caption = "Pairs whose text of the higher grade has the higher BM25 score; 50% by chance, \
                       with 95% intervals";
        html.push_str(&followed(caption, all, &measures.steps));
    }
    if let Some(vectors) = &measures.embeddings
        && let Some(all) = &vectors.monotonicity
    {
        let caption = "The same by the cosine of vectors";
        html.push_str(&followed(caption, all, &vectors.steps));
    }
    let mut shown = Vec::new();
    if let Some(chance) = measures.length_tells_grade {
        shown.push(("the longer text has the higher grade", percent(chance)));
    }
    if let Some(overlap) = measures.overlap {
        shown.push(("words shared by texts for the same", percent(overlap)));
    }
    if let Some([first, ten, thirty]) = measures.recall {
        shown.push(("document found first by its relevant query", percent(first)));
        shown.push(("found among 10", percent(ten)));
        shown.push(("found among 30", percent(thirty)));
    }
    if !shown.is_empty() {
        html.push_str(&facts(&shown));
    }
    html
}

fn followed(caption: &str, all: &Interval, steps: &[(i8, i8, Interval)]) -> String {
    let titles = ["pairs", "#share", "from 0 to 100%", "#from", "#to", "#n"];
    let mut table = Table::new(caption, &titles);
    let mut row = |pairs: String, found: &Interval| {
        table.row([
            Cell::Text(pairs),
            Cell::Number(percent(found.mean)),
            Cell::Html(interval(found.mean, found.low, found.high)),
            Cell::Number(percent(found.low)),
            Cell::Number(percent(found.high)),
            Cell::Number(whole(found.n)),
        ]);
    };
    row("all grades".to_owned(), all);
    for (lower, upper, step) in steps {
        row(format!("grade {upper} over {lower}"), step);
    }
    table.finish()
}

fn judged(judge: &JudgeSummary) -> String {
    let grades = judge.confusion.values().flat_map(|row| row.keys());
    let grades: BTreeSet<i8> = grades.chain(judge.confusion.keys()).copied().collect();
    let titles: Vec<String> = grades.iter().map(|grade| format!("#{grade}")).collect();
    let mut heads = vec!["asked for"];
    heads.extend(titles.iter().map(String::as_str));
    let mut table = Table::new(
        "Rows by the grade asked for and the grade that the judge gave",
        &heads,
    );
    for asked in grades.iter().rev() {
        let Some(row) = judge.confusion.get(asked) else {
            continue;
        };
        let mut cells = vec![Cell::Text(asked.to_string())];
        let counts = grades
            .iter()
            .map(|grade| row.get(grade).copied().unwrap_or(0));
        cells.extend(counts.map(|n| Cell::Number(whole(n))));
        table.row(cells);
    }
    let mut html = table.finish();
    html.push_str(&facts(&[
        ("same grade", share(judge.exact_agreement)),
        (
            "mean difference of grades",
            optional(judge.mean_absolute_difference),
        ),
        ("quadratic kappa", optional(judge.quadratic_kappa)),
        ("Spearman", optional(judge.spearman)),
    ]));
    html
}
