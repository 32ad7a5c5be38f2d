//! What both stages of generation make of their parameters, and the steps that both take: pairs to
//! show, `write`, `duplicates`, `filter`.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use gleaner_generation::Flag;
use gleaner_generation::attributes::Grid;
use gleaner_generation::checks::Keep;
use gleaner_generation::prompt::DEMONSTRATIONS_MAX;
use gleaner_schemas::Failure;
use gleaner_schemas::job::{Job, JobError};
use serde_json::{Value, json};

use super::demonstrations::{DEMONSTRATIONS, reduce as reduce_demonstrations};
use super::duplicates;
use super::example_sets::{EXAMPLES, RateTask};
use super::filter::{self, DUPLICATES, FilterTask};
use super::params::{
    DemonstrationsParam, GradesParam, JudgeParam, LongDocuments, PromptParam, Sampling, endpoint,
    prompts,
};
use super::phases::{
    FILTER, WRITE, WriteTask, judge_task, next_of_demonstrations, notes, of_reduce, reduce,
    tables_of_demonstrations, write_side_inputs,
};
use super::write_params::{Purpose, ScaleText, WritingParams};
use crate::batch_columns::permanent;
use crate::stage::{
    Completed, ExpectedPhase, MapPhase, Need, Outcome, PhaseInput, ReduceInputs, ReduceOutput,
    SideTable, Step,
};

/// Most completions for one item.
const COMPLETIONS_MAX: u16 = 1000;
/// Longest part of a document that a prompt takes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// The parameters that both stages have, as one of them has them.
#[derive(Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) endpoint: &'a str,
    pub(crate) grades: &'a GradesParam,
    /// Completions for each item, and the key that tells them.
    pub(crate) completions: (&'static str, u16),
    pub(crate) prompts: &'a [PromptParam],
    pub(crate) demonstrations: Option<&'a DemonstrationsParam>,
    pub(crate) attributes: &'a Grid,
    pub(crate) sampling: &'a Sampling,
    pub(crate) seed: u64,
    pub(crate) document_bytes: u64,
    pub(crate) long_documents: LongDocuments,
    pub(crate) judge: Option<&'a JudgeParam>,
    pub(crate) embeddings: Option<&'a str>,
    pub(crate) reject: &'a [Flag],
    pub(crate) with_source_terms: bool,
}

/// What is written and kept, with everything that the job file names found.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Of the stage.
    name: String,
    pub(crate) writing: WritingParams,
    /// The dataset of pairs to show.
    dataset: Option<String>,
    /// How these are chosen, where they are the same for all.
    pub(crate) rating: Option<RateTask>,
    embeddings: Option<String>,
    reject: Vec<Flag>,
    keep: Option<Keep>,
}

impl Setup {
    /// Checks the parameters of stage `name`, and finds what they name.
    ///
    /// # Errors
    ///
    /// Everything that can be known from the job file alone.
    pub(crate) fn of(job: &Job, name: &str, shared: &Shared<'_>) -> Result<Self, JobError> {
        let at = |key: &str, message: String| {
            Err(job.error_at(&format!("stages.{name}.{key}"), message, None))
        };
        let (key, completions) = shared.completions;
        if !(1..=COMPLETIONS_MAX).contains(&completions) {
            return at(key, format!("write a number from 1 to {COMPLETIONS_MAX}"));
        }
        if !(1..=DOCUMENT_BYTES_MAX).contains(&shared.document_bytes) {
            let message = format!("write a number from 1 to {DOCUMENT_BYTES_MAX}");
            return at("document_bytes", message);
        }
        check_demonstrations(job, name, shared.demonstrations)?;
        shared.sampling.check(job, name)?;
        if let Err(error) = shared.attributes.check() {
            return at("attributes", error.to_string());
        }
        let scale = shared.grades.scale(job, name)?;
        let kind = shared.purpose.prompt_kind();
        let judge = shared.judge.map(|judge| judge_task(job, name, judge));
        Ok(Self {
            name: name.to_owned(),
            writing: WritingParams {
                purpose: shared.purpose,
                endpoint: endpoint(job, name, "endpoint", shared.endpoint)?,
                scale: ScaleText::of(&scale),
                samples: completions,
                prompts: prompts(job, name, "prompts", kind, shared.prompts)?,
                n_demonstrations: shared.demonstrations.map_or(0, |it| it.count),
                grid: shared.attributes.clone(),
                sampling: shared.sampling.clone(),
                seed: shared.seed,
                document_bytes: shared.document_bytes,
                long_documents: shared.long_documents,
                judge: judge.transpose()?,
                with_source_terms: shared.with_source_terms,
                with_similarity: shared.embeddings.is_some(),
            },
            dataset: shared.demonstrations.map(|it| it.dataset.clone()),
            rating: None,
            embeddings: shared.embeddings.map(str::to_owned),
            reject: shared.reject.to_vec(),
            keep: shared.judge.map(|judge| judge.keep),
        })
    }

    /// What a stage needs besides its items.
    pub(crate) fn needs(&self) -> impl Iterator<Item = Need> {
        let pairs = self.dataset.clone().map(Need::Pairs);
        let encoder = self.embeddings.clone().map(Need::Encoder);
        pairs.into_iter().chain(encoder)
    }

    /// The reduce whose pairs prompts show.
    fn pairs(&self) -> Option<&'static str> {
        let pairs = self.rating.as_ref().map_or(DEMONSTRATIONS, |_| EXAMPLES);
        self.dataset.as_ref().map(|_| pairs)
    }

    /// What comes before items are filtered; `None` when that is there.
    pub(crate) fn next_before_filter(
        &self,
        input: PhaseInput,
        reads_queries: bool,
        completed: &Completed<'_>,
    ) -> Result<Option<Step>, Failure> {
        let dataset = self.dataset.as_deref();
        if let Some(step) = next_of_demonstrations(dataset, self.rating.as_ref(), completed) {
            return Ok(Some(step));
        }
        if !completed.maps.contains_key(WRITE) {
            let task = WriteTask {
                writing: self.writing.clone(),
                reads_queries,
            };
            let pairs = self.pairs();
            let encoder = self.embeddings.as_deref();
            return Ok(Some(Step::Map(MapPhase {
                name: WRITE.to_owned(),
                params: json!(task),
                input,
                decision: None,
                side_inputs: write_side_inputs(pairs, encoder, completed)?,
                is_table: false,
            })));
        }
        let has_duplicates = completed.reduces.contains_key(DUPLICATES);
        Ok((!has_duplicates).then(|| reduce(DUPLICATES, WRITE, Vec::new())))
    }

    /// The filter, and then the end. `ranks` are the side input of a filter by `bm25_top_k`.
    pub(crate) fn filter(
        &self,
        bm25_top_k: Option<u32>,
        ranks: Option<(String, SideTable)>,
        completed: &Completed<'_>,
    ) -> Step {
        if completed.maps.contains_key(FILTER) {
            return Step::Done(Outcome {
                tables: tables_of_demonstrations(&self.name, self.pairs()),
                notes: notes(completed),
                ..Outcome::default()
            });
        }
        let writing = &self.writing;
        let task = FilterTask {
            purpose: writing.purpose,
            reject: self.reject.clone(),
            keep: self.keep,
            bm25_top_k,
            with_similarity: writing.with_similarity,
        };
        let duplicates = (DUPLICATES.to_owned(), of_reduce(DUPLICATES));
        Step::Map(MapPhase {
            name: FILTER.to_owned(),
            params: json!(task),
            input: PhaseInput::Inner {
                phase: WRITE.to_owned(),
                columns: filter::columns(writing.purpose, writing.with_similarity),
                in_one_task: false,
            },
            decision: None,
            side_inputs: std::iter::once(duplicates).chain(ranks).collect(),
            is_table: true,
        })
    }
}

/// The phases that both stages go through; `between` are those before the filter.
pub(crate) fn outlook(input: PhaseInput, between: Vec<ExpectedPhase>) -> Vec<ExpectedPhase> {
    let written = PhaseInput::Inner {
        phase: WRITE.to_owned(),
        columns: Vec::new(),
        in_one_task: false,
    };
    let mut phases = vec![expected(WRITE, input, false)];
    phases.extend(between);
    phases.push(expected(FILTER, written, true));
    phases
}

pub(crate) fn expected(name: &str, input: PhaseInput, is_table: bool) -> ExpectedPhase {
    ExpectedPhase {
        name: name.to_owned(),
        input,
        is_table,
    }
}

/// The table and the facts of a reduce that both stages have; `None` for another one.
pub(crate) fn shared_reduce(
    name: &str,
    inputs: &mut dyn ReduceInputs,
    (id, text): (&str, &str),
) -> Result<Option<(RecordBatch, Value)>, Failure> {
    Ok(match name {
        DEMONSTRATIONS => Some((reduce_demonstrations(inputs)?, json!({}))),
        DUPLICATES => {
            let (table, with_near) = duplicates::find(inputs, WRITE, id, text)?;
            Some((table, json!({ "with_near": with_near })))
        }
        _ => None,
    })
}

/// The output of a reduce, or a failure where a stage has no such reduce.
pub(crate) fn reduced(
    kind: &str,
    name: &str,
    output: Option<(RecordBatch, Value)>,
) -> Result<ReduceOutput, Failure> {
    let output = output.ok_or_else(|| permanent(format!("{kind} has no reduce {name}")))?;
    let (table, facts) = output;
    Ok(ReduceOutput {
        facts,
        tables: BTreeMap::from([(name.to_owned(), vec![table])]),
        ..ReduceOutput::default()
    })
}

fn check_demonstrations(
    job: &Job,
    name: &str,
    demonstrations: Option<&DemonstrationsParam>,
) -> Result<(), JobError> {
    let Some(demonstrations) = demonstrations else {
        return Ok(());
    };
    let place = |key: &str| format!("stages.{name}.demonstrations.{key}");
    if !job.file.datasets.contains_key(&demonstrations.dataset) {
        let known: Vec<&str> = job.file.datasets.keys().map(String::as_str).collect();
        let help = gleaner_schemas::job::nearest(&demonstrations.dataset, known.iter().copied());
        let message = format!("there is no dataset `{}`", demonstrations.dataset);
        return Err(job.error_at(&place("dataset"), message, help));
    }
    let select = demonstrations.select.as_ref();
    let numbers = [
        ("count", Some(demonstrations.count)),
        ("select.sets", select.map(|it| it.sets)),
        ("select.held_out", select.map(|it| it.held_out)),
    ];
    for (key, number) in numbers {
        if number.is_some_and(|number| !(1..=DEMONSTRATIONS_MAX).contains(&usize::from(number))) {
            let message = format!("write a number from 1 to {DEMONSTRATIONS_MAX}");
            return Err(job.error_at(&place(key), message, None));
        }
    }
    Ok(())
}
