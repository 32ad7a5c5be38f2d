//! What `run`, `plan` and `validate` do first: read the job file, check it, look at the inputs.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gleaner_schemas::job::{Job, JobSource};
use gleaner_schemas::{Failure, FailureKind, Version};
use gleaner_storage::table::BlockingIo;
use gleaner_storage::{Output, OutputError, Stores, redact, stores};
use gleaner_workers::forecast::{BeforeRun, ExpectedWorkers, Forecast};
use gleaner_workers::language_model::{self, InspectedModel, ModelFacts};
use gleaner_workers::stage::Need;
use serde_json::Value;

use crate::checked_job::{self, CheckedJob};
use crate::datasets::{self, DatasetRows};
use crate::driver::JobInputs;
use crate::inputs::{self, InputSet};
use crate::known_footers;
use crate::restore;
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
    let mut job = Job::parse_with(source, &arguments.overrides).map_err(RunError::Job)?;
    // What is said of an endpoint must mean the same wherever the worker is.
    for endpoint in job.file.endpoints.values_mut() {
        if endpoint.model_directory().is_some()
            && let Ok(uri) = stores::absolute_uri(&endpoint.url, &base_dir)
        {
            endpoint.url = uri;
        }
    }
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

/// Where the tasks of a job will run: in `n_slots` of this process unless there is a broker.
#[must_use]
pub fn expected_workers(has_broker: bool, n_slots: Option<usize>) -> ExpectedWorkers {
    if has_broker {
        return ExpectedWorkers::Elsewhere;
    }
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    ExpectedWorkers::Here {
        n_slots: n_slots.unwrap_or(n_threads),
        n_threads,
    }
}

/// Looks at everything that a job reads, and whether its stages can work with it.
///
/// # Errors
///
/// If something does not exist, has no readable file or lacks a column, or for whatever stages
/// foresee to fail.
pub async fn load_inputs(
    stores: &Stores,
    output: &Output,
    checked: &CheckedJob,
    base_dir: &Path,
    workers: ExpectedWorkers,
) -> Result<JobInputs, RunError> {
    let job = &checked.job;
    // Before anything is listed: a version that appears from now on may be of newer inputs, and must be
    // unknown to whoever publishes what these yield.
    let (newest, lost_models) = newest(output).await?;
    let known = match newest {
        Some(_) => known_footers::read(output).await,
        None => None,
    };
    let corpus = &job.file.corpus;
    let corpus = inputs::load(stores, job, base_dir, "corpus", corpus, known.as_ref()).await?;
    drop(known);
    let (datasets, dataset_rows) = load_datasets(stores, checked, base_dir).await?;
    let mut others = BTreeMap::new();
    let mut models: BTreeMap<String, InspectedModel> = BTreeMap::new();
    let mut encoders: BTreeMap<String, ModelFacts> = BTreeMap::new();
    for stage in &checked.stages {
        for need in stage.stage.needs() {
            match need {
                Need::Corpus | Need::Stage(_) | Need::Dataset(_) | Need::Pairs(_) => {}
                Need::Model(text) => {
                    if let Entry::Vacant(entry) = models.entry(text) {
                        let found = look_at(
                            stores,
                            job,
                            base_dir,
                            &stage.name,
                            entry.key(),
                            language_model::inspect,
                            "a model is an earlier stage that trains one, `train(5m)`, \
                             `continue(prior, biomed)`, or a directory with config.json, \
                             tokenizer.json and safetensors",
                        )
                        .await?;
                        entry.insert(found);
                    }
                }
                Need::Encoder(text) => {
                    if let Entry::Vacant(entry) = encoders.entry(text) {
                        let found = look_at(
                            stores,
                            job,
                            base_dir,
                            &stage.name,
                            entry.key(),
                            language_model::inspect_encoder,
                            "name a directory with a model of BERT's kind: config.json, \
                             tokenizer.json or vocab.txt, and safetensors",
                        )
                        .await?;
                        entry.insert(found);
                    }
                }
                Need::Published(text) => {
                    let found = published(stores, base_dir, &text).await?;
                    others.insert(text, found);
                }
            }
        }
    }
    let forecasts = forecasts(checked, &corpus, &datasets, &models, workers)?;
    let models = models.into_iter().map(|(text, model)| (text, model.facts));
    Ok(JobInputs {
        corpus,
        datasets,
        dataset_rows,
        models: models.chain(encoders).collect(),
        forecasts,
        others,
        published: newest,
        lost_models,
    })
}

type Datasets = (BTreeMap<String, InputSet>, BTreeMap<String, DatasetRows>);

/// The datasets that stages need, with what their rows are worth.
async fn load_datasets(
    stores: &Stores,
    checked: &CheckedJob,
    base_dir: &Path,
) -> Result<Datasets, RunError> {
    let job = &checked.job;
    let mut needed: BTreeMap<String, bool> = BTreeMap::new();
    for need in checked.stages.iter().flat_map(|stage| stage.stage.needs()) {
        match need {
            Need::Dataset(name) => _ = needed.entry(name).or_default(),
            Need::Pairs(name) => _ = needed.insert(name, true),
            _ => {}
        }
    }
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let (mut datasets, mut dataset_rows) = Datasets::default();
    for (name, has_pairs) in needed {
        let Some(spec) = job.file.datasets.get(&name) else {
            continue;
        };
        let path = format!("datasets.{name}");
        let mut set = inputs::load(stores, job, base_dir, &path, spec, None).await?;
        let rows = datasets::read(&io, job, &path, &mut set, has_pairs).await?;
        datasets::check(job, &name, &set, &rows)?;
        dataset_rows.insert(name.clone(), rows);
        datasets.insert(name, set);
    }
    Ok((datasets, dataset_rows))
}

/// The newest version, and the stages whose models it names and which are gone.
///
/// # Errors
///
/// Of the store.
pub async fn newest(
    output: &Output,
) -> Result<(Option<Arc<Version>>, BTreeSet<String>), OutputError> {
    match output.latest_version().await? {
        Some(version) => {
            let lost = restore::lost_models(output, &version).await?;
            Ok((Some(Arc::new(version)), lost))
        }
        None => Ok((None, BTreeSet::new())),
    }
}

/// What stages foresee, each knowing of those before it.
fn forecasts(
    checked: &CheckedJob,
    corpus: &InputSet,
    datasets: &BTreeMap<String, InputSet>,
    models: &BTreeMap<String, InspectedModel>,
    workers: ExpectedWorkers,
) -> Result<BTreeMap<String, Forecast>, RunError> {
    let bytes = datasets
        .iter()
        .map(|(name, set)| (name.clone(), set.text_bytes()));
    let dataset_bytes: BTreeMap<String, u64> = bytes.collect();
    let mut stages: BTreeMap<String, Forecast> = BTreeMap::new();
    let mut errors = Vec::new();
    for stage in &checked.stages {
        let forecast = stage.stage.forecast(&BeforeRun {
            job: &checked.job,
            models,
            stages: &stages,
            corpus_bytes: corpus.text_bytes(),
            dataset_bytes: &dataset_bytes,
            workers,
        });
        match forecast {
            Ok(forecast) => {
                stages.insert(stage.name.clone(), forecast);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(stages)
    } else {
        Err(RunError::Job(errors))
    }
}

/// Where the job file names a model: in a stage that it spells out, if there is one.
fn place_of_model(job: &Job, stage: &str, text: &str) -> String {
    let stages = job.file.stages.iter();
    let spelled_out = stages.filter(|(name, _)| !job.is_implied(name));
    let mut places = spelled_out.filter_map(|(name, spec)| {
        let params = Value::Object(spec.params.clone());
        Some(format!("stages.{name}.{}", path_of(&params, text)?))
    });
    places.next().unwrap_or_else(|| format!("stages.{stage}"))
}

/// The dotted path of a text within a value.
fn path_of(value: &Value, text: &str) -> Option<String> {
    value
        .as_object()?
        .iter()
        .find_map(|(key, value)| match value {
            Value::String(found) if found == text => Some(key.clone()),
            value => path_of(value, text).map(|path| format!("{key}.{path}")),
        })
}

/// What there is to know of the model in a directory, which `inspect` finds out.
async fn look_at<T: Send + 'static>(
    stores: &Stores,
    job: &Job,
    base_dir: &Path,
    stage: &str,
    text: &str,
    inspect: fn(&BlockingIo, &str) -> Result<T, Failure>,
    help: &str,
) -> Result<T, RunError> {
    let place = place_of_model(job, stage, text);
    let at = |message: String| RunError::from(job.error_at(&place, message, Some(help.to_owned())));
    let uri = stores::absolute_uri(text, base_dir).map_err(|error| at(error.to_string()))?;
    let io = BlockingIo::new(stores.clone(), tokio::runtime::Handle::current());
    let inspected = tokio::task::spawn_blocking(move || inspect(&io, &uri)).await;
    let inspected = inspected
        .map_err(|error| RunError::Internal(format!("looking at a model panicked: {error}")))?;
    inspected.map_err(|failure| match failure.kind {
        FailureKind::Permanent | FailureKind::Access => at(failure.to_string()),
        _ => failure.into(),
    })
}

/// The output that `<output>/<stage>` names, with its newest version.
async fn published(
    stores: &Stores,
    base_dir: &Path,
    text: &str,
) -> Result<(Output, Version), RunError> {
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
