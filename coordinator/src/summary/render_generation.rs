//! What stages of generation wrote, as people read it.

use std::fmt::Write as _;

use super::generation::{Cost, GenerationSummary, Interval};
use super::text::{Paint, display_width, pad_left, pad_right, truncate};
use crate::progress::count;

/// Reasons that are shown.
const ENDS_SHOWN: usize = 8;
/// Columns of the table of grades.
const COLUMNS: [&str; 8] = [
    "asked",
    "ok",
    "words",
    "distinct-2",
    "self-BLEU",
    "copied",
    "judge agrees",
    "begin alike",
];

fn percent(share: Option<f64>) -> String {
    // Sums of nothing are negative zeros.
    share.map_or_else(
        || "-".to_owned(),
        |share| format!("{:.0}%", 100.0 * share + 0.0),
    )
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn interval(interval: &Interval) -> String {
    format!(
        "{:.2} [{:.2}, {:.2}], n {}",
        interval.mean,
        interval.low,
        interval.high,
        count(interval.n)
    )
}

pub(super) fn generation(text: &mut String, summary: &GenerationSummary, paint: Paint) {
    let cost = &summary.cost;
    let _ = writeln!(
        text,
        "  {} replies, {} + {} tokens{} · {} usable at the first try",
        count(cost.replies),
        count(cost.prompt_tokens),
        count(cost.completion_tokens),
        money(cost, paint),
        percent((cost.completions > 0).then(|| cost.at_first_try as f64 / cost.completions as f64)),
    );
    if cost.judge_prompt_tokens > 0 {
        let judge_money = cost
            .judge_money
            .map_or_else(String::new, |it| format!(", {it:.4} of the money"));
        let _ = writeln!(
            text,
            "  the judge took {} + {} tokens{judge_money}",
            count(cost.judge_prompt_tokens),
            count(cost.judge_completion_tokens),
        );
    }
    if cost.estimated > 0 {
        let told = format!(
            "  {} replies told no usage: their tokens are estimated, and so is the money",
            count(cost.estimated)
        );
        let _ = writeln!(text, "{}", paint.yellow(&told));
    }
    let ends: Vec<String> = summary
        .ends
        .iter()
        .filter(|end| end.status != "ok")
        .take(ENDS_SHOWN)
        .map(|end| {
            let reason = end.reason.as_deref().unwrap_or("no reason");
            format!("{} {} for {reason}", count(end.n), end.status)
        })
        .collect();
    if !ends.is_empty() {
        let _ = writeln!(text, "  {}", paint.yellow(&ends.join(" · ")));
    }
    grades(text, summary, paint);
    if let Some(all) = &summary.monotonicity {
        let _ = writeln!(
            text,
            "  BM25 follows the grade in {} of pairs (0.50 by chance)",
            paint.bold(&interval(all))
        );
        for (lower, upper, step) in &summary.steps {
            let _ = writeln!(text, "    grade {upper} over {lower}: {}", interval(step));
        }
    }
    if let Some(found) = &summary.embeddings
        && let Some(all) = &found.monotonicity
    {
        let _ = writeln!(
            text,
            "  cosines of the encoder follow the grade in {} of pairs (0.50 by chance)",
            paint.bold(&interval(all))
        );
        for (lower, upper, step) in &found.steps {
            let _ = writeln!(text, "    grade {upper} over {lower}: {}", interval(step));
        }
    }
    let mut more = Vec::new();
    if let Some(auc) = summary.length_tells_grade {
        more.push(format!(
            "the longer text has the higher grade in {auc:.2} of pairs"
        ));
    }
    if let Some(overlap) = summary.overlap {
        more.push(format!(
            "texts written for the same share {overlap:.2} of their words"
        ));
    }
    if let Some([first, ten, thirty]) = summary.recall {
        more.push(format!(
            "a relevant query finds its document first {first:.2}, among 10 {ten:.2}, among 30 \
             {thirty:.2}"
        ));
    }
    for line in more {
        let _ = writeln!(text, "  {line}");
    }
    judge(text, summary);
}

fn money(cost: &Cost, paint: Paint) -> String {
    let Some(money) = cost.money else {
        return String::new();
    };
    let about = if cost.estimated > 0 { "about " } else { "" };
    let each = cost
        .money_per_ok_row
        .map_or_else(String::new, |it| format!(", {it:.6} a row that is kept"));
    format!(
        " · {about}{} money{each}",
        paint.bold(&format!("{money:.4}"))
    )
}

fn grades(text: &mut String, summary: &GenerationSummary, paint: Paint) {
    let labels = summary
        .grades
        .iter()
        .map(|grade| format!("{} {}", grade.grade, grade.label));
    let labels: Vec<String> = labels.map(|label| truncate(&label, 24)).collect();
    let width = labels
        .iter()
        .map(|label| display_width(label))
        .max()
        .unwrap_or(0);
    if width == 0 {
        return;
    }
    let heads: String = COLUMNS.map(|head| pad_left(head, head.len() + 2)).concat();
    let _ = writeln!(
        text,
        "  {}",
        paint.dim(&format!("{}{heads}", pad_right("grade", width)))
    );
    for (grade, label) in summary.grades.iter().zip(&labels) {
        let begin = grade.commonest_start.as_ref().map(|(_, share)| *share);
        let cells = [
            count(grade.n),
            count(grade.ok),
            grade
                .words
                .map_or_else(|| "-".to_owned(), |words| format!("{words:.0}")),
            share(grade.distinct_2),
            share(grade.self_bleu),
            percent(grade.copied),
            percent(grade.faithfulness),
            percent(begin),
        ];
        let cells = cells.iter().zip(COLUMNS);
        let cells: String = cells
            .map(|(cell, head)| pad_left(cell, head.len() + 2))
            .collect();
        let _ = writeln!(text, "  {}{cells}", pad_right(label, width));
    }
}

fn judge(text: &mut String, summary: &GenerationSummary) {
    let Some(judge) = &summary.judge else { return };
    let _ = writeln!(
        text,
        "  judge: same grade {} · mean difference {} · quadratic kappa {} · Spearman {}",
        share(judge.exact_agreement),
        share(judge.mean_absolute_difference),
        share(judge.quadratic_kappa),
        share(judge.spearman)
    );
    for (asked, judged) in &judge.confusion {
        let judged: Vec<String> = judged
            .iter()
            .map(|(grade, n)| format!("{} as {grade}", count(*n)))
            .collect();
        let _ = writeln!(text, "    asked for {asked}: {}", judged.join(", "));
    }
}
