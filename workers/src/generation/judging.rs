//! A second model grades what the first wrote.

use gleaner_generation::Flag;
use gleaner_generation::checks::judge_disagrees;
use gleaner_generation::prompt::{JudgeRequest, Pair, judged_parts, render_judgement};
use gleaner_generation::reply::parse_judgements;
use gleaner_schemas::Failure;

use super::asking::{Read, Untold};
use super::rows::Judged;
use super::writing::{Item, Row, Writer};
use crate::batch_columns::permanent;

impl Writer {
    /// Has a judge grade what was written for an item, in as few requests as its context takes.
    /// A text that it did not grade has a flag and the reason: that is a failure, not a verdict.
    pub(super) async fn judge_rows(&self, item: &Item, rows: &mut [Row]) -> Result<(), Failure> {
        let Some((asker, prompt)) = &self.judge else {
            return Ok(());
        };
        let of_text: Vec<usize> = (0..rows.len())
            .filter(|&row| rows[row].text.is_some())
            .collect();
        let limits = self.limits();
        let is_queries = self.params.purpose.is_queries();
        let written: Vec<String> = of_text
            .iter()
            .map(|&row| rows[row].text.clone().unwrap_or_default())
            .collect();
        let pairs: Vec<Pair<'_>> = written
            .iter()
            .map(|text| Pair {
                query: if is_queries { text } else { &item.text },
                document: if is_queries { &item.text } else { text },
            })
            .collect();
        for (part, range) in judged_parts(prompt, &pairs, &limits)
            .into_iter()
            .enumerate()
        {
            let (of_text, pairs) = (&of_text[range.clone()], &pairs[range]);
            let mut request = JudgeRequest {
                item_id: &item.id,
                seed: self.params.seed,
                pairs,
                scale: &self.scale,
                limits,
            };
            let part = u16::try_from(part).unwrap_or(u16::MAX);
            let longest = pairs.iter().map(|pair| pair.document.len()).max();
            let told = loop {
                let rendered = render_judgement(prompt, &request);
                let rendered = rendered.map_err(|error| permanent(error.to_string()))?;
                let asked = request.asked();
                let told = asker
                    .ask(&rendered, prompt.id(), part, |reply| {
                        let parsed = parse_judgements(reply, &asked);
                        Read {
                            n_parts: parsed.grades.iter().flatten().count(),
                            value: parsed.grades,
                            problems: parsed.problems,
                        }
                    })
                    .await?;
                let shorter = self.shorter(request.limits, longest.unwrap_or(0));
                match shorter.filter(|_| told.is_overflow) {
                    Some(shorter) => request.limits = shorter,
                    None => break told,
                }
            };
            if let Some(&first) = of_text.first() {
                rows[first].judged = Judged {
                    prompt_tokens: told.made.prompt_tokens,
                    completion_tokens: told.made.completion_tokens,
                    is_estimated: told.made.is_estimated,
                };
            }
            let grades = told.value.unwrap_or_default();
            for (place, &row) in of_text.iter().enumerate() {
                let judged = grades.get(place).copied().flatten();
                note_verdict(&mut rows[row], judged, told.untold.as_ref());
            }
        }
        Ok(())
    }
}

/// Notes what a judge said of a row, or why it said nothing.
fn note_verdict(row: &mut Row, judged: Option<i8>, untold: Option<&Untold>) {
    row.judged_grade = judged;
    let disagrees = row
        .grade
        .is_some_and(|asked| judge_disagrees(asked, judged));
    row.flags.insert_if(disagrees, Flag::JudgeDisagrees);
    if judged.is_none() {
        row.flags.insert(Flag::JudgeFailed);
        let why = untold.map_or("grade_missing: the reply does not have it", |untold| {
            untold.reason.as_str()
        });
        row.reason = Some(format!("{}: {why}", Flag::JudgeFailed));
    }
}
