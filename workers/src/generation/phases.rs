//! The phases that both stages of generation have: how they are opened, and what comes before them.

use std::collections::BTreeMap;

use gleaner_generation::prompt::PromptKind;
use gleaner_schemas::Failure;
use gleaner_schemas::job::{Job, JobError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::demonstrations::{DEMONSTRATIONS, DemonstrationsStage, load};
use super::example_sets::{EXAMPLES, RATE_EXAMPLES, RateExamples, RateTask};
use super::filter::{DUPLICATES, FilterStage, FilterTask};
use super::params::{JudgeParam, endpoint, prompts};
use super::similarity::{self, ENCODER};
use super::write_params::{JudgeTask, WritingParams};
use super::write_stage::{ItemSource, With, WriteStage};
use super::writing::Writer;
use crate::batch_columns::permanent;
use crate::stage::{
    Completed, DocumentSource, MapContext, MapPhase, MapStage, OutcomeTable, PhaseInput,
    ReducePhase, SideTable, Step,
};

/// Names of phases that both stages of generation have.
pub(crate) const WRITE: &str = "write";
pub(crate) const FILTER: &str = "filter";
/// Documents of so many bytes in one task of `write`: at a second for each of a few kilobytes, and
/// some in flight, minutes.
pub(crate) const WRITE_TASK_BYTES: u64 = 1 << 20;

/// The judge that a stage names.
pub(crate) fn judge_task(job: &Job, name: &str, judge: &JudgeParam) -> Result<JudgeTask, JobError> {
    let named: Vec<_> = judge.prompt.iter().cloned().collect();
    let mut prompts = prompts(job, name, "judge.prompt", PromptKind::Judge, &named)?;
    if prompts.is_empty() {
        return Err(job.error_at(&format!("stages.{name}.judge"), "there is no prompt", None));
    }
    Ok(JudgeTask {
        endpoint: endpoint(job, name, "judge.endpoint", &judge.endpoint)?,
        prompt: prompts.swap_remove(0),
    })
}

/// The parameters of a task.
pub(crate) fn task_params<'a, T: Deserialize<'a>>(context: &MapContext<'a>) -> Result<T, Failure> {
    T::deserialize(context.params)
        .map_err(|error| permanent(format!("the parameters of a task: {error}")))
}

/// Opens a map that both stages of generation have.
pub(crate) fn open(context: &MapContext<'_>) -> Result<Box<dyn MapStage>, Failure> {
    match context.phase {
        DEMONSTRATIONS => Ok(Box::new(DemonstrationsStage::default())),
        RATE_EXAMPLES => {
            let task: RateTask = task_params(context)?;
            Ok(Box::new(RateExamples::new(&task, context)?))
        }
        WRITE => {
            let params: WriteTask = task_params(context)?;
            let demonstrations = if params.writing.n_demonstrations > 0 {
                load(context.side_inputs)?
            } else {
                Vec::new()
            };
            let with = With {
                source_terms: params.writing.with_source_terms,
                similarity: params.writing.with_similarity,
            };
            let encoder = match with.similarity {
                true => Some(similarity::load(context.side_inputs)?),
                false => None,
            };
            let source = if params.reads_queries {
                ItemSource::Queries
            } else {
                ItemSource::Documents
            };
            let writer = Writer::new(
                params.writing,
                demonstrations,
                context.endpoints,
                &context.cancel,
            )?;
            Ok(Box::new(WriteStage::new(
                writer, source, with, encoder, context,
            )))
        }
        FILTER => {
            let task: FilterTask = task_params(context)?;
            Ok(Box::new(FilterStage::new(task, context)?))
        }
        other => Err(permanent(format!("there is no phase {other}"))),
    }
}

/// Parameters of the map `write`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteTask {
    pub(crate) writing: WritingParams,
    /// Whether items are rows of a stage of queries.
    pub(crate) reads_queries: bool,
}

pub(crate) fn of_reduce(name: &str) -> SideTable {
    SideTable::Reduce {
        phase: name.to_owned(),
        table: name.to_owned(),
    }
}

pub(crate) fn reduce(name: &str, input: &str, side_inputs: Vec<(String, SideTable)>) -> Step {
    Step::Reduce(ReducePhase {
        name: name.to_owned(),
        params: json!({}),
        inputs: vec![input.to_owned()],
        side_inputs,
    })
}

/// What comes before `write`, where there are demonstrations.
pub(crate) fn next_of_demonstrations(
    dataset: Option<&str>,
    rating: Option<&RateTask>,
    completed: &Completed<'_>,
) -> Option<Step> {
    let dataset = dataset?;
    let pairs = || vec![(DEMONSTRATIONS.to_owned(), of_reduce(DEMONSTRATIONS))];
    if !completed.maps.contains_key(DEMONSTRATIONS) {
        return Some(Step::Map(MapPhase {
            name: DEMONSTRATIONS.to_owned(),
            params: json!({}),
            input: PhaseInput::Documents {
                from: DocumentSource::Dataset(dataset.to_owned()),
                sample: None,
            },
            decision: None,
            side_inputs: Vec::new(),
            is_table: false,
        }));
    }
    if !completed.reduces.contains_key(DEMONSTRATIONS) {
        return Some(reduce(DEMONSTRATIONS, DEMONSTRATIONS, Vec::new()));
    }
    let rating = rating?;
    if !completed.maps.contains_key(RATE_EXAMPLES) {
        return Some(Step::Map(MapPhase {
            name: RATE_EXAMPLES.to_owned(),
            params: json!(rating),
            input: PhaseInput::Documents {
                from: DocumentSource::Dataset(dataset.to_owned()),
                sample: None,
            },
            decision: None,
            side_inputs: pairs(),
            is_table: false,
        }));
    }
    let is_chosen = completed.reduces.contains_key(EXAMPLES);
    (!is_chosen).then(|| reduce(EXAMPLES, RATE_EXAMPLES, pairs()))
}

/// The side inputs of `write`: pairs to show, and the files of an encoder.
pub(crate) fn write_side_inputs(
    pairs: Option<&str>,
    encoder: Option<&str>,
    completed: &Completed<'_>,
) -> Result<Vec<(String, SideTable)>, Failure> {
    let table = pairs.map(|reduce| (DEMONSTRATIONS.to_owned(), of_reduce(reduce)));
    let mut side_inputs: Vec<_> = table.into_iter().collect();
    if let Some(text) = encoder {
        let facts = completed.models.get(text);
        let facts = facts.ok_or_else(|| permanent(format!("the encoder {text} is not there")))?;
        side_inputs.extend(facts.side_inputs(ENCODER));
    }
    Ok(side_inputs)
}

/// The pairs that prompts showed as a table of the output, `<stage>_demonstrations`: whoever evaluates
/// with what was written must keep them out.
pub(crate) fn tables_of_demonstrations(
    stage: &str,
    pairs: Option<&str>,
) -> BTreeMap<String, OutcomeTable> {
    let table = pairs.map(|reduce| {
        let table = OutcomeTable::Reduce {
            phase: reduce.to_owned(),
            table: reduce.to_owned(),
        };
        (format!("{stage}_{DEMONSTRATIONS}"), table)
    });
    table.into_iter().collect()
}

/// A sentence about the set of examples that was chosen.
fn note_of_examples(completed: &Completed<'_>) -> Option<String> {
    let facts = &completed.reduces.get(EXAMPLES)?.facts;
    let losses = facts.get("mean_losses")?.as_array()?;
    let losses: Vec<f64> = losses.iter().filter_map(Value::as_f64).collect();
    let set = usize::try_from(facts.get("set")?.as_u64()?).ok()?;
    let worst = losses.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(format!(
        "of {} sets of examples number {set} was taken: {} held-out queries have a mean loss of {:.3} \
         nats per token behind it, and of {worst:.3} behind the worst",
        losses.len(),
        facts.get("held_out")?,
        losses.get(set)?
    ))
}

/// Sentences about what was found.
pub(crate) fn notes(completed: &Completed<'_>) -> Vec<String> {
    let facts = completed
        .reduces
        .get(DUPLICATES)
        .map(|result| &result.facts);
    let with_near = facts.and_then(|facts| facts.get("with_near")?.as_bool());
    let mut notes: Vec<String> = note_of_examples(completed).into_iter().collect();
    if with_near == Some(false) {
        notes.push(
            "too many texts to compare for near duplicates: only equal ones were found".to_owned(),
        );
    }
    notes
}
