//! A job file whose stages are checked, before anything is read or run.

use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError, JobFile};
use gleaner_workers::registry;
use gleaner_workers::stage::{Stage, StageKind};

use crate::run_error::RunError;
use crate::sql_stage;

/// A job whose stages are checked.
#[derive(Debug)]
pub struct CheckedJob {
    /// The job file, with the stages that others imply.
    pub job: Job,
    /// The job file as it was written.
    pub written: JobFile,
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
pub fn check(mut job: Job, output: String) -> Result<CheckedJob, RunError> {
    let mut stages = Vec::new();
    let written = job.file.clone();
    let mut errors = add_implied(&mut job);
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
            written,
            output,
            stages,
        })
    } else {
        Err(RunError::Job(errors))
    }
}

/// Spells out the stages that others imply, each before the one that needs it.
fn add_implied(job: &mut Job) -> Vec<JobError> {
    let mut errors = Vec::new();
    let names: Vec<String> = job.file.stages.iter().map(|it| it.0.to_owned()).collect();
    for name in names {
        let kind = job.file.stages.get(&name).map(|spec| spec.kind.clone());
        // What is wrong with the kind is told where the stage is checked.
        let Some(kind) = kind.and_then(|kind| registry::kind(&kind)) else {
            continue;
        };
        match kind.implied(job, &name) {
            Ok(implied) => {
                for stage in implied {
                    job.insert_implied(&name, stage.name, stage.spec, stage.asked_at);
                }
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}
