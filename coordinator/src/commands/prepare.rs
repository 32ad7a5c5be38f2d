//! What `run`, `plan` and `validate` do first: read the job file, check it, look at the inputs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use gleaner_schemas::job::{Job, JobSource};
use gleaner_storage::{Output, Stores, redact, stores};
use gleaner_workers::stage::Need;

use crate::checked_job::{self, CheckedJob};
use crate::driver::JobInputs;
use crate::inputs;
use crate::run_error::RunError;

/// A job file as the command line names it.
#[derive(Debug, Clone, Default)]
pub struct JobArguments {
    /// Path of the job file; `-` is the standard input.
    pub path: PathBuf,
    /// Its text, if it was read already.
    pub text: Option<String>,
    /// `--output`.
    pub output: Option<String>,
    /// `--set path=value`.
    pub overrides: Vec<(String, String)>,
}

/// Reads and checks a job file. Looks at nothing else.
///
/// # Errors
///
/// If the file cannot be read, or for everything that is wrong with it.
pub fn read_job(arguments: &JobArguments) -> Result<(CheckedJob, PathBuf), RunError> {
    let (name, text) = read_text(arguments)?;
    let base_dir = base_dir(&arguments.path)?;
    let source = JobSource { name, text };
    let job = Job::parse_with(source, &arguments.overrides).map_err(RunError::Job)?;
    // `--output` is relative to where the user is, `output:` to the job file.
    let (output, relative_to) = match &arguments.output {
        Some(output) => (output.clone(), current_dir()?),
        None => (job.file.output.clone(), base_dir.clone()),
    };
    let output = stores::absolute_uri(&output, &relative_to)
        .map_err(|error| RunError::from(job.error_at("output", error.to_string(), None)))?;
    Ok((checked_job::check(job, output)?, base_dir))
}

fn read_text(arguments: &JobArguments) -> Result<(String, String), RunError> {
    let path = &arguments.path;
    let read = match &arguments.text {
        Some(text) => Ok(text.clone()),
        None if path == Path::new("-") => std::io::read_to_string(std::io::stdin()),
        None => std::fs::read_to_string(path),
    };
    let name = path.display().to_string();
    match read {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(RunError::usage(
            format!("cannot read the job file {name}: {error}"),
            "`gleaner init DIR` writes a job file to start from",
        )),
    }
}

fn base_dir(path: &Path) -> Result<PathBuf, RunError> {
    let current = current_dir()?;
    match path.parent() {
        Some(parent) if path != Path::new("-") => Ok(current.join(parent)),
        _ => Ok(current),
    }
}

fn current_dir() -> Result<PathBuf, RunError> {
    std::env::current_dir()
        .map_err(|error| RunError::Internal(format!("there is no current directory: {error}")))
}

/// Looks at everything that a job reads.
///
/// # Errors
///
/// If something does not exist, has no readable file or lacks a column.
pub async fn load_inputs(
    stores: &Stores,
    output: &Output,
    checked: &CheckedJob,
    base_dir: &Path,
) -> Result<JobInputs, RunError> {
    let job = &checked.job;
    let corpus = inputs::load(stores, job, base_dir, "corpus", &job.file.corpus).await?;
    let mut datasets = BTreeMap::new();
    let mut others = BTreeMap::new();
    for stage in &checked.stages {
        for need in stage.stage.needs() {
            match need {
                Need::Corpus | Need::Stage(_) => {}
                Need::Dataset(name) => {
                    let Some(spec) = job.file.datasets.get(&name) else {
                        continue;
                    };
                    if let Entry::Vacant(entry) = datasets.entry(name) {
                        let path = format!("datasets.{}", entry.key());
                        entry.insert(inputs::load(stores, job, base_dir, &path, spec).await?);
                    }
                }
                Need::Published(text) => {
                    let found = published(stores, base_dir, &text).await?;
                    others.insert(text, found);
                }
            }
        }
    }
    Ok(JobInputs {
        corpus,
        datasets,
        others,
        published: output.latest_version().await?,
    })
}

/// The output that `<output>/<stage>` names, with its newest version.
async fn published(
    stores: &Stores,
    base_dir: &Path,
    text: &str,
) -> Result<(Output, gleaner_schemas::Version), RunError> {
    let missing = |reason: String| {
        RunError::usage(
            format!("cannot use the model {}: {reason}", redact::redact(text)),
            "name it as <output>/<stage>, where <output> holds a published version",
        )
    };
    let (output, stage) = text
        .trim_end_matches('/')
        .rsplit_once('/')
        .ok_or_else(|| missing("it has no stage".to_owned()))?;
    let uri = stores::absolute_uri(output, base_dir).map_err(|error| missing(error.to_string()))?;
    let output = Output::open(stores, &uri)?;
    match output.latest_version().await? {
        Some(version) if version.stages.contains_key(stage) => Ok((output, version)),
        Some(version) => Err(missing(format!(
            "version {} of {uri} has no stage {stage}, it has {}",
            version.number,
            version.stage_order.join(", ")
        ))),
        None => Err(missing(format!("{uri} has no published version"))),
    }
}
