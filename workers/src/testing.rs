//! What unit tests of stages share.

use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError, JobSource};

use crate::registry;
use crate::stage::Stage;

/// A job with a corpus, two datasets and these stages.
pub(crate) fn job(stages: &str) -> Job {
    let text = format!(
        "name: test\noutput: out\ncorpus: {{paths: [corpus/*.parquet]}}\ndatasets:\n  one: \
         {{paths: [one.jsonl]}}\n  two: {{paths: [two.jsonl]}}\nstages:\n{stages}"
    );
    let name = "job.yaml".to_owned();
    Job::parse(JobSource { name, text }).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Checks one stage of a job.
pub(crate) fn check(job: &Job, name: &str) -> Result<Arc<dyn Stage>, JobError> {
    let spec = job
        .file
        .stages
        .get(name)
        .unwrap_or_else(|| panic!("no stage {name}"));
    registry::kind_of(job, name, &spec.kind)?.check(job, name)
}
