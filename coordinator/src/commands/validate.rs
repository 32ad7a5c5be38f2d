//! `gleaner validate`: is a job as it should be, before anything is computed?

use std::fmt::Write as _;
use std::sync::Arc;

use gleaner_schemas::job::Endpoint;
use gleaner_storage::{Output, Stores};
use gleaner_workers::endpoint::access::client;
use gleaner_workers::endpoint::local::inspect_local;
use gleaner_workers::entropy::SystemEntropy;
use serde::Serialize;

use crate::broker::BrokerArguments;
use crate::commands::plan::{InputReport, input_reports};
use crate::commands::prepare::{self, JobArguments};
use crate::progress::{bytes, count};
use crate::run_error::RunError;

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ValidateReport {
    /// Name of the job.
    pub job: String,
    /// URI of its output.
    pub output: String,
    /// Inputs: the corpus, then datasets.
    pub inputs: Vec<InputReport>,
    /// Name and kind of each stage.
    pub stages: Vec<(String, String)>,
    /// Sentences about what will be slow, or other than one may think.
    pub notes: Vec<String>,
}

/// Checks a job file, the schemas of its inputs and the models that it names.
///
/// # Errors
///
/// Everything that is found to be wrong.
pub async fn validate(
    arguments: &JobArguments,
    broker: &BrokerArguments,
) -> Result<ValidateReport, RunError> {
    let (checked, base_dir) = prepare::read_job(arguments)?;
    let stores = Stores::from_env();
    let output = Output::open(&stores, &checked.output)?;
    let workers = prepare::expected_workers(broker.for_job(&checked.job)?.is_some(), None);
    let inputs = prepare::load_inputs(&stores, &output, &checked, &base_dir, workers).await?;
    let mut notes: Vec<String> = inputs
        .forecasts
        .values()
        .flat_map(|it| it.notes.clone())
        .collect();
    for (name, endpoint) in &checked.job.file.endpoints {
        notes.extend(ask(name, endpoint).await?);
    }
    let stages = checked.stages.iter();
    Ok(ValidateReport {
        job: checked.job.file.name.clone(),
        output: output.uri().to_owned(),
        inputs: input_reports(&inputs),
        stages: stages
            .map(|stage| (stage.name.clone(), stage.kind.name().to_owned()))
            .collect(),
        notes,
    })
}

/// Whether an endpoint answers, lets the key of this environment in, and has the model.
async fn ask(name: &str, endpoint: &Endpoint) -> Result<Option<String>, RunError> {
    if let Some(path) = endpoint.model_directory() {
        let looked_at = tokio::task::spawn_blocking(move || inspect_local(&path)).await;
        let looked_at = looked_at
            .map_err(|error| RunError::Internal(format!("looking at a model panicked: {error}")))?;
        return looked_at.map_err(|message| {
            RunError::usage(
                format!("endpoint {name}: {message}"),
                "name another directory",
            )
        });
    }
    let url = endpoint.url.trim_end_matches('/').to_owned();
    let client = client(endpoint, url, name, 1, Arc::new(SystemEntropy))
        .map_err(|message| RunError::usage(message, "set it, here and where workers run"))?;
    let models = client.models().await.map_err(|error| {
        RunError::Unreachable(format!(
            "endpoint {name} at {}: {}",
            endpoint.url, error.message
        ))
    })?;
    let is_known = models.is_empty() || models.contains(&endpoint.model);
    Ok((!is_known).then(|| {
        format!(
            "endpoint {name} does not list the model {}; it has {}",
            endpoint.model,
            models.join(", ")
        )
    }))
}

impl ValidateReport {
    /// The report as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{} is valid\n", self.job);
        let _ = writeln!(text, "  output    {}", self.output);
        render_inputs(&mut text, &self.inputs);
        for (name, kind) in &self.stages {
            let _ = writeln!(text, "  stage     {name} ({kind})");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note      {note}");
        }
        text
    }
}

/// A line for each input, and one for each file of it that cannot be read.
pub(crate) fn render_inputs(text: &mut String, inputs: &[InputReport]) {
    for input in inputs {
        let rows = input.n_rows.map_or_else(
            || "rows not known".to_owned(),
            |n| format!("{} rows", count(n)),
        );
        let columns = &input.columns;
        let id = columns.id.as_deref().unwrap_or("<file>#<row>");
        let source = columns.source.as_deref().unwrap_or("none");
        let _ = writeln!(
            text,
            "  {:<9} {} file{}, {rows}, {}; id {id}, text {}, source {source}",
            input.name,
            count(input.n_files),
            if input.n_files == 1 { "" } else { "s" },
            bytes(input.bytes),
            columns.text,
        );
        for (file, reason) in &input.unreadable {
            let _ = writeln!(text, "            cannot read {file}: {reason}");
        }
        let note = input.checked.as_ref().and_then(|it| it.note(&input.name));
        for line in note.iter().flat_map(|note| note.lines()) {
            let _ = writeln!(text, "            {line}");
        }
    }
}
