//! What unit tests of stages share.

use std::sync::Arc;

use gleaner_schemas::job::{Job, JobError, JobSource};
use gleaner_schemas::{FileFormat, SourceFile};

use crate::registry;
use crate::stage::Stage;

/// A job with a corpus, two datasets and these stages.
pub(crate) fn job(stages: &str) -> Job {
    job_of(stages, "")
}

fn job_of(stages: &str, endpoints: &str) -> Job {
    let text = format!(
        "name: test\noutput: out\ncorpus: {{paths: [corpus/*.parquet]}}\ndatasets:\n  one: \
         {{paths: [one.jsonl]}}\n  two: {{paths: [two.jsonl]}}\n{endpoints}stages:\n{stages}"
    );
    let name = "job.yaml".to_owned();
    Job::parse(JobSource { name, text }).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The same, with an endpoint `llm`.
pub(crate) fn job_with_endpoint(stages: &str) -> Job {
    job_of(
        stages,
        "endpoints: {llm: {url: 'http://127.0.0.1:1/v1', model: tiny}}\n",
    )
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

/// A file that is nowhere.
pub(crate) fn source_file() -> SourceFile {
    SourceFile {
        name: "a.parquet".to_owned(),
        uri: "file:///a.parquet".to_owned(),
        format: FileFormat::Parquet,
        bytes: 0,
        identity: "a".to_owned(),
        etag: None,
    }
}
