//! A job file whose stages are checked, before anything is read or run.

use std::sync::Arc;

use gleaner_schemas::job::Job;
use gleaner_workers::registry;
use gleaner_workers::stage::{Stage, StageKind};

use crate::run_error::RunError;
use crate::sql_stage;

/// A job whose stages are checked.
#[derive(Debug)]
pub struct CheckedJob {
    /// The job file.
    pub job: Job,
    /// Absolute URI of its output.
    pub output: String,
    /// Stages in order.
    pub stages: Vec<CheckedStage>,
}

/// A stage whose parameters are checked.
#[derive(Debug)]
pub struct CheckedStage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static dyn StageKind,
    /// Its parameters.
    pub stage: Arc<dyn Stage>,
}

/// Checks the stages of a job, without looking at its inputs.
///
/// # Errors
///
/// Everything that is wrong with the job file.
pub fn check(job: Job, output: String) -> Result<CheckedJob, RunError> {
    let mut stages = Vec::new();
    let mut errors = Vec::new();
    for (name, spec) in job.file.stages.iter() {
        let kind = match registry::kind_of(&job, name, &spec.kind) {
            Ok(kind) => kind,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match kind.check(&job, name) {
            Ok(stage) => stages.push(CheckedStage {
                name: name.to_owned(),
                kind,
                stage,
            }),
            Err(error) => errors.push(error),
        }
    }
    errors.extend(sql_stage::check(&job));
    if errors.is_empty() {
        Ok(CheckedJob {
            job,
            output,
            stages,
        })
    } else {
        Err(RunError::Job(errors))
    }
}
