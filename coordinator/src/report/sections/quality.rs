//! How far what a stage of generation wrote can be trusted, by measures that need no language model:
//! those of the summary of a run.

use gleaner_schemas::VersionStage;
use serde::Serialize;

use crate::report::html::{Cell, Table, facts, number, optional, percent, whole};
use crate::report::input::Input;
use crate::summary::generation::{GenerationStage, GenerationSummary, Interval, gather};

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Quality(GenerationSummary);

fn interval(interval: &Interval) -> [Cell; 4] {
    [
        Cell::Number(number(rounded(interval.mean))),
        Cell::Number(number(rounded(interval.low))),
        Cell::Number(number(rounded(interval.high))),
        Cell::Number(whole(interval.n)),
    ]
}

fn rounded(value: f64) -> f64 {
    (1000.0 * value).round() / 1000.0
}

fn share(value: Option<f64>) -> Cell {
    Cell::Number(value.map_or_else(|| "–".to_owned(), percent))
}

impl Quality {
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
        let found = &self.0;
        let mut html = String::new();
        let mut scores = vec![("BM25", &found.monotonicity, &found.steps)];
        if let Some(embeddings) = &found.embeddings {
            scores.push(("cosine", &embeddings.monotonicity, &embeddings.steps));
        }
        let titles = ["score", "pairs", "#ordered", "#low", "#high", "#n"];
        let caption =
            "Does the score follow the grade? Share of pairs (0.5 by chance), 95 % interval";
        let mut table = Table::new(caption, &titles);
        for (score, all, steps) in scores {
            if let Some(all) = all {
                let head = [Cell::Text(score.to_owned()), Cell::Text("all".to_owned())];
                table.row(head.into_iter().chain(interval(all)));
            }
            for (lower, upper, step) in steps {
                let pairs = format!("{upper} over {lower}");
                let head = [Cell::Text(score.to_owned()), Cell::Text(pairs)];
                table.row(head.into_iter().chain(interval(step)));
            }
        }
        html.push_str(&table.finish());
        let titles = [
            "grade",
            "label",
            "#asked",
            "#ok",
            "#median words",
            "#distinct-2",
            "#self-BLEU",
            "#copied",
            "#judge agrees",
        ];
        let mut table = Table::new("Texts by grade, of a sample", &titles);
        for grade in &found.grades {
            table.row([
                Cell::Text(grade.grade.to_string()),
                Cell::Text(grade.label.clone()),
                Cell::Number(whole(grade.n)),
                Cell::Number(whole(grade.ok)),
                Cell::Number(optional(grade.words)),
                share(grade.distinct_2),
                share(grade.self_bleu),
                share(grade.copied),
                share(grade.faithfulness),
            ]);
        }
        html.push_str(&table.finish());
        if let Some(judge) = &found.judge {
            html.push_str(&facts(&[
                (
                    "judge: same grade",
                    judge.exact_agreement.map_or_else(String::new, percent),
                ),
                (
                    "quadratic kappa",
                    optional(judge.quadratic_kappa.map(rounded)),
                ),
                ("Spearman", optional(judge.spearman.map(rounded))),
            ]));
            let mut table = Table::new("Asked and judged", &["asked", "judged", "#rows"]);
            for (asked, judged) in &judge.confusion {
                for (judged, n) in judged {
                    table.row([
                        Cell::Text(asked.to_string()),
                        Cell::Text(judged.to_string()),
                        Cell::Number(whole(*n)),
                    ]);
                }
            }
            html.push_str(&table.finish());
        }
        html
    }
}
